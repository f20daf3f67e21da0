#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

use std::sync::Mutex;

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use writ_catalog::Catalog;

use super::*;

/// What reached the gate; it refuses the capability `payouts.denied`.
#[derive(Default)]
struct Gatekeeper {
    decided: Mutex<Vec<Custom>>,
    refused: Mutex<Vec<(String, String)>>,
    withholds: bool,
}

impl Decide for Gatekeeper {
    async fn decide(&self, custom: Custom) -> Result<HandedOver, Denied> {
        self.decided.lock().unwrap().push(custom.clone());
        if custom.capability == "payouts.denied" {
            return Err(denied("no-rule", 403));
        }
        Ok(HandedOver {
            decision_id: "log-7".into(),
            sae_hash: [7; 32],
            target: custom.target.target_uri(),
            audience: "spiffe://acme.example/ns/pay/sa/api".into(),
            envelope: (!self.withholds).then(|| "a.b.c".into()),
            certificate: (!self.withholds).then(|| "chain".into()),
        })
    }

    async fn refuse(&self, target: &str, code: &str, _: &str, status: u16) -> Denied {
        let refused = (target.to_owned(), code.to_owned());
        self.refused.lock().unwrap().push(refused);
        denied(code, status)
    }
}

fn denied(code: &str, status: u16) -> Denied {
    let status = StatusCode::from_u16(status).unwrap();
    Denied {
        code: code.to_owned(),
        problem: Problem::new(status, code, "why").with_decision("log-8"),
        observed: None,
    }
}

fn action() -> Value {
    json!({
        "capability": "payouts.sign",
        "target": "https://payments.acme.example:8080/payouts",
        "params": {"account": "DE-17", "amount": "12.34", "currency": "EUR"},
    })
}

fn post(body: &str) -> String {
    format!(
        "POST /v1/actions HTTP/1.1\r\nHost: 127.0.0.1:15821\r\nContent-Type: application/json\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )
}

/// Says `request` on a connection of its own; status and body of the answer.
async fn say(gate: &Arc<Gatekeeper>, request: &str) -> (u16, Value) {
    let (mut agent, ours) = tokio::io::duplex(256 << 10);
    let serving = converse(
        ours,
        Arc::clone(gate),
        Limits::default(),
        CancellationToken::new(),
    );
    let saying = async {
        agent.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        agent.read_to_string(&mut answer).await.unwrap();
        answer
    };
    let (answer, ()) = tokio::join!(saying, serving);
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    (status, serde_json::from_str(body).unwrap_or(Value::Null))
}

#[tokio::test]
async fn an_allowed_action_is_answered_with_decision_hash_and_envelope() {
    let gate = Arc::new(Gatekeeper::default());
    let (status, answer) = say(&gate, &post(&action().to_string())).await;
    assert_eq!(status, 200);
    assert_eq!(answer["decision_id"], "log-7");
    assert_eq!(
        answer["sae_hash"],
        "BwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwc"
    );
    assert_eq!(answer["envelope"], "a.b.c");
    assert_eq!(answer["certificate"], "chain");
    let decided = gate.decided.lock().unwrap();
    assert_eq!(decided.len(), 1);
    assert_eq!(decided[0].capability, "payouts.sign");
    assert_eq!(
        serde_json::from_str::<Value>(&decided[0].params_text).unwrap(),
        action()["params"]
    );
}

#[tokio::test]
async fn an_envelope_that_the_destination_does_not_take_is_not_given_out() {
    let gate = Arc::new(Gatekeeper {
        withholds: true,
        ..Gatekeeper::default()
    });
    let (status, answer) = say(&gate, &post(&action().to_string())).await;
    assert_eq!(status, 200);
    assert!(answer.get("envelope").is_none() && answer.get("certificate").is_none());
    assert!(answer.get("sae_hash").is_some());
}

#[tokio::test]
async fn a_denied_action_is_answered_with_the_problem() {
    let gate = Arc::new(Gatekeeper::default());
    let mut action = action();
    action["capability"] = "payouts.denied".into();
    let (status, problem) = say(&gate, &post(&action.to_string())).await;
    assert_eq!(status, 403);
    assert_eq!(problem["code"], "no-rule");
    assert_eq!(problem["decision_id"], "log-8");
}

#[tokio::test]
async fn a_body_that_is_no_action_is_refused_and_recorded() {
    let with = |name: &str, value: Value| {
        let mut action = action();
        action[name] = value;
        action.to_string()
    };
    for (body, code) in [
        ("{".to_owned(), "json-syntax"),
        ("[]".to_owned(), "action-malformed"),
        (with("surprise", json!(1)), "action-malformed"),
        (with("params", json!([])), "action-malformed"),
        (with("approval", json!("abc")), "action-malformed"),
        (with("idempotency_key", json!("a b")), "action-malformed"),
        (with("target", json!("/payouts")), "target-malformed"),
        (
            with("target", json!("ftp://a.example/")),
            "target-malformed",
        ),
        (
            with("target", json!("https://a.example/#x")),
            "target-malformed",
        ),
        (
            with("target", json!("https://a.example/?q=1")),
            "target-malformed",
        ),
        (
            with("target", json!("https://u@a.example/")),
            "authority-userinfo",
        ),
        (
            r#"{"capability":"a.b","capability":"c.d","target":"https://a/","params":{}}"#
                .to_owned(),
            "json-duplicate-key",
        ),
    ] {
        let gate = Arc::new(Gatekeeper::default());
        let (status, problem) = say(&gate, &post(&body)).await;
        assert_eq!((status, problem["code"].as_str().unwrap()), (400, code));
        assert_eq!(gate.refused.lock().unwrap()[0].1, code);
        assert!(gate.decided.lock().unwrap().is_empty());
    }
}

#[tokio::test]
async fn an_action_over_64_kib_is_refused() {
    let gate = Arc::new(Gatekeeper::default());
    let mut action = action();
    action["params"]["note"] = "x".repeat(64 << 10).into();
    let (status, problem) = say(&gate, &post(&action.to_string())).await;
    assert_eq!((status, &problem["code"]), (413, &json!("body-too-large")));
}

#[tokio::test(start_paused = true)]
async fn an_agent_that_stalls_in_its_body_is_cut_off() {
    let gate = Arc::new(Gatekeeper::default());
    let request = post("{}").replace("Content-Length: 2", "Content-Length: 20");
    let (status, problem) = say(&gate, &request).await;
    assert_eq!((status, &problem["code"]), (408, &json!("body-late")));
}

#[tokio::test]
async fn a_web_page_in_the_pod_cannot_ask() {
    let request = post(&action().to_string());
    for (from, to, status, code) in [
        ("127.0.0.1:15821", "rebound.example", 421, "misdirected"),
        (
            "Connection",
            "Origin: https://evil.example\r\nConnection",
            403,
            "origin-refused",
        ),
        ("application/json", "text/plain", 415, "not-json"),
    ] {
        let gate = Arc::new(Gatekeeper::default());
        let (answered, problem) = say(&gate, &request.replacen(from, to, 1)).await;
        assert_eq!((answered, &problem["code"]), (status, &json!(code)));
        assert!(gate.decided.lock().unwrap().is_empty());
    }
}

#[tokio::test]
async fn other_paths_and_methods_are_refused() {
    let gate = Arc::new(Gatekeeper::default());
    let request = post("");
    let other = request.replacen("/v1/actions", "/v1/other", 1);
    assert_eq!(say(&gate, &other).await.0, 404);
    assert_eq!(say(&gate, &request.replacen("POST", "GET", 1)).await.0, 405);
}

#[tokio::test]
async fn it_listens_on_loopback_and_ends_with_the_drain() {
    let gate = Arc::new(Gatekeeper::default());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (stop, tasks) = (CancellationToken::new(), TaskTracker::new());
    tasks.spawn(serve(
        listener,
        gate,
        Limits::default(),
        Arc::new(Semaphore::new(1)),
        stop.clone(),
        tasks.clone(),
    ));
    let mut agent = tokio::net::TcpStream::connect(address).await.unwrap();
    let request = post(&action().to_string());
    agent.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    agent.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    stop.cancel();
    tasks.close();
    tasks.wait().await;
}

/// The blocks of `docs/local-api.md` in this language.
fn blocks(page: &str, language: &str) -> Vec<String> {
    let fence = format!("```{language}\n");
    page.split(&fence)
        .skip(1)
        .filter_map(|block| block.split("```").next())
        .map(str::to_owned)
        .collect()
}

#[tokio::test]
async fn the_pages_example_is_an_action_of_the_catalogs_example() {
    let page = include_str!("../../../docs/local-api.md");
    let documented = blocks(page, "json");
    let custom = super::action::parse(documented[0].as_bytes()).unwrap();
    let catalog = include_str!("../../../docs/catalog.md");
    let catalog = Catalog::from_yaml(&blocks(catalog, "yaml")[0]).unwrap();
    let destination = catalog
        .destination(&custom.target.host, custom.target.port)
        .unwrap();
    let intent = catalog
        .classify_custom(
            destination,
            &custom.target,
            &custom.capability,
            &custom.params,
            &custom.params_text,
        )
        .unwrap();
    assert_eq!(intent.entry, "sign-payout");

    let gate = Arc::new(Gatekeeper::default());
    let (status, answer) = say(&gate, &post(&documented[0])).await;
    assert_eq!(status, 200);
    let shown: Value = serde_json::from_str(&documented[1]).unwrap();
    let members =
        |value: &Value| -> Vec<String> { value.as_object().unwrap().keys().cloned().collect() };
    assert_eq!(members(&answer), members(&shown));
    assert_eq!(answer["target"], shown["target"]);
    assert_eq!(answer["audience"], shown["audience"]);
    assert_eq!(shown["audience"], destination.audience.as_str());
}
