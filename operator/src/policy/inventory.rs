//! Pods that should have a sidecar and have none (M-08). No I/O.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use writ_api::{INJECT, OPT_OUT};

use super::select::PodSeen;

/// Namespaces that opt their pods in: by name, whether a pod may opt out.
pub type OptedIn = BTreeMap<String, bool>;

/// Whether a namespace with these labels lets its pods opt out.
#[must_use]
pub fn is_lenient(labels: &BTreeMap<String, String>) -> bool {
    labels.get(OPT_OUT).is_some_and(|value| value == "allowed")
}

/// How many pods by namespace are opted in, by their namespace or by themselves, and have no sidecar:
/// older than the opting in, static, or made while nothing stood in the way.
pub fn unprotected<'a>(
    namespaces: &OptedIn,
    pods: impl IntoIterator<Item = &'a Pod>,
) -> BTreeMap<String, i64> {
    let mut found = BTreeMap::new();
    for pod in pods {
        let namespace = pod.namespace().unwrap_or_default();
        let says = pod.labels().get(INJECT).map(String::as_str);
        let asks = match (namespaces.get(&namespace), says) {
            (Some(lenient), Some("false")) => !lenient,
            (Some(_), _) | (None, Some("true")) => true,
            (None, _) => false,
        };
        if asks && PodSeen::of(pod).is_some_and(|seen| !seen.injected) {
            *found.entry(namespace).or_insert(0) += 1;
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use writ_api::{INJECTED, SIDECAR};

    fn pod(namespace: &str, inject: Option<&str>) -> Pod {
        let labels = inject.map(|value| BTreeMap::from([(INJECT, value)]));
        serde_json::from_value(json!({
            "metadata": {"name": "p", "namespace": namespace, "labels": labels},
            "spec": {"containers": []},
        }))
        .unwrap()
    }

    fn counted(pods: &[Pod]) -> BTreeMap<String, i64> {
        let namespaces = [("strict", false), ("lenient", true)];
        let namespaces = namespaces.map(|(name, lenient)| (name.to_owned(), lenient));
        unprotected(&namespaces.into(), pods)
    }

    fn one(pod: Pod) -> i64 {
        counted(&[pod]).into_values().sum()
    }

    #[test]
    fn what_its_namespace_or_its_label_opts_in_is_counted() {
        for (namespace, label, expected) in [
            ("strict", None, 1),
            ("strict", Some("true"), 1),
            // The label is not the pod's to set here.
            ("strict", Some("false"), 1),
            ("lenient", None, 1),
            ("lenient", Some("false"), 0),
            ("other", Some("true"), 1),
            ("other", Some("false"), 0),
            ("other", None, 0),
        ] {
            let found = one(pod(namespace, label));
            assert_eq!(found, expected, "{namespace} {label:?}");
        }
        let all = [pod("strict", None), pod("strict", None), pod("other", None)];
        assert_eq!(counted(&all), BTreeMap::from([("strict".to_owned(), 2)]));
    }

    #[test]
    fn a_pod_with_its_sidecar_and_one_that_has_ended_are_not_counted() {
        let mut ended = pod("strict", None);
        ended.status = Some(Default::default());
        if let Some(status) = &mut ended.status {
            status.phase = Some("Succeeded".to_owned());
        }
        assert_eq!(one(ended), 0);

        let mut said = pod("strict", None);
        said.annotations_mut()
            .insert(INJECTED.to_owned(), "1".to_owned());
        assert_eq!(one(said.clone()), 1, "anybody could have written that");
        let init = json!([{"name": "writ-init"}, {"name": SIDECAR}]);
        if let Some(spec) = &mut said.spec {
            spec.init_containers = serde_json::from_value(init).unwrap();
        }
        assert_eq!(one(said), 0);
    }
}
