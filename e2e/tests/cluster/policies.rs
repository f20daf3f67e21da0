//! AgentPolicies and AgentRevocations, carried out by the operator on the chart's development chain.

use std::time::Instant;

use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::Pod as Object;
use kube::Api;
use kube::api::{DeleteParams, PostParams};
use serde_json::{Value, json};
use writ_api::{AgentRevocation, AgentRevocationSpec, Phase};
use writ_e2e::{
    By, Options, SYSTEM, Stage, agent_pod, envelope, measured, play_alone_with, play_with, until,
};

fn governed() -> Options {
    Options {
        by: By::AgentPolicies,
        ..Options::default()
    }
}

fn transfer(stage: &Stage, amount: &str) -> Value {
    json!({"do": "request", "method": "POST", "url": stage.payments("/v1/transfers"),
        "body": {"amount": amount, "currency": "EUR", "to": "rent"}})
}

fn named(name: &str, mut step: Value) -> Value {
    step["name"] = json!(name);
    step
}

/// Changes the limit of the rule `small-transfers`.
async fn limit(stage: &Stage, amount: &str) -> i64 {
    stage
        .change_policy(|spec| {
            let rules = spec.rules.as_mut().expect("rules");
            assert_eq!(rules["rules"][0]["name"], "small-transfers");
            rules["rules"][0]["max_amount"] = json!(amount);
        })
        .await
}

#[test]
fn an_agent_policy_is_put_into_force_and_its_pods_act_under_it() {
    play_with("governed", governed(), async |stage| {
        let tool = stage.start_tool().await;
        let mut pay = named("pay", transfer(stage, "25.00"));
        pay["until"] = json!({"status": 200});
        let steps = json!([pay, named("too much", transfer(stage, "500.00"))]);
        let agent = stage.start_agent(steps).await;
        let paid = agent.result("pay").await;
        assert_eq!(paid["status"], 200, "{paid}");
        let refused = agent.result("too much").await;
        assert_eq!(refused["status"], 403, "{refused}");
        assert!(
            refused.to_string().contains("amount-over-limit"),
            "{refused}"
        );
        let arrived = tool.said().await;
        let arrived: Vec<&Value> = arrived.iter().filter(|l| l.get("path").is_some()).collect();
        assert_eq!(arrived.len(), 1, "{arrived:?}");
        let claims = envelope(arrived[0]).expect("an envelope");
        assert_eq!(claims["iss"], stage.agent_id());
        // It names the version that the status calls in force.
        let status = stage.policy(&stage.agents).await.status.expect("a status");
        let version = status.in_force.expect("a version in force");
        let named = claims["pol"].to_string().to_lowercase();
        assert!(
            named.contains(
                version
                    .contract
                    .trim_start_matches("0x")
                    .to_lowercase()
                    .as_str()
            ),
            "{named} {version:?}"
        );
    });
}

#[test]
fn an_agent_that_the_target_does_not_admit_is_refused_there_whatever_its_own_policy_allows() {
    play_with("strangers", governed(), async |stage| {
        let tool = stage.start_tool().await;
        stage.govern_strangers().await;
        let mut pay = named("pay", transfer(stage, "25.00"));
        let stranger = agent_pod("stranger", &json!([pay.clone()]));
        let stranger = stage.create(&stage.outside, stranger).await;
        assert!(stranger.containers().contains(&"writ-sidecar".to_owned()));
        // Allowed here, and refused at the door: it is nobody that the tool's policy admits.
        let refused = stranger.result("pay").await;
        assert_eq!(refused["status"], 502, "{refused}");
        pay["until"] = json!({"status": 200});
        let admitted = stage.start_agent(json!([pay])).await;
        assert_eq!(admitted.result("pay").await["status"], 200);
        let arrived = tool.said().await;
        let arrived = arrived.iter().filter(|line| line.get("path").is_some());
        let from: Vec<Value> = arrived
            .map(|line| envelope(line).expect("an envelope")["iss"].clone())
            .collect();
        assert_eq!(from, [stage.agent_id()]);
    });
}

#[test]
fn an_edited_policy_decides_once_the_timelock_let_it_through() {
    play_with("edited", governed(), async |stage| {
        stage.start_tool().await;
        let mut load = named("load", transfer(stage, "250.00"));
        load["do"] = json!("load");
        load["every"] = json!(0.3);
        let agent = stage.start_agent(json!([load])).await;
        until("the old limit refuses", async || {
            let said = agent.said().await;
            said.iter()
                .any(|line| line.to_string().contains("amount-over-limit"))
                .then_some(())
        })
        .await;
        let before = stage
            .in_force(&stage.agents)
            .await
            .status
            .and_then(|s| s.in_force);
        let started = Instant::now();
        limit(stage, "300.00").await;
        let after = stage
            .in_force(&stage.agents)
            .await
            .status
            .and_then(|s| s.in_force);
        let in_force = started.elapsed();
        until("the new limit allows", async || {
            let said = agent.said().await;
            said.last()
                .is_some_and(|line| line["status"] == 200)
                .then_some(())
        })
        .await;
        let (before, after) = (before.expect("a version"), after.expect("a version"));
        assert_eq!(after.version, before.version + 1);
        measured(&format!(
            "edited policy in force after {in_force:?}, first allowed after {:?}",
            started.elapsed()
        ));
    });
}

/// Merges into a revocation's status in the name of a relay's pod.
async fn says_as_relay(stage: &Stage, name: &str, status: &Value) -> Result<(), String> {
    let body = serde_json::to_vec(&json!({"status": status})).expect("JSON");
    let path = format!("/apis/writ.dev/v1alpha1/agentrevocations/{name}/status");
    let account = "system:serviceaccount:writ-relay:writ-relay";
    let pod = "impersonate-extra-authentication.kubernetes.io%2fpod-name";
    let request = http::Request::patch(path)
        .header("content-type", "application/merge-patch+json")
        .header("impersonate-user", account)
        .header(pod, "writ-relay-0")
        .body(body)
        .expect("a request");
    let answer = stage.client().request::<Value>(request).await;
    answer.map(drop).map_err(|error| error.to_string())
}

#[test]
fn a_revocation_by_kubectl_stops_a_running_agent_and_is_followed_until_it_is_included() {
    play_with("revocation", governed(), async |stage| {
        let agent = stage.start_acting(0.1).await;
        let api: Api<AgentRevocation> = Api::all(stage.client());
        let name = format!("e2e-{}", stage.agents);
        let _ = api.delete(&name, &DeleteParams::default()).await;
        let spec: AgentRevocationSpec =
            serde_json::from_value(json!({"spiffeId": stage.agent_id(), "reason": "e2e"}))
                .expect("a spec");
        let started = Instant::now();
        api.create(&PostParams::default(), &AgentRevocation::new(&name, spec))
            .await
            .expect("an AgentRevocation");
        until("the agent is refused because it is revoked", async || {
            let said = agent.said().await;
            let last = said.last()?;
            // By the relay's word, or by the chain's.
            let code = last["code"].as_str()?;
            let revoked = ["agent-revoked", "revocation-pushed"].contains(&code);
            (last["status"] == 403 && revoked).then_some(())
        })
        .await;
        measured(&format!(
            "from AgentRevocation to the first refusal that was seen: {:?}",
            started.elapsed()
        ));
        until("the chain refuses it, too", async || {
            let said = agent.said().await;
            (said.last()?["code"] == "agent-revoked").then_some(())
        })
        .await;
        measured(&format!(
            "from AgentRevocation to a refusal by the chain's state: {:?}",
            started.elapsed()
        ));
        until("the revocation is included", async || {
            let status = api.get(&name).await.ok()?.status?;
            (status.phase >= Some(Phase::Included)).then_some(())
        })
        .await;
        until("a relay says how many sidecars enforce it", async || {
            let sidecars = api.get(&name).await.ok()?.status?.sidecars;
            sidecars.iter().any(|s| s.enforcing > 0).then_some(())
        })
        .await;
        // And nothing else: a relay that is taken over does not say how far it is, or what others say.
        let made_up = json!([{"relay": "writ-relay-made-up", "enforcing": 1, "connected": 1}]);
        for status in [json!({"phase": "Pending"}), json!({"sidecars": made_up})] {
            let told = says_as_relay(stage, &name, &status).await;
            let told = told.expect_err("a relay may not write this");
            assert!(told.contains("[not-a-relays]"), "{told}");
        }
        // Deleting it reinstates nobody.
        let _ = api.delete(&name, &DeleteParams::default()).await;
        until("the AgentRevocation is gone", async || {
            matches!(api.get_opt(&name).await, Ok(None)).then_some(())
        })
        .await;
        let before = agent.said().await.len();
        until("the agent tried ten times more", async || {
            (agent.said().await.len() > before + 10).then_some(())
        })
        .await;
        let said = agent.said().await;
        let passed = said
            .iter()
            .skip(before)
            .filter(|line| line["status"] == 200);
        assert_eq!(passed.count(), 0);
    });
}

#[test]
fn a_leader_that_dies_between_transactions_is_followed_by_one_that_goes_on() {
    play_alone_with("leader", governed(), async |stage| {
        let before = stage
            .in_force(&stage.agents)
            .await
            .status
            .and_then(|s| s.in_force);
        let leases: Api<Lease> = Api::namespaced(stage.client(), SYSTEM);
        let holder = async || {
            let spec = leases.get("writ-operator").await.ok()?.spec?;
            spec.holder_identity.filter(|name| !name.is_empty())
        };
        let first = holder().await.expect("a leader");
        // A version takes several transactions; the leader dies as soon as one is reported.
        let sent = stage
            .policy(&stage.agents)
            .await
            .status
            .map(|s| s.transactions)
            .unwrap_or_default();
        limit(stage, "110.00").await;
        until("a transaction of the change is seen", async || {
            let status = stage.policy(&stage.agents).await.status?;
            (status.transactions != sent || status.queued.is_some()).then_some(())
        })
        .await;
        let pods: Api<Object> = Api::namespaced(stage.client(), SYSTEM);
        let at_once = DeleteParams::default().grace_period(0);
        pods.delete(&first, &at_once)
            .await
            .expect("the leader's pod");
        let after = stage
            .in_force(&stage.agents)
            .await
            .status
            .and_then(|s| s.in_force);
        let second = until("another one leads", async || {
            holder().await.filter(|name| *name != first)
        })
        .await;
        assert_ne!(first, second);
        // Neither lost nor done twice.
        let (before, after) = (before.expect("a version"), after.expect("a version"));
        assert_eq!(after.version, before.version + 1);
    });
}
