//! The manifests: they are what Kubernetes reads, they select what they should, and the admission
//! policy decides as the webhook does.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

#[path = "support/policy.rs"]
mod policy;

use std::collections::BTreeMap;
use std::path::Path;

use k8s_openapi::api::admissionregistration::v1::{
    MutatingWebhookConfiguration, ValidatingAdmissionPolicy, ValidatingAdmissionPolicyBinding,
    ValidatingWebhookConfiguration,
};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{ConfigMap, Secret, Service, ServiceAccount};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::api::rbac::v1::{ClusterRole, ClusterRoleBinding, Role, RoleBinding};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use policy::{Seen, admits};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use writ_webhook::settings::RedirectBy;
use writ_webhook::{Refusals, Settings, inject, known};

/// What the chart makes of the webhook by default.
fn documents() -> Vec<Value> {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../manifests/writ.yaml");
    let text = std::fs::read_to_string(file).unwrap();
    let documents = text.split("\n---\n").map(|document| {
        let document: Value = serde_saphyr::from_str(document).unwrap();
        document
    });
    documents
        .filter(|d| d["metadata"]["labels"]["app.kubernetes.io/component"] == "webhook")
        .collect()
}

/// Reads a document as `K`, and sees that nothing of it is lost.
fn typed<K: DeserializeOwned + Serialize>(document: &Value) -> K {
    let object: K = serde_json::from_value(document.clone()).unwrap();
    let mut refusals = Refusals::default();
    known::all(
        document,
        &serde_json::to_value(&object).unwrap(),
        &mut refusals,
    );
    assert!(refusals.is_empty(), "{refusals}");
    object
}

fn one<K: DeserializeOwned + Serialize>(kind: &str, name: &str) -> K {
    let found: Vec<Value> = documents()
        .into_iter()
        .filter(|d| d["kind"] == kind && d["metadata"]["name"] == name)
        .collect();
    assert_eq!(found.len(), 1, "{kind} {name}");
    typed(&found[0])
}

#[test]
fn every_manifest_is_what_kubernetes_reads() {
    for document in documents() {
        match document["kind"].as_str().unwrap() {
            "MutatingWebhookConfiguration" => {
                drop(typed::<MutatingWebhookConfiguration>(&document))
            }
            "ValidatingWebhookConfiguration" => {
                drop(typed::<ValidatingWebhookConfiguration>(&document));
            }
            "ValidatingAdmissionPolicy" => drop(typed::<ValidatingAdmissionPolicy>(&document)),
            "ValidatingAdmissionPolicyBinding" => {
                drop(typed::<ValidatingAdmissionPolicyBinding>(&document));
            }
            "ConfigMap" => drop(typed::<ConfigMap>(&document)),
            "ServiceAccount" => drop(typed::<ServiceAccount>(&document)),
            "Role" => drop(typed::<Role>(&document)),
            "RoleBinding" => drop(typed::<RoleBinding>(&document)),
            "ClusterRole" => drop(typed::<ClusterRole>(&document)),
            "ClusterRoleBinding" => drop(typed::<ClusterRoleBinding>(&document)),
            "Secret" => drop(typed::<Secret>(&document)),
            "Service" => drop(typed::<Service>(&document)),
            "PodDisruptionBudget" => drop(typed::<PodDisruptionBudget>(&document)),
            "Deployment" => drop(typed::<Deployment>(&document)),
            "NetworkPolicy" => drop(typed::<NetworkPolicy>(&document)),
            other => panic!("{other} is not expected here"),
        }
    }
}

type Labels = BTreeMap<String, String>;

fn labels(pairs: &[(&str, &str)]) -> Labels {
    let pairs = pairs.iter();
    pairs
        .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
        .collect()
}

fn matches(selector: &Option<LabelSelector>, labels: &Labels) -> bool {
    let Some(selector) = selector else {
        return true;
    };
    let expressions = selector.match_expressions.iter().flatten();
    assert!(selector.match_labels.is_none());
    expressions.into_iter().all(|expression| {
        let value = labels.get(&expression.key);
        let named =
            value.is_some_and(|v| expression.values.as_ref().is_some_and(|vs| vs.contains(v)));
        match expression.operator.as_str() {
            "In" => named,
            "NotIn" => !named,
            "Exists" => value.is_some(),
            other => panic!("{other}"),
        }
    })
}

/// Namespaces and pods, and whether such a pod is to come to the webhook.
fn cases() -> Vec<(Labels, Labels, bool)> {
    let inject = |value| vec![("writ.dev/inject", value)];
    let allowed = ("writ.dev/opt-out", "allowed");
    let mut cases = Vec::new();
    for (namespace, pods) in [
        (
            vec![],
            [
                (vec![], false),
                (inject("true"), true),
                (inject("false"), false),
                (inject("yes"), true),
            ],
        ),
        (
            inject("disabled"),
            [
                (vec![], false),
                (inject("true"), true),
                (inject("false"), false),
                (inject("yes"), true),
            ],
        ),
        (
            vec![allowed],
            [
                (vec![], false),
                (inject("true"), true),
                (inject("false"), false),
                (inject("yes"), true),
            ],
        ),
        (
            inject("enabled"),
            [
                (vec![], true),
                (inject("true"), true),
                (inject("false"), true),
                (inject("yes"), true),
            ],
        ),
        (
            vec![("writ.dev/inject", "enabled"), allowed],
            [
                (vec![], true),
                (inject("true"), true),
                (inject("false"), false),
                (inject("yes"), true),
            ],
        ),
    ] {
        for (name, covered) in [
            ("agents", true),
            ("writ-system", false),
            ("kube-system", false),
        ] {
            let mut namespace = labels(&namespace);
            namespace.insert("kubernetes.io/metadata.name".to_owned(), name.to_owned());
            for (pod, expected) in &pods {
                cases.push((namespace.clone(), labels(pod), covered && *expected));
            }
        }
    }
    cases
}

#[test]
fn every_opted_in_pod_comes_to_the_webhook_once_and_no_other() {
    let mutating: MutatingWebhookConfiguration = one("MutatingWebhookConfiguration", "writ");
    let validating: ValidatingWebhookConfiguration = one("ValidatingWebhookConfiguration", "writ");
    for (namespace, pod, expected) in cases() {
        let chosen = mutating.webhooks.iter().flatten().filter(|webhook| {
            matches(&webhook.namespace_selector, &namespace)
                && matches(&webhook.object_selector, &pod)
        });
        assert_eq!(
            chosen.count(),
            usize::from(expected),
            "{namespace:?} {pod:?}"
        );
        let chosen = validating.webhooks.iter().flatten().filter(|webhook| {
            webhook.name.contains(".check.")
                && matches(&webhook.namespace_selector, &namespace)
                && matches(&webhook.object_selector, &pod)
        });
        assert_eq!(
            chosen.count(),
            usize::from(expected),
            "{namespace:?} {pod:?}"
        );
    }
}

#[test]
fn every_opted_in_pod_comes_under_one_binding_of_the_policy_and_no_other_pod_does() {
    let policy: ValidatingAdmissionPolicy = one("ValidatingAdmissionPolicy", "writ-pods");
    let covered = policy.spec.unwrap().match_constraints.unwrap();
    let bindings: Vec<ValidatingAdmissionPolicyBinding> = documents()
        .iter()
        .filter(|d| d["kind"] == "ValidatingAdmissionPolicyBinding")
        .filter(|d| d["spec"]["policyName"] == "writ-pods")
        .map(typed)
        .collect();
    for (namespace, pod, expected) in cases() {
        let chosen = bindings.iter().filter(|binding| {
            let matched = binding.spec.as_ref().unwrap().match_resources.as_ref();
            let matched = matched.unwrap();
            matches(&covered.namespace_selector, &namespace)
                && matches(&matched.namespace_selector, &namespace)
                && matches(&matched.object_selector, &pod)
        });
        assert_eq!(
            chosen.count(),
            usize::from(expected),
            "{namespace:?} {pod:?}"
        );
    }
}

#[test]
fn what_protects_an_opted_in_namespace_fails_closed() {
    let mutating: MutatingWebhookConfiguration = one("MutatingWebhookConfiguration", "writ");
    for webhook in mutating.webhooks.iter().flatten() {
        assert_eq!(webhook.failure_policy.as_deref(), Some("Fail"));
        assert_eq!(webhook.reinvocation_policy.as_deref(), Some("IfNeeded"));
        assert_eq!(webhook.side_effects, "None");
    }
    let validating: ValidatingWebhookConfiguration = one("ValidatingWebhookConfiguration", "writ");
    let open: Vec<&str> = validating
        .webhooks
        .iter()
        .flatten()
        .filter(|webhook| webhook.failure_policy.as_deref() != Some("Fail"))
        .map(|webhook| webhook.name.as_str())
        .collect();
    assert_eq!(
        open,
        [
            "pod.connect.writ.dev",
            "namespace.warn.writ.dev",
            "optional.warn.writ.dev",
            "pod.warn.writ.dev"
        ]
    );
    let policy: ValidatingAdmissionPolicy = one("ValidatingAdmissionPolicy", "writ-pods");
    assert_eq!(policy.spec.unwrap().failure_policy.as_deref(), Some("Fail"));
}

#[test]
fn rights_are_named_one_by_one() {
    for document in documents() {
        let kind = document["kind"].as_str().unwrap();
        if !kind.ends_with("Role") {
            continue;
        }
        for rule in document["rules"].as_array().unwrap() {
            assert!(!rule.to_string().contains('*'), "{rule}");
            let secrets = rule["resources"].to_string().contains("secrets");
            assert!(
                !secrets || (kind == "Role" && rule["resourceNames"].is_array()),
                "{rule}"
            );
        }
    }
}

fn pods_policy(pod: &Value, namespace: &Labels) -> bool {
    pods_policy_for("system:authenticated", pod, namespace)
}

fn pods_policy_for(group: &str, pod: &Value, namespace: &Labels) -> bool {
    let policy = one("ValidatingAdmissionPolicy", "writ-pods");
    let params: ConfigMap = one("ConfigMap", "writ-admission");
    let seen = Seen::default()
        .with("object", pod.clone())
        .with("params", serde_json::to_value(params).unwrap())
        .with("request", json!({"userInfo": {"groups": [group]}}))
        .with(
            "namespaceObject",
            json!({"metadata": {"labels": namespace}}),
        );
    admits(&policy, &seen)
}

fn pod() -> Value {
    json!({"metadata": {"name": "agent"}, "spec": {"containers": [{"name": "agent", "image": "a"}]}})
}

fn injected() -> Value {
    let pod = serde_json::from_value(pod()).unwrap();
    serde_json::to_value(inject(pod, &Settings::default()).unwrap()).unwrap()
}

#[test]
fn without_the_webhook_an_opted_in_pod_is_refused_and_any_other_is_not() {
    for (namespace, labels, opted_in) in cases() {
        if namespace["kubernetes.io/metadata.name"] != "agents" {
            continue;
        }
        let mut pod = pod();
        if !labels.is_empty() {
            pod["metadata"]["labels"] = json!(labels);
        }
        assert_eq!(
            pods_policy(&pod, &namespace),
            !opted_in,
            "{namespace:?} {labels:?}"
        );
    }
}

#[test]
fn only_a_kubelet_shows_a_static_pod() {
    let enabled = labels(&[("writ.dev/inject", "enabled")]);
    let mut mirror = pod();
    mirror["metadata"]["annotations"] = json!({"kubernetes.io/config.mirror": "x"});
    assert!(pods_policy_for("system:nodes", &mirror, &enabled));
    assert!(!pods_policy_for("people", &mirror, &enabled));
}

#[test]
fn what_the_webhook_makes_passes_the_policy() {
    let enabled = labels(&[("writ.dev/inject", "enabled")]);
    assert!(pods_policy(&injected(), &enabled));
    let by_node = Settings {
        redirect: RedirectBy::Node,
        ..Settings::default()
    };
    let by_node = inject(serde_json::from_value(pod()).unwrap(), &by_node).unwrap();
    assert!(pods_policy(
        &serde_json::to_value(by_node).unwrap(),
        &enabled
    ));
    let mut with_others = injected();
    let another = with_others["spec"]["containers"][0].clone();
    let inits = with_others["spec"]["initContainers"]
        .as_array_mut()
        .unwrap();
    inits.push(another);
    assert!(pods_policy(&with_others, &enabled));
}

#[test]
fn a_forged_sidecar_or_an_unconfined_container_does_not_pass_the_policy() {
    let enabled = labels(&[("writ.dev/inject", "enabled")]);
    for (path, value) in [
        ("/spec/initContainers/0/image", json!("evil")),
        ("/spec/initContainers/1/image", json!("evil")),
        ("/spec/initContainers/0/args", json!(["validate"])),
        (
            "/spec/initContainers/0/args",
            json!(["init", "--by", "nobody"]),
        ),
        ("/spec/initContainers/1/command", json!(["sh"])),
        ("/spec/initContainers/1/restartPolicy", json!("Never")),
        (
            "/spec/initContainers/1/securityContext/runAsUser",
            json!(1000),
        ),
        ("/spec/initContainers/1/name", json!("other")),
        ("/spec/initContainers", json!([])),
        ("/spec/hostNetwork", json!(true)),
        ("/spec/hostPID", json!(true)),
        ("/spec/shareProcessNamespace", json!(true)),
        ("/spec/containers/0/securityContext", json!({})),
        ("/spec/containers/0/securityContext/privileged", json!(true)),
        (
            "/spec/containers/0/securityContext/runAsUser",
            json!(2_000_000_001),
        ),
        (
            "/spec/containers/0/securityContext/allowPrivilegeEscalation",
            json!(true),
        ),
        (
            "/spec/containers/0/securityContext/capabilities/add",
            json!(["cap_net_admin"]),
        ),
    ] {
        let mut pod = injected();
        let (parent, name) = path.rsplit_once('/').unwrap();
        pod.pointer_mut(parent).unwrap()[name] = value;
        assert!(!pods_policy(&pod, &enabled), "{path}");
    }
}

#[test]
fn a_namespace_stays_opted_in() {
    let policy = one("ValidatingAdmissionPolicy", "writ-namespaces");
    let enabled = json!({"writ.dev/inject": "enabled"});
    let optional = json!({"writ.dev/inject": "enabled", "writ.dev/opt-out": "allowed"});
    for (old, new, passes) in [
        (json!({}), json!({}), true),
        (json!({}), enabled.clone(), true),
        (enabled.clone(), enabled.clone(), true),
        (optional.clone(), enabled.clone(), true),
        (optional.clone(), optional.clone(), true),
        (enabled.clone(), json!({}), false),
        (
            enabled.clone(),
            json!({"writ.dev/inject": "disabled"}),
            false,
        ),
        (enabled, optional, false),
    ] {
        let object = |labels: &Value| json!({"metadata": {"name": "agents", "labels": labels}});
        let seen = Seen::default()
            .with("object", object(&new))
            .with("oldObject", object(&old));
        assert_eq!(admits(&policy, &seen), passes, "{old} {new}");
    }
}

#[test]
fn a_namespace_is_let_go_by_whom_the_authorizer_permits() {
    let policy = one("ValidatingAdmissionPolicy", "writ-namespaces");
    let object = |labels: Value| json!({"metadata": {"name": "agents", "labels": labels}});
    let mut seen = Seen::default()
        .with("object", object(json!({})))
        .with("oldObject", object(json!({"writ.dev/inject": "enabled"})));
    assert!(!admits(&policy, &seen));
    seen.permitted = true;
    assert!(admits(&policy, &seen));
}

const OPERATOR: &str = "system:serviceaccount:writ-system:writ-operator";
const COLLECTOR: &str = "system:serviceaccount:kube-system:generic-garbage-collector";

/// Whether `user` may make `new` of `old`.
fn configurations(user: &str, old: &Value, new: &Value, permitted: bool) -> bool {
    let policy = one("ValidatingAdmissionPolicy", "writ-configurations");
    let operation = match (old, new) {
        (Value::Null, _) => "CREATE",
        (_, Value::Null) => "DELETE",
        _ => "UPDATE",
    };
    let request = json!({"operation": operation, "namespace": "agents",
        "userInfo": {"username": user}});
    let mut seen = Seen::default()
        .with("request", request)
        .with("object", new.clone())
        .with("oldObject", old.clone());
    seen.permitted = permitted;
    admits(&policy, &seen)
}

fn map(name: &str, managed: bool, text: &str) -> Value {
    let mut map = json!({"metadata": {"name": name}, "data": {"sidecar.yaml": text}});
    if managed {
        map["metadata"]["labels"] = json!({"app.kubernetes.io/managed-by": "writ-operator"});
    }
    map
}

#[test]
fn only_the_operator_writes_what_sidecars_are_told() {
    let (old, new) = (
        map("writ-buyers-agent", true, "a"),
        map("writ-buyers-agent", true, "b"),
    );
    let stripped = map("writ-buyers-agent", false, "a");
    let (bare, named) = (map("other", false, "a"), map("other", true, "a"));
    for (old, new) in [
        (&Value::Null, &new),
        (&old, &new),
        (&old, &Value::Null),
        (&old, &stripped),
        (&stripped, &stripped),
        (&Value::Null, &stripped),
        // The operator reads its own label, whatever the name.
        (&Value::Null, &named),
        (&named, &bare),
        (&bare, &named),
        (&named, &Value::Null),
    ] {
        assert!(configurations(OPERATOR, old, new, false), "{old} {new}");
        for user in [
            "alice",
            "system:serviceaccount:agents:writ-operator",
            "system:serviceaccount:agents:generic-garbage-collector",
            "system:node:one",
            "",
        ] {
            // A right over sidecars that are configured by hand is none over these.
            for permitted in [false, true] {
                assert!(
                    !configurations(user, old, new, permitted),
                    "{user} {old} {new}"
                );
            }
        }
    }
}

#[test]
fn a_configuration_goes_with_its_owner_and_its_namespace() {
    let map = |text| map("writ-buyers-agent", true, text);
    for user in [
        COLLECTOR,
        "system:kube-controller-manager",
        "system:serviceaccount:kube-system:namespace-controller",
    ] {
        assert!(configurations(user, &map("a"), &Value::Null, false));
        let mut orphan = map("a");
        orphan["metadata"]["ownerReferences"] = json!([]);
        assert!(configurations(user, &map("a"), &orphan, false));
        assert!(!configurations(user, &map("a"), &map("b"), false));
        assert!(!configurations(user, &Value::Null, &map("a"), false));
        let mut more = map("a");
        more["binaryData"] = json!({"catalog.yaml": "e30="});
        assert!(!configurations(user, &map("a"), &more, false));
        let mut taken = map("a");
        taken["metadata"]["labels"] = json!({"app.kubernetes.io/managed-by": "helm"});
        assert!(!configurations(user, &map("a"), &taken, false));
    }
}

#[test]
fn a_configuration_kept_by_hand_takes_a_right_of_its_own() {
    let map = |text| map("writ-sidecar", false, text);
    for (old, new) in [
        (Value::Null, map("a")),
        (map("a"), map("b")),
        (map("b"), Value::Null),
    ] {
        assert!(!configurations("alice", &old, &new, false), "{old} {new}");
        assert!(configurations("alice", &old, &new, true), "{old} {new}");
    }
}

#[test]
fn other_config_maps_are_nobodys_business() {
    let map = |name| map(name, false, "a");
    for name in ["app", "writer", "kube-root-ca.crt", "my-writ-sidecar"] {
        assert!(configurations("alice", &Value::Null, &map(name), false));
        assert!(configurations("alice", &map(name), &Value::Null, false));
        let mut bare = map(name);
        bare["metadata"]["labels"] = json!({"app.kubernetes.io/managed-by": "helm"});
        bare["data"] = Value::Null;
        assert!(configurations("alice", &map(name), &bare, false));
    }
}

#[test]
fn every_admission_policy_is_bound_fails_closed_and_denies() {
    for document in documents() {
        if document["kind"] != "ValidatingAdmissionPolicy" {
            continue;
        }
        assert_eq!(document["spec"]["failurePolicy"], "Fail");
        let name = document["metadata"]["name"].as_str().unwrap();
        let binding: ValidatingAdmissionPolicyBinding =
            one("ValidatingAdmissionPolicyBinding", name);
        let spec = binding.spec.unwrap();
        assert_eq!(spec.policy_name.as_deref(), Some(name));
        assert_eq!(spec.validation_actions.unwrap(), ["Deny"]);
    }
}

#[test]
fn workloads_come_to_be_warned_of_when_their_pods_would_be_selected() {
    let validating: ValidatingWebhookConfiguration = one("ValidatingWebhookConfiguration", "writ");
    let condition = |name: &str| {
        let mut webhooks = validating.webhooks.iter().flatten();
        let webhook = webhooks.find(|webhook| webhook.name == name).unwrap();
        webhook.match_conditions.as_ref().unwrap()[0]
            .expression
            .clone()
    };
    for (labels, optional, pod) in [
        (json!({}), true, false),
        (json!({"labels": {"a": "b"}}), true, false),
        (json!({"labels": {"writ.dev/inject": "true"}}), true, true),
        (
            json!({"labels": {"writ.dev/inject": "false"}}),
            false,
            false,
        ),
    ] {
        for spec in [
            json!({"template": {"metadata": labels}}),
            json!({"jobTemplate": {"spec": {"template": {"metadata": labels}}}}),
        ] {
            let seen = Seen::default().with("object", json!({"spec": spec}));
            let passes = |expression: String| seen.says(&expression);
            assert_eq!(
                passes(condition("optional.warn.writ.dev")),
                optional,
                "{spec}"
            );
            assert_eq!(passes(condition("pod.warn.writ.dev")), pod, "{spec}");
        }
    }
}
