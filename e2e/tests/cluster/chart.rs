//! The chart: tested, upgraded, its webhook's certificates renewed, while agents act.

use std::sync::atomic::{AtomicBool, Ordering};

use k8s_openapi::api::admissionregistration::v1::MutatingWebhookConfiguration;
use k8s_openapi::api::core::v1::Pod as Object;
use kube::Api;
use kube::api::PostParams;
use serde_json::{Value, json};
use writ_e2e::{Stage, agent_pod, envelope, helm, measured, play, play_alone, until, until_within};

/// Asks in a dry run what becomes of an opted-in pod, which is never to be without its sidecar; the
/// refusal, if it is refused.
async fn admitted(stage: &Stage) -> Result<(), String> {
    let pods: Api<Object> = Api::namespaced(stage.client(), &stage.agents);
    let pod: Object = serde_json::from_value(agent_pod("tried", &json!([]))).expect("a pod");
    let dry = PostParams {
        dry_run: true,
        ..PostParams::default()
    };
    let made = pods.create(&dry, &pod).await.map_err(|e| e.to_string())?;
    let init = made.spec.and_then(|spec| spec.init_containers);
    let names: Vec<String> = init.into_iter().flatten().map(|c| c.name).collect();
    assert_eq!(names, ["writ-init", "writ-sidecar"]);
    Ok(())
}

async fn gets_a_sidecar(stage: &Stage) {
    admitted(stage)
        .await
        .unwrap_or_else(|refusal| panic!("an opted-in pod was not admitted: {refusal}"));
}

async fn bundle(stage: &Stage) -> Vec<u8> {
    let api: Api<MutatingWebhookConfiguration> = Api::all(stage.client());
    let configuration = api.get("writ").await.expect("the configuration");
    let first = configuration.webhooks.into_iter().flatten().next();
    let bundle = first.expect("a webhook").client_config.ca_bundle;
    bundle.expect("a CA bundle").0
}

async fn run(line: &[&str]) {
    let done = helm(line).await;
    assert!(
        done.status.success(),
        "helm {}: {}{}",
        line.join(" "),
        String::from_utf8_lossy(&done.stdout),
        String::from_utf8_lossy(&done.stderr)
    );
}

#[test]
fn helm_test_passes() {
    play("helmtest", async |_| {
        run(&["test", "writ", "--timeout", "2m"]).await;
    });
}

#[test]
fn the_webhooks_certificates_are_replaced_while_pods_are_admitted() {
    play("certificates", async |stage| {
        let old = bundle(stage).await;
        let first = String::from_utf8(old).expect("PEM");
        let first = first.split_inclusive("-----END CERTIFICATE-----").next();
        let first = first.expect("a certificate").trim().to_owned();
        // An authority lives for six minutes here, and is followed by another after four.
        let minutes = std::time::Duration::from_secs(480);
        until_within(minutes, "the authority was replaced", async || {
            gets_a_sidecar(stage).await;
            let now = String::from_utf8(bundle(stage).await).expect("PEM");
            (!now.contains(&first)).then_some(())
        })
        .await;
        gets_a_sidecar(stage).await;
    });
}

#[test]
fn an_upgrade_under_load_leaves_no_moment_unprotected_and_refuses_no_allowed_action() {
    play_alone("upgrade", async |stage| {
        let tool = stage.start_tool().await;
        let agent = stage
            .start_agent(json!([{"name": "load", "do": "load", "every": 0.1,
                "url": stage.payments("/v1/accounts/A-1/balance")}]))
            .await;
        until("the agent acts", async || {
            let said = agent.said().await;
            said.iter().any(|line| line["status"] == 200).then_some(())
        })
        .await;
        let first = agent.said().await.len();
        let over = AtomicBool::new(false);
        let upgrading = async {
            let upgrade = [
                "upgrade",
                "writ",
                "CHART",
                "--reuse-values",
                "--wait",
                "--timeout",
                "4m",
            ];
            let change = [
                "--set",
                "sidecar.memory=144Mi",
                "--set",
                "operator.log=debug",
            ];
            run(&[&upgrade[..], &change].concat()).await;
            run(&["rollback", "writ", "--wait", "--timeout", "4m"]).await;
            over.store(true, Ordering::Relaxed);
        };
        let admitting = async {
            let (mut taken, mut refused) = (0, Vec::new());
            while !over.load(Ordering::Relaxed) {
                match admitted(stage).await {
                    Ok(()) => taken += 1,
                    Err(refusal) => refused.push(refusal),
                }
            }
            (taken, refused)
        };
        let ((), (taken, refused)) = tokio::join!(upgrading, admitting);
        // One pod of the webhook injects as before and another one checks as after, for a moment.
        let skew = |refusal: &&String| !refusal.contains("[not-as-injected]");
        assert_eq!(refused.iter().find(skew), None);
        measured(&format!(
            "upgrade and rollback: {taken} pods admitted, {} to be made again",
            refused.len()
        ));
        assert!(taken > 20, "{taken} {refused:?}");
        gets_a_sidecar(stage).await;
        let said = agent.said().await;
        let failed = said.iter().skip(first).filter(|line| line["status"] != 200);
        assert_eq!(failed.collect::<Vec<_>>(), Vec::<&Value>::new());
        let arrived = tool.said().await;
        let bare = arrived.iter().filter(|line| line.get("path").is_some());
        assert_eq!(bare.filter(|line| envelope(line).is_none()).count(), 0);
    });
}
