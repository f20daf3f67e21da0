//! Chain state by relay and witnesses, and without them.

use serde_json::Value;
use writ_e2e::{By, Options, Part, Stage, play_alone_with, play_with, sidecar_metric, until};

fn governed() -> Options {
    Options {
        by: By::AgentPolicies,
        ..Options::default()
    }
}

async fn of_sidecar(stage: &Stage, name: &str) -> Option<f64> {
    sidecar_metric(stage, &stage.agents, "agent", name).await
}

async fn connected(stage: &Stage, expected: f64) {
    let what = format!("the agent's sidecar has {expected} relays");
    until(&what, async || {
        let now = of_sidecar(stage, "writ_relay_connected").await?;
        ((now == 0.0) == (expected == 0.0)).then_some(())
    })
    .await;
}

/// Waits for heads newer than those that are there.
async fn follows(stage: &Stage) {
    let head = until("a head", async || {
        of_sidecar(stage, "writ_head_block").await
    })
    .await;
    until("newer heads", async || {
        let now = of_sidecar(stage, "writ_head_block").await?;
        (now > head + 3.0).then_some(())
    })
    .await;
}

#[test]
fn sidecars_follow_the_chain_by_relay_and_witness() {
    play_with("relayed", governed(), async |stage| {
        stage.start_acting(0.2).await;
        connected(stage, 1.0).await;
        follows(stage).await;
    });
}

#[test]
fn without_a_relay_sidecars_read_the_chain_themselves_and_no_action_fails() {
    play_alone_with("norelay", governed(), async |stage| {
        let agent = stage.start_acting(0.2).await;
        connected(stage, 1.0).await;
        let before = agent.said().await.len();
        let usual = Part::Relay.scale(stage.client(), 0).await;
        connected(stage, 0.0).await;
        follows(stage).await;
        Part::Relay.scale(stage.client(), usual).await;
        connected(stage, 1.0).await;
        follows(stage).await;
        let said = agent.said().await;
        let failed = said
            .iter()
            .skip(before)
            .filter(|line| line["status"] != 200);
        assert_eq!(failed.collect::<Vec<_>>(), Vec::<&Value>::new());
        assert!(said.len() > before);
    });
}
