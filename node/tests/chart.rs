//! The node agent's part of the chart, as `scripts/render-manifests` rendered it: only where it is asked
//! for, with what it needs and no more, and with flags that the program takes. And that pods fit into
//! restricted namespaces where it brings SPIRE's socket.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

use std::collections::BTreeSet;
use std::path::Path;

use clap::Parser as _;
use k8s_openapi::api::apps::v1::DaemonSet;
use k8s_openapi::api::storage::v1::CSIDriver;
use serde_json::{Value, json};
use writ_node::args::Args;
use writ_node::csi::DRIVER;

fn documents(file: &str) -> Vec<Value> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let text = std::fs::read_to_string(folder.join(file)).unwrap();
    text.split("\n---\n")
        .map(|part| serde_saphyr::from_str(part.trim_start_matches("---\n")).unwrap())
        .collect()
}

/// What the node agent gets where it is asked for.
fn node_agent(case: &str) -> Vec<Value> {
    let all = documents(&format!("charts/writ/tests/{case}/rendered.yaml"));
    let ours = |d: &Value| d["metadata"]["labels"]["app.kubernetes.io/component"] == "node";
    all.into_iter().filter(ours).collect()
}

fn one(documents: &[Value], kind: &str) -> Value {
    let mut found = documents.iter().filter(|document| document["kind"] == kind);
    let one = found.next().unwrap_or_else(|| panic!("no {kind}")).clone();
    assert!(found.next().is_none(), "{kind}");
    one
}

/// Where it redirects.
const CASES: [&str; 3] = ["restricted", "everything", "restricted-development"];
/// Where it brings SPIRE's socket.
const WITH_SOCKET: [&str; 2] = ["sockets", "restricted-development"];
/// Where it does either.
const ALL: [&str; 4] = [
    "restricted",
    "everything",
    "restricted-development",
    "sockets",
];

fn args_of(case: &str) -> Args {
    let set = one(&node_agent(case), "DaemonSet");
    let container = &set["spec"]["template"]["spec"]["containers"][0];
    assert_eq!(container["env"][0]["name"], "WRIT_NODE_NAME");
    let flags = container["args"].as_array().unwrap();
    let flags = flags.iter().map(|flag| flag.as_str().unwrap());
    let words = ["writ-node", "--node=node-1"].into_iter().chain(flags);
    Args::try_parse_from(words).unwrap()
}

#[test]
fn there_is_no_node_agent_where_pods_redirect_themselves() {
    let default = documents("manifests/writ.yaml");
    let text = serde_json::to_string(&default).unwrap();
    assert!(!text.contains("hostPID\":true") && !text.contains("writ-node"));
    assert!(text.contains("--redirect=init"));
    for case in CASES {
        let text = documents(&format!("charts/writ/tests/{case}/rendered.yaml"));
        assert!(
            serde_json::to_string(&text)
                .unwrap()
                .contains("--redirect=node")
        );
    }
}

#[test]
fn it_watches_pods_and_creates_events_and_nothing_else() {
    for case in CASES {
        let documents = node_agent(case);
        assert_eq!(
            one(&documents, "ClusterRole")["rules"],
            json!([
                {"apiGroups": [""], "resources": ["pods"], "verbs": ["get", "list", "watch"]},
                {"apiGroups": ["events.k8s.io"], "resources": ["events"], "verbs": ["create"]},
            ]),
            "{case}"
        );
        let subjects = &one(&documents, "ClusterRoleBinding")["subjects"];
        let namespace = one(&documents, "Namespace")["metadata"]["name"].clone();
        assert_eq!(
            *subjects,
            json!([{"kind": "ServiceAccount", "name": "writ-node", "namespace": namespace}])
        );
        assert!(
            !documents
                .iter()
                .any(|d| d["kind"] == "Role" || d["kind"] == "RoleBinding")
        );
    }
}

#[test]
fn it_is_alone_in_a_privileged_namespace_and_has_the_capabilities_that_it_checks_for() {
    for case in ALL {
        let documents = node_agent(case);
        let namespace = one(&documents, "Namespace");
        let enforced = &namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"];
        assert_eq!(enforced, "privileged");
        let set = one(&documents, "DaemonSet");
        assert_eq!(set["metadata"]["namespace"], namespace["metadata"]["name"]);
        let set: DaemonSet = serde_json::from_value(set).unwrap();
        let pod = set.spec.unwrap().template.spec.unwrap();
        assert_eq!(pod.host_pid, Some(true));
        assert_eq!((pod.host_network, pod.host_ipc), (None, None));
        let folders = pod.volumes.iter().flatten();
        let folders = folders.filter_map(|volume| Some(volume.host_path.as_ref()?.path.as_str()));
        let expected: &[&str] = match case {
            "sockets" => &[
                "/srv/spire/sockets",
                "/data/kubelet/plugins/workload-api.writ.dev",
                "/data/kubelet/plugins_registry",
            ],
            "restricted-development" => &[
                "/run/spire/agent-sockets",
                "/var/lib/kubelet/plugins/workload-api.writ.dev",
                "/var/lib/kubelet/plugins_registry",
            ],
            _ => &[],
        };
        assert_eq!(folders.collect::<Vec<_>>(), expected, "{case}");
        let [container] = pod.containers.try_into().unwrap();
        let security = container.security_context.unwrap();
        assert_eq!(security.privileged, Some(false));
        assert_eq!(security.read_only_root_filesystem, Some(true));
        assert_eq!(security.seccomp_profile.unwrap().type_, "RuntimeDefault");
        let capabilities = security.capabilities.unwrap();
        assert_eq!(capabilities.drop.unwrap(), ["ALL"]);
        let added: BTreeSet<String> = capabilities.add.unwrap().into_iter().collect();
        let checked = args_of(case).capabilities();
        let checked = checked.into_iter().map(|(name, _)| name.to_owned());
        assert_eq!(added, checked.collect(), "{case}");
        assert!(
            container
                .resources
                .unwrap()
                .limits
                .unwrap()
                .contains_key("memory")
        );
        let tolerations = pod.tolerations.unwrap();
        assert!(
            tolerations
                .iter()
                .any(|t| t.operator.as_deref() == Some("Exists") && t.key.is_none())
        );
        let policy = one(&documents, "NetworkPolicy");
        assert_eq!(
            policy["metadata"]["namespace"],
            namespace["metadata"]["name"]
        );
        assert_eq!(policy["spec"]["policyTypes"], json!(["Ingress", "Egress"]));
    }
}

#[test]
fn the_program_takes_the_flags_and_serves_the_pods_of_this_release() {
    for case in CASES {
        let args = args_of(case);
        let whole = documents(&format!("charts/writ/tests/{case}/rendered.yaml"));
        let webhook = whole
            .iter()
            .find(|d| d["kind"] == "Deployment" && d["metadata"]["name"] == "writ-webhook");
        let webhook = &webhook.unwrap()["spec"]["template"]["spec"]["containers"][0]["args"];
        for image in [&args.init_image, &args.sidecar_image] {
            assert!(
                webhook.to_string().contains(&format!("image={image}\"")),
                "{image}"
            );
        }
    }
}

#[test]
fn it_asks_nothing_of_the_api_server_where_it_only_brings_sockets() {
    let documents = node_agent("sockets");
    for kind in ["ClusterRole", "ClusterRoleBinding"] {
        assert!(!documents.iter().any(|d| d["kind"] == kind), "{kind}");
    }
    let set = one(&documents, "DaemonSet");
    let pod = &set["spec"]["template"]["spec"];
    assert_eq!(pod["automountServiceAccountToken"], false);
    assert_eq!(
        one(&documents, "NetworkPolicy")["spec"]["egress"],
        json!([])
    );
}

#[test]
fn the_kubelet_is_told_of_a_driver_of_ephemeral_volumes_that_says_whose_they_are() {
    for case in WITH_SOCKET {
        let documents = node_agent(case);
        let driver: CSIDriver = serde_json::from_value(one(&documents, "CSIDriver")).unwrap();
        assert_eq!(driver.metadata.name.as_deref(), Some(DRIVER));
        let spec = driver.spec;
        assert_eq!(spec.volume_lifecycle_modes.unwrap(), ["Ephemeral"]);
        assert_eq!(spec.pod_info_on_mount, Some(true));
        assert_eq!(spec.attach_required, Some(false));
        let args = args_of(case);
        let set = one(&documents, "DaemonSet").to_string();
        for folder in [
            &args.workload_api.unwrap(),
            &args.plugin,
            &args.registration,
        ] {
            assert!(
                set.contains(&format!("\"mountPath\":\"{}\"", folder.display())),
                "{set}"
            );
        }
    }
    for case in ["restricted", "everything"] {
        assert!(
            !node_agent(case).iter().any(|d| d["kind"] == "CSIDriver"),
            "{case}"
        );
    }
}

#[test]
fn sidecars_and_relays_get_their_socket_from_it_in_namespaces_that_are_restricted() {
    for case in WITH_SOCKET {
        let all = documents(&format!("charts/writ/tests/{case}/rendered.yaml"));
        let text = serde_json::to_string(&all).unwrap();
        assert!(
            text.contains("--spire-csi-driver=workload-api.writ.dev"),
            "{case}"
        );
        assert!(!text.contains("--spire-host-path"), "{case}");
        for document in &all {
            let spec = &document["spec"]["template"]["spec"];
            let volumes = spec["volumes"].as_array().into_iter().flatten();
            for volume in volumes.filter(|volume| volume.get("hostPath").is_some()) {
                let name = &document["metadata"]["name"];
                assert!(
                    name == "writ-node" || name == "spire-agent",
                    "{case} {name} {volume}"
                );
            }
        }
    }
    // Whose namespace need not be another one then; and they end before the node agent does.
    let all = documents("charts/writ/tests/restricted-development/rendered.yaml");
    let relay = all.iter().find(|d| d["kind"] == "StatefulSet").unwrap();
    assert_eq!(relay["metadata"]["namespace"], "writ-system");
    let volume = &relay["spec"]["template"]["spec"]["volumes"][0];
    assert_eq!(volume["csi"], json!({"driver": DRIVER, "readOnly": true}));
    let hook = all
        .iter()
        .find(|d| d["kind"] == "Job" && d["metadata"]["name"] == "writ-uninstall");
    let flags = hook.unwrap()["spec"]["template"]["spec"]["containers"][0]["args"].to_string();
    assert!(
        flags.contains("--stop=writ-system") && flags.contains("--witnesses=1"),
        "{flags}"
    );
}
