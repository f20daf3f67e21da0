//! What the API server refuses, with the reason and the code.

use k8s_openapi::api::admissionregistration::v1::ValidatingAdmissionPolicy;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::Pod as Object;
use kube::Api;
use kube::api::{AttachParams, ListParams, Patch, PatchParams, PostParams};
use serde_json::{Value, json};
use writ_e2e::{SYSTEM, Stage, agent_pod, play};

/// Sets the value at a JSON pointer, whose parents must be there or are made.
fn with(pointer: &str, value: Value) -> Value {
    let mut pod = agent_pod("agent", &json!([]));
    let mut at = &mut pod;
    for part in pointer.trim_start_matches('/').split('/') {
        at = match part.parse::<usize>() {
            Ok(index) => &mut at[index],
            Err(_) => &mut at[part.replace("~1", "/").as_str()],
        };
    }
    *at = value;
    pod
}

async fn refusal(stage: &Stage, pod: Value) -> String {
    match stage.try_create(&stage.agents, pod).await {
        Ok(admitted) => panic!("admitted: {:?}", admitted.containers()),
        Err(error) => error.to_string(),
    }
}

#[test]
fn a_pod_in_which_the_sidecar_could_be_got_around_is_refused_with_the_reason() {
    play("refusals", async |stage| {
        let container = "/spec/containers/0/securityContext";
        let at = |field: &str| format!("{container}/{field}");
        for (code, pod) in [
            ("host-network", with("/spec/hostNetwork", json!(true))),
            ("host-pid", with("/spec/hostPID", json!(true))),
            (
                "shared-process-namespace",
                with("/spec/shareProcessNamespace", json!(true)),
            ),
            ("privileged", with(&at("privileged"), json!(true))),
            (
                "capability",
                with(&at("capabilities"), json!({"add": ["NET_ADMIN"]})),
            ),
            (
                "capability",
                with(&at("capabilities"), json!({"add": ["SYS_PTRACE"]})),
            ),
            (
                "privilege-escalation",
                with(&at("allowPrivilegeEscalation"), json!(true)),
            ),
            (
                "reserved-user",
                with(&at("runAsUser"), json!(2_000_000_001)),
            ),
            (
                "reserved-group",
                with(&at("runAsGroup"), json!(2_000_000_001)),
            ),
            (
                "host-path",
                with(
                    "/spec/volumes/0",
                    json!({"name": "tmp", "hostPath": {"path": "/run/spire"}}),
                ),
            ),
            (
                "reserved-name",
                with("/spec/containers/0/name", json!("writ-sidecar")),
            ),
            (
                "unknown-annotation",
                with("/metadata/annotations/writ.dev~1bypass", json!("true")),
            ),
            (
                "annotation-value",
                with("/metadata/annotations/writ.dev~1memory", json!("1Ti")),
            ),
            (
                "opt-out",
                with("/metadata/labels/writ.dev~1inject", json!("false")),
            ),
        ] {
            let told = refusal(stage, pod).await;
            assert!(told.contains(code), "expected {code}: {told}");
        }
    });
}

#[test]
fn an_ephemeral_container_in_an_agents_pod_is_refused() {
    play("ephemeral", async |stage| {
        let agent = stage.start_agent(json!([])).await;
        agent.ready().await;
        let api: Api<Object> = Api::namespaced(stage.client(), &stage.agents);
        let mut pod = agent.now().await;
        let debugger = json!({"name": "debug", "image": "localhost/writ/peer:e2e"});
        let spec = pod.spec.as_mut().unwrap();
        spec.ephemeral_containers = Some(vec![serde_json::from_value(debugger).unwrap()]);
        let told = api
            .replace_ephemeral_containers(&agent.name, &PostParams::default(), &pod)
            .await
            .expect_err("refused")
            .to_string();
        assert!(told.contains("ephemeral-containers"), "{told}");
    });
}

#[test]
fn exec_and_attach_are_refused_in_an_agents_pod_and_in_no_other() {
    play("exec", async |stage| {
        let agent = stage.start_agent(json!([])).await;
        let other = agent_pod("other", &json!([]));
        let other = stage.create(&stage.outside, other).await;
        for (pod, namespace, let_in) in [
            (&agent, &stage.agents, false),
            (&other, &stage.outside, true),
        ] {
            pod.ready().await;
            let api: Api<Object> = Api::namespaced(stage.client(), namespace);
            let into = || AttachParams::default().container("peer");
            let python = ["/usr/bin/python3", "-V"];
            let exec = api.exec(&pod.name, python, &into()).await;
            assert_eq!(
                exec.is_ok(),
                let_in,
                "exec in {namespace}: {:?}",
                exec.err()
            );
            let attach = api.attach(&pod.name, &into()).await;
            assert_eq!(
                attach.is_ok(),
                let_in,
                "attach in {namespace}: {:?}",
                attach.err()
            );
        }
    });
}

/// A pod of the operator's template, in the namespace of the release, with another image.
async fn with_image(stage: &Stage, image: Option<&str>) -> Result<(), String> {
    let deployments: Api<Deployment> = Api::namespaced(stage.client(), SYSTEM);
    let operator = deployments.get("writ-operator").await.expect("it is there");
    let template = serde_json::to_value(operator.spec.expect("a spec").template).expect("JSON");
    let mut pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "tried"}});
    pod["spec"] = template["spec"].clone();
    pod["spec"]["restartPolicy"] = json!("Never");
    if let Some(image) = image {
        pod["spec"]["containers"][0]["image"] = json!(image);
    }
    let pods: Api<Object> = Api::namespaced(stage.client(), SYSTEM);
    let pod: Object = serde_json::from_value(pod).expect("a pod");
    let dry = PostParams {
        dry_run: true,
        ..PostParams::default()
    };
    let made = pods.create(&dry, &pod).await;
    made.map(drop).map_err(|error| error.to_string())
}

#[test]
fn among_our_own_pods_nothing_runs_but_the_images_of_the_release_by_digest() {
    play("images", async |stage| {
        // Images that were loaded without a registry have no digest on every cluster (e2e/run says which): there
        // they are not pinned.
        let policies: Api<ValidatingAdmissionPolicy> = Api::all(stage.client());
        let pinned = policies.get_opt("writ-images").await.expect("an answer");
        let by_tag = std::env::var_os("WRIT_E2E_BY_TAG").is_some();
        assert_eq!(pinned.is_none(), by_tag, "pinned where there are digests");
        with_image(stage, None).await.expect("as the chart has it");
        let digest = "9".repeat(64);
        let foreign = format!("localhost/writ/writ-operator@sha256:{digest}");
        for image in [
            "localhost/writ/writ-operator:0.1.0",
            "localhost/writ/peer:e2e",
            &foreign,
        ] {
            match with_image(stage, Some(image)).await {
                Ok(()) => assert!(by_tag, "admitted: {image}"),
                Err(told) => {
                    assert!(told.contains("[not-of-the-release]"), "{told}");
                    assert!(!by_tag && told.contains(image), "{told}");
                }
            }
        }
        // Nor in a pod that runs.
        let pods: Api<Object> = Api::namespaced(stage.client(), SYSTEM);
        let operators = ListParams::default().labels("app.kubernetes.io/component=operator");
        let running = pods.list(&operators).await.expect("pods").items;
        let name = running[0].metadata.name.clone().expect("a name");
        let change = json!({"spec": {"containers": [{"name": "operator", "image": foreign}]}});
        let dry = PatchParams::default().dry_run();
        let changed = pods.patch(&name, &dry, &Patch::Strategic(change)).await;
        match changed {
            Ok(_) => assert!(by_tag, "changed to {foreign}"),
            Err(error) => assert!(
                error.to_string().contains("[not-of-the-release]"),
                "{error}"
            ),
        }
    });
}
