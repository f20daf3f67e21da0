//! The admin port over real connections: its answers and its limits.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout};
use writ_service::admin::{CONNECTION, HEAD, MAX_CONNECTIONS, MAX_HEAD};
use writ_service::{Admin, listen};

const LAST: &str = "GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";

async fn start() -> (SocketAddr, JoinHandle<()>) {
    let listener = listen((Ipv4Addr::LOCALHOST, 0).into()).await.unwrap();
    let at = listener.local_addr().unwrap();
    let admin = Admin::new(|| Ok(()), || b"writ_test_a_total 1\n".to_vec());
    (at, tokio::spawn(admin.serve(listener)))
}

async fn connect(at: SocketAddr) -> TcpStream {
    TcpStream::connect(at).await.unwrap()
}

async fn ask(stream: &mut TcpStream, request: &str) -> String {
    stream.write_all(request.as_bytes()).await.unwrap();
    rest(stream).await
}

/// What comes until the end. A reset is an end too: not all of what was sent was read.
async fn rest(stream: &mut TcpStream) -> String {
    let mut all = Vec::new();
    let _ = stream.read_to_end(&mut all).await;
    String::from_utf8(all).unwrap()
}

#[tokio::test]
async fn metrics_are_answered_as_text() {
    let (at, _serving) = start().await;
    let answer = ask(&mut connect(at).await, LAST).await;
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
    assert!(answer.contains("content-type: text/plain; version=0.0.4"));
    assert!(
        answer.ends_with("\r\n\r\nwrit_test_a_total 1\n"),
        "{answer}"
    );
}

#[tokio::test]
async fn one_connection_too_many_waits_until_another_ends() {
    let (at, _serving) = start().await;
    let mut open = Vec::new();
    for _ in 0..MAX_CONNECTIONS {
        open.push(connect(at).await);
    }
    let mut further = connect(at).await;
    further.write_all(LAST.as_bytes()).await.unwrap();
    let early = timeout(Duration::from_millis(200), further.readable()).await;
    assert!(early.is_err(), "it was answered beside the others");
    open.pop();
    assert!(rest(&mut further).await.starts_with("HTTP/1.1 200 OK"));
}

#[tokio::test]
async fn a_head_that_is_too_large_is_refused() {
    let (at, _serving) = start().await;
    let large = format!(
        "GET /healthz HTTP/1.1\r\nX: {}\r\n\r\n",
        "x".repeat(MAX_HEAD)
    );
    let answer = ask(&mut connect(at).await, &large).await;
    assert!(!answer.contains("200 OK"), "{answer}");
}

#[tokio::test(start_paused = true)]
async fn a_caller_without_a_head_is_let_go() {
    let (at, _serving) = start().await;
    let begun = Instant::now();
    let answer = ask(&mut connect(at).await, "GET /healthz HTTP/1.1\r\n").await;
    assert!(!answer.contains("200 OK"), "{answer}");
    assert!(begun.elapsed() <= HEAD + Duration::from_secs(1));
}

#[tokio::test(start_paused = true)]
async fn no_connection_lasts_for_ever() {
    let (at, _serving) = start().await;
    let mut stream = connect(at).await;
    let begun = Instant::now();
    // A request every few seconds keeps it alive, up to its end.
    while begun.elapsed() < CONNECTION * 2 {
        let asked = stream.write_all(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n");
        let mut answer = [0; 1024];
        if asked.await.is_err() || !matches!(stream.read(&mut answer).await, Ok(1..)) {
            break;
        }
        tokio::time::sleep(HEAD / 2).await;
    }
    assert!(
        begun.elapsed() <= CONNECTION + HEAD,
        "{:?}",
        begun.elapsed()
    );
}

#[tokio::test]
async fn open_connections_end_with_the_server() {
    let (at, serving) = start().await;
    let mut stream = connect(at).await;
    let ask = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n";
    stream.write_all(ask).await.unwrap();
    let mut answer = [0; 1024];
    assert!(stream.read(&mut answer).await.unwrap() > 0);
    serving.abort();
    assert_eq!(rest(&mut stream).await, "");
}
