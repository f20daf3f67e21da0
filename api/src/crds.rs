//! The custom resource definitions as they are installed.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::CustomResourceExt;
use serde_json::Value;

use crate::{AgentPolicy, AgentRevocation, Chain};

/// API group.
pub const GROUP: &str = "writ.dev";
/// API version.
pub const VERSION: &str = "v1alpha1";

/// Every definition, with the name of its file in `manifests/crds`.
#[must_use]
pub fn crds() -> Vec<(String, CustomResourceDefinition)> {
    [Chain::crd(), AgentPolicy::crd(), AgentRevocation::crd()]
        .into_iter()
        .map(|crd| {
            let mut crd = tidied(crd);
            crd.metadata
                .labels
                .get_or_insert_default()
                .insert("app.kubernetes.io/part-of".to_owned(), "writ".to_owned());
            (format!("{}.yaml", crd.spec.names.plural), crd)
        })
        .collect()
}

/// One definition as YAML.
///
/// # Errors
/// The definition cannot be written, which would be a defect of this crate.
pub fn to_yaml(crd: &CustomResourceDefinition) -> Result<String, String> {
    let value = serde_json::to_value(crd).map_err(|e| e.to_string())?;
    let text = serde_saphyr::to_string(&value).map_err(|e| e.to_string())?;
    Ok(format!(
        "# Generated from api/src by `cargo run -p writ-api --bin writ-crds`.\n{text}"
    ))
}

/// The definition in the form that Kubernetes takes without a warning.
fn tidied(crd: CustomResourceDefinition) -> CustomResourceDefinition {
    let Ok(mut value) = serde_json::to_value(&crd) else {
        return crd;
    };
    tidy(&mut value);
    serde_json::from_value(value).unwrap_or(crd)
}

/// Takes out number formats that Kubernetes does not know (their bounds stay), and what it says by
/// itself: that unknown fields are not taken.
fn tidy(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            let unknown = |format: &str| format.starts_with("uint");
            if fields.get("type").is_some_and(|t| t == "integer")
                && fields
                    .get("format")
                    .and_then(Value::as_str)
                    .is_some_and(unknown)
            {
                fields.remove("format");
            }
            if fields.get("additionalProperties") == Some(&Value::Bool(false)) {
                fields.remove("additionalProperties");
            }
            fields.values_mut().for_each(tidy);
        }
        Value::Array(items) => items.iter_mut().for_each(tidy),
        _ => {}
    }
}
