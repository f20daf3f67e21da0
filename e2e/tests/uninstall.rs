//! The end: nothing is left open by an uninstallation. `e2e/run` runs this last, since nothing is
//! installed after it.
#![forbid(unsafe_code)]
#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used
)]

use k8s_openapi::api::core::v1::{Namespace, Pod as Object};
use kube::api::{DeleteParams, ListParams};
use kube::{Api, ResourceExt};
use serde_json::json;
use writ_api::{AgentPolicy, INJECTED};
use writ_e2e::{By, Options, Stage, agent_pod, helm, play_with, until};

/// Removes every agent of the cluster, those that failed tests left included, and every AgentPolicy.
async fn no_agents(stage: &Stage) {
    let policies: Api<AgentPolicy> = Api::all(stage.client());
    for policy in policies
        .list(&ListParams::default())
        .await
        .expect("policies")
    {
        let namespace = policy.namespace().expect("a namespace");
        let api: Api<AgentPolicy> = Api::namespaced(stage.client(), &namespace);
        let _ = api
            .delete(&policy.name_any(), &DeleteParams::default())
            .await;
    }
    let pods: Api<Object> = Api::all(stage.client());
    for pod in pods.list(&ListParams::default()).await.expect("pods") {
        if pod.annotations().contains_key(INJECTED) {
            let namespace = pod.namespace().expect("a namespace");
            let api: Api<Object> = Api::namespaced(stage.client(), &namespace);
            let _ = api.delete(&pod.name_any(), &DeleteParams::default()).await;
        }
    }
    until("no agent and no AgentPolicy is left", async || {
        let left = policies
            .list(&ListParams::default())
            .await
            .ok()?
            .items
            .len();
        let agents = pods.list(&ListParams::default()).await.ok()?;
        let agents = agents
            .iter()
            .filter(|p| p.annotations().contains_key(INJECTED));
        (left == 0 && agents.count() == 0).then_some(())
    })
    .await;
}

#[test]
fn an_uninstallation_is_refused_while_agents_run_and_leaves_nothing_open_after() {
    let options = Options {
        by: By::AgentPolicies,
        ..Options::default()
    };
    play_with("uninstall", options, async |stage| {
        let agent = stage.start_agent(json!([])).await;
        agent.ready().await;
        let refused = helm(&["uninstall", "writ", "--timeout", "2m"]).await;
        let told = [refused.stdout, refused.stderr].concat();
        let told = String::from_utf8_lossy(&told);
        assert!(!refused.status.success(), "{told}");
        for word in [
            format!("{}/agent", stage.agents).as_str(),
            "uninstall.force=true",
        ] {
            assert!(told.contains(word), "{told}");
        }
        // Nothing is gone: another agent still gets its sidecar.
        let other = stage
            .create(&stage.agents, agent_pod("other", &json!([])))
            .await;
        assert!(other.containers().contains(&"writ-sidecar".to_owned()));

        no_agents(stage).await;
        let done = helm(&["uninstall", "writ", "--wait", "--timeout", "3m"]).await;
        assert!(
            done.status.success(),
            "{}",
            String::from_utf8_lossy(&done.stderr)
        );
        // What had its socket from the node agent ended too, which takes the node agent.
        let pods: Api<Object> = Api::all(stage.client());
        let ours =
            "app.kubernetes.io/name=writ,app.kubernetes.io/component in (relay,witness,node)";
        let ours = ListParams::default().labels(ours);
        until("relays, witnesses and node agents are gone", async || {
            pods.list(&ours).await.ok()?.items.is_empty().then_some(())
        })
        .await;
        // What is still opted in does not come back without a sidecar; what is not is left alone.
        let bare = stage
            .try_create(&stage.agents, agent_pod("bare", &json!([])))
            .await;
        let refusal = bare.err().expect("a refusal").to_string();
        assert!(refusal.contains("[not-injected]"), "{refusal}");
        stage
            .create(&stage.outside, agent_pod("plain", &json!([])))
            .await;
        // And its namespace can go.
        let namespaces: Api<Namespace> = Api::all(stage.client());
        let _ = namespaces
            .delete(&stage.agents, &DeleteParams::default())
            .await;
        until("the agents' namespace is gone", async || {
            matches!(namespaces.get_opt(&stage.agents).await, Ok(None)).then_some(())
        })
        .await;
    });
}
