//! Relay and witnesses in the chart, as `scripts/render-manifests` rendered it with real helm: who they are, what they may,
//! and that everybody names them alike.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

use std::collections::BTreeSet;
use std::path::Path;

use clap::Parser as _;
use serde_json::{Value, json};
use writ_api::{Chain, Head};
use writ_operator::args::Args;
use writ_operator::relay::args::Role;
use writ_operator::relay::core::{ChainRead, served};

/// What was rendered for a case of `charts/writ/tests`, or the defaults.
fn rendered(case: &str) -> Vec<Value> {
    let repository = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let file = match case {
        "default" => repository.join("manifests/writ.yaml"),
        case => repository.join(format!("charts/writ/tests/{case}/rendered.yaml")),
    };
    let text = std::fs::read_to_string(file).unwrap();
    let parts = text.split("\n---\n").map(|p| p.trim_start_matches("---\n"));
    parts
        .map(|part| serde_saphyr::from_str::<Value>(part).unwrap())
        .filter(|document| !document.is_null())
        .collect()
}

/// Cases in which a relay serves the Chain.
const RELAYED: [&str; 3] = ["development", "everything", "mainnet"];

fn find<'a>(documents: &'a [Value], kind: &str, name: &str) -> &'a Value {
    let found = documents
        .iter()
        .find(|d| d["kind"] == kind && d["metadata"]["name"] == name);
    found.unwrap_or_else(|| panic!("no {kind} {name}"))
}

fn chain(documents: &[Value]) -> Chain {
    let chain = documents.iter().find(|d| d["kind"] == "Chain").unwrap();
    serde_json::from_value(chain.clone()).unwrap()
}

/// The flags of a workload's container, read as the program reads them.
fn flags(workload: &Value) -> Args {
    let container = &workload["spec"]["template"]["spec"]["containers"][0];
    let flags = container["args"].as_array().unwrap().iter();
    let flags = flags.map(|flag| flag.as_str().unwrap().to_owned());
    let namespace = workload["metadata"]["namespace"].as_str().unwrap();
    // From the pod's own fields.
    let given = [
        "writ-operator".to_owned(),
        format!("--namespace={namespace}"),
    ];
    let env = container["env"].to_string();
    assert!(env.contains("WRIT_NAMESPACE") && env.contains("WRIT_POD_NAME"));
    Args::try_parse_from(given.into_iter().chain(flags)).unwrap()
}

/// The SPIFFE ID that SPIRE gives to a workload's pods.
fn identity(workload: &Value, domain: &str) -> String {
    let namespace = workload["metadata"]["namespace"].as_str().unwrap();
    let account = &workload["spec"]["template"]["spec"]["serviceAccountName"];
    format!(
        "spiffe://{domain}/ns/{namespace}/sa/{}",
        account.as_str().unwrap()
    )
}

/// Where a Service is found, at its first port.
fn address(documents: &[Value], name: &str) -> String {
    let service = find(documents, "Service", name);
    let namespace = service["metadata"]["namespace"].as_str().unwrap();
    let port = &service["spec"]["ports"][0]["port"];
    format!("{name}.{namespace}.svc.cluster.local:{port}")
}

/// Whether a Service leads to a workload's pods, at a port that they listen on.
fn leads(documents: &[Value], service: &str, workload: &Value) -> bool {
    let service = find(documents, "Service", service);
    let template = &workload["spec"]["template"];
    let selector = service["spec"]["selector"].as_object().unwrap();
    let labels = &template["metadata"]["labels"];
    let port = &service["spec"]["ports"][0];
    let ports = template["spec"]["containers"][0]["ports"]
        .as_array()
        .unwrap();
    let same_pods = selector.iter().all(|(name, value)| labels[name] == *value);
    let listens = |p: &Value| p["name"] == port["targetPort"] && p["containerPort"] == port["port"];
    same_pods && ports.iter().any(listens)
}

#[test]
fn chain_services_and_identities_name_the_same_witnesses() {
    for case in RELAYED {
        let documents = rendered(case);
        let chain = chain(&documents);
        let members = chain.spec.witnesses.clone().unwrap().members;
        let mut endpoints = BTreeSet::new();
        for (n, member) in members.iter().enumerate() {
            let name = format!("writ-witness-{n}");
            let workload = find(&documents, "Deployment", &name);
            let args = flags(workload);
            assert_eq!(args.relaying.role, Role::Witness);
            assert_eq!(member.spiffe_id, identity(workload, &args.trust_domain));
            assert_eq!(member.address, address(&documents, &name), "{case}");
            assert!(leads(&documents, &name, workload), "{case}: {name}");
            find(&documents, "ServiceAccount", &name);
            let (endpoint, id) = args.relaying.watched().unwrap();
            assert_eq!(id, chain.spec.chain_id);
            let safe = args.relaying.head == writ_operator::relay::args::Head::Safe;
            assert_eq!(safe, chain.spec.head == Head::Safe, "{case}");
            let port = args.relaying.witness_listen.port();
            assert!(member.address.ends_with(&format!(":{port}")));
            let relays = args.relaying.relays(&args.trust_domain, &args.namespace);
            let relay = identity(
                find(&documents, "StatefulSet", "writ-relay"),
                &args.trust_domain,
            );
            assert_eq!(relays, BTreeSet::from([relay]));
            endpoints.insert(endpoint);
        }
        assert_eq!(
            endpoints.len(),
            members.len(),
            "{case}: each its own endpoint"
        );
        let witnesses = documents.iter().filter(|d| {
            let name = d["metadata"]["name"].as_str().unwrap_or_default();
            d["kind"] == "Deployment" && name.starts_with("writ-witness-")
        });
        assert_eq!(witnesses.count(), members.len());
    }
}

#[test]
fn a_chain_of_the_chart_is_one_that_the_relay_serves() {
    for (case, needed, witnesses) in [
        ("development", 1, 1),
        ("everything", 1, 1),
        ("mainnet", 2, 3),
    ] {
        let chain = chain(&rendered(case));
        let (served, problems) = served(&[ChainRead::of(&chain)]);
        assert_eq!(problems, Vec::<String>::new(), "{case}");
        let settings = &served[&chain.spec.chain_id];
        assert_eq!(
            (settings.needed, settings.witnesses.len()),
            (needed, witnesses)
        );
    }
}

#[test]
fn sidecars_are_told_where_the_relay_is_and_who_it_is() {
    for case in RELAYED {
        let documents = rendered(case);
        let workload = find(&documents, "StatefulSet", "writ-relay");
        let args = flags(workload);
        assert_eq!(args.relaying.role, Role::Relay);
        assert!(leads(&documents, "writ-relay", workload), "{case}");
        let told = flags(find(&documents, "Deployment", "writ-operator")).settings();
        let told = told.relay.unwrap();
        assert_eq!(told.address, address(&documents, "writ-relay"));
        assert!(
            told.address
                .ends_with(&format!(":{}", args.relaying.relay_listen.port()))
        );
        assert_eq!(told.spiffe_id, identity(workload, &args.trust_domain));
        let volumes = &workload["spec"]["template"]["spec"]["volumes"];
        let socket = args.relaying.workload_api.to_string_lossy().into_owned();
        assert!(socket.starts_with("/run/spire/sockets/"), "{socket}");
        assert_eq!(volumes.as_array().unwrap().len(), 1);
    }
}

#[test]
fn only_relay_and_witness_containers_get_their_identities() {
    for case in RELAYED {
        let documents = rendered(case);
        for (name, workload) in [
            ("relay", find(&documents, "StatefulSet", "writ-relay")),
            ("witness", find(&documents, "Deployment", "writ-witness-0")),
        ] {
            let identity = &find(&documents, "ClusterSPIFFEID", &format!("writ-{name}"))["spec"];
            let template = &workload["spec"]["template"];
            let only = json!([format!("k8s:container-name:{name}")]);
            assert_eq!(identity["workloadSelectorTemplates"], only);
            assert_eq!(template["spec"]["containers"][0]["name"], name);
            let namespace = &identity["namespaceSelector"]["matchLabels"];
            let namespace = &namespace["kubernetes.io/metadata.name"];
            assert_eq!(*namespace, workload["metadata"]["namespace"], "{case}");
            let labels = identity["podSelector"]["matchLabels"].as_object().unwrap();
            assert!(
                labels
                    .iter()
                    .all(|(l, v)| template["metadata"]["labels"][l] == *v)
            );
        }
    }
}

#[test]
fn a_relay_has_the_rights_that_it_uses_and_a_witness_none() {
    for case in RELAYED {
        let documents = rendered(case);
        let account = json!({"kind": "ServiceAccount", "name": "writ-relay",
            "namespace": find(&documents, "StatefulSet", "writ-relay")["metadata"]["namespace"]});
        let bound: Vec<&Value> = documents
            .iter()
            .filter(|d| d["kind"].as_str().unwrap().ends_with("Binding"))
            .filter(|d| {
                d["subjects"]
                    .as_array()
                    .is_some_and(|s| s.contains(&account))
            })
            .collect();
        assert_eq!(bound.len(), 1, "{case}");
        assert_eq!(
            find(&documents, "ClusterRole", "writ-relay")["rules"],
            json!([
                {"apiGroups": ["writ.dev"], "resources": ["chains", "agentpolicies", "agentrevocations"],
                    "verbs": ["get", "list", "watch"]},
                {"apiGroups": ["writ.dev"], "resources": ["agentrevocations/status"], "verbs": ["patch"]},
                {"apiGroups": [""], "resources": ["configmaps"], "verbs": ["create", "patch"]},
            ])
        );
        let bindings = documents.iter().filter(|d| !d["subjects"].is_null());
        for binding in bindings {
            assert!(
                !binding["subjects"].to_string().contains("writ-witness"),
                "{case}"
            );
        }
        let witness = find(&documents, "Deployment", "writ-witness-0");
        let token = &witness["spec"]["template"]["spec"]["automountServiceAccountToken"];
        assert_eq!(*token, false);
    }
}

#[test]
fn where_spires_socket_comes_by_host_path_relay_and_witnesses_have_a_namespace_that_admits_it() {
    for (case, namespace) in [("development", "writ-relay"), ("everything", "relays")] {
        let documents = rendered(case);
        let made = find(&documents, "Namespace", namespace);
        let enforced = &made["metadata"]["labels"]["pod-security.kubernetes.io/enforce"];
        assert_eq!(enforced, "privileged");
        let relay = find(&documents, "StatefulSet", "writ-relay");
        assert_eq!(relay["metadata"]["namespace"], namespace);
    }
    let mainnet = rendered("mainnet");
    let relay = find(&mainnet, "StatefulSet", "writ-relay");
    assert_eq!(relay["metadata"]["namespace"], "writ-system");
    let volumes = &relay["spec"]["template"]["spec"]["volumes"];
    assert_eq!(volumes[0]["csi"]["driver"], "csi.spiffe.io");
}

#[test]
fn without_a_chain_of_the_charts_own_there_is_no_relay() {
    let text = serde_json::to_string(&rendered("default")).unwrap();
    assert!(!text.contains("writ-relay") && !text.contains("writ-witness"));
    let operator = rendered("default");
    let operator = flags(find(&operator, "Deployment", "writ-operator"));
    assert_eq!(operator.settings().relay, None);
}
