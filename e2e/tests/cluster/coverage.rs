//! Pods that should be under a policy and have no sidecar: found, told, and shut in by the network.

use k8s_openapi::api::networking::v1::NetworkPolicy;
use kube::Api;
use serde_json::json;
use writ_api::config_map_name;
use writ_e2e::{By, Options, agent_pod, metric, play_with, until};

#[test]
fn a_pod_older_than_its_namespaces_opting_in_is_told_in_status_and_metrics() {
    let options = Options {
        by: By::AgentPolicies,
        ..Options::default()
    };
    play_with("coverage", options, async |stage| {
        stage.opt_in(None).await;
        let old = stage
            .create(&stage.agents, agent_pod("old", &json!([])))
            .await;
        assert_eq!(old.containers(), ["peer"]);
        old.ready().await;
        stage.opt_in(Some("enabled")).await;
        stage.opted_in().await;
        let young = stage.start_agent(json!([])).await;
        assert!(young.containers().contains(&"writ-sidecar".to_owned()));

        let status = until("the pod without a sidecar is told", async || {
            let status = stage.policy(&stage.agents).await.status?;
            (!status.uncovered.is_empty() && status.pods.covered == 1).then_some(status)
        })
        .await;
        assert_eq!(status.uncovered, ["old"]);
        let counted = async |name: &str| {
            metric(stage, "operator", name, &[("namespace", &stage.agents)]).await
        };
        until("both inventories count it", async || {
            let uncovered = counted("writ_operator_uncovered_pods").await?;
            let unprotected = counted("writ_operator_unprotected_pods").await?;
            (uncovered == 1.0 && unprotected == 1.0).then_some(())
        })
        .await;
        // The network's own wall around it, where there is one: nothing out but what is named.
        let api: Api<NetworkPolicy> = Api::namespaced(stage.client(), &stage.agents);
        let wall = api.get(&config_map_name("peers", "egress")).await;
        let wall = wall.expect("the NetworkPolicy").spec.expect("a spec");
        assert_eq!(wall.policy_types, Some(vec!["Egress".to_owned()]));
        let doors = wall.egress.expect("ways out");
        assert!(!doors.is_empty());
        for door in doors {
            assert!(door.to.is_some_and(|to| !to.is_empty()), "anywhere");
            assert!(door.ports.is_some_and(|p| !p.is_empty()), "any port");
        }

        old.delete().await;
        until("nothing is without a sidecar", async || {
            let status = stage.policy(&stage.agents).await.status?;
            status.uncovered.is_empty().then_some(())
        })
        .await;
    });
}
