//! Sidecars that start, end, crash and renew their identity as Kubernetes and SPIRE have it.

use std::collections::BTreeSet;
use std::time::Duration;

use k8s_openapi::api::batch::v1::Job;
use serde_json::{Value, json};
use writ_e2e::{Pod, Stage, agent_pod, peer_pod, play, until, until_within};

fn balance_load(stage: &Stage, every: f64) -> Value {
    json!([{"name": "load", "do": "load", "every": every,
        "url": stage.payments("/v1/accounts/A-1/balance")}])
}

async fn acts(agent: &Pod) {
    until("the agent acts", async || {
        agent
            .said()
            .await
            .iter()
            .any(|line| line["status"] == 200)
            .then_some(())
    })
    .await;
}

#[test]
fn a_job_of_an_agent_completes_and_its_sidecar_ends_with_it() {
    play("job", async |stage| {
        stage.start_tool().await;
        let steps = json!([{"name": "ask", "do": "request", "until": {"status": 200},
            "url": stage.payments("/v1/accounts/A-1/balance")}]);
        let mut pod = peer_pod("agent", &["/peer/agent.py", &steps.to_string()]);
        let object = pod.as_object_mut().unwrap();
        object.retain(|key, _| ["metadata", "spec"].contains(&key.as_str()));
        object["metadata"].as_object_mut().unwrap().remove("name");
        stage
            .apply::<Job>(
                &stage.agents,
                json!({"apiVersion": "batch/v1", "kind": "Job",
                "metadata": {"name": "agent"}, "spec": {"backoffLimit": 0, "template": pod}}),
            )
            .await;
        let jobs: kube::Api<Job> = kube::Api::namespaced(stage.client(), &stage.agents);
        let status = until("the job ends", async || {
            let status = jobs.get("agent").await.ok()?.status?;
            (status.succeeded.is_some() || status.failed.is_some()).then_some(status)
        })
        .await;
        assert_eq!((status.succeeded, status.failed), (Some(1), None));
    });
}

#[test]
fn a_sidecar_that_crashes_under_load_comes_back_and_nothing_passes_meanwhile() {
    play("crash", async |stage| {
        let tool = stage.start_tool().await;
        let agent = stage.start_agent(balance_load(stage, 0.05)).await;
        acts(&agent).await;
        stage.kill(&agent, "writ-sidecar").await;
        until("the sidecar was started again", async || {
            (agent.restarts("writ-sidecar").await > 0).then_some(())
        })
        .await;
        let before = agent.said().await.len();
        until("the agent acts again", async || {
            let said = agent.said().await;
            said.iter()
                .skip(before)
                .any(|line| line["status"] == 200)
                .then_some(())
        })
        .await;
        // Every request that reached the target came with an envelope.
        let arrived = tool.said().await;
        let bare = arrived.iter().filter(|line| line.get("path").is_some());
        let bare = bare.filter(|line| writ_e2e::envelope(line).is_none());
        assert_eq!(bare.count(), 0);
    });
}

#[test]
fn an_svid_that_is_renewed_under_load_costs_no_request() {
    play("rotation", async |stage| {
        let tool = stage.start_tool().await;
        let agent = stage.start_agent(balance_load(stage, 0.1)).await;
        acts(&agent).await;
        // The server issues for two minutes, and the agent renews at half of that.
        let minutes = Duration::from_secs(240);
        until_within(
            minutes,
            "envelopes of two different SVIDs arrived",
            async || {
                let arrived = tool.said().await;
                let keys: BTreeSet<String> = arrived.iter().filter_map(key_id).collect();
                (keys.len() > 1).then_some(())
            },
        )
        .await;
        let said = agent.said().await;
        let first = said
            .iter()
            .position(|line| line["status"] == 200)
            .unwrap_or(0);
        let failed = said.iter().skip(first).filter(|line| line["status"] != 200);
        assert_eq!(failed.collect::<Vec<_>>(), Vec::<&Value>::new());
    });
}

/// The key id in the protected header of a request's envelope.
fn key_id(request: &Value) -> Option<String> {
    let header = writ_e2e::protected_header(request)?;
    Some(header["kid"].as_str()?.to_owned())
}

/// Ends another pod's sidecar the hard way, from a pod that sees the node's processes.
#[test]
fn a_pod_whose_image_names_a_user_of_its_own_acts_too() {
    play("users", async |stage| {
        stage.start_tool().await;
        let steps = json!([{"name": "ask", "do": "request", "until": {"status": 200},
            "url": stage.payments("/v1/accounts/A-1/balance")}]);
        let mut pod = agent_pod("agent", &steps);
        pod["spec"]["containers"][0]["securityContext"] = json!({"runAsUser": 0});
        let agent = stage.create(&stage.agents, pod).await;
        assert_eq!(agent.result("ask").await["status"], 200);
    });
}
