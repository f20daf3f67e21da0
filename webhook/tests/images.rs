//! What the API server lets run in the namespaces of a release whose images are pinned: its images, by digest, and no
//! other (M-51).
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

#[path = "support/policy.rs"]
mod policy;

use std::path::Path;

use k8s_openapi::api::admissionregistration::v1::{
    ValidatingAdmissionPolicy, ValidatingAdmissionPolicyBinding,
};
use k8s_openapi::api::core::v1::ConfigMap;
use policy::{Seen, admits};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

const FOREIGN: &str = "registry.example/writ/writ-operator@sha256:9999999999999999999999999999999999999999999999999999999999999999";

fn documents(file: &str) -> Vec<Value> {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(file);
    let text = std::fs::read_to_string(file).unwrap();
    let documents = text.split("\n---\n");
    documents
        .map(|d| serde_saphyr::from_str::<Value>(d).unwrap())
        .filter(|d| !d.is_null())
        .collect()
}

fn case(name: &str) -> Vec<Value> {
    documents(&format!("charts/writ/tests/{name}/rendered.yaml"))
}

fn one<K: DeserializeOwned>(documents: &[Value], kind: &str, name: &str) -> K {
    let mut found = documents
        .iter()
        .filter(|d| d["kind"] == kind && d["metadata"]["name"] == name);
    let found = found.next().unwrap_or_else(|| panic!("no {kind} {name}"));
    serde_json::from_value(found.clone()).unwrap()
}

/// Whether `new` may be made of `old`, the release before having run `before`.
fn may_after(before: &str, old: &Value, new: &Value) -> bool {
    let documents = case("mainnet");
    let policy: ValidatingAdmissionPolicy =
        one(&documents, "ValidatingAdmissionPolicy", "writ-images");
    let mut params: ConfigMap = one(&documents, "ConfigMap", "writ-images");
    let data = params.data.as_mut().unwrap();
    data.insert("before".to_owned(), before.to_owned());
    let seen = Seen::default()
        .with("object", new.clone())
        .with("oldObject", old.clone())
        .with("params", serde_json::to_value(params).unwrap());
    admits(&policy, &seen)
}

fn may(old: &Value, new: &Value) -> bool {
    may_after("", old, new)
}

/// The pods that the chart makes in the release's namespaces, with the place that each is from.
fn ours(documents: &[Value]) -> Vec<(String, Value)> {
    let of = |d: &Value| match d["kind"].as_str().unwrap() {
        "Deployment" | "StatefulSet" | "DaemonSet" | "Job" => Some(d["spec"]["template"].clone()),
        "Pod" => Some(d.clone()),
        _ => None,
    };
    let place = |d: &Value| format!("{}/{}", d["metadata"]["namespace"], d["metadata"]["name"]);
    documents
        .iter()
        .filter_map(|d| Some((place(d), of(d)?)))
        .collect()
}

fn pod(images: &[&str]) -> Value {
    let containers: Vec<Value> = images
        .iter()
        .map(|image| json!({"name": "a", "image": image}))
        .collect();
    json!({"metadata": {"name": "a"}, "spec": {"containers": containers}})
}

fn operators() -> String {
    let documents = case("mainnet");
    let operator: Value = one(&documents, "Deployment", "writ-operator");
    let image = &operator["spec"]["template"]["spec"]["containers"][0]["image"];
    image.as_str().unwrap().to_owned()
}

#[test]
fn every_pod_of_a_pinned_release_is_admitted_in_its_namespaces() {
    for name in ["mainnet", "restricted"] {
        let documents = case(name);
        let policy: ValidatingAdmissionPolicy =
            one(&documents, "ValidatingAdmissionPolicy", "writ-images");
        let params: Value = one(&documents, "ConfigMap", "writ-images");
        let selector =
            serde_json::to_value(&policy).unwrap()["spec"]["matchConstraints"]["namespaceSelector"]
                ["matchExpressions"][0]
                .clone();
        assert_eq!(
            (&selector["key"], &selector["operator"]),
            (&json!("kubernetes.io/metadata.name"), &json!("In"))
        );
        let pods = ours(&documents);
        assert!(pods.len() >= 4, "{name}");
        for (place, pod) in pods {
            let seen = Seen::default()
                .with("object", pod.clone())
                .with("oldObject", Value::Null)
                .with("params", params.clone());
            assert!(admits(&policy, &seen), "{name}: {place}");
            // None of ours is where the policy does not look.
            let namespace = place.split('/').next().unwrap();
            assert!(
                selector["values"].to_string().contains(namespace),
                "{place}"
            );
        }
    }
}

#[test]
fn an_image_that_is_not_the_releases_is_refused_in_its_namespaces() {
    let ours = operators();
    let (repository, digest) = ours.split_once('@').unwrap();
    assert!(may(&Value::Null, &pod(&[&ours])));
    for image in [
        FOREIGN,
        "registry.example/writ/writ-operator:0.1.0",
        &format!("elsewhere.example/writ/writ-operator@{digest}"),
        &format!("{repository}:0.1.0@{digest}"),
        repository,
        digest,
        "busybox",
        "",
    ] {
        assert!(!may(&Value::Null, &pod(&[image])), "{image}");
        assert!(!may(&Value::Null, &pod(&[&ours, image])), "{image}");
        for kind in ["initContainers", "ephemeralContainers"] {
            let mut pod = pod(&[&ours]);
            pod["spec"][kind] = json!([{"name": "b", "image": image}]);
            assert!(!may(&Value::Null, &pod), "{kind} {image}");
        }
    }
}

#[test]
fn a_running_pods_image_is_changed_to_none_that_is_not_the_releases() {
    let ours = operators();
    let mut debugged = pod(&[&ours]);
    debugged["spec"]["ephemeralContainers"] = json!([{"name": "debug", "image": "busybox"}]);
    assert!(!may(&pod(&[&ours]), &pod(&[FOREIGN])));
    assert!(!may(&pod(&[&ours]), &debugged));
    // What ran before the images were pinned can still be labelled, and go.
    let mut labelled = pod(&["busybox"]);
    labelled["metadata"]["labels"] = json!({"a": "b"});
    assert!(may(&pod(&["busybox"]), &labelled));
    assert!(!may(&pod(&["busybox"]), &pod(&[FOREIGN])));
    assert!(may(&pod(&["busybox"]), &pod(&[&ours])));
}

#[test]
fn pods_of_the_release_before_are_made_anew_while_they_are_replaced_if_they_are_pinned() {
    assert!(may_after(FOREIGN, &Value::Null, &pod(&[FOREIGN])));
    let two = format!("a.example/b@sha256:{},{FOREIGN}", "0".repeat(64));
    assert!(may_after(&two, &Value::Null, &pod(&[FOREIGN])));
    assert!(!may_after(
        "a.example/b:1",
        &Value::Null,
        &pod(&["a.example/b:1"])
    ));
}

#[test]
fn the_images_of_a_pinned_release_are_all_by_digest_and_without_the_list_nothing_starts() {
    for name in ["mainnet", "restricted"] {
        let documents = case(name);
        for map in ["writ-images", "writ-admission"] {
            let map: ConfigMap = one(&documents, "ConfigMap", map);
            let lists = map.data.unwrap().into_values();
            let images = lists.flat_map(|l| l.split(',').map(str::to_owned).collect::<Vec<_>>());
            for image in images.filter(|image| !image.is_empty()) {
                let digest = image.rsplit_once("@sha256:").unwrap().1;
                assert_eq!(digest.len(), 64, "{image}");
            }
        }
        let binding: ValidatingAdmissionPolicyBinding = one(
            &documents,
            "ValidatingAdmissionPolicyBinding",
            "writ-images",
        );
        let spec = binding.spec.unwrap();
        assert_eq!(spec.validation_actions.unwrap(), ["Deny"]);
        let param = spec.param_ref.unwrap();
        assert_eq!(param.name.as_deref(), Some("writ-images"));
        assert_eq!(param.parameter_not_found_action.as_deref(), Some("Deny"));
        let policy: ValidatingAdmissionPolicy =
            one(&documents, "ValidatingAdmissionPolicy", "writ-images");
        let policy = policy.spec.unwrap();
        assert_eq!(policy.failure_policy.as_deref(), Some("Fail"));
        let rules = serde_json::to_value(policy.match_constraints.unwrap().resource_rules).unwrap();
        assert_eq!(rules[0]["operations"], json!(["CREATE", "UPDATE"]));
        assert_eq!(rules[0]["resources"], json!(["pods"]));
        assert_eq!(rules[1]["resources"], json!(["pods/ephemeralcontainers"]));
    }
}

#[test]
fn where_images_are_not_pinned_nothing_is_refused_for_its_image() {
    let default = documents("manifests/writ.yaml");
    assert!(
        default
            .iter()
            .all(|d| d["metadata"]["name"] != "writ-images")
    );
}
