//! Applies the custom resource definitions, which helm itself never changes.

use std::time::Duration;

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{Patch, PatchParams};
use kube::{Api, Client, ResourceExt};

use super::{HookError, failed};

/// How long the API server may take to serve a definition.
const PATIENCE: u64 = 60;
const PAUSE: Duration = Duration::from_millis(500);

/// Applies the definitions of this version, waits until they are served, and returns their names.
///
/// # Errors
/// The API server refuses one, or does not serve it.
pub async fn apply(client: &Client) -> Result<Vec<String>, HookError> {
    let api: Api<CustomResourceDefinition> = Api::all(client.clone());
    let mut names = Vec::new();
    for (_, crd) in writ_api::crds() {
        let name = crd.name_any();
        // Whoever made it (helm, the first time), these definitions hold.
        let parameters = PatchParams::apply("writ-crds").force();
        api.patch(&name, &parameters, &Patch::Apply(&crd))
            .await
            .map_err(failed(format!("applying {name}")))?;
        served(&api, &name).await?;
        names.push(name);
    }
    Ok(names)
}

async fn served(api: &Api<CustomResourceDefinition>, name: &str) -> Result<(), HookError> {
    let end = tokio::time::Instant::now() + Duration::from_secs(PATIENCE);
    while tokio::time::Instant::now() < end {
        let crd = api
            .get(name)
            .await
            .map_err(failed(format!("reading {name}")))?;
        if is_established(&crd) {
            return Ok(());
        }
        tokio::time::sleep(PAUSE).await;
    }
    Err(HookError::NotEstablished(name.to_owned(), PATIENCE))
}

fn is_established(crd: &CustomResourceDefinition) -> bool {
    let conditions = crd
        .status
        .iter()
        .flat_map(|s| s.conditions.iter().flatten());
    conditions
        .into_iter()
        .any(|c| c.type_ == "Established" && c.status == "True")
}
