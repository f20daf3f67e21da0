//! Admission reviews and their answers, without a network.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

use k8s_openapi::api::core::v1::Pod;
use serde_json::{Value, json};
use writ_webhook::choice::{Choice, Chosen, Static};
use writ_webhook::review::{self, Answer, Covered, Request};
use writ_webhook::settings::{FIRST_UID, Trust};
use writ_webhook::{Code, Refusals, Settings};

fn request(operation: &str, resource: &str, object: Value, old: Value) -> Request {
    let (resource, sub) = resource.split_once('/').unwrap_or((resource, ""));
    let (group, resource) = resource
        .rsplit_once('.')
        .map_or(("", resource), |(r, g)| (g, r));
    let review = json!({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview",
        "request": {"uid": "u-1", "kind": {"group": group, "version": "v1", "kind": "Pod"},
            "resource": {"group": group, "version": "v1", "resource": resource},
            "subResource": sub, "name": "agent", "namespace": "agents", "operation": operation,
            "userInfo": {"username": "alice", "groups": ["people"]},
            "object": object, "oldObject": old}});
    review::parse(review.to_string().as_bytes()).unwrap()
}

fn by_a_kubelet(mut request: Request) -> Request {
    request.user_info.groups = Some(vec!["system:nodes".to_owned()]);
    request
}

fn pod(spec: Value) -> Value {
    let mut pod = json!({"apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": "agent", "creationTimestamp": null},
        "spec": {"containers": [{"name": "agent", "image": "a", "env": null}]}, "status": {}});
    json_patch::merge(&mut pod["spec"], &spec);
    pod
}

fn choice() -> Static {
    let others = vec!["other".to_owned()];
    Static::new("writ-sidecar".to_owned(), others, vec![], Trust::Bundle)
}

fn mutate(object: Value) -> Answer {
    let request = request("CREATE", "pods", object, Value::Null);
    review::mutate(&request, &Settings::default(), FIRST_UID + 7, &choice())
}

fn check(request: &Request) -> Answer {
    review::check(request, &Settings::default(), &choice())
}

fn codes(answer: &Answer) -> Vec<Code> {
    answer.refusals.iter().map(|refusal| refusal.code).collect()
}

/// The pod after the answer's patch.
fn patched(mut object: Value) -> Value {
    let answer = mutate(object.clone());
    assert!(answer.response.allowed, "{:?}", answer.refusals);
    let patch = answer.response.patch.unwrap();
    json_patch::patch(
        &mut object,
        &serde_json::from_slice::<json_patch::Patch>(&patch).unwrap(),
    )
    .unwrap();
    object
}

#[test]
fn the_patch_puts_the_sidecar_in_and_the_result_is_accepted() {
    let injected = patched(pod(json!({})));
    let inits = &injected["spec"]["initContainers"];
    assert_eq!(inits[0]["name"], "writ-init");
    assert_eq!(inits[1]["name"], "writ-sidecar");
    assert_eq!(inits[1]["securityContext"]["runAsUser"], FIRST_UID + 7);
    let answer = check(&request("CREATE", "pods", injected, Value::Null));
    assert!(answer.response.allowed, "{:?}", answer.refusals);
}

#[test]
fn the_second_call_of_one_admission_covers_what_came_in_between() {
    let mut once = patched(pod(json!({})));
    let containers = once["spec"]["containers"].as_array_mut().unwrap();
    containers.push(json!({"name": "log-shipper", "image": "l"}));
    let before = check(&request("CREATE", "pods", once.clone(), Value::Null));
    assert_eq!(codes(&before), [Code::NotAsInjected]);
    let twice = patched(once);
    let answer = check(&request("CREATE", "pods", twice, Value::Null));
    assert!(answer.response.allowed, "{:?}", answer.refusals);
}

#[test]
fn a_denial_names_every_reason_for_people_and_for_programs() {
    let answer = mutate(pod(json!({"hostNetwork": true, "hostPID": true})));
    let result = &answer.response.result;
    assert!(!answer.response.allowed);
    assert_eq!(result.code, 403);
    assert!(result.message.contains("[host-network] spec.hostNetwork"));
    let causes = &result.details.as_ref().unwrap().causes;
    let reasons: Vec<&str> = causes.iter().map(|cause| cause.reason.as_str()).collect();
    assert_eq!(reasons, ["host-network", "host-pid"]);
    assert_eq!(causes[1].field, "spec.hostPID");
    assert_eq!(
        answer.response.audit_annotations["refused"],
        "host-network,host-pid"
    );
}

#[test]
fn a_field_that_is_not_known_is_refused() {
    for spec in [
        json!({"hostEverything": true}),
        json!({"containers": [{"name": "a", "image": "a", "securityContext": {"root": 1}}]}),
    ] {
        let answer = mutate(pod(spec));
        assert_eq!(codes(&answer), [Code::UnknownField]);
    }
    let empty =
        json!({"surprise": null, "surprises": [], "containers": [{"name": "a", "image": "a"}]});
    assert!(mutate(pod(empty)).response.allowed);
}

#[test]
fn a_pod_chooses_among_the_configurations_that_there_are() {
    let mut chosen = pod(json!({}));
    chosen["metadata"]["annotations"] = json!({"writ.dev/policy": "other"});
    let injected = patched(chosen.clone());
    assert_eq!(injected["spec"]["volumes"][0]["configMap"]["name"], "other");
    chosen["metadata"]["annotations"] = json!({"writ.dev/policy": "nobodys"});
    chosen["spec"]["hostPID"] = json!(true);
    assert_eq!(codes(&mutate(chosen)), [Code::PolicyChoice, Code::HostPid]);
}

#[test]
fn exec_attach_and_port_forward_are_refused_where_there_is_a_sidecar() {
    for (sub, code) in [
        ("exec", Code::Exec),
        ("attach", Code::Attach),
        ("portforward", Code::PortForward),
    ] {
        let options = json!({"apiVersion": "v1", "kind": "PodExecOptions", "container": "agent"});
        let request = request("CONNECT", &format!("pods/{sub}"), options, Value::Null);
        for covered in [
            Covered::Namespace,
            Covered::Pod,
            Covered::Unknown("timeout".to_owned()),
        ] {
            assert_eq!(codes(&review::connect(&request, covered)), [code]);
        }
        assert!(review::connect(&request, Covered::No).response.allowed);
    }
    let proxy = request("CONNECT", "pods/proxy", json!({}), Value::Null);
    let answer = review::connect(&proxy, Covered::No);
    assert_eq!(codes(&answer), [Code::Malformed]);
}

#[test]
fn ephemeral_containers_are_refused() {
    let old = patched(pod(json!({})));
    let mut new = old.clone();
    new["spec"]["ephemeralContainers"] = json!([{"name": "debug", "image": "d"}]);
    let request = request("UPDATE", "pods/ephemeralcontainers", new, old);
    assert_eq!(codes(&check(&request)), [Code::EphemeralContainers]);
}

#[test]
fn a_running_pod_may_change_in_what_is_not_ours() {
    let old = patched(pod(json!({})));
    let mut new = old.clone();
    new["metadata"]["finalizers"] = json!(["x/y"]);
    let answer = check(&request("UPDATE", "pods", new.clone(), old.clone()));
    assert!(answer.response.allowed, "{:?}", answer.refusals);
    new["metadata"]["labels"] = json!({"writ.dev/inject": "false"});
    let answer = check(&request("UPDATE", "pods", new, old));
    assert_eq!(codes(&answer), [Code::Immutable]);
}

/// Chooses by the pod's label `app`.
struct ByApp;

impl Choice for ByApp {
    fn choose(&self, _: &str, pod: &Pod) -> Result<Chosen, Refusals> {
        let labels = pod.metadata.labels.as_ref();
        let app = labels.and_then(|labels| labels.get("app"));
        let none = || Refusals::one(Code::NoPolicy, "metadata.labels", "none selects it");
        Ok(Chosen {
            config: app.ok_or_else(none)?.clone(),
            local_ports: Vec::new(),
            trust: Trust::Bundle,
        })
    }
}

#[test]
fn a_running_pod_stays_under_the_policy_whose_configuration_it_has() {
    let change = |old: Value, new: Value| {
        let labelled = |labels: Value| {
            let mut pod = pod(json!({}));
            pod["metadata"]["labels"] = labels;
            pod
        };
        let request = request("UPDATE", "pods", labelled(new), labelled(old));
        codes(&review::check(&request, &Settings::default(), &ByApp))
    };
    let buyer = || json!({"app": "buyer"});
    assert_eq!(change(buyer(), json!({"app": "seller"})), [Code::Immutable]);
    assert_eq!(change(buyer(), json!({})), [Code::Immutable]);
    assert_eq!(change(buyer(), json!({"app": "buyer", "x": "y"})), []);
    assert_eq!(change(json!({}), buyer()), [], "its policy is gone");
}

#[test]
fn workloads_are_warned_and_never_refused() {
    let template =
        |spec: Value| json!({"metadata": {"labels": {"app": "a"}}, "spec": pod(spec)["spec"]});
    let bad = template(json!({"hostNetwork": true, "hostPID": true}));
    for (resource, spec) in [
        ("deployments.apps", json!({"template": bad})),
        ("statefulsets.apps", json!({"template": bad})),
        ("daemonsets.apps", json!({"template": bad})),
        ("replicasets.apps", json!({"template": bad})),
        ("jobs.batch", json!({"template": bad})),
        (
            "cronjobs.batch",
            json!({"jobTemplate": {"spec": {"template": bad}}}),
        ),
    ] {
        let object = json!({"metadata": {"name": "w"}, "spec": spec});
        let request = request("CREATE", resource, object, Value::Null);
        let answer = review::warn(&request, &Settings::default(), &choice());
        assert!(answer.response.allowed);
        let warnings = answer.response.warnings.unwrap();
        assert_eq!(warnings.len(), 2, "{resource}");
        assert!(warnings[0].starts_with("its pods will be refused: [host-network]"));
        assert!(warnings.iter().all(|warning| warning.len() <= 256));
    }
    let object = json!({"spec": {"template": template(json!({}))}});
    let request = request("UPDATE", "deployments.apps", object, Value::Null);
    let answer = review::warn(&request, &Settings::default(), &choice());
    assert_eq!(answer.response.warnings, None);
}

#[test]
fn the_kubelets_own_pods_are_shown_but_not_covered() {
    let mut mirror = pod(json!({"hostNetwork": true}));
    mirror["metadata"]["annotations"] = json!({"kubernetes.io/config.mirror": "x"});
    let shown = request("CREATE", "pods", mirror, Value::Null);
    for kubelet in [true, false] {
        let request = match kubelet {
            true => by_a_kubelet(shown.clone()),
            false => shown.clone(),
        };
        let answer = review::mutate(&request, &Settings::default(), FIRST_UID, &choice());
        assert_eq!(answer.response.allowed, kubelet, "anybody can annotate");
        assert_eq!(answer.response.warnings.is_some(), kubelet);
        assert!(answer.response.patch.is_none());
        assert_eq!(check(&request).response.allowed, kubelet);
    }
}

#[test]
fn what_the_webhook_was_not_registered_for_is_refused() {
    let object = pod(json!({}));
    for (operation, resource) in [
        ("UPDATE", "pods"),
        ("CREATE", "pods/status"),
        ("CREATE", "configmaps"),
        ("CREATE", "pods.example.com"),
    ] {
        let request = request(operation, resource, object.clone(), Value::Null);
        let answer = review::mutate(&request, &Settings::default(), FIRST_UID, &choice());
        assert_eq!(codes(&answer), [Code::Malformed], "{operation} {resource}");
    }
    let missing = request("CREATE", "pods", Value::Null, Value::Null);
    assert_eq!(codes(&check(&missing)), [Code::Malformed]);
}

#[test]
fn a_body_that_is_no_review_is_an_error() {
    for body in [
        "",
        "[]",
        "{}",
        r#"{"apiVersion":"admission.k8s.io/v1","kind":"AdmissionReview"}"#,
        r#"{"apiVersion":"admission.k8s.io/v1beta1","kind":"AdmissionReview","request":null}"#,
    ] {
        assert!(review::parse(body.as_bytes()).is_err(), "{body}");
    }
}
