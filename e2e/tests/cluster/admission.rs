//! What the API server refuses, with the reason and the code.

use k8s_openapi::api::core::v1::Pod as Object;
use kube::Api;
use kube::api::{AttachParams, PostParams};
use serde_json::{Value, json};
use writ_e2e::{Stage, agent_pod, play};

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
