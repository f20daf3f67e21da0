//! Parts that are away: nothing passes that should not, and what need not stop goes on.

use k8s_openapi::api::core::v1::Service;
use serde_json::{Value, json};
use writ_e2e::{
    By, Chain, Heads, Options, Part, agent_pod, measured, peer_pod, play_alone, play_alone_with,
    play_with, until,
};

#[test]
fn while_the_webhook_is_down_only_opted_in_pods_wait() {
    play_alone("webhookdown", async |stage| {
        let usual = Part::Webhook.scale(stage.client(), 0).await;
        let agent = agent_pod("agent", &json!([]));
        let opted_in = stage.try_create(&stage.agents, agent.clone()).await;
        let plain = stage.try_create(&stage.outside, agent.clone()).await;
        Part::Webhook.scale(stage.client(), usual).await;

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

/// The operator and its relay carry nothing that stops an agent: the guardian's transaction does, and
/// sidecars see it on the chain.
#[test]
fn while_operator_and_relay_are_down_the_guardians_own_transaction_stops_an_agent() {
    let options = Options {
        by: By::AgentPolicies,
        ..Options::default()
    };
    play_alone_with("nooperator", options, async |stage| {
        let agent = stage.start_acting(0.1).await;
        let status = stage.policy(&stage.agents).await.status.expect("a status");
        let key = &status.agents.first().expect("an agent").key;
        let chain = Chain::of_operator(&stage.client()).await;
        let relays = Part::Relay.scale(stage.client(), 0).await;
        let operators = Part::Operator.scale(stage.client(), 0).await;
        let heads = Heads::watch(&chain);
        let included = chain.revoke_key(key).await;
        until("the agent is refused because it is revoked", async || {
            let said = agent.said().await;
            (said.last()?["code"] == "agent-revoked").then_some(())
        })
        .await;
        Part::Operator.scale(stage.client(), operators).await;
        Part::Relay.scale(stage.client(), relays).await;
        let said = agent.said().await;
        let allowed = said.iter().rev().find(|line| line["status"] == 200);
        let last = allowed
            .and_then(|line| line["at"].as_f64())
            .expect("a time");
        measured(&format!(
            "revoked in block {included}, last allowed action ended in block {}",
            heads.at(last)
        ));
        // It stays so, and of its own state: nobody pushed anything.
        let codes: Vec<&Value> = said.iter().map(|line| &line["code"]).collect();
        assert!(
            codes.iter().all(|code| **code != "revocation-pushed"),
            "{codes:?}"
        );
    });
}
