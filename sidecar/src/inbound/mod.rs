//! What arrives at the pod: mutual TLS, the policy enforcement point, then the application.

mod app;
mod recorder;
mod spoken;
mod state;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use rustls::ServerConfig;
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tower::{Layer, ServiceExt};
use tracing::Instrument;
use writ_canonical::Scheme;
use writ_identity::{SvidSource, tls as svid_tls};
use writ_pep::{Connection, Peer, PepLayer};

use crate::gate::Gate;
use crate::hello::{Rewound, Start, read_start};
use crate::listen::Captured;
use crate::metrics::Metrics;
use crate::outbound::opaque;
use crate::scrapes::{Outcome, Scrapes};
use crate::traces::Trace;

pub use app::App;
pub use recorder::{GateRecorder, Receipts};
pub use spoken::Spoken;
pub use state::ProvedCallers;

/// How long a caller may say nothing before it is taken for one that waits for the application.
const SILENCE: Duration = Duration::from_millis(300);

/// How long a caller may take for its TLS handshake, and for a request's head.
const HANDSHAKE: Duration = Duration::from_secs(10);

/// One port of the application, with the PEP in front of it.
pub struct Port {
    /// The PEP and what it is made of.
    pub layer: PepLayer,
    /// The application behind it.
    pub app: App,
}

/// The inbound half of the sidecar.
pub struct Inbound {
    /// By the port that callers dial.
    pub ports: Arc<ArcSwap<HashMap<u16, Arc<Port>>>>,
    /// TLS settings that take the SVIDs of admitted callers, or any of a trusted domain where none is
    /// named; whom one may act as is the PEP's part.
    pub tls: ArcSwap<ServerConfig>,
    /// Follows our own SVID.
    pub identity: Arc<dyn SvidSource>,
    /// Counts what is refused before anybody is known.
    pub gate: Arc<Gate>,
    /// What a scraper may ask without being known.
    pub scrapes: Scrapes,
    /// Counts what it asked.
    pub metrics: Arc<Metrics>,
    /// Ends connections when draining.
    pub stop: CancellationToken,
}

impl Inbound {
    /// Handles one captured connection to its end.
    pub async fn handle(self: Arc<Self>, captured: Captured) {
        let from = captured.from;
        match self
            .scrapes
            .takes(&captured.stream, captured.to.port())
            .await
        {
            Some(false) => {}
            Some(true) => return self.scraped(captured).await,
            None => return,
        }
        let Some(port) = self.ports.load().get(&captured.to.port()).cloned() else {
            tracing::info!(from = %captured.from, port = captured.to.port(), "port is not served");
            self.gate.count_refused("port-not-served");
            // Not the address that was dialled: a neighbour may put any there, and we go anywhere.
            if self.gate.observing()
                && let Ok(own) = captured.stream.local_addr()
            {
                let app = SocketAddr::new(own.ip(), captured.to.port());
                self.pass(Rewound::unread(captured.stream), app).await;
            }
            return;
        };
        let stream = if self.gate.observing() {
            match self.observed(captured, &port).await {
                Some(stream) => stream,
                None => return,
            }
        } else {
            Rewound::unread(captured.stream)
        };
        let accept = TlsAcceptor::from(self.tls.load_full()).accept(stream);
        let stream = match tokio::time::timeout(HANDSHAKE, accept).await {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => {
                tracing::info!(%from, %error, "caller has no accepted identity");
                return self.gate.count_refused("no-mutual-tls");
            }
            Err(_) => return self.gate.count_refused("handshake-timeout"),
        };
        let tls = stream.get_ref().1;
        let (Ok(peer), Ok(channel_binding)) =
            (svid_tls::peer_svid(tls), svid_tls::channel_binding(tls))
        else {
            return self.gate.count_refused("no-mutual-tls");
        };
        let connection = Connection {
            scheme: Scheme::Https,
            peer: Some(Peer {
                spiffe_id: peer.svid.spiffe_id.clone(),
                chain: peer.chain,
            }),
            channel_binding: Some(channel_binding),
        };
        self.serve(stream, &port, connection).await;
    }

    /// Answers one request for declared metrics.
    async fn scraped(&self, captured: Captured) {
        let port = captured.to.port();
        let app = self.ports.load().get(&port).map(|port| port.app.address());
        let tell = |outcome| match outcome {
            Outcome::Asked => self.metrics.scrapes.inc(),
            Outcome::Refused(code) => self.gate.count_refused(code),
        };
        self.scrapes.serve(captured.stream, port, app, tell).await;
    }

    /// Where refusals are only observed: serves a caller without TLS, and passes what is not even
    /// HTTP. What starts TLS is given back.
    async fn observed(&self, captured: Captured, port: &Port) -> Option<Rewound> {
        match read_start(captured.stream, SILENCE).await {
            Ok((Start::Tls(_), stream)) => Some(stream),
            Ok((Start::Clear, stream)) if stream.may_be_http() => {
                let nobody = Connection {
                    scheme: Scheme::Http,
                    peer: None,
                    channel_binding: None,
                };
                self.serve(stream, port, nobody).await;
                None
            }
            Ok((Start::Clear | Start::Late, stream)) => {
                self.gate.count_refused("no-mutual-tls");
                self.pass(stream, port.app.address()).await;
                None
            }
            Err(_) => None,
        }
    }

    /// Passes a connection on unread.
    async fn pass(&self, stream: Rewound, to: SocketAddr) {
        let connecting = TcpStream::connect(to);
        let Ok(Ok(app)) = tokio::time::timeout(HANDSHAKE, connecting).await else {
            return;
        };
        tokio::select! {
            ended = opaque::pass(stream, app) => {
                tracing::debug!(%to, ?ended, "connection passed on unread");
            }
            () = self.stop.cancelled() => {}
        }
    }

    async fn serve<S>(&self, stream: S, port: &Port, known: Connection)
    where
        S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
    {
        let service = port.layer.layer(port.app.clone());
        let service = service_fn(move |mut request: http::Request<hyper::body::Incoming>| {
            request.extensions_mut().insert(known.clone());
            let trace = Trace::arrival(request.headers());
            let span = trace.span().clone();
            request.extensions_mut().insert(trace);
            service.clone().oneshot(request).instrument(span)
        });
        let mut builder = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new());
        builder
            .http1()
            .timer(TokioTimer::new())
            .header_read_timeout(HANDSHAKE)
            .max_buf_size(64 << 10)
            .http2()
            .timer(TokioTimer::new())
            .max_header_list_size(64 << 10)
            .max_concurrent_streams(256)
            .keep_alive_interval(Duration::from_secs(30));
        let connection = builder.serve_connection(TokioIo::new(stream), service);
        tokio::pin!(connection);
        let mut rotated = self.identity.watch();
        rotated.mark_unchanged();
        // With a new SVID callers are asked to connect anew, so that receipts are signed with the
        // key that the connection showed.
        let ended = tokio::select! {
            ended = connection.as_mut() => ended,
            _ = rotated.changed() => {
                connection.as_mut().graceful_shutdown();
                connection.await
            }
            () = self.stop.cancelled() => {
                connection.as_mut().graceful_shutdown();
                connection.await
            }
        };
        if let Err(error) = ended {
            tracing::debug!(%error, "connection from caller ended");
        }
    }
}
