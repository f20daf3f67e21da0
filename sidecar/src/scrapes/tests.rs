#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]
use super::*;
use serde_json::{Value, json};
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

/// An application that keeps what it was asked, byte for byte, and gives `answer`.
async fn application(answer: &'static str) -> (u16, Arc<Mutex<Vec<String>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let asked = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&asked);
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                head.push(stream.read_u8().await.unwrap());
            }
            seen.lock().unwrap().push(String::from_utf8(head).unwrap());
            stream.write_all(answer.as_bytes()).await.unwrap();
        }
    });
    (port, asked)
}

const METRICS: &str = "HTTP/1.1 200 OK\r\ncontent-type: text/plain; version=0.0.4\r\n\
    set-cookie: session=1\r\nlocation: /elsewhere\r\ncontent-length: 7\r\n\r\nruns 3\n";

/// What a client that sends `bytes` to the declared port gets, and what became of its requests.
/// `None`: the connection is the PEP's.
async fn send(
    scrapes: &Scrapes,
    port: u16,
    app: Option<SocketAddr>,
    bytes: &str,
) -> Option<(String, Vec<Outcome>)> {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut client = TcpStream::connect(listener.local_addr().unwrap())
        .await
        .unwrap();
    let (stream, _) = listener.accept().await.unwrap();
    client.write_all(bytes.as_bytes()).await.unwrap();
    if !scrapes.takes(&stream, port).await.unwrap() {
        return None;
    }
    let outcomes = Mutex::new(Vec::new());
    let tell = |outcome| outcomes.lock().unwrap().push(outcome);
    let mut answer = Vec::new();
    let (_, read) = tokio::join!(
        scrapes.serve(stream, port, app, tell),
        client.read_to_end(&mut answer)
    );
    // A client whose bytes were not all read is told of the end by a reset.
    let _ = read;
    let answer = String::from_utf8(answer).unwrap();
    Some((answer, outcomes.into_inner().unwrap()))
}

fn scrapes(declared: Value) -> Scrapes {
    Scrapes::parse(Some(&declared.to_string()), None).unwrap()
}

async fn ask(bytes: &str) -> (String, Vec<Outcome>, usize) {
    let (port, asked) = application(METRICS).await;
    let scrapes = scrapes(json!([{"port": port, "path": "/metrics"}]));
    let (answer, outcomes) = send(&scrapes, port, None, bytes).await.unwrap();
    let asked = asked.lock().unwrap().len();
    (answer, outcomes, asked)
}

#[tokio::test]
async fn a_get_of_the_declared_path_is_answered_by_the_application() {
    let (port, asked) = application(METRICS).await;
    let scrapes = scrapes(json!([{"port": port, "path": "/metrics"}]));
    let request = "GET /metrics HTTP/1.1\r\nHost: anything\r\nAccept: text/plain\r\n\
        User-Agent: Prometheus/3.0\r\nAuthorization: Bearer x\r\nSAE: x\r\n\
        X-Forwarded-For: 1.2.3.4\r\nX-HTTP-Method-Override: DELETE\r\n\r\n";
    let (answer, outcomes) = send(&scrapes, port, None, request).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
    assert!(answer.ends_with("\r\n\r\nruns 3\n"), "{answer}");
    assert!(answer.contains("content-type: text/plain; version=0.0.4\r\n"));
    for left_out in ["set-cookie", "location"] {
        assert!(!answer.contains(left_out), "{answer}");
    }
    assert_eq!(outcomes, [Outcome::Asked]);
    // Nothing of the request but what says how the answer is to look.
    let expected = format!(
        "GET /metrics HTTP/1.1\r\nhost: 127.0.0.1:{port}\r\naccept: text/plain\r\n\
         user-agent: Prometheus/3.0\r\n\r\n"
    );
    assert_eq!(*asked.lock().unwrap(), [expected]);
}

#[tokio::test]
async fn an_application_behind_the_pep_is_asked_where_the_pep_finds_it() {
    let (app, asked) = application(METRICS).await;
    let scrapes = scrapes(json!([{"port": 8443, "path": "/metrics"}]));
    let app = Some(SocketAddr::from(([127, 0, 0, 1], app)));
    let request = "GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n";
    let (answer, _) = send(&scrapes, 8443, app, request).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert_eq!(asked.lock().unwrap().len(), 1);
}

#[tokio::test]
async fn another_method_is_refused() {
    for method in [
        "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "CONNECT", "get", "PURGE",
    ] {
        let request = format!("{method} /metrics HTTP/1.1\r\nHost: x\r\n\r\n");
        let (answer, outcomes, asked) = ask(&request).await;
        assert!(!answer.contains(" 200 "), "{method}: {answer}");
        assert_eq!(asked, 0, "{method}");
        assert!(!outcomes.contains(&Outcome::Asked), "{method}");
    }
}

#[tokio::test]
async fn another_path_is_refused_in_whatever_way_it_is_written() {
    for path in [
        "/",
        "/admin",
        "/metrics/",
        "//metrics",
        "/./metrics",
        "/x/../metrics",
        "/metrics/../admin",
        "/metrics/..%2fadmin",
        "/%6detrics",
        "/metrics%2e",
        "/metrics%00",
        "/metrics;x=1",
        "/metrics?",
        "/metrics?to=me",
        "/Metrics",
        "http://x/metrics",
        "http:///metrics",
        "\\metrics",
        "*",
    ] {
        let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n");
        let (answer, outcomes, asked) = ask(&request).await;
        assert!(!answer.contains(" 200 "), "{path}: {answer}");
        assert_eq!(asked, 0, "{path}");
        assert!(!outcomes.contains(&Outcome::Asked), "{path}");
    }
}

#[tokio::test]
async fn a_refusal_says_what_is_answered_and_is_counted() {
    let (answer, outcomes, _) = ask("GET /admin HTTP/1.1\r\nHost: x\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 403 "), "{answer}");
    assert!(answer.contains("\"code\":\"scrape-only\""), "{answer}");
    assert_eq!(outcomes, [Outcome::Refused(SCRAPE_ONLY)]);
}

#[tokio::test]
async fn a_request_with_a_body_or_behind_another_is_refused() {
    for (request, asked) in [
        (
            "GET /metrics HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabc",
            0,
        ),
        (
            "GET /metrics HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            0,
        ),
        (
            "GET /metrics HTTP/1.1\r\nHost: x\r\n\r\nPOST /pay HTTP/1.1\r\nHost: x\r\n\r\n",
            1,
        ),
        ("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 0),
        ("GET /metrics\r\n\r\n", 0),
    ] {
        let (_, outcomes, reached) = ask(request).await;
        assert_eq!(reached, asked, "{request}");
        let passed = outcomes.iter().filter(|o| **o == Outcome::Asked).count();
        assert_eq!(passed, asked, "{request}");
    }
}

#[tokio::test]
async fn an_application_that_changes_the_protocol_is_not_followed() {
    let switch = "HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n";
    let (port, _) = application(switch).await;
    let scrapes = scrapes(json!([{"port": port, "path": "/metrics"}]));
    let request = "GET /metrics HTTP/1.1\r\nHost: x\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n";
    let (answer, _) = send(&scrapes, port, None, request).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 502 "), "{answer}");
}

#[tokio::test]
async fn an_application_that_does_not_answer_is_told_of() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    drop(listener);
    let scrapes = scrapes(json!([{"port": port, "path": "/metrics"}]));
    let request = "GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n";
    let (answer, outcomes) = send(&scrapes, port, None, request).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 502 "), "{answer}");
    assert_eq!(outcomes, [Outcome::Asked]);
}

#[tokio::test]
async fn tls_and_ports_without_declared_metrics_go_to_the_pep_unread() {
    let scrapes = scrapes(json!([{"port": 9090, "path": "/metrics"}]));
    let get = "GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n";
    assert!(send(&scrapes, 9091, None, get).await.is_none());
    let hello = "\u{16}\u{3}\u{1}hello";
    assert!(send(&scrapes, 9090, None, hello).await.is_none());
    // What decides next finds every byte.
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut client = TcpStream::connect(listener.local_addr().unwrap())
        .await
        .unwrap();
    let (mut stream, _) = listener.accept().await.unwrap();
    client.write_all(hello.as_bytes()).await.unwrap();
    assert_eq!(scrapes.takes(&stream, 9090).await, Some(false));
    let mut read = vec![0; hello.len()];
    stream.read_exact(&mut read).await.unwrap();
    assert_eq!(read, hello.as_bytes());
    drop(client);
    assert_eq!(scrapes.takes(&stream, 9090).await, None, "it ended");
}

#[tokio::test(start_paused = true)]
async fn a_scraper_that_says_nothing_is_let_go() {
    let scrapes = scrapes(json!([{"port": 9090, "path": "/metrics"}]));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let client = TcpStream::connect(listener.local_addr().unwrap())
        .await
        .unwrap();
    let (stream, _) = listener.accept().await.unwrap();
    assert_eq!(scrapes.takes(&stream, 9090).await, None);
    drop(client);
}

#[tokio::test]
async fn more_scrapes_than_any_monitoring_makes_are_refused() {
    let (port, _) = application(METRICS).await;
    let mut scrapes = scrapes(json!([{"port": port, "path": "/metrics"}]));
    scrapes.permits = Semaphore::new(0);
    let request = "GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n";
    let (answer, outcomes) = send(&scrapes, port, None, request).await.unwrap();
    assert_eq!(answer, "");
    assert_eq!(outcomes, [Outcome::Refused(SCRAPES_BUSY)]);
}

#[test]
fn a_declaration_that_could_be_read_in_two_ways_is_refused() {
    for path in [
        "",
        "metrics",
        "//",
        "/a//b",
        "/a/",
        "/.",
        "/a/../b",
        "/%2e",
        "/a?b",
        "/a#b",
        "/a;b",
        "/a b",
        "/ä",
        "/a\r\nx: y",
        "http://x/",
    ] {
        let declared = json!([{"port": 80, "path": path}]).to_string();
        assert!(Scrapes::parse(Some(&declared), None).is_err(), "{path}");
    }
    for text in [
        "{",
        r#"[{"port":0,"path":"/a"}]"#,
        r#"[{"port":65536,"path":"/a"}]"#,
        r#"[{"port":80,"path":"/a","method":"POST"}]"#,
    ] {
        assert!(Scrapes::parse(Some(text), None).is_err(), "{text}");
    }
    let long = format!("/{}", "a".repeat(MAX_PATH));
    let many = vec![json!({"port": 80, "path": "/a"}); MAX_TARGETS + 1];
    for declared in [json!([{"port": 80, "path": long}]), json!(many)] {
        assert!(Scrapes::parse(Some(&declared.to_string()), None).is_err());
    }
    assert!(Scrapes::parse(Some(&" ".repeat(MAX_BYTES + 1)), None).is_err());
    for path in ["/", "/metrics", "/a-b/c_d.e~f"] {
        scrapes(json!([{"port": 80, "path": path}]));
    }
}
