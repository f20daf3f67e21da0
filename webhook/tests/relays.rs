//! What the API server lets relays write: ConfigMaps with what agents did, and no other.
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
use policy::{Seen, admits};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

const RELAY: &str = "system:serviceaccount:writ-system:writ-relay";
const OPERATOR: &str = "system:serviceaccount:writ-system:writ-operator";

/// What the chart makes where a relay serves a chain.
fn rendered<K: DeserializeOwned>(kind: &str, name: &str) -> K {
    let file = "../charts/writ/tests/mainnet/rendered.yaml";
    let text = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(file)).unwrap();
    let documents = text.split("\n---\n");
    let documents = documents.map(|d| serde_saphyr::from_str::<Value>(d).unwrap());
    let mut found = documents.filter(|d| d["kind"] == kind && d["metadata"]["name"] == name);
    let found = found.next().unwrap_or_else(|| panic!("no {kind} {name}"));
    serde_json::from_value(found).unwrap()
}

/// Whether `user` may make `new` of `old`, as both policies over ConfigMaps say.
fn may(user: &str, old: &Value, new: &Value) -> bool {
    let operation = match (old, new) {
        (Value::Null, _) => "CREATE",
        (_, Value::Null) => "DELETE",
        _ => "UPDATE",
    };
    let seen = Seen::default()
        .with(
            "request",
            json!({"operation": operation, "namespace": "agents", "userInfo": {"username": user}}),
        )
        .with("object", new.clone())
        .with("oldObject", old.clone());
    ["writ-configurations", "writ-relay"].iter().all(|name| {
        let policy: ValidatingAdmissionPolicy = rendered("ValidatingAdmissionPolicy", name);
        let rules = policy.spec.as_ref().unwrap().match_constraints.as_ref();
        let rules = rules.unwrap().resource_rules.as_ref().unwrap();
        let asked = rules[0].operations.as_ref().unwrap();
        !asked.contains(&operation.to_owned()) || admits(&policy, &seen)
    })
}

fn map(name: &str, manager: Option<&str>, key: &str) -> Value {
    let mut map = json!({"metadata": {"name": name}, "data": {key: "[]"}});
    if let Some(manager) = manager {
        map["metadata"]["labels"] = json!({"app.kubernetes.io/managed-by": manager});
    }
    map
}

fn seen(text: &str) -> Value {
    let mut map = map("writ-seen-buyers", Some("writ-relay"), "actions.json");
    map["data"]["actions.json"] = text.into();
    map
}

#[test]
fn a_relay_writes_what_agents_did_and_nobody_else_does() {
    for (old, new) in [
        (Value::Null, seen("a")),
        (seen("a"), seen("b")),
        (seen("a"), seen("a")),
    ] {
        assert!(may(RELAY, &old, &new), "{old} {new}");
        for user in ["alice", "system:serviceaccount:agents:writ-relay", ""] {
            assert!(!may(user, &old, &new), "{user} {old} {new}");
        }
    }
    let mut bare = seen("a");
    bare.as_object_mut().unwrap().remove("data");
    assert!(may(RELAY, &Value::Null, &bare));
}

#[test]
fn a_relay_touches_no_other_config_map_and_makes_none_its_own() {
    let others = [
        // A sidecar's configuration, whatever its policy is called.
        map("writ-buyers-agent", Some("writ-operator"), "sidecar.yaml"),
        map("writ-seen-agent", Some("writ-operator"), "sidecar.yaml"),
        map("writ-seen-agent", Some("writ-operator"), "actions.json"),
        map("writ-seen-agent", None, "actions.json"),
        // Of anybody.
        map("coredns", None, "Corefile"),
        map("coredns", Some("writ-relay"), "actions.json"),
        map("writ-seen-buyers", Some("writ-relay"), "sidecar.yaml"),
    ];
    for other in &others {
        assert!(!may(RELAY, &Value::Null, other), "{other}");
        assert!(!may(RELAY, other, other), "not even to read it: {other}");
        let mut taken = other.clone();
        taken["metadata"]["labels"] = json!({"app.kubernetes.io/managed-by": "writ-relay"});
        taken["data"] = json!({"actions.json": "[]"});
        if *other != others[6] {
            assert!(!may(RELAY, other, &taken), "{other}");
        }
    }
    let mut binary = seen("a");
    binary["binaryData"] = json!({"sidecar.yaml": "e30="});
    assert!(!may(RELAY, &Value::Null, &binary));
    assert!(!may(RELAY, &seen("a"), &Value::Null) || !rights().contains("delete"));
}

/// What the relay's role lets it do to ConfigMaps.
fn rights() -> String {
    let role: Value = rendered("ClusterRole", "writ-relay");
    let rules = role["rules"].as_array().unwrap().iter();
    let of_maps = rules.filter(|rule| rule["resources"].to_string().contains("configmaps"));
    of_maps.map(|rule| rule["verbs"].to_string()).collect()
}

#[test]
fn the_policy_over_relays_holds_in_every_namespace_and_is_no_bar_to_others() {
    assert_eq!(rights(), r#"["create","patch"]"#);
    let policy: ValidatingAdmissionPolicy = rendered("ValidatingAdmissionPolicy", "writ-relay");
    let spec = policy.spec.unwrap();
    assert_eq!(spec.failure_policy.as_deref(), Some("Fail"));
    let constraints = spec.match_constraints.unwrap();
    assert!(constraints.namespace_selector.is_none() && constraints.object_selector.is_none());
    let binding: ValidatingAdmissionPolicyBinding =
        rendered("ValidatingAdmissionPolicyBinding", "writ-relay");
    let binding = binding.spec.unwrap();
    assert_eq!(binding.policy_name.as_deref(), Some("writ-relay"));
    assert_eq!(binding.validation_actions, Some(vec!["Deny".to_owned()]));
    assert!(binding.match_resources.is_none());
    let other = map("other", None, "a");
    assert!(may("alice", &Value::Null, &other) && may("alice", &other, &other));
    let configuration = map("writ-seen-agent", Some("writ-operator"), "sidecar.yaml");
    assert!(may(OPERATOR, &Value::Null, &configuration));
}

const POD: &str = "writ-relay-7d9c-x2x";

/// Whether `user`, with a token of this pod, may make a revocation's status `new` of `old`.
fn says(user: &str, pod: Option<&str>, old: &Value, new: &Value) -> bool {
    let mut info = json!({"username": user});
    if let Some(pod) = pod {
        info["extra"] = json!({"authentication.kubernetes.io/pod-name": [pod]});
    }
    let of = |status: &Value| {
        let mut object = json!({"metadata": {"name": "stop"}, "spec": {"reason": "stolen"}});
        if !status.is_null() {
            object["status"] = status.clone();
        }
        object
    };
    let seen = Seen::default()
        .with("request", json!({"operation": "UPDATE", "userInfo": info}))
        .with("object", of(new))
        .with("oldObject", of(old));
    let policy: ValidatingAdmissionPolicy =
        rendered("ValidatingAdmissionPolicy", "writ-relay-status");
    admits(&policy, &seen)
}

fn entry(relay: &str, enforcing: u32) -> Value {
    json!({"relay": relay, "enforcing": enforcing, "connected": 9})
}

#[test]
fn a_relay_says_of_a_revocation_how_many_of_its_own_sidecars_enforce_it_and_nothing_else() {
    let (own, other) = (|n| entry(POD, n), entry("writ-relay-7d9c-other", 4));
    let status = |phase: &str, sidecars: Value| json!({"phase": phase, "observedGeneration": 1, "sidecars": sidecars});
    let before = status("Submitted", json!([other, own(3)]));
    for (old, new) in [
        (Value::Null, json!({"sidecars": [own(1)]})),
        (json!({}), json!({"sidecars": [own(1)]})),
        (
            json!({"phase": "Submitted"}),
            json!({"phase": "Submitted", "sidecars": [own(1)]}),
        ),
        (before.clone(), status("Submitted", json!([other, own(9)]))),
        (before.clone(), status("Submitted", json!([own(9), other]))),
        (before.clone(), status("Submitted", json!([other]))),
        (before.clone(), before.clone()),
    ] {
        assert!(says(RELAY, Some(POD), &old, &new), "{old} {new}");
    }
    for new in [
        status("Final", json!([other, own(3)])),
        status("Submitted", json!([own(3)])),
        status(
            "Submitted",
            json!([entry("writ-relay-7d9c-other", 9), own(3)]),
        ),
        status(
            "Submitted",
            json!([other, own(3), entry("writ-relay-made-up", 9)]),
        ),
        json!({"phase": "Submitted", "sidecars": [other, own(3)]}),
        json!({"phase": "Submitted", "observedGeneration": 1, "agentKey": "0x00", "sidecars": [other, own(3)]}),
        json!({"sidecars": [other, own(3)]}),
        json!({}),
        Value::Null,
    ] {
        assert!(!says(RELAY, Some(POD), &before, &new), "{new}");
        // Who carries revocations out is not held to this.
        assert!(says(OPERATOR, None, &before, &new), "{new}");
    }
    // A token that is no pod's has no entry, nor one of another pod this one's.
    let grown = status("Submitted", json!([other, own(9)]));
    assert!(!says(RELAY, None, &before, &grown));
    assert!(!says(RELAY, Some("writ-relay-7d9c-other"), &before, &grown));
}

#[test]
fn the_policy_over_what_relays_say_of_revocations_is_bound_and_fails_closed() {
    let role: Value = rendered("ClusterRole", "writ-relay");
    let mut rules = role["rules"].as_array().unwrap().iter();
    let status = json!(["agentrevocations/status"]);
    let rule = rules.find(|rule| rule["resources"] == status).unwrap();
    assert_eq!(rule["verbs"], json!(["patch"]));
    let policy: Value = rendered("ValidatingAdmissionPolicy", "writ-relay-status");
    assert_eq!(policy["spec"]["failurePolicy"], "Fail");
    let constraints = &policy["spec"]["matchConstraints"];
    assert_eq!(constraints["resourceRules"][0]["resources"], status);
    assert_eq!(constraints["resourceRules"].as_array().unwrap().len(), 1);
    let binding: Value = rendered("ValidatingAdmissionPolicyBinding", "writ-relay-status");
    assert_eq!(
        binding["spec"],
        json!({"policyName": "writ-relay-status", "validationActions": ["Deny"]})
    );
}
