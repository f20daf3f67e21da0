//! Opted-in agents act; what the policy denies does not happen; others are left alone.

use serde_json::{Value, json};
use writ_e2e::{Stage, agent_pod, envelope, peer_pod, play, until};

fn transfer(stage: &Stage, name: &str, amount: &str) -> Value {
    json!({"name": name, "do": "request", "method": "POST", "url": stage.payments("/v1/transfers"),
        "body": {"amount": amount, "currency": "EUR", "to": "rent"}})
}

/// The same step, sent again while the answer is that it cannot be decided just now.
fn at_last(mut step: Value) -> Value {
    step["until"] = json!({"status": 200});
    step
}

/// Requests that reached the tool, probes left out.
async fn arrivals(tool: &writ_e2e::Pod) -> Vec<Value> {
    let mut said = tool.said().await;
    said.retain(|line| line.get("path").is_some());
    said
}

#[test]
fn an_agents_call_is_decided_signed_verified_and_answered() {
    play("acts", async |stage| {
        let tool = stage.start_tool().await;
        let agent = stage
            .start_agent(json!([at_last(transfer(stage, "pay", "25.00"))]))
            .await;
        assert_eq!(agent.containers(), ["writ-init", "writ-sidecar", "peer"]);

        let answer = agent.result("pay").await;
        assert_eq!(answer["status"], 200, "{answer}");
        let arrived = arrivals(&tool).await;
        assert_eq!(arrived.len(), 1, "{arrived:?}");
        let claims = envelope(&arrived[0]).expect("an envelope in what arrived");
        assert_eq!(claims["iss"], stage.agent_id());
        assert_eq!(claims["aud"], stage.tool_id());
        assert_eq!(claims["act"]["method"], "payments.transfer");
        assert_eq!(claims["pol"]["chain_id"], 84532);
        assert_eq!(claims["pol"]["state"], "fresh");
    });
}

#[test]
fn an_agent_that_speaks_https_trusts_its_pods_bundle() {
    play("https", async |stage| {
        let tool = stage.start_tool().await;
        let url = stage
            .payments("/v1/accounts/A-1/balance")
            .replace("http:", "https:");
        let steps = json!([at_last(json!({"name": "ask", "do": "request", "url": url}))]);
        let agent = stage.start_agent(steps).await;
        let answer = agent.result("ask").await;
        assert_eq!(answer["status"], 200, "{answer}");
        let arrived = arrivals(&tool).await;
        let claims = arrived.first().and_then(envelope).expect("an envelope");
        assert_eq!(claims["iss"], stage.agent_id());
    });
}

#[test]
fn what_the_policy_denies_is_refused_and_never_reaches_the_target() {
    play("denied", async |stage| {
        let tool = stage.start_tool().await;
        let steps = json!([
            transfer(stage, "too much", "500.00"),
            {"name": "unlisted", "do": "request", "url": stage.payments("/v1/secrets")},
            at_last(transfer(stage, "allowed", "1.00")),
        ]);
        let agent = stage.start_agent(steps).await;
        for (step, reason) in [("too much", "amount-over-limit"), ("unlisted", "unlisted")] {
            let answer = agent.result(step).await;
            assert_eq!(answer["status"], 403, "{answer}");
            let told = answer["body"].as_str().unwrap_or_default();
            assert!(told.contains(reason), "{step}: {told}");
        }
        assert_eq!(agent.result("allowed").await["status"], 200);
        let arrived = arrivals(&tool).await;
        assert_eq!(
            arrived.len(),
            1,
            "only the allowed call arrived: {arrived:?}"
        );
    });
}

#[test]
fn an_agent_on_the_mcp_sdk_calls_a_tool_and_learns_why_another_is_denied() {
    play("mcp", async |stage| {
        stage.start_tool().await;
        let steps = json!([
            {"name": "weather", "do": "mcp", "url": stage.mcp(), "tool": "weather",
                "arguments": {"city": "Lisbon"}, "until": {"text": "sunny in Lisbon"}},
            {"name": "delete", "do": "mcp", "url": stage.mcp(), "tool": "delete_account",
                "arguments": {"account": "A-1"}},
        ]);
        let agent = stage.start_agent(steps).await;
        let weather = agent.result("weather").await;
        assert_eq!(weather["text"], "sunny in Lisbon", "{weather}");
        let denied = agent.result("delete").await.to_string();
        assert!(denied.contains("refused by policy"), "{denied}");
        assert!(!denied.contains("deleted A-1"), "{denied}");
    });
}

#[test]
fn events_stream_through_both_sidecars_one_by_one() {
    play("streams", async |stage| {
        stage.start_tool().await;
        let agent = stage
            .start_agent(json!([{"name": "watch", "do": "stream",
                "url": stage.payments("/v1/stream"), "seen": stage.payments("/v1/seen"),
                "events": 4,
                "until": {"complete": true}}]))
            .await;
        let watched = agent.result("watch").await;
        // The server sends an event only when the one before was seen: one that buffers would stop it.
        assert_eq!(watched["events"], json!(["0", "1", "2", "3"]), "{watched}");
    });
}

#[test]
fn a_pod_that_is_not_opted_in_is_left_as_it_is() {
    play("untouched", async |stage| {
        let service = peer_pod("plain", &["/peer/tool.py", "0.0.0.0", "8080"]);
        stage.create(&stage.outside, service).await.ready().await;
        let url = format!("http://plain.{}.svc.cluster.local:8080/any", stage.outside);
        let steps = json!([{"name": "ask", "do": "request", "url": url, "until": {"status": 200}}]);
        let pod = stage
            .create(&stage.outside, agent_pod("agent", &steps))
            .await;
        assert_eq!(pod.containers(), ["peer"]);
        assert_eq!(pod.result("ask").await["status"], 200);
    });
}

#[test]
fn a_pod_that_is_not_opted_in_does_not_get_past_a_tools_sidecar() {
    play("stranger", async |stage| {
        let tool = stage.start_tool().await;
        let address = tool.ready().await;
        let steps = json!([
            {"name": "past", "do": "connect", "address": address, "port": 8080},
            {"name": "at the door", "do": "connect", "address": address, "port": 8443},
        ]);
        let stranger = stage
            .create(&stage.outside, agent_pod("stranger", &steps))
            .await;
        for step in ["past", "at the door"] {
            let seen = stranger.result(step).await.to_string();
            assert!(!seen.contains("\\\"ok\\\": true"), "{step}: {seen}");
        }
        assert_eq!(arrivals(&tool).await, Vec::<Value>::new());
    });
}

#[test]
fn a_revoked_agent_is_refused() {
    play("revoked", async |stage| {
        stage.start_tool().await;
        let load = json!([{"name": "load", "do": "load", "every": 0.3,
            "url": stage.payments("/v1/accounts/A-1/balance")}]);
        let agent = stage.start_agent(load).await;
        until("the agent acts", async || {
            agent
                .said()
                .await
                .iter()
                .any(|line| line["status"] == 200)
                .then_some(())
        })
        .await;
        stage.revoke().await;
        let last = until("the agent is refused", async || {
            let said = agent.said().await;
            said.last().filter(|line| line["status"] == 403).cloned()
        })
        .await;
        assert!(last.to_string().contains("revoked"), "{last}");
    });
}
