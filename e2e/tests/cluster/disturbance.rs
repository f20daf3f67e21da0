//! Parts that are away: nothing passes that should not, and what need not stop goes on.

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{Pod, Service};
use kube::Api;
use kube::api::{ListParams, Patch, PatchParams};
use serde_json::json;
use writ_e2e::{Options, SYSTEM, Stage, agent_pod, peer_pod, play_alone, play_with, until};

const WEBHOOK: &str = "writ-webhook";

async fn scale_webhook(stage: &Stage, replicas: i32) {
    let api: Api<Deployment> = Api::namespaced(stage.client(), SYSTEM);
    let change = json!({"spec": {"replicas": replicas}});
    api.patch(WEBHOOK, &PatchParams::default(), &Patch::Merge(&change))
        .await
        .expect("the webhook's Deployment");
    // Pods that are ending still answer for a while: they are waited for too.
    let pods: Api<Pod> = Api::namespaced(stage.client(), SYSTEM);
    let its = ListParams::default().labels("app.kubernetes.io/component=webhook");
    until(&format!("the webhook has {replicas} pods"), async || {
        let status = api.get(WEBHOOK).await.ok()?.status?;
        let left = pods.list(&its).await.ok()?.items.len();
        let ready = status.ready_replicas.unwrap_or(0);
        (ready == replicas && i32::try_from(left) == Ok(replicas)).then_some(())
    })
    .await;
}

#[test]
fn while_the_webhook_is_down_only_opted_in_pods_wait() {
    play_alone("webhookdown", async |stage| {
        let api: Api<Deployment> = Api::namespaced(stage.client(), SYSTEM);
        let usual = api
            .get(WEBHOOK)
            .await
            .expect("the webhook")
            .spec
            .and_then(|spec| spec.replicas);
        scale_webhook(stage, 0).await;
        let agent = agent_pod("agent", &json!([]));
        let opted_in = stage.try_create(&stage.agents, agent.clone()).await;
        let plain = stage.try_create(&stage.outside, agent.clone()).await;
        scale_webhook(stage, usual.unwrap_or(1)).await;

        assert!(
            opted_in.is_err(),
            "an opted-in pod was admitted without the webhook"
        );
        plain.expect("a pod that is not opted in").ready().await;
        let agent = until("opted-in pods are admitted again", async || {
            stage.try_create(&stage.agents, agent.clone()).await.ok()
        })
        .await;
        assert!(agent.containers().contains(&"writ-sidecar".to_owned()));
    });
}

#[test]
fn without_the_chain_actions_stop_when_its_state_is_too_old_and_go_on_when_it_is_back() {
    // Its own way to the chain, which the test can cut. Short bounds, so that it need not wait long.
    let options = Options {
        staleness: (5, 10),
        endpoint: Some("http://rpc.nochain-outside.svc.cluster.local:8545".to_owned()),
        ..Options::default()
    };
    play_with("nochain", options, async |stage| {
        let chain = "writ-devchain.writ-system.svc.cluster.local";
        let forward = || peer_pod("rpc", &["/peer/forward.py", "8545", chain, "8545"]);
        stage
            .apply::<Service>(
                &stage.outside,
                json!({"apiVersion": "v1",
                "kind": "Service", "metadata": {"name": "rpc"},
                "spec": {"selector": {"app": "rpc"}, "ports": [{"port": 8545}]}}),
            )
            .await;
        let rpc = stage.create(&stage.outside, forward()).await;
        rpc.ready().await;
        stage.start_tool().await;
        let agent = stage
            .start_agent(json!([{"name": "load", "do": "load", "every": 0.3,
                "url": stage.payments("/v1/accounts/A-1/balance")}]))
            .await;
        let acts = async |what: &str, after: usize, status: u16| {
            until(what, async || {
                let said = agent.said().await;
                let found = said
                    .iter()
                    .skip(after)
                    .find(|line| line["status"] == status);
                found.map(|line| (said.len(), line.clone()))
            })
            .await
        };
        let (seen, _) = acts("the agent acts", 0, 200).await;
        rpc.delete().await;
        let (seen, refused) = acts("the agent is refused", seen, 503).await;
        assert!(
            refused["code"]
                .as_str()
                .is_some_and(|code| code.contains("stale") || code.contains("state")),
            "{refused}"
        );
        stage.create(&stage.outside, forward()).await.ready().await;
        acts("the agent acts again", seen, 200).await;
    });
}
