#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::service::service_fn;
use tokio::net::TcpListener;
use tokio::sync::watch;

use super::*;
use crate::body::full;

/// Every name is this machine, over TCP without TLS.
struct Loopback;

impl Dialer for Loopback {
    async fn resolve(&self, host: &str) -> Result<Vec<IpAddr>, UpstreamError> {
        match host {
            "nowhere.example" => Ok(Vec::new()),
            _ => Ok(vec![Ipv4Addr::LOCALHOST.into()]),
        }
    }

    fn tls(&self, _: &Target) -> Result<Option<Arc<rustls::ClientConfig>>, UpstreamError> {
        Ok(None)
    }
}

/// A server that answers with the number of the connection, counted from 1.
struct Server {
    port: u16,
    connections: Arc<AtomicUsize>,
    hang_up: watch::Sender<()>,
}

impl Server {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let connections = Arc::new(AtomicUsize::new(0));
        let (hang_up, closing) = watch::channel(());
        let counted = Arc::clone(&connections);
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let number = counted.fetch_add(1, Ordering::SeqCst) + 1;
                let mut closing = closing.clone();
                closing.mark_unchanged();
                tokio::spawn(async move {
                    let service = service_fn(move |_| async move {
                        let body = Full::new(Bytes::from(number.to_string()));
                        Ok::<_, std::convert::Infallible>(Response::new(body))
                    });
                    let mut builder =
                        hyper_util::server::conn::auto::Builder::new(TokioExecutor::new());
                    builder.http1().keep_alive(true);
                    tokio::select! {
                        ended = builder.serve_connection(TokioIo::new(stream), service) => {
                            drop(ended);
                        }
                        _ = closing.changed() => {}
                    }
                });
            }
        });
        Self {
            port,
            connections,
            hang_up,
        }
    }

    fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }

    fn target(&self, security: Security, version: Version) -> Target {
        Target {
            host: "api.example".into(),
            port: self.port,
            security,
            version,
            generation: 1,
        }
    }
}

fn upstreams() -> Upstreams<Loopback> {
    Upstreams::new(Loopback, 4, Duration::from_secs(30))
}

fn request(text: &'static str) -> Request<Body> {
    Request::post("http://api.example/")
        .body(full(Bytes::from_static(text.as_bytes())))
        .unwrap()
}

/// Sends one request; the number of the connection that answered.
async fn ask(upstreams: &Upstreams<Loopback>, target: &Target) -> String {
    let lease = upstreams.connect(target).await.unwrap();
    match lease.send(request("hello")).await {
        Sent::Answered(response) => {
            let body = response.into_body().collect().await.unwrap().to_bytes();
            String::from_utf8(body.to_vec()).unwrap()
        }
        Sent::NotSent(_) | Sent::Unprocessed => panic!("not sent"),
        Sent::Broken(error) => panic!("{error}"),
    }
}

/// What becomes of a request whose HTTP/2 stream the server resets with `reason`.
async fn reset_with(reason: h2::Reason) -> Sent {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        let mut connection = h2::server::handshake(stream).await.unwrap();
        while let Some(Ok((_, mut respond))) = connection.accept().await {
            respond.send_reset(reason);
        }
    });
    let target = Target {
        host: "api.example".into(),
        port,
        security: Security::Plain,
        version: Version::Http2,
        generation: 1,
    };
    let lease = upstreams().connect(&target).await.unwrap();
    lease.send(request("hello")).await
}

#[tokio::test]
async fn only_a_peer_that_says_so_did_nothing_with_a_request() {
    let refused = reset_with(h2::Reason::REFUSED_STREAM).await;
    assert!(matches!(refused, Sent::Unprocessed));
    for reason in [
        h2::Reason::CANCEL,
        h2::Reason::INTERNAL_ERROR,
        h2::Reason::NO_ERROR,
    ] {
        assert!(
            matches!(reset_with(reason).await, Sent::Broken(_)),
            "{reason:?}"
        );
    }
}

/// Waits until what is parked for `target` satisfies `condition`.
async fn parked(
    upstreams: &Upstreams<Loopback>,
    target: &Target,
    condition: impl Fn(&[Idle]) -> bool,
) {
    let holds = || {
        let slots = upstreams.pool.slots();
        condition(slots.idle.get(target).map_or(&[], Vec::as_slice))
    };
    while !holds() {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn an_idle_connection_is_used_again_for_the_same_target() {
    let server = Server::start().await;
    let upstreams = upstreams();
    let target = server.target(Security::Plain, Version::Http1);
    for _ in 0..3 {
        assert_eq!(ask(&upstreams, &target).await, "1");
        parked(&upstreams, &target, |idle| idle.len() == 1).await;
    }
    assert_eq!(server.connections(), 1);
}

#[tokio::test]
async fn a_connection_for_one_target_never_serves_another() {
    for version in [Version::Http1, Version::Http2] {
        let server = Server::start().await;
        let upstreams = upstreams();
        let target = server.target(Security::Plain, version);
        let mtls = |peer: &str| Security::Mtls { peer: peer.into() };
        let tls = |name: Option<&str>| Security::Tls {
            authority: name.map(str::to_owned),
        };
        let others = [
            target.clone(),
            Target {
                host: "API2.example".into(),
                ..target.clone()
            },
            Target {
                generation: 2,
                ..target.clone()
            },
        ];
        let identities = [tls(None), tls(Some("internal")), tls(Some("partner"))]
            .map(|security| server.target(security, version));
        let mut expected = 0;
        for target in others.iter().chain(&identities) {
            expected += 1;
            assert_eq!(ask(&upstreams, target).await, expected.to_string());
            if version == Version::Http1 {
                parked(&upstreams, target, |idle| idle.len() == 1).await;
            }
        }
        // And each finds its own again.
        for (at, target) in others.iter().chain(&identities).enumerate() {
            assert_eq!(ask(&upstreams, target).await, (at + 1).to_string());
        }
        // Two peers at one address are two targets.
        let peers = ["spiffe://example.org/a", "spiffe://example.org/b"]
            .map(|peer| server.target(mtls(peer), version));
        assert_ne!(peers[0], peers[1]);
        assert!(peers.iter().all(|peer| upstreams.pool.take(peer).is_none()));
    }
}

#[tokio::test]
async fn a_parked_connection_that_the_target_closed_is_not_used() {
    let server = Server::start().await;
    let upstreams = upstreams();
    let target = server.target(Security::Plain, Version::Http1);
    assert_eq!(ask(&upstreams, &target).await, "1");
    parked(&upstreams, &target, |idle| idle.len() == 1).await;
    server.hang_up.send(()).unwrap();
    parked(&upstreams, &target, |idle| {
        idle.iter().all(|idle| idle.sender.is_closed())
    })
    .await;
    assert_eq!(ask(&upstreams, &target).await, "2");
}

#[tokio::test]
async fn requests_at_one_time_share_an_http2_connection_and_not_an_http1_connection() {
    let server = Server::start().await;
    let upstreams = upstreams();
    for (version, connections) in [(Version::Http2, 1), (Version::Http1, 3)] {
        let target = server.target(Security::Plain, version);
        let before = server.connections();
        let (one, two) = tokio::join!(upstreams.connect(&target), upstreams.connect(&target));
        let leases = [
            one.unwrap(),
            two.unwrap(),
            upstreams.connect(&target).await.unwrap(),
        ];
        for lease in leases {
            assert!(matches!(lease.send(request("x")).await, Sent::Answered(_)));
        }
        assert_eq!(server.connections() - before, connections);
    }
}

#[tokio::test]
async fn no_more_idle_connections_are_kept_than_configured() {
    let server = Server::start().await;
    let upstreams = Upstreams::new(Loopback, 1, Duration::from_secs(30));
    let target = server.target(Security::Plain, Version::Http1);
    let (one, two) = tokio::join!(ask(&upstreams, &target), ask(&upstreams, &target));
    assert_ne!(one, two);
    parked(&upstreams, &target, |idle| !idle.is_empty()).await;
    ask(&upstreams, &target).await;
    parked(&upstreams, &target, |idle| !idle.is_empty()).await;
    assert_eq!(upstreams.pool.slots().idle[&target].len(), 1);
}

#[tokio::test]
async fn a_request_that_could_not_leave_is_given_back() {
    for version in [Version::Http1, Version::Http2] {
        let server = Server::start().await;
        let upstreams = upstreams();
        let target = server.target(Security::Plain, version);
        // One answer first, so that the connection is known to stand.
        assert_eq!(ask(&upstreams, &target).await, "1");
        if version == Version::Http1 {
            parked(&upstreams, &target, |idle| idle.len() == 1).await;
        }
        let lease = upstreams.connect(&target).await.unwrap();
        server.hang_up.send(()).unwrap();
        let closed = || match &lease.sender {
            Sender::Http1(sender) => sender.is_closed(),
            Sender::Http2(sender) => sender.is_closed(),
        };
        while !closed() {
            tokio::task::yield_now().await;
        }
        let Sent::NotSent(request) = lease.send(request("pay once")).await else {
            panic!("{version:?}: the request was not given back");
        };
        assert_eq!(request.uri(), "http://api.example/");
        let body = request.into_body().collect().await.unwrap().to_bytes();
        assert_eq!(body, "pay once");
        // The dead connection is not offered again.
        assert_eq!(ask(&upstreams, &target).await, "2");
    }
}

#[tokio::test]
async fn a_target_without_an_address_or_a_listener_is_named_in_the_error() {
    let upstreams = upstreams();
    let free = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = free.local_addr().unwrap().port();
    drop(free);
    let refused = upstreams.connect_tcp("api.example", port).await;
    assert!(matches!(refused, Err(UpstreamError::Connect { .. })));
    let nowhere = upstreams.connect_tcp("nowhere.example", port).await;
    assert!(matches!(nowhere, Err(UpstreamError::NoAddress { .. })));
}
