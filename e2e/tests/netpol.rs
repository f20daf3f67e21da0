//! That the cluster's network holds what the operator's NetworkPolicies say. Fails on a cluster whose
//! network enforces none; `make e2e-netpol` runs it.
#![forbid(unsafe_code)]
#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used
)]

use serde_json::json;
use writ_e2e::{By, Options, SYSTEM, agent_pod, peer_pod, play_with};

const PORT: u16 = 8080;

#[test]
fn a_pod_without_a_sidecar_gets_nowhere_but_where_its_sidecar_would_have_to_go() {
    let options = Options {
        by: By::AgentPolicies,
        ..Options::default()
    };
    play_with("netpol", options, async |stage| {
        let service = peer_pod("plain", &["/peer/tool.py", "0.0.0.0", &PORT.to_string()]);
        let outside = stage.create(&stage.outside, service).await;
        let address = outside.ready().await;
        let chain = format!("writ-devchain.{SYSTEM}.svc.cluster.local");
        let attempts = |closed: bool| {
            json!([
                // Addressed by number, so that only the network stands in the way.
                {"name": "elsewhere", "do": "connect", "address": address, "port": PORT,
                    "until": {"connected": !closed}},
                {"name": "chain", "do": "connect", "address": chain, "port": 8545,
                    "until": {"connected": true}},
            ])
        };
        // One that no policy selects, so that it is known that there is something to reach.
        let free = agent_pod("free", &attempts(false));
        let free = stage.create(&stage.outside, free).await;
        assert_eq!(free.result("elsewhere").await["connected"], true);

        stage.opt_in(None).await;
        let bare = agent_pod("bare", &attempts(true));
        let bare = stage.create(&stage.agents, bare).await;
        assert_eq!(bare.containers(), ["peer"]);
        stage.opt_in(Some("enabled")).await;
        let elsewhere = bare.result("elsewhere").await;
        assert_eq!(
            elsewhere["connected"], false,
            "this cluster's network enforces no NetworkPolicy: {elsewhere}"
        );
        let chain = bare.result("chain").await;
        assert_eq!(chain["connected"], true, "{chain}");
    });
}
