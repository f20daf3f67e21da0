//! The manifests: no more rights than are used, and examples that mean what they say.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

use std::collections::BTreeSet;
use std::path::Path;

use alloy::primitives::Address;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::rbac::v1::{ClusterRole, PolicyRule, Role};
use serde_json::Value;
use writ_api::{AgentPolicy, AgentRevocation, Chain};
use writ_operator::policy::select::claim;
use writ_operator::policy::want::{salts_of, want};
use writ_operator::salts::{SECRETS, Salts, secret_name};

fn read(path: &str) -> Vec<Value> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    let text = std::fs::read_to_string(path).unwrap();
    text.split("\n---\n")
        .map(|document| serde_saphyr::from_str(document).unwrap())
        .collect()
}

/// What the chart makes of the operator by default.
fn of_kind(kind: &str) -> Vec<Value> {
    read("../manifests/writ.yaml")
        .into_iter()
        .filter(|d| d["metadata"]["name"] == "writ-operator" && d["kind"] == kind)
        .collect()
}

fn examples(kind: &str) -> Vec<Value> {
    read("manifests/example.yaml")
        .into_iter()
        .filter(|d| d["kind"] == kind)
        .collect()
}

fn rules() -> (Vec<PolicyRule>, Vec<PolicyRule>) {
    let cluster: ClusterRole = serde_json::from_value(of_kind("ClusterRole").remove(0)).unwrap();
    let own: Role = serde_json::from_value(of_kind("Role").remove(0)).unwrap();
    (cluster.rules.unwrap(), own.rules.unwrap())
}

#[test]
fn no_right_is_a_wildcard() {
    let (cluster, own) = rules();
    for rule in cluster.iter().chain(&own) {
        let words = [
            rule.api_groups.as_ref(),
            rule.resources.as_ref(),
            Some(&rule.verbs),
        ];
        for word in words.into_iter().flatten().flatten() {
            assert!(!word.contains('*'), "{rule:?}");
        }
        assert!(rule.non_resource_urls.is_none());
    }
}

#[test]
fn secrets_are_read_in_its_own_namespace_by_name_only() {
    let (cluster, own) = rules();
    let about_secrets =
        |rule: &&PolicyRule| rule.resources.iter().flatten().any(|r| r == "secrets");
    assert_eq!(cluster.iter().filter(about_secrets).count(), 0);
    let mut named = BTreeSet::new();
    for rule in own.iter().filter(about_secrets) {
        match &rule.resource_names {
            Some(names) => named.extend(names.iter().cloned()),
            None => assert_eq!(
                rule.verbs,
                ["create"],
                "only creation cannot be limited by name"
            ),
        }
    }
    let all: BTreeSet<String> = (0..16).map(|n| format!("{SECRETS}{n:x}")).collect();
    assert_eq!(named, all);
    assert!(named.contains(&secret_name("shop")));
}

#[test]
fn the_operator_cannot_change_what_an_agent_policy_or_a_revocation_says() {
    let (cluster, _) = rules();
    for rule in &cluster {
        let resources = rule.resources.clone().unwrap_or_default();
        for verb in ["update", "create", "delete", "deletecollection"] {
            if rule.verbs.iter().any(|v| v == verb) {
                let theirs = ["chains", "agentpolicies", "agentrevocations"];
                assert!(
                    !resources.iter().any(|r| theirs.contains(&r.as_str())),
                    "{verb} {resources:?}"
                );
            }
        }
    }
}

#[test]
fn its_own_pods_fit_into_a_restricted_namespace() {
    let deployment: Deployment = serde_json::from_value(of_kind("Deployment").remove(0)).unwrap();
    let pod = deployment.spec.unwrap().template.spec.unwrap();
    let security = pod.security_context.unwrap();
    assert_eq!(security.run_as_non_root, Some(true));
    assert_eq!(security.seccomp_profile.unwrap().type_, "RuntimeDefault");
    let container = pod.containers[0].security_context.clone().unwrap();
    assert_eq!(container.allow_privilege_escalation, Some(false));
    assert_eq!(container.read_only_root_filesystem, Some(true));
    assert_eq!(container.capabilities.unwrap().drop.unwrap(), ["ALL"]);
}

#[test]
fn the_examples_are_accepted() {
    for document in examples("Chain") {
        serde_json::from_value::<Chain>(document).unwrap();
    }
    for document in examples("AgentRevocation") {
        serde_json::from_value::<AgentRevocation>(document).unwrap();
    }
    let policies = examples("AgentPolicy");
    assert_eq!(policies.len(), 2);
    for document in policies {
        let policy: AgentPolicy = serde_json::from_value(document).unwrap();
        let accounts = claim(&policy, &[], "example.org").unwrap().accounts;
        let salts: Salts = salts_of(&policy, &accounts)
            .into_iter()
            .map(|of| (of, [7; 16]))
            .collect();
        let wanted = want(
            &policy,
            &accounts,
            &salts,
            "example.org",
            Address::repeat_byte(1),
        )
        .unwrap();
        assert_eq!(wanted.is_some(), policy.spec.catalog.is_some());
    }
}
