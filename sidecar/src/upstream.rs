//! Connections to targets, each known by whom it reaches.
//!
//! A pool is keyed by authority, identity and TLS mode (design, section 3), so a connection that
//! was authenticated for one target never carries a request for another. An envelope is bound to
//! one connection, so the caller takes the connection first, signs, and then sends on it; nothing
//! here retries.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use http::{Request, Response};
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use writ_identity::tls as svid_tls;
use writ_sae::VerifyKey;

use crate::body::Body;

/// An idle HTTP/1.1 connection older than this is closed rather than used. Less than servers keep theirs (5 s is what
/// common ones have, a PEP of ours twice that): a request sent as the target closes its connection may or may not
/// have been acted on, and is refused with `target-broke`.
const IDLE_LIFETIME: Duration = Duration::from_secs(4);

/// Most distinct targets with pooled connections.
const MAX_TARGETS: usize = 256;

/// Whom a connection must reach, and how that is proved.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Security {
    /// Mutual TLS by SVID with exactly this SPIFFE ID.
    Mtls {
        /// The peer's SPIFFE ID.
        peer: String,
    },
    /// Server TLS, verified for the host's name against a named authority, or the public ones.
    Tls {
        /// Name of a configured authority; `None` for the public roots.
        authority: Option<String>,
    },
    /// No TLS.
    Plain,
}

/// The HTTP version to speak.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Version {
    /// HTTP/1.1.
    Http1,
    /// HTTP/2, by ALPN or prior knowledge.
    Http2,
    /// Whichever of the two the server takes, by ALPN.
    Negotiated,
}

/// One target of connections: the pool's key.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Target {
    /// Host as the catalog and the certificate name it.
    pub host: String,
    /// Port that is dialled.
    pub port: u16,
    /// Whom it must reach.
    pub security: Security,
    /// What is spoken.
    pub version: Version,
    /// Generation of our own SVID, so that a rotated identity opens a new connection.
    pub generation: u64,
}

/// Why a target could not be reached.
#[derive(Debug, thiserror::Error)]
pub enum UpstreamError {
    /// No address for the name.
    #[error("{host} has no address; check the name in the catalog and the cluster's DNS")]
    NoAddress {
        /// The name.
        host: String,
    },
    /// Nothing answered in time.
    #[error("{host}:{port} did not accept a connection within {within:?}")]
    ConnectTimeout {
        /// The name.
        host: String,
        /// The port.
        port: u16,
        /// The limit.
        within: Duration,
    },
    /// The connection was refused or broke.
    #[error("{host}:{port} cannot be reached: {source}")]
    Connect {
        /// The name.
        host: String,
        /// The port.
        port: u16,
        /// What the system said.
        source: std::io::Error,
    },
    /// The peer is not whom the catalog names.
    #[error("{host}:{port} is not who the catalog says it is: {reason}")]
    Identity {
        /// The name.
        host: String,
        /// The port.
        port: u16,
        /// What TLS said.
        reason: String,
    },
    /// The TLS settings for this target cannot be made.
    #[error("TLS to {host} cannot be set up: {reason}")]
    Setup {
        /// The name.
        host: String,
        /// What is wrong.
        reason: String,
    },
    /// HTTP could not be started on the connection.
    #[error("{host} does not speak the HTTP version asked for: {source}")]
    Handshake {
        /// The name.
        host: String,
        /// What hyper said.
        source: hyper::Error,
    },
}

/// What mutual TLS proved of a connection.
#[derive(Debug)]
pub struct Proved {
    /// RFC 9266 exporter, which ties an envelope to this connection.
    pub channel_binding: [u8; 32],
    /// Key of the peer's SVID, which its receipts are signed with.
    pub peer: VerifyKey,
}

/// A connection taken for one request.
pub struct Lease {
    sender: Sender,
    /// What mutual TLS proved of the connection.
    pub proved: Option<Arc<Proved>>,
    target: Target,
    pool: Arc<Pool>,
}

enum Sender {
    Http1(http1::SendRequest<Body>),
    Http2(http2::SendRequest<Body>),
}

/// What became of a request that was handed to a connection.
pub enum Sent {
    /// The target answered.
    Answered(Response<Incoming>),
    /// The connection had closed; not a byte of the request left, and here it is again.
    NotSent(Request<Body>),
    /// The target says that it did nothing with the request; its body may have left.
    Unprocessed,
    /// The request may have reached the target.
    Broken(hyper::Error),
}

impl Lease {
    /// The HTTP version of the connection.
    pub const fn version(&self) -> http::Version {
        match self.sender {
            Sender::Http1(_) => http::Version::HTTP_11,
            Sender::Http2(_) => http::Version::HTTP_2,
        }
    }

    /// Sends one request and waits for the response's head.
    pub async fn send(self, request: Request<Body>) -> Sent {
        let Self {
            sender,
            proved,
            target,
            pool,
        } = self;
        match sender {
            Sender::Http1(mut sender) => {
                let answer = sender.try_send_request(request).await;
                match answer {
                    Ok(response) => {
                        tokio::spawn(async move {
                            // Ready again only once this response has been read to its end.
                            if sender.ready().await.is_ok() {
                                pool.park(target, sender, proved);
                            }
                        });
                        Sent::Answered(response)
                    }
                    Err(mut error) => match error.take_message() {
                        Some(request) => Sent::NotSent(request),
                        None => Sent::Broken(error.into_error()),
                    },
                }
            }
            Sender::Http2(mut sender) => match sender.try_send_request(request).await {
                Ok(response) => Sent::Answered(response),
                Err(mut error) => {
                    pool.forget(&target);
                    match error.take_message() {
                        Some(request) => Sent::NotSent(request),
                        None => match error.into_error() {
                            error if unprocessed(&error) => Sent::Unprocessed,
                            error => Sent::Broken(error),
                        },
                    }
                }
            },
        }
    }
}

/// Whether the peer promised that it did nothing with a request: it refused the stream, or was
/// closing the connection in good order before it saw it (RFC 9113, sections 6.8 and 8.7).
fn unprocessed(error: &hyper::Error) -> bool {
    let cause =
        std::error::Error::source(error).and_then(|cause| cause.downcast_ref::<h2::Error>());
    cause.is_some_and(|cause| {
        let refused = cause.reason() == Some(h2::Reason::REFUSED_STREAM);
        let closing = cause.is_go_away() && cause.reason() == Some(h2::Reason::NO_ERROR);
        cause.is_remote() && (refused || closing)
    })
}

struct Idle {
    sender: http1::SendRequest<Body>,
    proved: Option<Arc<Proved>>,
    since: Instant,
}

#[derive(Clone)]
struct Shared {
    sender: http2::SendRequest<Body>,
    proved: Option<Arc<Proved>>,
}

type Connected = (Sender, Option<Arc<Proved>>);

#[derive(Default)]
struct Slots {
    idle: HashMap<Target, Vec<Idle>>,
    shared: HashMap<Target, Shared>,
    connecting: HashMap<Target, Arc<tokio::sync::Mutex<()>>>,
}

/// The parked connections. Its lock is held for map operations only, never across a wait.
struct Pool {
    slots: Mutex<Slots>,
    max_idle: usize,
}

impl Pool {
    fn slots(&self) -> std::sync::MutexGuard<'_, Slots> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn park(&self, target: Target, sender: http1::SendRequest<Body>, proved: Option<Arc<Proved>>) {
        let mut slots = self.slots();
        if slots.idle.len() >= MAX_TARGETS && !slots.idle.contains_key(&target) {
            slots.idle.clear();
        }
        let idle = slots.idle.entry(target).or_default();
        if idle.len() < self.max_idle {
            idle.push(Idle {
                sender,
                proved,
                since: Instant::now(),
            });
        }
    }

    fn take(&self, target: &Target) -> Option<Connected> {
        let mut slots = self.slots();
        if let Some(shared) = slots.shared.get(target) {
            if !shared.sender.is_closed() {
                return Some((Sender::Http2(shared.sender.clone()), shared.proved.clone()));
            }
            slots.shared.remove(target);
        }
        let idle = slots.idle.get_mut(target)?;
        while let Some(candidate) = idle.pop() {
            let usable = !candidate.sender.is_closed()
                && candidate.sender.is_ready()
                && candidate.since.elapsed() < IDLE_LIFETIME;
            if usable {
                return Some((Sender::Http1(candidate.sender), candidate.proved));
            }
        }
        None
    }

    fn forget(&self, target: &Target) {
        self.slots().shared.remove(target);
    }

    fn gate(&self, target: &Target) -> Arc<tokio::sync::Mutex<()>> {
        let mut slots = self.slots();
        if slots.connecting.len() >= MAX_TARGETS {
            slots
                .connecting
                .retain(|_, gate| Arc::strong_count(gate) > 1);
        }
        Arc::clone(slots.connecting.entry(target.clone()).or_default())
    }
}

/// What makes TLS settings and addresses for a target.
pub trait Dialer: Send + Sync + 'static {
    /// Addresses of a host, resolved by the sidecar itself.
    fn resolve(
        &self,
        host: &str,
    ) -> impl Future<Output = Result<Vec<IpAddr>, UpstreamError>> + Send;

    /// TLS settings that accept only the target's identity; `None` for plain.
    ///
    /// # Errors
    /// [`UpstreamError::Setup`] when they cannot be made.
    fn tls(&self, target: &Target) -> Result<Option<Arc<rustls::ClientConfig>>, UpstreamError>;
}

/// Connections to all targets of one sidecar.
pub struct Upstreams<D> {
    pool: Arc<Pool>,
    dialer: D,
    connect_timeout: Duration,
}

impl<D: Dialer> Upstreams<D> {
    /// An empty pool that keeps at most `max_idle` idle connections a target.
    pub fn new(dialer: D, max_idle: usize, connect_timeout: Duration) -> Self {
        Self {
            pool: Arc::new(Pool {
                slots: Mutex::default(),
                max_idle,
            }),
            dialer,
            connect_timeout,
        }
    }

    /// Takes a connection to `target`: a parked one, or a new one.
    ///
    /// # Errors
    /// [`UpstreamError`] when the target cannot be reached, or is not who it should be.
    pub async fn connect(&self, target: &Target) -> Result<Lease, UpstreamError> {
        let lease = |(sender, proved): Connected| Lease {
            sender,
            proved,
            target: target.clone(),
            pool: Arc::clone(&self.pool),
        };
        if let Some(taken) = self.pool.take(target) {
            return Ok(lease(taken));
        }
        // Many requests share one HTTP/2 connection: the first opens it, the others wait for it.
        let gate = self.pool.gate(target);
        let _opening = match target.version {
            Version::Http2 => Some(gate.lock().await),
            Version::Http1 | Version::Negotiated => None,
        };
        if let Some(taken) = self.pool.take(target) {
            return Ok(lease(taken));
        }
        let (sender, proved) = self.dial(target).await?;
        if let Sender::Http2(sender) = &sender {
            let mut slots = self.pool.slots();
            if slots.shared.len() >= MAX_TARGETS {
                slots.shared.retain(|_, shared| !shared.sender.is_closed());
            }
            if slots.shared.len() < MAX_TARGETS {
                let shared = Shared {
                    sender: sender.clone(),
                    proved: proved.clone(),
                };
                slots.shared.insert(target.clone(), shared);
            }
        }
        Ok(lease((sender, proved)))
    }

    /// A raw TCP connection to a target, for connections that pass opaque.
    ///
    /// # Errors
    /// [`UpstreamError`] when it cannot be reached.
    pub async fn connect_tcp(&self, host: &str, port: u16) -> Result<TcpStream, UpstreamError> {
        let addresses = self.dialer.resolve(host).await?;
        let attempt = async {
            let mut last = None;
            for address in addresses {
                match TcpStream::connect((address, port)).await {
                    Ok(stream) => return Ok(stream),
                    Err(error) => last = Some(error),
                }
            }
            Err(last.map_or_else(
                || UpstreamError::NoAddress {
                    host: host.to_owned(),
                },
                |source| UpstreamError::Connect {
                    host: host.to_owned(),
                    port,
                    source,
                },
            ))
        };
        let stream = tokio::time::timeout(self.connect_timeout, attempt)
            .await
            .map_err(|_| UpstreamError::ConnectTimeout {
                host: host.to_owned(),
                port,
                within: self.connect_timeout,
            })??;
        // A small request must not wait for a full segment.
        let _ = stream.set_nodelay(true);
        Ok(stream)
    }

    async fn dial(&self, target: &Target) -> Result<Connected, UpstreamError> {
        let stream = self.connect_tcp(&target.host, target.port).await?;
        let Some(config) = self.dialer.tls(target)? else {
            let version = match target.version {
                Version::Http2 => Version::Http2,
                Version::Http1 | Version::Negotiated => Version::Http1,
            };
            return Ok((start_http(stream, target, version).await?, None));
        };
        let name = ServerName::try_from(target.host.clone()).map_err(|_| UpstreamError::Setup {
            host: target.host.clone(),
            reason: "the host is not a name that a certificate can carry".into(),
        })?;
        let stream = tokio::time::timeout(
            self.connect_timeout,
            TlsConnector::from(config).connect(name, stream),
        )
        .await
        .map_err(|_| UpstreamError::ConnectTimeout {
            host: target.host.clone(),
            port: target.port,
            within: self.connect_timeout,
        })?
        .map_err(|error| UpstreamError::Identity {
            host: target.host.clone(),
            port: target.port,
            reason: error.to_string(),
        })?;
        let proved = match target.security {
            Security::Mtls { .. } => Some(Arc::new(prove(target, stream.get_ref().1)?)),
            Security::Tls { .. } | Security::Plain => None,
        };
        let version = match (target.version, stream.get_ref().1.alpn_protocol()) {
            (Version::Negotiated, Some(b"h2")) => Version::Http2,
            (Version::Negotiated, _) => Version::Http1,
            (asked, _) => asked,
        };
        Ok((start_http(stream, target, version).await?, proved))
    }
}

fn prove(target: &Target, tls: &rustls::ClientConnection) -> Result<Proved, UpstreamError> {
    let unproved = |reason: String| UpstreamError::Identity {
        host: target.host.clone(),
        port: target.port,
        reason,
    };
    let channel_binding =
        svid_tls::channel_binding(tls).map_err(|error| unproved(error.to_string()))?;
    let peer = svid_tls::peer_svid(tls).map_err(|error| unproved(error.to_string()))?;
    let peer = VerifyKey::from_svid(&peer.svid).map_err(|refusal| unproved(refusal.to_string()))?;
    Ok(Proved {
        channel_binding,
        peer,
    })
}

async fn start_http<S>(
    stream: S,
    target: &Target,
    version: Version,
) -> Result<Sender, UpstreamError>
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
{
    let failed = |source| UpstreamError::Handshake {
        host: target.host.clone(),
        source,
    };
    match version {
        Version::Http1 | Version::Negotiated => {
            let (sender, connection) = http1::Builder::new()
                .max_buf_size(64 << 10)
                .handshake(TokioIo::new(stream))
                .await
                .map_err(failed)?;
            tokio::spawn(async move {
                if let Err(error) = connection.await {
                    tracing::debug!(%error, "connection to target ended");
                }
            });
            Ok(Sender::Http1(sender))
        }
        Version::Http2 => {
            let (sender, connection) = http2::Builder::new(TokioExecutor::new())
                .timer(TokioTimer::new())
                .keep_alive_interval(Duration::from_secs(20))
                .keep_alive_timeout(Duration::from_secs(10))
                .max_header_list_size(64 << 10)
                .handshake(TokioIo::new(stream))
                .await
                .map_err(failed)?;
            tokio::spawn(async move {
                if let Err(error) = connection.await {
                    tracing::debug!(%error, "connection to target ended");
                }
            });
            Ok(Sender::Http2(sender))
        }
    }
}

#[cfg(test)]
mod tests;
