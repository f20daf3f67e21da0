//! What the node agent reads of a pod: exactly what the webhook wrote, and nothing else.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

use k8s_openapi::api::core::v1::Pod;
use proptest::prelude::*;
use serde_json::{Value, json};
use writ_node::cgroup::{ContainerId, PodUid};
use writ_node::spec::{Decision, Repositories, decide};
use writ_redirect::{Ipv6, Ports, Redirect};
use writ_webhook::settings::{FIRST_UID, LAST_UID, RedirectBy};
use writ_webhook::{Settings, inject};

const NODE: &str = "node-1";
const UID: &str = "1a2b3c4d-0000-4000-8000-0123456789ab";
const ID: &str = "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff";

fn settings() -> Settings {
    Settings {
        redirect: RedirectBy::Node,
        init_image: "registry:5000/writ-init:1".to_owned(),
        sidecar_image: "registry:5000/writ-sidecar@sha256:00".to_owned(),
        ..Settings::default()
    }
}

fn repositories() -> Repositories {
    Repositories::of("registry:5000/writ-init:2", "registry:5000/writ-sidecar:2")
}

/// A pod that the webhook made and whose init container runs, as the API server shows it.
fn running(settings: &Settings) -> Value {
    let pod: Pod = serde_json::from_value(json!({
        "metadata": {"name": "agent", "namespace": "agents", "uid": UID},
        "spec": {"nodeName": NODE, "containers": [{"name": "agent", "image": "a"}],
            "initContainers": [{"name": "before", "image": "b"}]},
        "status": {"initContainerStatuses": [
            {"name": "writ-init", "containerID": format!("containerd://{ID}"), "image": "x",
             "imageID": "x", "ready": false, "restartCount": 0, "state": {"running": {}}},
            {"name": "writ-sidecar", "image": "x", "imageID": "", "ready": false,
             "restartCount": 0, "state": {"waiting": {"reason": "PodInitializing"}}}]}
    }))
    .unwrap();
    let mut pod = serde_json::to_value(inject(pod, settings).unwrap()).unwrap();
    // The API server's own addition.
    let mounts = pod
        .pointer_mut("/spec/initContainers/0/volumeMounts")
        .unwrap();
    mounts
        .as_array_mut()
        .unwrap()
        .push(json!({"name": "kube-api-access-x",
        "mountPath": "/var/run/secrets/kubernetes.io/serviceaccount", "readOnly": true}));
    pod
}

fn decided(pod: &Value) -> Decision {
    let pod: Pod = serde_json::from_value(pod.clone()).unwrap();
    decide(&pod, NODE, &repositories())
}

/// Puts `value` at `path`, or takes what is there away.
fn with(pod: &Value, path: &str, value: Value) -> Value {
    let mut pod = pod.clone();
    let (parent, name) = path.rsplit_once('/').unwrap();
    let name = name.replace("~1", "/");
    match pod.pointer_mut(parent).unwrap() {
        Value::Object(fields) if value.is_null() => drop(fields.remove(&name)),
        Value::Object(fields) => drop(fields.insert(name, value)),
        Value::Array(items) if name == "-" => items.push(value),
        Value::Array(items) if value.is_null() => drop(items.remove(name.parse().unwrap())),
        Value::Array(items) => items[name.parse::<usize>().unwrap()] = value,
        other => panic!("{other}"),
    }
    pod
}

#[test]
fn the_rules_are_those_of_the_webhooks_container() {
    let Decision::Install(task) = decided(&running(&settings())) else {
        panic!("it is the webhook's");
    };
    assert_eq!(task.pod, PodUid::parse(UID).unwrap());
    assert_eq!(task.container, ContainerId::parse(ID).unwrap());
    assert_eq!(task.redirect, Redirect::new(FIRST_UID).unwrap());
}

#[test]
fn every_pod_that_the_webhook_takes_is_served() {
    let golden = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../webhook/tests/golden");
    let mut served = 0;
    for case in std::fs::read_dir(golden).unwrap() {
        let case = case.unwrap().path();
        let text = std::fs::read_to_string(case.join("in.yaml")).unwrap();
        let given: Value = serde_saphyr::from_str(&text).unwrap();
        let Ok(injected) = inject(serde_json::from_value(given).unwrap(), &settings()) else {
            continue;
        };
        let mut pod = running(&settings());
        let injected = serde_json::to_value(injected).unwrap();
        pod["spec"] = injected["spec"].clone();
        pod["metadata"]["annotations"] = injected["metadata"]["annotations"].clone();
        pod["spec"]["nodeName"] = json!(NODE);
        let decision = decided(&pod);
        assert!(
            matches!(decision, Decision::Install(_)),
            "{}: {decision:?}",
            case.display()
        );
        served += 1;
    }
    assert!(served > 8, "{served}");
}

#[test]
fn a_pod_without_the_annotation_is_never_touched() {
    let by_init = Settings {
        redirect: RedirectBy::Init,
        ..settings()
    };
    assert_eq!(decided(&running(&by_init)), Decision::Other);
    let unmarked = with(
        &running(&settings()),
        "/metadata/annotations/writ.dev~1redirect",
        Value::Null,
    );
    assert_eq!(decided(&unmarked), Decision::Other);
}

#[test]
fn nothing_is_done_while_the_init_container_does_not_run() {
    let pod = running(&settings());
    let state = "/status/initContainerStatuses/0/state";
    for (path, value) in [
        (state, json!({"waiting": {"reason": "CrashLoopBackOff"}})),
        (state, json!({"terminated": {"exitCode": 0}})),
        (state, Value::Null),
        ("/status/initContainerStatuses/0/containerID", Value::Null),
        ("/status/initContainerStatuses/0/name", json!("other")),
        ("/status", Value::Null),
    ] {
        assert_eq!(decided(&with(&pod, path, value)), Decision::Idle, "{path}");
    }
}

#[test]
fn whatever_the_webhook_did_not_write_is_refused() {
    let pod = running(&settings());
    let init = "/spec/initContainers/0";
    let sidecar = "/spec/initContainers/1";
    let env = |index: usize, value: Value| (format!("{init}/env/{index}/value"), value);
    let cases = [
        (
            "/metadata/annotations/writ.dev~1redirect".to_owned(),
            json!("init"),
        ),
        (
            "/metadata/annotations/writ.dev~1injected".to_owned(),
            Value::Null,
        ),
        ("/metadata/uid".to_owned(), json!("../x")),
        (
            "/status/initContainerStatuses/0/containerID".to_owned(),
            json!("containerd://../x"),
        ),
        ("/spec/nodeName".to_owned(), json!("node-2")),
        ("/spec/hostNetwork".to_owned(), json!(true)),
        ("/spec/hostPID".to_owned(), json!(true)),
        ("/spec/hostUsers".to_owned(), json!(false)),
        ("/spec/shareProcessNamespace".to_owned(), json!(true)),
        (
            "/spec/ephemeralContainers".to_owned(),
            json!([{"name": "x", "image": "y"}]),
        ),
        ("/spec/initContainers".to_owned(), Value::Null),
        (init.to_owned(), Value::Null),
        (sidecar.to_owned(), Value::Null),
        ("/spec/containers/0/name".to_owned(), json!("writ-init")),
        (
            "/spec/containers/0/securityContext/runAsUser".to_owned(),
            json!(FIRST_UID),
        ),
        (
            "/spec/containers/0/securityContext/privileged".to_owned(),
            json!(true),
        ),
        (
            "/spec/containers/0/securityContext/capabilities/add".to_owned(),
            json!(["cap_net_admin"]),
        ),
        (
            "/spec/containers/0/securityContext/capabilities/add".to_owned(),
            json!(["SYS_MODULE"]),
        ),
        (
            "/spec/containers/0/securityContext/allowPrivilegeEscalation".to_owned(),
            Value::Null,
        ),
        (
            "/spec/initContainers/2/securityContext".to_owned(),
            Value::Null,
        ),
        (
            "/spec/securityContext".to_owned(),
            json!({"runAsUser": FIRST_UID}),
        ),
        (format!("{init}/image"), json!("evil/writ-init:1")),
        (format!("{init}/image"), Value::Null),
        (format!("{init}/command"), json!(["sh"])),
        (format!("{init}/args"), json!(["init"])),
        (
            format!("{init}/args"),
            json!(["init", "--by", "node", "--wait", "1"]),
        ),
        (format!("{init}/restartPolicy"), json!("Always")),
        (
            format!("{init}/envFrom"),
            json!([{"configMapRef": {"name": "x"}}]),
        ),
        (
            format!("{init}/lifecycle"),
            json!({"postStart": {"exec": {"command": ["x"]}}}),
        ),
        (format!("{init}/securityContext/runAsUser"), json!(1000)),
        (
            format!("{init}/securityContext/runAsUser"),
            json!(FIRST_UID),
        ),
        (
            format!("{init}/securityContext/capabilities/add"),
            json!(["NET_ADMIN"]),
        ),
        (
            format!("{init}/securityContext/capabilities/drop"),
            json!([]),
        ),
        (format!("{init}/securityContext/privileged"), json!(true)),
        (format!("{init}/securityContext"), Value::Null),
        (format!("{init}/env"), Value::Null),
        (
            format!("{init}/env/-"),
            json!({"name": "OTHER", "value": "x"}),
        ),
        (
            format!("{init}/env/-"),
            json!({"name": "WRIT_IPV6", "value": "off"}),
        ),
        (
            format!("{init}/env/-"),
            json!({"name": "WRIT_LOCAL_PORTS", "value": ""}),
        ),
        (
            format!("{init}/env/-"),
            json!({"name": "WRIT_LOCAL_PORTS", "value": "53"}),
        ),
        (
            format!("{init}/env/-"),
            json!({"name": "WRIT_LOCAL_PORTS", "value": "1,,2"}),
        ),
        (
            format!("{init}/env/-"),
            json!({"name": "WRIT_LOCAL_PORTS", "value": "15801"}),
        ),
        (
            format!("{init}/env/0/valueFrom"),
            json!({"fieldRef": {"fieldPath": "status.podIP"}}),
        ),
        // The sidecar's uid.
        env(0, json!("0")),
        env(0, json!("1000")),
        env(0, json!((FIRST_UID + 1).to_string())),
        env(0, json!(format!("+{FIRST_UID}"))),
        // IPv6, and the ports.
        env(1, json!("maybe")),
        env(2, json!("0")),
        env(2, json!("015801")),
        env(2, json!("65536")),
        env(2, json!("15806")),
        env(2, Value::Null),
        env(6, json!("53")),
        (format!("{sidecar}/image"), json!("evil")),
        (format!("{sidecar}/args"), json!(["validate"])),
        (format!("{sidecar}/command"), json!(["sh"])),
        (format!("{sidecar}/restartPolicy"), Value::Null),
        (format!("{sidecar}/securityContext/runAsUser"), json!(1000)),
        (
            format!("{sidecar}/securityContext/runAsUser"),
            json!(i64::from(LAST_UID) + 1),
        ),
        (
            format!("{sidecar}/securityContext/capabilities/add"),
            json!(["NET_ADMIN"]),
        ),
    ];
    for (path, value) in cases {
        let changed = with(&pod, &path, value.clone());
        let decision = decided(&changed);
        assert!(
            matches!(decision, Decision::Refused(_)),
            "{path} {value}: {decision:?}"
        );
    }
}

fn ports() -> impl Strategy<Value = Ports> {
    proptest::sample::subsequence((1024u16..1100).collect::<Vec<_>>(), 5)
        .prop_shuffle()
        .prop_map(|p| Ports {
            outbound: p[0],
            inbound: p[1],
            status: p[2],
            local_api: p[3],
            dns: p[4],
        })
}

proptest! {
    #[test]
    fn whatever_the_webhook_is_set_to_the_rules_are_the_same(
        uid in FIRST_UID..=LAST_UID, ports in ports(), ipv6 in any::<bool>(),
        local in proptest::collection::vec(2000u16..3000, 0..64),
    ) {
        let ipv6 = if ipv6 { Ipv6::On } else { Ipv6::Off };
        let settings = Settings { uid, ports, ipv6, local_ports: local.clone(), ..settings() };
        let expected = Redirect::new(uid).unwrap().with_ports(ports).unwrap()
            .with_local_ports(local).unwrap().with_ipv6(ipv6);
        match decided(&running(&settings)) {
            Decision::Install(task) => prop_assert_eq!(task.redirect, expected),
            other => prop_assert!(false, "{:?}", other),
        }
    }

    #[test]
    fn a_variable_with_another_value_is_refused_or_means_the_same(index in 0usize..8, value in "[0-9+, -]{0,12}|on|off") {
        let pod = running(&settings());
        let path = format!("/spec/initContainers/0/env/{index}/value");
        match decided(&with(&pod, &path, json!(value.clone()))) {
            Decision::Refused(_) => {}
            Decision::Install(task) => {
                let read = &task.redirect;
                let ports = read.ports();
                let meant = match index {
                    0 => read.sidecar_uid().to_string(),
                    1 if read.ipv6() == Ipv6::On => "on".to_owned(),
                    1 => "off".to_owned(),
                    2 => ports.outbound.to_string(),
                    3 => ports.inbound.to_string(),
                    4 => ports.status.to_string(),
                    5 => ports.local_api.to_string(),
                    6 => ports.dns.to_string(),
                    // Where the container writes: nothing of the rules.
                    _ => value.clone(),
                };
                prop_assert_eq!(meant, value);
            }
            other => prop_assert!(false, "{:?}", other),
        }
    }
}
