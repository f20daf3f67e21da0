//! Listens for the pod's DNS, over UDP and TCP.

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures::{SinkExt, StreamExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};
use tokio_util::codec::{Framed, LengthDelimitedCodec};

use super::message::{Answer, MAX_QUERY, Outcome, Question, Refused, Transport, decide};
use super::refusals::Reports;
use super::{DnsError, Families, Limits, RefusalSink, Resolver, TokenBucket};

/// Pause after a failed accept or receive, so that a lasting error does not spin.
const AFTER_ERROR: Duration = Duration::from_millis(20);

/// How many ports the system may choose before one must be free for both UDP and TCP.
const CHOICES: u32 = 64;

/// The names that the catalog can lead to. A reload swaps what stands behind it.
pub trait NameSet: Send + Sync {
    /// Whether `name` (lower case, ASCII form, no final dot) may be resolved.
    fn leads_to(&self, name: &str) -> bool;
}

impl<F: Fn(&str) -> bool + Send + Sync> NameSet for F {
    fn leads_to(&self, name: &str) -> bool {
        self(name)
    }
}

/// Binds UDP and TCP on the same port, also when the system chooses it: a port that is free for UDP
/// may be taken for TCP, and then another is asked for.
async fn bind_both(address: SocketAddr) -> std::io::Result<(UdpSocket, TcpListener)> {
    let mut tries = if address.port() == 0 { CHOICES } else { 1 };
    loop {
        let socket = UdpSocket::bind(address).await?;
        match TcpListener::bind(socket.local_addr()?).await {
            Ok(listener) => return Ok((socket, listener)),
            Err(error) if error.kind() == ErrorKind::AddrInUse && tries > 1 => tries -= 1,
            Err(error) => return Err(error),
        }
    }
}

/// What the server has counted since it started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Messages received.
    pub received: u64,
    /// Queries refused by policy.
    pub refused: u64,
    /// Queries refused because of a limit.
    pub limited: u64,
    /// Queries that no name server answered.
    pub failed: u64,
}

#[derive(Default)]
struct Counters {
    received: AtomicU64,
    refused: AtomicU64,
    limited: AtomicU64,
    failed: AtomicU64,
}

/// The bound listeners. Nothing is answered before [`Server::run`].
pub struct Server {
    udp: Vec<Arc<UdpSocket>>,
    tcp: Vec<TcpListener>,
    shared: Arc<Shared>,
}

struct Shared {
    names: Arc<dyn NameSet>,
    resolver: Arc<Resolver>,
    families: Families,
    sink: Arc<dyn RefusalSink>,
    limits: Limits,
    started: Instant,
    queries: Mutex<TokenBucket>,
    reports: Mutex<Reports>,
    in_flight: Arc<Semaphore>,
    connections: Arc<Semaphore>,
    counters: Counters,
}

impl Server {
    /// Binds UDP and TCP on each address: in a pod `127.0.0.1:15853` and `[::1]:15853`. A wildcard
    /// would answer redirected datagrams from the wrong address.
    ///
    /// # Errors
    /// When an address cannot be bound.
    pub async fn bind(
        addresses: &[SocketAddr],
        names: Arc<dyn NameSet>,
        resolver: Arc<Resolver>,
        sink: Arc<dyn RefusalSink>,
        limits: Limits,
    ) -> Result<Self, DnsError> {
        let mut udp = Vec::new();
        let mut tcp = Vec::new();
        for &address in addresses {
            let (socket, listener) = bind_both(address)
                .await
                .map_err(|source| DnsError::Listen { address, source })?;
            tcp.push(listener);
            udp.push(Arc::new(socket));
        }
        let families = resolver.families();
        let shared = Arc::new(Shared {
            names,
            resolver,
            families,
            sink,
            limits,
            started: Instant::now(),
            queries: Mutex::new(TokenBucket::new(
                limits.queries_per_second,
                limits.query_burst,
                Duration::ZERO,
            )),
            reports: Mutex::new(Reports::new(&limits, Duration::ZERO)),
            in_flight: Arc::new(Semaphore::new(limits.in_flight)),
            connections: Arc::new(Semaphore::new(limits.tcp_connections)),
            counters: Counters::default(),
        });
        Ok(Self { udp, tcp, shared })
    }

    /// The addresses that were bound, the same for UDP and TCP.
    #[must_use]
    pub fn local_addrs(&self) -> Vec<SocketAddr> {
        self.udp
            .iter()
            .filter_map(|socket| socket.local_addr().ok())
            .collect()
    }

    /// A view of the counters that outlives the call to [`Server::run`].
    pub fn stats(&self) -> impl Fn() -> Stats + Send + Sync + 'static {
        let shared = Arc::clone(&self.shared);
        move || {
            let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
            let counters = &shared.counters;
            Stats {
                received: read(&counters.received),
                refused: read(&counters.refused),
                limited: read(&counters.limited),
                failed: read(&counters.failed),
            }
        }
    }

    /// Answers until dropped. Dropping the future ends every connection.
    pub async fn run(self) {
        let mut listeners = JoinSet::new();
        for socket in self.udp {
            listeners.spawn(serve_udp(socket, Arc::clone(&self.shared)));
        }
        for listener in self.tcp {
            listeners.spawn(serve_tcp(listener, Arc::clone(&self.shared)));
        }
        while listeners.join_next().await.is_some() {}
    }
}

async fn serve_udp(socket: Arc<UdpSocket>, shared: Arc<Shared>) {
    let mut pending = JoinSet::new();
    // One octet more than allowed shows that a query is too long.
    let mut buffer = [0; MAX_QUERY + 1];
    loop {
        let Ok((length, client)) = socket.recv_from(&mut buffer).await else {
            tokio::time::sleep(AFTER_ERROR).await;
            continue;
        };
        while pending.try_join_next().is_some() {}
        let message = buffer.get(..length).unwrap_or_default();
        match shared.receive(message) {
            Step::Done(None) => {}
            // A full send buffer loses a datagram, as UDP may.
            Step::Done(Some(bytes)) => drop(socket.try_send_to(&bytes, client)),
            Step::Resolve(question) => {
                let Ok(permit) = Arc::clone(&shared.in_flight).try_acquire_owned() else {
                    if let Some(bytes) = shared.busy(&question, Transport::Udp) {
                        drop(socket.try_send_to(&bytes, client));
                    }
                    continue;
                };
                let (socket, shared) = (Arc::clone(&socket), Arc::clone(&shared));
                pending.spawn(async move {
                    if let Some(bytes) = shared.resolve(&question, Transport::Udp).await {
                        drop(socket.send_to(&bytes, client).await);
                    }
                    drop(permit);
                });
            }
        }
    }
}

async fn serve_tcp(listener: TcpListener, shared: Arc<Shared>) {
    let mut connections = JoinSet::new();
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            tokio::time::sleep(AFTER_ERROR).await;
            continue;
        };
        while connections.try_join_next().is_some() {}
        // Beyond the limit the connection is closed at once.
        if let Ok(permit) = Arc::clone(&shared.connections).try_acquire_owned() {
            let shared = Arc::clone(&shared);
            connections.spawn(async move {
                converse(stream, &shared).await;
                drop(permit);
            });
        }
    }
}

/// Queries and answers in turn (RFC 7766), until the client is silent or breaks the framing.
async fn converse(stream: TcpStream, shared: &Shared) {
    let codec = LengthDelimitedCodec::builder()
        .length_field_length(2)
        .max_frame_length(usize::from(u16::MAX))
        .new_codec();
    let mut framed = Framed::new(stream, codec);
    while let Ok(Some(Ok(message))) = timeout(shared.limits.tcp_idle, framed.next()).await {
        let answer = match shared.receive(&message) {
            Step::Done(answer) => answer,
            Step::Resolve(question) => match Arc::clone(&shared.in_flight).try_acquire_owned() {
                Ok(_permit) => shared.resolve(&question, Transport::Tcp).await,
                Err(_) => shared.busy(&question, Transport::Tcp),
            },
        };
        let Some(bytes) = answer else { return };
        if !matches!(
            timeout(shared.limits.tcp_idle, framed.send(Bytes::from(bytes))).await,
            Ok(Ok(()))
        ) {
            return;
        }
    }
}

enum Step {
    Done(Option<Vec<u8>>),
    Resolve(Question),
}

impl Shared {
    /// All that needs no waiting.
    fn receive(&self, message: &[u8]) -> Step {
        count(&self.counters.received);
        let decision = decide(message, self.families, |name| self.names.leads_to(name));
        if let Some(refused) = decision.refused {
            count(&self.counters.refused);
            self.report(refused);
        }
        match decision.answer {
            Answer::Ignore => Step::Done(None),
            Answer::Respond(bytes) => Step::Done(Some(bytes)),
            Answer::Resolve(question) => Step::Resolve(question),
        }
    }

    fn report(&self, refused: Refused) {
        let now = self.started.elapsed();
        let admitted = self
            .reports
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .admit(refused, now);
        if let Some(report) = admitted {
            self.sink.refused(report);
        }
    }

    async fn resolve(&self, question: &Question, transport: Transport) -> Option<Vec<u8>> {
        let now = self.started.elapsed();
        if !self
            .queries
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take(now)
        {
            return self.busy(question, transport);
        }
        let outcome = self.resolver.lookup(question.name(), question.kind()).await;
        if matches!(outcome, Outcome::Failed) {
            count(&self.counters.failed);
        }
        question.answer(outcome, transport)
    }

    fn busy(&self, question: &Question, transport: Transport) -> Option<Vec<u8>> {
        count(&self.counters.limited);
        question.answer(Outcome::Busy, transport)
    }
}

fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

#[cfg(test)]
mod tests;
