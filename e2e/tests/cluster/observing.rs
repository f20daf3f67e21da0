//! From observing a namespace to a policy that was suggested by what its agents did.

use std::process::Stdio;

use k8s_openapi::api::core::v1::ConfigMap;
use kube::Api;
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt as _;
use tokio::process::Command;
use writ_api::{AgentPolicySpec, Mode};
use writ_e2e::{By, Options, Stage, agent_pod, envelope, play_with, until};

async fn set_mode(stage: &Stage, namespace: &str, mode: Mode) {
    stage
        .change_policy_of(namespace, |spec: &mut AgentPolicySpec| spec.mode = mode)
        .await;
    enforced(stage, namespace, mode == Mode::Enforce).await;
}

async fn enforced(stage: &Stage, namespace: &str, expected: bool) {
    let what = format!("the AgentPolicy of {namespace} says whether it is enforced: {expected}");
    until(&what, async || {
        let policy = stage.in_force(namespace).await;
        let status = policy.status?;
        let enforced = status.conditions.iter().find(|c| c.type_ == "Enforced")?;
        (enforced.status == if expected { "True" } else { "False" }).then_some(())
    })
    .await;
}

async fn suggested(stage: &Stage) -> String {
    let writ = std::env::var("WRIT_BIN").expect("WRIT_BIN: the writ program; e2e/run sets it");
    let done = Command::new(writ)
        .args(["policy", "suggest", "peers", "--namespace", &stage.agents])
        .output()
        .await
        .expect("writ");
    let told = String::from_utf8_lossy(&done.stderr);
    assert!(done.status.success(), "writ policy suggest: {told}");
    String::from_utf8(done.stdout).expect("text")
}

async fn apply(manifest: &str) {
    let mut kubectl = Command::new("kubectl")
        .args(["apply", "--server-side", "--force-conflicts", "-f", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .expect("kubectl on the PATH; e2e/run puts it there");
    let mut input = kubectl.stdin.take().expect("its input");
    input.write_all(manifest.as_bytes()).await.expect("written");
    drop(input);
    assert!(
        kubectl.wait().await.expect("kubectl").success(),
        "{manifest}"
    );
}

#[test]
fn what_agents_did_while_observed_becomes_a_policy_that_allows_it_and_no_more() {
    let options = Options {
        by: By::AgentPolicies,
        ..Options::default()
    };
    play_with("observing", options, async |stage| {
        let tool = stage.start_tool().await;
        for namespace in [&stage.agents, &stage.tools] {
            set_mode(stage, namespace, Mode::Observe).await;
        }
        // No entry of the catalog is this.
        let agent = stage
            .start_agent(json!([{"name": "load", "do": "load", "every": 0.5,
                "url": stage.payments("/v1/reports/weekly")}]))
            .await;
        until("what would be denied goes on", async || {
            let said = agent.said().await;
            (said.last()?["status"] == 200).then_some(())
        })
        .await;
        let maps: Api<ConfigMap> = Api::namespaced(stage.client(), &stage.agents);
        let seen = until("what the agent did is kept", async || {
            let map = maps.get_opt("writ-seen-peers").await.ok()??;
            let seen: Vec<Value> = serde_json::from_str(map.data?.get("actions.json")?).ok()?;
            seen.iter()
                .find(|action| action["path"] == "/v1/reports/weekly")
                .cloned()
        })
        .await;
        assert_eq!(seen["decision"], "deny", "{seen}");
        assert_eq!(seen["agent"], stage.agent_id());

        let manifest = suggested(stage).await;
        assert!(manifest.contains("/v1/reports/weekly"), "{manifest}");
        apply(&manifest).await;
        set_mode(stage, &stage.agents, Mode::Enforce).await;
        set_mode(stage, &stage.tools, Mode::Enforce).await;
        until("the target sees it with an envelope", async || {
            let arrived = tool.said().await;
            let last = arrived.iter().rfind(|line| line.get("path").is_some())?;
            envelope(last).map(drop)
        })
        .await;
        let transfer = json!([{"name": "pay", "do": "request", "method": "POST",
            "url": stage.payments("/v1/transfers"),
            "body": {"amount": "1.00", "currency": "EUR", "to": "rent"}}]);
        let other = stage
            .create(&stage.agents, agent_pod("other", &transfer))
            .await;
        let refused = other.result("pay").await;
        assert_eq!(refused["status"], 403, "{refused}");
    });
}
