//! The final pod: it must be exactly what injection makes of it.

use k8s_openapi::api::core::v1::Pod;
use serde_json::Value;

use crate::inject::{inject, sidecar_uid};
use crate::names;
use crate::refusal::{Code, Refusals};
use crate::settings::Settings;

/// Checks a pod that every mutating webhook has seen. Of `settings`, the uid is the pod's own.
#[must_use]
pub fn validate(pod: &Pod, settings: &Settings) -> Refusals {
    let injected = pod.metadata.annotations.iter().flatten();
    let injected = injected
        .filter(|(name, _)| *name == names::INJECTED)
        .count();
    let (Some(uid), 1) = (sidecar_uid(pod), injected) else {
        let mut refusals = match inject(pod.clone(), settings) {
            Ok(_) => Refusals::default(),
            Err(refusals) => refusals,
        };
        refusals.add(
            Code::NotInjected,
            "spec.initContainers",
            "the pod is opted in, but the webhook's sidecar is not in it",
        );
        return refusals;
    };
    match inject(pod.clone(), &settings.with_uid(uid)) {
        Err(refusals) => refusals,
        Ok(expected) => match differing(&expected, pod) {
            None => Refusals::default(),
            Some(field) => Refusals::one(
                Code::NotAsInjected,
                field,
                "it was changed, or added, after the sidecar was put in",
            ),
        },
    }
}

/// Where two pods differ first.
fn differing(expected: &Pod, found: &Pod) -> Option<String> {
    let value = |pod: &Pod| serde_json::to_value(pod).unwrap_or(Value::Null);
    if expected == found {
        return None;
    }
    let patch = json_patch::diff(&value(found), &value(expected));
    let first = patch.0.first().map(|operation| operation.path());
    Some(first.map_or("spec".to_owned(), |path| {
        path.as_str().trim_start_matches('/').replace('/', ".")
    }))
}

/// Checks a change to a pod. What runs in it cannot change; what could is that it is selected, and
/// our own images.
#[must_use]
pub fn validate_update(old: &Pod, new: &Pod) -> Refusals {
    let mut refusals = Refusals::default();
    for (kind, old, new) in [
        ("labels", &old.metadata.labels, &new.metadata.labels),
        (
            "annotations",
            &old.metadata.annotations,
            &new.metadata.annotations,
        ),
    ] {
        let ours = |entries: &Option<std::collections::BTreeMap<String, String>>| {
            let entries = entries.clone().unwrap_or_default().into_iter();
            entries
                .filter(|(name, _)| name.starts_with(names::PREFIX))
                .collect::<std::collections::BTreeMap<_, _>>()
        };
        let (old, new) = (ours(old), ours(new));
        let names = old.keys().chain(new.keys());
        for name in names.filter(|name| old.get(*name) != new.get(*name)) {
            refusals.add(
                Code::Immutable,
                format!("metadata.{kind}[{name}]"),
                "it says what was decided when the pod was created",
            );
        }
    }
    for name in [names::INIT, names::SIDECAR] {
        let image = |pod: &Pod| {
            let spec = pod.spec.as_ref()?;
            let mut containers = spec.init_containers.iter().flatten();
            containers.find(|c| c.name == name)?.image.clone()
        };
        if image(old) != image(new) {
            refusals.add(
                Code::Immutable,
                format!("spec.initContainers[{name}].image"),
                "another image would hold the pod's identity",
            );
        }
    }
    if ephemeral(old) != ephemeral(new) {
        refusals.add(
            Code::EphemeralContainers,
            "spec.ephemeralContainers",
            "an ephemeral container is not confined by the webhook",
        );
    }
    refusals
}

fn ephemeral(pod: &Pod) -> usize {
    let spec = pod.spec.as_ref();
    spec.and_then(|spec| spec.ephemeral_containers.as_ref())
        .map_or(0, Vec::len)
}
