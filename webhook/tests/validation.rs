//! The final pod, and changes to running pods.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

use k8s_openapi::api::core::v1::{Pod, VolumeMount};
use serde_json::{Value, json};
use writ_webhook::settings::{INIT_UID, RedirectBy};
use writ_webhook::{Code, Refusals, Settings, inject, sidecar_uid, validate, validate_update};

fn pod(spec: Value) -> Pod {
    let mut pod = json!({"metadata": {"name": "agent"},
        "spec": {"containers": [{"name": "agent", "image": "a"}]}});
    json_patch::merge(&mut pod["spec"], &spec);
    serde_json::from_value(pod).unwrap()
}

fn injected() -> Pod {
    inject(pod(json!({})), &Settings::default()).unwrap()
}

fn codes(refusals: &Refusals) -> Vec<Code> {
    refusals.iter().map(|refusal| refusal.code).collect()
}

#[test]
fn a_pod_without_the_sidecar_is_refused_with_everything_else_that_is_wrong() {
    let refusals = validate(&pod(json!({"hostPID": true})), &Settings::default());
    assert_eq!(codes(&refusals), [Code::HostPid, Code::NotInjected]);
    let mut unmarked = injected();
    unmarked.metadata.annotations = None;
    let refusals = validate(&unmarked, &Settings::default());
    assert_eq!(codes(&refusals), [Code::NotInjected]);
}

#[test]
fn a_sidecar_with_a_uid_of_ones_own_choice_is_refused() {
    for uid in [0, 1000, 1_999_999_999] {
        let forged = inject(pod(json!({})), &Settings::default().with_uid(uid)).unwrap();
        let refusals = validate(&forged, &Settings::default());
        assert!(codes(&refusals).contains(&Code::NotInjected), "{refusals}");
        let drawn = Settings::default().with_uid(2_000_000_123);
        let replaced = inject(forged, &drawn).unwrap();
        assert_eq!(sidecar_uid(&replaced), Some(2_000_000_123));
    }
}

fn by_node() -> Settings {
    Settings {
        redirect: RedirectBy::Node,
        ..Settings::default()
    }
}

#[test]
fn who_redirects_is_said_by_the_webhook_alone() {
    let marked = |settings: &Settings| inject(pod(json!({})), settings).unwrap();
    let says = |pod: &Pod| {
        let annotations = pod.metadata.annotations.as_ref().unwrap();
        annotations.get("writ.dev/redirect").cloned()
    };
    assert_eq!(says(&marked(&by_node())).as_deref(), Some("node"));
    assert_eq!(says(&marked(&Settings::default())), None);

    // Claimed where it is not so: taken out, and refused if it comes back after that.
    let mut claimed = pod(json!({}));
    let claim = [("writ.dev/redirect".to_owned(), "node".to_owned())];
    claimed.metadata.annotations = Some(claim.clone().into());
    assert_eq!(says(&inject(claimed, &Settings::default()).unwrap()), None);
    let mut late = marked(&Settings::default());
    late.metadata.annotations.as_mut().unwrap().extend(claim);
    assert!(!validate(&late, &Settings::default()).is_empty());

    // Taken away where it is so.
    let mut removed = marked(&by_node());
    let annotations = removed.metadata.annotations.as_mut().unwrap();
    annotations.remove("writ.dev/redirect");
    assert!(!validate(&removed, &by_node()).is_empty());
    assert_eq!(inject(removed, &by_node()).unwrap(), marked(&by_node()));

    // A running pod keeps it.
    let (old, mut new) = (marked(&by_node()), marked(&by_node()));
    let annotations = new.metadata.annotations.as_mut().unwrap();
    annotations.remove("writ.dev/redirect");
    assert_eq!(codes(&validate_update(&old, &new)), [Code::Immutable]);
}

#[test]
fn nobody_else_runs_as_the_init_container_nor_does_a_sidecar() {
    let named = pod(json!({"securityContext": {"runAsUser": INIT_UID}}));
    let refusals = inject(named, &by_node()).unwrap_err();
    assert_eq!(codes(&refusals), [Code::ReservedUser]);
    let forged = inject(pod(json!({})), &by_node().with_uid(INIT_UID)).unwrap();
    assert_eq!(sidecar_uid(&forged), None);
    assert!(codes(&validate(&forged, &by_node())).contains(&Code::NotInjected));
}

#[test]
fn what_another_webhook_undid_is_refused_with_its_place() {
    let mut pod = injected();
    let spec = pod.spec.as_mut().unwrap();
    spec.containers[0].security_context = None;
    let refusals = validate(&pod, &Settings::default());
    assert_eq!(codes(&refusals), [Code::NotAsInjected]);
    let text = refusals.to_string();
    assert!(text.contains("spec.containers.0.securityContext"), "{text}");
}

#[test]
fn the_api_servers_own_additions_to_the_sidecar_are_kept() {
    let mut pod = injected();
    let token: VolumeMount = serde_json::from_value(json!({"name": "kube-api-access-x",
        "mountPath": "/var/run/secrets/kubernetes.io/serviceaccount", "readOnly": true}))
    .unwrap();
    for ours in &mut pod.spec.as_mut().unwrap().init_containers.as_mut().unwrap()[..2] {
        ours.volume_mounts.as_mut().unwrap().push(token.clone());
        ours.image_pull_policy = Some("Always".to_owned());
        let resources = ours.resources.as_mut().unwrap();
        let limits = resources.limits.as_mut().unwrap();
        limits.insert(
            "cpu".to_owned(),
            serde_json::from_value(json!("1")).unwrap(),
        );
    }
    assert_eq!(validate(&pod, &Settings::default()).to_string(), "");
    assert_eq!(inject(pod.clone(), &Settings::default()).unwrap(), pod);
}

#[test]
fn another_volume_at_the_tokens_place_is_refused() {
    let mut pod = injected();
    let mount: VolumeMount = serde_json::from_value(json!({"name": "writ-keys",
        "mountPath": "/var/run/secrets/kubernetes.io/serviceaccount", "readOnly": true}))
    .unwrap();
    let inits = pod.spec.as_mut().unwrap().init_containers.as_mut().unwrap();
    inits[0].volume_mounts.as_mut().unwrap().push(mount);
    assert!(!validate(&pod, &Settings::default()).is_empty());
}

#[test]
fn another_configuration_than_the_chosen_one_is_refused() {
    let settings = Settings {
        config: "writ-p-s".to_owned(),
        ..Settings::default()
    };
    assert!(!validate(&injected(), &settings).is_empty());
}

#[test]
fn a_running_pod_stays_selected_and_keeps_its_sidecar() {
    let old = injected();
    let mut refused = Vec::new();
    for change in [
        json!({"metadata": {"labels": {"writ.dev/inject": "false"}}}),
        json!({"metadata": {"annotations": {"writ.dev/injected": null}}}),
        json!({"metadata": {"annotations": {"writ.dev/policy": "other"}}}),
    ] {
        let mut new = serde_json::to_value(&old).unwrap();
        json_patch::merge(&mut new, &change);
        let refusals = validate_update(&old, &serde_json::from_value(new).unwrap());
        refused.push(codes(&refusals));
    }
    assert_eq!(refused, vec![vec![Code::Immutable]; 3]);

    let mut new = old.clone();
    new.spec.as_mut().unwrap().init_containers.as_mut().unwrap()[1].image = Some("x".to_owned());
    assert_eq!(codes(&validate_update(&old, &new)), [Code::Immutable]);
}

#[test]
fn what_controllers_change_in_a_running_pod_is_none_of_our_business() {
    let old = injected();
    let mut new = old.clone();
    new.metadata.finalizers = Some(vec!["batch.kubernetes.io/job-tracking".to_owned()]);
    new.metadata.labels = Some([("app".to_owned(), "x".to_owned())].into());
    new.spec.as_mut().unwrap().containers[0].image = Some("agent:2".to_owned());
    assert_eq!(validate_update(&old, &new).to_string(), "");
}

#[test]
fn an_ephemeral_container_is_refused() {
    let old = injected();
    let mut new = old.clone();
    new.spec.as_mut().unwrap().ephemeral_containers = Some(vec![Default::default()]);
    let refusals = validate_update(&old, &new);
    assert_eq!(codes(&refusals), [Code::EphemeralContainers]);
}

#[test]
fn more_probes_than_a_sidecar_answers_are_refused() {
    let headers: Vec<Value> = (0..2000)
        .map(|n| json!({"name": format!("X-{n}"), "value": "0123456789"}))
        .collect();
    let pod = pod(json!({"containers": [{"name": "a", "image": "a",
        "livenessProbe": {"httpGet": {"port": 80, "httpHeaders": headers}}}]}));
    let refusals = inject(pod, &Settings::default()).unwrap_err();
    assert_eq!(codes(&refusals), [Code::TooManyProbes]);
}

#[test]
fn local_ports_and_other_ports_reach_the_redirection() {
    let settings = Settings {
        local_ports: vec![6379, 9090],
        ports: writ_redirect::Ports {
            status: 25_820,
            ..Default::default()
        },
        ..Settings::default()
    };
    let pod = inject(pod(json!({})), &settings).unwrap();
    let inits = pod.spec.unwrap().init_containers.unwrap();
    let env = inits[0].env.as_ref().unwrap();
    let value = |name: &str| {
        let found = env.iter().find(|variable| variable.name == name).unwrap();
        found.value.clone().unwrap()
    };
    assert_eq!(value("WRIT_LOCAL_PORTS"), "6379,9090");
    assert_eq!(value("WRIT_ADMIN_PORT"), "25820");
    assert_eq!(inits[1].ports.as_ref().unwrap()[0].container_port, 25_820);
}

#[test]
fn where_nothing_is_intercepted_agents_are_not_told_of_a_bundle() {
    let settings = Settings {
        trust: writ_webhook::settings::Trust::Image,
        ..Settings::default()
    };
    let pod = inject(pod(json!({})), &settings).unwrap();
    assert_eq!(validate(&pod, &settings).to_string(), "");
    let container = &pod.spec.unwrap().containers[0];
    assert_eq!((&container.env, &container.volume_mounts), (&None, &None));
}
