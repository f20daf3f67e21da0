//! The chart, as `scripts/render-manifests` rendered it with real helm: it is what Kubernetes reads, asks
//! for no more rights than it uses, and names only what exists.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use alloy::primitives::Address;
use k8s_openapi::api::admissionregistration::v1::{
    MutatingWebhookConfiguration, ValidatingAdmissionPolicy, ValidatingAdmissionPolicyBinding,
    ValidatingWebhookConfiguration,
};
use k8s_openapi::api::apps::v1::{DaemonSet, Deployment, StatefulSet};
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{
    ConfigMap, Namespace, Pod, PodSpec, Secret, Service, ServiceAccount,
};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::api::rbac::v1::{ClusterRole, ClusterRoleBinding, Role, RoleBinding};
use k8s_openapi::api::storage::v1::CSIDriver;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use writ_api::{AgentPolicy, Chain};
use writ_operator::policy::select::claim;
use writ_operator::policy::want::{salts_of, want};
use writ_operator::salts::{SECRETS, Salts};

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn chart() -> PathBuf {
    repository().join("charts/writ")
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn documents(path: &Path) -> Vec<Value> {
    let text = read(path);
    let parts = text
        .split("\n---\n")
        .map(|part| part.trim_start_matches("---\n"));
    parts
        .map(|part| serde_saphyr::from_str::<Value>(part).unwrap())
        .filter(|document| !document.is_null())
        .collect()
}

/// What was rendered, by name: the default, and each case of `charts/writ/tests`.
fn rendered() -> Vec<(String, Vec<Value>)> {
    let mut all = vec![(
        "default".to_owned(),
        documents(&repository().join("manifests/writ.yaml")),
    )];
    for case in std::fs::read_dir(chart().join("tests")).unwrap() {
        let case = case.unwrap().path();
        let name = case.file_name().unwrap().to_string_lossy().into_owned();
        all.push((name, documents(&case.join("rendered.yaml"))));
    }
    assert!(all.len() > 3);
    all
}

fn case(name: &str) -> Vec<Value> {
    let found = rendered().into_iter().find(|(case, _)| case == name);
    found.unwrap_or_else(|| panic!("no case {name}")).1
}

fn is(document: &Value, kind: &str) -> bool {
    document["kind"] == kind
}

/// What of `document` is not in `object`, which was read from it.
fn lost(document: &Value, object: &Value, path: &str, found: &mut Vec<String>) {
    match (document, object) {
        (Value::Object(fields), Value::Object(kept)) => {
            for (name, value) in fields {
                let path = format!("{path}.{name}");
                match kept.get(name) {
                    Some(kept) => lost(value, kept, &path, found),
                    None => found.push(path),
                }
            }
        }
        (Value::Array(items), Value::Array(kept)) if items.len() == kept.len() => {
            for (index, (item, kept)) in items.iter().zip(kept).enumerate() {
                lost(item, kept, &format!("{path}[{index}]"), found);
            }
        }
        _ if document == object => {}
        _ => found.push(path.to_owned()),
    }
}

fn strictly<K: DeserializeOwned + Serialize>(document: &Value, what: &str) {
    let object: K =
        serde_json::from_value(document.clone()).unwrap_or_else(|error| panic!("{what}: {error}"));
    let mut found = Vec::new();
    lost(
        document,
        &serde_json::to_value(object).unwrap(),
        "",
        &mut found,
    );
    assert_eq!(found, Vec::<String>::new(), "{what}: not read");
}

/// Fields of `value` that `schema`, of a definition, does not have.
fn unknown(value: &Value, schema: &Value, path: &str, found: &mut Vec<String>) {
    if let (Some(fields), Some(known)) = (value.as_object(), schema["properties"].as_object()) {
        for (name, value) in fields {
            let path = format!("{path}.{name}");
            match known.get(name) {
                Some(schema) => unknown(value, schema, &path, found),
                None => found.push(path),
            }
        }
    }
    for item in value.as_array().into_iter().flatten() {
        unknown(item, &schema["items"], &format!("{path}[]"), found);
    }
}

#[test]
fn every_rendered_object_is_what_kubernetes_reads() {
    let identities = chart().join("charts/spire/crds/spire.spiffe.io_clusterspiffeids.yaml");
    let identities = &documents(&identities)[0]["spec"]["versions"][0]["schema"]["openAPIV3Schema"];
    for (case, documents) in rendered() {
        for document in &documents {
            let kind = document["kind"].as_str().unwrap();
            let what = format!("{case}: {kind} {}", document["metadata"]["name"]);
            let read = match kind {
                "Namespace" => strictly::<Namespace>,
                "ServiceAccount" => strictly::<ServiceAccount>,
                "Secret" => strictly::<Secret>,
                "ConfigMap" => strictly::<ConfigMap>,
                "Service" => strictly::<Service>,
                "Pod" => strictly::<Pod>,
                "Deployment" => strictly::<Deployment>,
                "StatefulSet" => strictly::<StatefulSet>,
                "DaemonSet" => strictly::<DaemonSet>,
                "Job" => strictly::<Job>,
                "NetworkPolicy" => strictly::<NetworkPolicy>,
                "CSIDriver" => strictly::<CSIDriver>,
                "PodDisruptionBudget" => strictly::<PodDisruptionBudget>,
                "Role" => strictly::<Role>,
                "RoleBinding" => strictly::<RoleBinding>,
                "ClusterRole" => strictly::<ClusterRole>,
                "ClusterRoleBinding" => strictly::<ClusterRoleBinding>,
                "MutatingWebhookConfiguration" => strictly::<MutatingWebhookConfiguration>,
                "ValidatingWebhookConfiguration" => strictly::<ValidatingWebhookConfiguration>,
                "ValidatingAdmissionPolicy" => strictly::<ValidatingAdmissionPolicy>,
                "ValidatingAdmissionPolicyBinding" => strictly::<ValidatingAdmissionPolicyBinding>,
                "Chain" => strictly::<Chain>,
                "ClusterSPIFFEID" => {
                    assert!(jsonschema::is_valid(identities, document), "{what}");
                    let mut found = Vec::new();
                    unknown(
                        &document["spec"],
                        &identities["properties"]["spec"],
                        "",
                        &mut found,
                    );
                    assert_eq!(found, Vec::<String>::new(), "{what}");
                    continue;
                }
                // Of other projects, and only where they are asked for.
                "ServiceMonitor" | "PodMonitor" | "PrometheusRule" | "Certificate" => {
                    assert_eq!(case, "everything", "{what}");
                    continue;
                }
                other => panic!("{other} is not expected here"),
            };
            read(document, &what);
        }
    }
}

#[test]
fn rights_are_named_one_by_one_and_no_secret_is_read_cluster_wide() {
    for (case, documents) in rendered() {
        for document in documents {
            let kind = document["kind"].as_str().unwrap().to_owned();
            if !kind.ends_with("Role") {
                continue;
            }
            for rule in document["rules"].as_array().unwrap() {
                assert!(!rule.to_string().contains('*'), "{case}: {rule}");
                assert!(rule["nonResourceURLs"].is_null(), "{case}: {rule}");
                let secrets = rule["resources"].to_string().contains("secrets");
                let named = rule["resourceNames"].is_array();
                // Only creation cannot be limited by name.
                let creates = rule["verbs"] == serde_json::json!(["create"]);
                assert!(
                    !secrets || (kind == "Role" && (named || creates)),
                    "{case}: {rule}"
                );
                for verb in ["escalate", "bind", "impersonate"] {
                    assert!(!rule["verbs"].to_string().contains(verb), "{case}: {rule}");
                }
            }
        }
    }
}

#[test]
fn the_operator_reads_the_secrets_with_its_salts_and_no_other() {
    for (case, documents) in rendered() {
        let role = |d: &&Value| is(d, "Role") && d["metadata"]["name"] == "writ-operator";
        let role = documents.iter().find(role).unwrap();
        let names: BTreeSet<String> = role["rules"]
            .as_array()
            .unwrap()
            .iter()
            .filter(|rule| rule["resources"] == serde_json::json!(["secrets"]))
            .flat_map(|rule| {
                rule["resourceNames"]
                    .as_array()
                    .cloned()
                    .unwrap_or_default()
            })
            .map(|name| name.as_str().unwrap().to_owned())
            .collect();
        let all: BTreeSet<String> = (0..16).map(|n| format!("{SECRETS}{n:x}")).collect();
        assert_eq!(names, all, "{case}");
    }
}

/// Our own pods: namespace and name of what they are of, and their template.
fn templates(documents: &[Value]) -> Vec<(String, String, Value)> {
    let mut templates = Vec::new();
    for document in documents {
        let template = match document["kind"].as_str().unwrap() {
            "Deployment" | "StatefulSet" | "DaemonSet" | "Job" => &document["spec"]["template"],
            "Pod" => document,
            _ => continue,
        };
        let [namespace, name] = ["namespace", "name"]
            .map(|field| document["metadata"][field].as_str().unwrap().to_owned());
        // SPIRE's are not ours.
        if namespace != "spire-system" {
            templates.push((namespace, name, template.clone()));
        }
    }
    templates
}

/// Our own pods, with namespace and name of what they are of.
fn pods(documents: &[Value]) -> Vec<(String, String, PodSpec)> {
    templates(documents)
        .into_iter()
        .map(|(namespace, name, template)| {
            let spec = serde_json::from_value(template["spec"].clone()).unwrap();
            (namespace, name, spec)
        })
        .collect()
}

#[test]
fn our_own_pods_fit_into_a_restricted_namespace_and_say_what_they_need() {
    for (case, documents) in rendered() {
        for (namespace, name, pod) in pods(&documents) {
            // Privileged, alone in its namespace, and tested where its program is.
            if name == "writ-node" && namespace != "writ-system" {
                continue;
            }
            let what = format!("{case}: {name}");
            let security = pod.security_context.unwrap();
            assert_eq!(security.run_as_non_root, Some(true), "{what}");
            assert_eq!(security.seccomp_profile.unwrap().type_, "RuntimeDefault");
            assert_eq!(
                (pod.host_network, pod.host_pid, pod.host_ipc),
                (None, None, None)
            );
            for volume in pod.volumes.iter().flatten() {
                // Only SPIRE's socket, and then in a namespace that is not the restricted one.
                let apart = volume.name == "workload-api" && namespace != "writ-system";
                assert!(volume.host_path.is_none() || apart, "{what}");
            }
            for container in pod
                .containers
                .iter()
                .chain(pod.init_containers.iter().flatten())
            {
                let security = container.security_context.clone().unwrap();
                assert_eq!(security.allow_privilege_escalation, Some(false), "{what}");
                assert_eq!(security.read_only_root_filesystem, Some(true), "{what}");
                assert_eq!(
                    security.capabilities.unwrap().drop.unwrap(),
                    ["ALL"],
                    "{what}"
                );
                let resources = container.resources.clone().unwrap();
                assert!(resources.requests.unwrap().contains_key("memory"), "{what}");
                assert!(resources.limits.unwrap().contains_key("memory"), "{what}");
            }
        }
    }
}

#[test]
fn every_pod_of_ours_is_under_a_network_policy_of_both_directions() {
    for (case, documents) in rendered() {
        let policies: Vec<&Value> = documents
            .iter()
            .filter(|d| is(d, "NetworkPolicy"))
            .collect();
        for (namespace, name, template) in templates(&documents) {
            let labels = &template["metadata"]["labels"];
            let covered = policies.iter().any(|policy| {
                let selector = policy["spec"]["podSelector"]["matchLabels"]
                    .as_object()
                    .unwrap();
                policy["metadata"]["namespace"] == *namespace
                    && policy["spec"]["policyTypes"].as_array().unwrap().len() == 2
                    && selector.iter().all(|(name, value)| labels[name] == *value)
            });
            assert!(covered, "{case}: {name}");
        }
        // The cloud's metadata services are in no rule.
        for policy in policies {
            for rule in policy["spec"]["egress"].as_array().unwrap() {
                assert!(
                    rule["ports"].as_array().is_some_and(|p| !p.is_empty()),
                    "{rule}"
                );
                for to in rule["to"].as_array().unwrap() {
                    let wide = to["ipBlock"]["cidr"]
                        .as_str()
                        .is_some_and(|c| c.ends_with("/0"));
                    assert!(!wide || to["ipBlock"]["except"].is_array(), "{rule}");
                }
            }
        }
    }
}

#[test]
fn images_are_named_by_digest_where_digests_are_given() {
    let documents = case("mainnet");
    let mut seen = 0;
    for (_, name, pod) in pods(&documents) {
        for container in &pod.containers {
            let image = container.image.as_deref().unwrap();
            assert!(image.contains("@sha256:"), "{name}: {image}");
            let flags = container.args.iter().flatten();
            for flag in flags.filter(|flag| flag.contains("-image=")) {
                assert!(flag.contains("@sha256:"), "{flag}");
                seen += 1;
            }
        }
    }
    assert_eq!(seen, 2);
    let admitted = |d: &&Value| is(d, "ConfigMap") && d["metadata"]["name"] == "writ-admission";
    let admitted = documents.iter().find(admitted).unwrap()["data"].to_string();
    assert_eq!(admitted.matches("@sha256:").count(), 2, "{admitted}");
}

#[test]
fn only_the_sidecars_container_of_opted_in_pods_gets_an_identity() {
    for (case, documents) in rendered() {
        let identities: Vec<&Value> = documents
            .iter()
            .filter(|d| is(d, "ClusterSPIFFEID"))
            .filter(|d| {
                let name = d["metadata"]["name"].as_str().unwrap();
                !["writ-relay", "writ-witness"].contains(&name)
            })
            .collect();
        assert_eq!(identities.len(), 2, "{case}");
        for identity in identities {
            let spec = &identity["spec"];
            let only = serde_json::json!(["k8s:container-name:writ-sidecar"]);
            assert_eq!(spec["workloadSelectorTemplates"], only, "{case}");
            let opted_in = spec["namespaceSelector"]["matchLabels"]["writ.dev/inject"] == "enabled"
                || spec["podSelector"]["matchLabels"]["writ.dev/inject"] == "true";
            assert!(opted_in, "{case}: {spec}");
        }
    }
}

#[test]
fn what_refuses_pods_without_a_sidecar_stays_when_the_release_goes() {
    for (case, documents) in rendered() {
        for document in &documents {
            let kind = document["kind"].as_str().unwrap();
            let kept = document["metadata"]["annotations"]["helm.sh/resource-policy"] == "keep";
            let name = &document["metadata"]["name"];
            // The relay's go with the rights that they limit, that over our own pods with these.
            let goes = ["writ-relay", "writ-relay-status", "writ-images"].map(Value::from);
            let policy = kind.starts_with("ValidatingAdmissionPolicy");
            let refuses = (policy && !goes.contains(name)) || name == "writ-admission";
            assert!(kept || !refuses, "{case}: {kind}");
            // A webhook that fails closed and that nobody answers would stop every agent for good.
            assert!(!kept || !kind.ends_with("WebhookConfiguration"), "{case}");
        }
    }
    // And helm asks before it goes.
    let hook =
        |d: &Value| d["metadata"]["annotations"]["helm.sh/hook"] == "pre-delete" && is(d, "Job");
    assert!(case("development").iter().any(hook));
}

#[test]
fn what_is_not_for_production_says_so() {
    for document in case("development") {
        let name = document["metadata"]["name"].as_str().unwrap();
        let workload = ["Deployment", "DaemonSet", "Chain"]
            .iter()
            .any(|k| is(&document, k));
        let development =
            name.starts_with("spire-") || name == "writ-devchain" || is(&document, "Chain");
        if workload && development {
            let warning = document["metadata"]["annotations"]["writ.dev/warning"].to_string();
            assert!(warning.contains("NOT FOR PRODUCTION"), "{name}");
        }
    }
    for documents in [case("default"), case("mainnet")] {
        let text = serde_json::to_string(&documents).unwrap();
        assert!(!text.contains("devchain") && !text.contains("spire-server"));
    }
    assert!(read(&chart().join("templates/NOTES.txt")).contains("NOT FOR PRODUCTION: devChain"));
}

/// Names of the metrics that our programs have, from where they are registered.
fn metrics() -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for (file, prefix) in [
        ("operator/src/metrics.rs", "writ_operator_"),
        ("webhook/src/metrics.rs", "writ_webhook_"),
        ("node/src/metrics.rs", "writ_node_"),
        ("sidecar/src/metrics.rs", "writ_"),
    ] {
        let text = read(&repository().join(file));
        let words = text.split('"').skip(1).step_by(2);
        let plain = |w: &&str| w.bytes().all(|b| b.is_ascii_lowercase() || b == b'_');
        names.extend(words.filter(plain).map(|word| format!("{prefix}{word}")));
    }
    names
}

#[test]
fn alerts_and_dashboard_name_metrics_that_exist() {
    let known = metrics();
    let everything = case("everything");
    let rules = everything.iter().find(|d| is(d, "PrometheusRule")).unwrap();
    let dashboard = |d: &&Value| d["metadata"]["name"] == "writ-dashboard";
    let dashboard = everything.iter().find(dashboard).unwrap();
    let dashboard = dashboard["data"]["writ.json"].as_str().unwrap();
    let dashboard: Value = serde_json::from_str(dashboard).unwrap();
    let mut expressions: Vec<String> = Vec::new();
    for rule in rules["spec"]["groups"][0]["rules"].as_array().unwrap() {
        expressions.push(rule["expr"].as_str().unwrap().to_owned());
    }
    for panel in dashboard["panels"].as_array().unwrap() {
        for target in panel["targets"].as_array().unwrap() {
            expressions.push(target["expr"].as_str().unwrap().to_owned());
        }
    }
    let mut seen = 0;
    for expression in &expressions {
        let words = expression.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
        for word in words.filter(|word| word.starts_with("writ_")) {
            let name = word.strip_suffix("_bucket").unwrap_or(word);
            assert!(known.contains(name), "{name} in: {expression}");
            seen += 1;
        }
    }
    assert!(seen > 20, "{seen}");
}

#[test]
fn a_preset_is_a_policy_that_the_operator_takes() {
    let mut seen = 0;
    for file in std::fs::read_dir(chart().join("presets")).unwrap() {
        let path = file.unwrap().path();
        let mut policy: AgentPolicy = serde_json::from_value(documents(&path).remove(0)).unwrap();
        policy.metadata.namespace = Some("shop".to_owned());
        policy.metadata.uid = Some("uid".to_owned());
        policy.spec.service_accounts = vec!["agent".to_owned()];
        let accounts = claim(&policy, &[], "example.org").unwrap().accounts;
        let salts: Salts = salts_of(&policy, &accounts)
            .into_iter()
            .map(|of| (of, [7; 16]))
            .collect();
        let at = Address::repeat_byte(1);
        let wanted = want(&policy, &accounts, &salts, "example.org", at);
        let wanted = wanted.unwrap_or_else(|error| panic!("{}: {error:?}", path.display()));
        assert!(wanted.is_some(), "{}", path.display());
        seen += 1;
    }
    assert_eq!(seen, 3);
}

#[test]
fn values_are_checked_to_the_last_field() {
    fn strict(schema: &Value, path: &str) {
        if let Some(properties) = schema["properties"].as_object() {
            assert_eq!(schema["additionalProperties"], false, "{path}");
            for (name, schema) in properties {
                strict(schema, &format!("{path}.{name}"));
            }
        }
        for schema in schema["anyOf"].as_array().into_iter().flatten() {
            strict(schema, path);
        }
    }
    for chart in [chart(), chart().join("charts/spire")] {
        let schema: Value = serde_json::from_str(&read(&chart.join("values.schema.json"))).unwrap();
        strict(&schema, "");
        let mut values: Value = serde_saphyr::from_str(&read(&chart.join("values.yaml"))).unwrap();
        assert!(
            jsonschema::is_valid(&schema, &values),
            "{}",
            chart.display()
        );
        values["tpyo"] = Value::Bool(true);
        assert!(!jsonschema::is_valid(&schema, &values));
    }
}

#[test]
fn the_charts_definitions_are_those_of_the_api() {
    for (name, _) in writ_api::crds() {
        let [kept, made] = [chart().join("crds"), repository().join("manifests/crds")]
            .map(|folder| read(&folder.join(&name)));
        assert!(
            kept == made,
            "{name} is stale; run scripts/render-manifests"
        );
    }
}
