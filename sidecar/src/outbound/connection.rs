//! One captured connection: what it speaks, whom it names, and whether it may be read.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use rustls::ServerConfig;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use writ_catalog::{AgentTls, Catalog};
use writ_chain::clock::Clock;
use writ_identity::ca::PodCa;
use writ_identity::tls as svid_tls;
use writ_ledger::OutcomeResult;

use super::opaque;
use crate::config;
use crate::dialer::SidecarDialer;
use crate::gate::claims::Stamping;
use crate::gate::{Denied, Gate, Released, Sent, Tunnel};
use crate::hello::{Encrypted, Hello, HelloError, Rewound, Start, read_start};
use crate::listen::Captured;
use crate::metrics::Metrics;
use crate::seen::{Seen, Sight};
use crate::upstream::Upstreams;

/// How long a connection may say nothing before it is taken for one in which the server speaks
/// first, where denials are only observed and such connections pass.
const SILENCE: Duration = Duration::from_millis(300);

/// What reload swaps: read once for each connection or request.
pub struct Live {
    /// The agent's catalog.
    pub catalog: Arc<Catalog>,
    /// Limits and timeouts.
    pub settings: config::Outbound,
}

/// The outbound half of the sidecar.
pub struct Outbound {
    /// What reload swaps.
    pub live: Arc<ArcSwap<Live>>,
    /// Decides, records, signs.
    pub gate: Arc<Gate>,
    /// Connections to targets.
    pub upstreams: Arc<Upstreams<SidecarDialer>>,
    /// What is counted.
    pub metrics: Arc<Metrics>,
    /// The pod's interception CA, where one is configured.
    pub ca: Option<Arc<PodCa>>,
    /// TLS settings without a certificate: every handshake ends in an access_denied alert.
    pub refusing: Arc<ServerConfig>,
    /// What the agent asked for, counted.
    pub seen: Arc<Seen>,
    /// Ports that the sidecar itself listens on.
    pub own_ports: [u16; 5],
    /// Time, for the leaves of the pod's CA.
    pub clock: Arc<dyn Clock>,
    /// Ends connections when draining.
    pub stop: CancellationToken,
}

/// The agent's side of one HTTP connection.
#[derive(Debug, Clone)]
pub(super) struct AgentSide {
    /// Port that the agent dialled.
    pub port: u16,
    /// Address that the agent dialled.
    pub to: SocketAddr,
    /// Whether the address it dialled is inside the pod.
    pub pod_local: bool,
    /// Whether it dialled one of the sidecar's own ports.
    pub to_itself: bool,
    /// Server name of the agent's TLS, where it was intercepted.
    pub server_name: Option<String>,
}

impl Outbound {
    /// Handles one captured connection to its end.
    pub async fn handle(self: Arc<Self>, captured: Captured) {
        let live = self.live.load_full();
        let pod_local = captured.to.ip().is_loopback()
            || captured
                .stream
                .local_addr()
                .is_ok_and(|own| own.ip() == captured.to.ip());
        let side = AgentSide {
            port: captured.to.port(),
            to: captured.to,
            pod_local,
            to_itself: pod_local && self.own_ports.contains(&captured.to.port()),
            server_name: None,
        };
        let patience = match self.gate.observing() {
            true => live.settings.header_timeout.min(SILENCE),
            false => live.settings.header_timeout,
        };
        match read_start(captured.stream, patience).await {
            Ok((Start::Clear, stream)) if self.gate.observing() && !stream.may_be_http() => {
                let why = "this is neither HTTP nor TLS; only these can be decided on";
                self.object_to(stream, &side, "unreadable-connection", why)
                    .await;
            }
            Ok((Start::Clear, stream)) => self.serve_http(stream, side, &live).await,
            Ok((Start::Tls(hello), stream)) => self.handle_tls(hello, stream, side, &live).await,
            Ok((Start::Late, stream)) => {
                let why = format!("nothing readable arrived within {patience:?}");
                self.object_to(stream, &side, "unreadable-connection", &why)
                    .await;
            }
            // Nothing was asked: clients that race two addresses leave such connections behind.
            Err(HelloError::Closed) => {}
            Err(reason) => {
                let target = format!("tcp://{}", captured.to);
                self.gate
                    .refuse_connection(&target, "unreadable-connection", &reason.to_string())
                    .await;
            }
        }
    }

    async fn handle_tls(
        self: Arc<Self>,
        hello: Hello,
        stream: Rewound,
        side: AgentSide,
        live: &Live,
    ) {
        let Some(name) = hello.server_name.clone() else {
            let target = format!("tls://:{}", side.port);
            let why = "the client sent no SNI; connect by name";
            return self
                .object_tls(stream, &side, &target, "no-server-name", why)
                .await;
        };
        let target = format!("tls://{name}:{}", side.port);
        let Some(destination) = live.catalog.destination(&name, side.port) else {
            let why = "the catalog names no such destination";
            return self
                .object_tls(stream, &side, &target, "unlisted-destination", why)
                .await;
        };
        match destination.agent_tls {
            AgentTls::Intercept => self.intercept(stream, name, side, live, &target).await,
            AgentTls::Opaque if hello.encrypted == Encrypted::Possibly => {
                let why = "the client offers an encrypted ClientHello, so the name is not certain";
                self.object_tls(stream, &side, &target, "encrypted-client-hello", why)
                    .await;
            }
            AgentTls::Opaque => self.pass_opaque(stream, &name, &side, live, &target).await,
            AgentTls::Originate => {
                let why = "this destination takes plain HTTP from the agent; the sidecar speaks TLS to it";
                self.object_tls(stream, &side, &target, "agent-tls-not-allowed", why)
                    .await;
            }
            AgentTls::Refuse => {
                let why =
                    "agentTls is refuse for this destination; set intercept, originate or opaque";
                self.object_tls(stream, &side, &target, "agent-tls-refused", why)
                    .await;
            }
        }
    }

    async fn intercept(
        self: Arc<Self>,
        stream: Rewound,
        name: String,
        side: AgentSide,
        live: &Live,
        target: &str,
    ) {
        let Some(ca) = &self.ca else {
            let why = "outbound.intercept is not configured, and this destination needs it";
            return self
                .object_tls(stream, &side, target, "no-interception", why)
                .await;
        };
        let leaf = ca.leaf_for(&name, self.clock.unix_seconds());
        let config = match leaf.and_then(svid_tls::intercept_server_config) {
            Ok(config) => config,
            Err(reason) => {
                // A name added after the pod's CA was made is outside its constraints.
                let why = reason.to_string();
                return self
                    .object_tls(stream, &side, target, "name-not-interceptable", &why)
                    .await;
            }
        };
        let accepted = tokio::time::timeout(
            live.settings.header_timeout,
            TlsAcceptor::from(config).accept(stream),
        )
        .await;
        match accepted {
            Ok(Ok(stream)) => {
                let side = AgentSide {
                    server_name: Some(name),
                    ..side
                };
                self.serve_http(stream, side, live).await;
            }
            Ok(Err(reason)) => {
                self.gate
                    .refuse_connection(target, "interception-failed", &reason.to_string())
                    .await;
            }
            Err(_) => {
                self.gate
                    .refuse_connection(target, "interception-failed", "the handshake took too long")
                    .await;
            }
        }
    }

    async fn pass_opaque(
        &self,
        stream: Rewound,
        name: &str,
        side: &AgentSide,
        live: &Live,
        target: &str,
    ) {
        let mut sight = Sight::of(destination_of(target));
        let decided = self.gate.decide_opaque(&live.catalog, name, side.port);
        let decided = decided.await;
        match &decided {
            Ok((granted, _)) => sight.named(granted.intent()),
            Err(denied) => sight.denied(denied),
        }
        self.seen.note(sight, self.gate.now());
        let (granted, upstream_port) = match decided {
            Ok(decided) => decided,
            Err(denied) => return self.denied_tls(stream, side, target, denied).await,
        };
        let upstream = match self.upstreams.connect_tcp(name, upstream_port).await {
            Ok(upstream) => upstream,
            Err(error) => {
                let denied = granted
                    .give_up("target-unreachable", &error.to_string(), 502)
                    .await;
                return self.alert(stream, target, &denied.code).await;
            }
        };
        let tunnel = match granted.open_tunnel().await {
            Ok(tunnel) => tunnel,
            Err(denied) => return self.alert(stream, target, &denied.code).await,
        };
        self.pass(stream, upstream, tunnel, target).await;
    }

    async fn pass(&self, stream: Rewound, upstream: TcpStream, tunnel: Tunnel, target: &str) {
        let ended = tokio::select! {
            passed = opaque::pass(stream, upstream) => passed.map(|passed| {
                tracing::debug!(target, ?passed, "opaque connection ended");
            }),
            () = self.stop.cancelled() => Err(std::io::ErrorKind::ConnectionAborted.into()),
        };
        tunnel.closed(ended);
    }

    /// Denies a TLS connection for what it is.
    async fn object_tls(
        &self,
        stream: Rewound,
        side: &AgentSide,
        target: &str,
        code: &str,
        why: &str,
    ) {
        let denied = self.objected(side, target, code, why).await;
        self.denied_tls(stream, side, target, denied).await;
    }

    /// Denies a connection that is neither TLS nor HTTP.
    async fn object_to(&self, stream: Rewound, side: &AgentSide, code: &str, why: &str) {
        let target = format!("tcp://{}", side.to);
        let mut denied = self.objected(side, &target, code, why).await;
        if let Some(released) = denied.observed.take() {
            self.pass_on(stream, side.to, None, released, &target).await;
        }
    }

    async fn objected(&self, side: &AgentSide, target: &str, code: &str, why: &str) -> Denied {
        if side.to_itself {
            return self.gate.refuse(target, code, why, 403).await;
        }
        let withhold = Stamping::Withhold;
        let denied = self.gate.object(target, withhold, code, why, 403).await;
        let mut sight = Sight::of(destination_of(target));
        sight.denied(&denied);
        self.seen.note(sight, self.gate.now());
        denied
    }

    /// Ends a denied TLS connection, or passes it on unread where denials are only observed.
    async fn denied_tls(
        &self,
        stream: Rewound,
        side: &AgentSide,
        target: &str,
        mut denied: Denied,
    ) {
        match denied.observed.take() {
            Some(released) => {
                let host = destination_of(target)
                    .rsplit_once(':')
                    .map(|(host, _)| host)
                    .filter(|host| !host.is_empty());
                self.pass_on(stream, side.to, host, released, target).await;
            }
            None => self.alert(stream, target, &denied.code).await,
        }
    }

    /// Passes a denied connection on to where the agent dialled, since denials are only observed.
    async fn pass_on(
        &self,
        stream: Rewound,
        to: SocketAddr,
        host: Option<&str>,
        released: Released,
        target: &str,
    ) {
        let address = to.ip().to_string();
        let dialled = self.upstreams.connect_tcp(&address, to.port());
        // The agent's own client would have tried every address of the name.
        let connected = match (dialled.await, host) {
            (Err(_), Some(host)) => self.upstreams.connect_tcp(host, to.port()).await,
            (connected, _) => connected,
        };
        match connected {
            Ok(upstream) => {
                self.pass(stream, upstream, Tunnel::of(released), target)
                    .await;
            }
            Err(error) => {
                let sent = Sent::failed(OutcomeResult::NotSent, &error.to_string());
                released.close(sent, None);
            }
        }
    }

    /// Ends a TLS handshake with an alert, which real clients show as an error of their own.
    async fn alert(&self, stream: Rewound, target: &str, code: &str) {
        tracing::info!(target, code, "TLS connection refused");
        let handshake = TlsAcceptor::from(Arc::clone(&self.refusing)).accept(stream);
        let _ = tokio::time::timeout(Duration::from_secs(2), handshake).await;
    }

    pub(super) async fn serve_http<S>(self: Arc<Self>, stream: S, side: AgentSide, live: &Live)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let mut builder = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new());
        builder
            .http1()
            .timer(TokioTimer::new())
            .header_read_timeout(live.settings.header_timeout)
            .max_buf_size(64 << 10)
            .http2()
            .timer(TokioTimer::new())
            .max_header_list_size(64 << 10)
            .max_concurrent_streams(128)
            .keep_alive_interval(Duration::from_secs(30));
        let target = format!(
            "{}://{}:{}",
            if side.server_name.is_some() {
                "https"
            } else {
                "tcp"
            },
            side.server_name.as_deref().unwrap_or_default(),
            side.port
        );
        let this = Arc::clone(&self);
        let service = service_fn(move |request| {
            let this = Arc::clone(&this);
            let side = side.clone();
            async move { Ok::<_, std::convert::Infallible>(this.answer(request, &side).await) }
        });
        let connection = builder.serve_connection(TokioIo::new(stream), service);
        tokio::pin!(connection);
        let ended = tokio::select! {
            ended = connection.as_mut() => ended,
            () = self.stop.cancelled() => {
                connection.as_mut().graceful_shutdown();
                connection.await
            }
        };
        if let Err(error) = ended {
            let malformed = error
                .downcast_ref::<hyper::Error>()
                .is_some_and(|error| error.is_parse() || error.is_parse_too_large());
            if malformed {
                self.gate
                    .refuse_connection(&target, "malformed-http", &error.to_string())
                    .await;
            }
        }
    }
}

/// `host:port` of `tls://host:port` or `tcp://host:port`.
fn destination_of(target: &str) -> &str {
    target
        .split_once("://")
        .map_or(target, |(_, destination)| destination)
}
