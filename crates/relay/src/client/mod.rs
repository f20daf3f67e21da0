//! A sidecar's side of a relay: follows its heads, checks who vouches for them, keeps what came with them, and takes
//! revocation notices.

mod cache;
mod session;

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use alloy_primitives::{Address, B256, Bytes, U256};
use arc_swap::ArcSwapOption;
use backon::{BackoffBuilder, ExponentialBuilder};
use futures::FutureExt;
use futures::future::BoxFuture;
use tokio::sync::{mpsc, watch};
use tokio::task::AbortHandle;
use tonic::transport::Channel;
use writ_chain::{AccountClaims, Clock, EndpointError, EndpointErrorKind as Kind, Relay};
use writ_identity::SvidSource;
use writ_policy::{ProvedHeader, StateKey};
use writ_proto::relay::v1;
use writ_proto::relay::v1::state_service_client::StateServiceClient;

use crate::limits::{KEPT, REQUEST};
use crate::{Certificates, Holds, RelayError, SeenAction, Witnesses, wire};
use cache::{Cache, Wants, wants};

/// Shortest and longest wait before a new connection.
const RECONNECT: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(10));
/// Acknowledgements waiting to be sent.
const ACKNOWLEDGEMENTS: usize = 256;

/// Where a relay is, and what it is believed on.
#[derive(Debug)]
pub struct ClientSettings {
    /// EIP-155 chain id.
    pub chain_id: u64,
    /// `host:port`.
    pub address: String,
    /// The relay's SPIFFE ID.
    pub spiffe_id: String,
    /// Who must vouch for a head.
    pub witnesses: Witnesses,
    /// How long a head counts after it was vouched for. Two polls or so: later the endpoints are read.
    pub grace: Duration,
    /// Where notices go.
    pub holds: Arc<Holds>,
}

/// What a sidecar does about a notice, as told to the relay.
pub use v1::Enforcement;

/// A connection to a relay, kept up in the background. Dropping it ends that.
#[derive(Debug)]
pub struct RelayClient {
    inner: Arc<Inner>,
    task: AbortHandle,
}

/// What came to pass so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ClientMetrics {
    /// Whether a stream is open.
    pub connected: bool,
    /// Streams opened.
    pub sessions: u64,
    /// Heads taken.
    pub heads: u64,
    /// Heads and confirmations that too few witnesses vouch for.
    pub unwitnessed: u64,
    /// Notices taken.
    pub notices: u64,
}

#[derive(Debug, Default)]
struct Counters {
    sessions: AtomicU64,
    heads: AtomicU64,
    unwitnessed: AtomicU64,
    notices: AtomicU64,
}

/// A head, and when it was last vouched for, in monotonic time.
#[derive(Debug)]
struct Vouched {
    header: ProvedHeader,
    at: Duration,
}

struct Inner {
    settings: ClientSettings,
    source: Arc<dyn SvidSource>,
    clock: Arc<dyn Clock>,
    head: Mutex<Option<Vouched>>,
    certificates: Mutex<Certificates>,
    cache: Mutex<Cache>,
    changes: watch::Sender<u64>,
    wants: watch::Sender<Arc<Wants>>,
    channel: ArcSwapOption<StateServiceClient<Channel>>,
    acknowledge: mpsc::Sender<v1::Acknowledgement>,
    counters: Counters,
}

impl std::fmt::Debug for Inner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Inner")
            .field("settings", &self.settings)
            .finish_non_exhaustive()
    }
}

impl RelayClient {
    /// Starts to connect. It waits for nothing.
    pub fn start(
        settings: ClientSettings,
        source: Arc<dyn SvidSource>,
        clock: Arc<dyn Clock>,
    ) -> Arc<Self> {
        let (acknowledge, acknowledgements) = mpsc::channel(ACKNOWLEDGEMENTS);
        let inner = Arc::new(Inner {
            settings,
            source,
            clock,
            head: Mutex::default(),
            certificates: Mutex::default(),
            cache: Mutex::default(),
            changes: watch::Sender::new(0),
            wants: watch::Sender::default(),
            channel: ArcSwapOption::empty(),
            acknowledge,
            counters: Counters::default(),
        });
        let task = tokio::spawn(run(Arc::clone(&inner), acknowledgements)).abort_handle();
        Arc::new(Self { inner, task })
    }

    /// Tells the relay what is done about a notice. Dropped while there is no connection: the relay sends the notice
    /// again with the next.
    pub fn acknowledge(&self, notice_id: &str, enforcement: Enforcement) {
        self.inner.acknowledge(notice_id, enforcement);
    }

    /// Reports what the agent did, at most [`MAX_SEEN`](crate::limits::MAX_SEEN) kinds of actions. Once it is answered it
    /// is kept; else report the same again later.
    ///
    /// # Errors
    /// There is no connection, or the relay cannot keep it now.
    pub async fn report(&self, actions: &[SeenAction]) -> Result<(), EndpointError> {
        let mut client = self.inner.client()?;
        let call = client.report_actions(crate::seen::write(actions));
        answered_within(KEPT, call).await.map(drop)
    }

    /// What came to pass so far.
    pub fn metrics(&self) -> ClientMetrics {
        let counters = &self.inner.counters;
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        ClientMetrics {
            connected: self.inner.channel.load().is_some(),
            sessions: read(&counters.sessions),
            heads: read(&counters.heads),
            unwitnessed: read(&counters.unwitnessed),
            notices: read(&counters.notices),
        }
    }
}

impl Drop for RelayClient {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Connects again and again, at random times within bounds that grow, so that a relay which comes back is not met by
/// everybody at once.
async fn run(inner: Arc<Inner>, mut acknowledgements: mpsc::Receiver<v1::Acknowledgement>) {
    let (shortest, longest) = RECONNECT;
    let delays = ExponentialBuilder::new()
        .with_min_delay(shortest)
        .with_max_delay(longest)
        .with_jitter()
        .without_max_times();
    let mut backoff = delays.build();
    loop {
        let heads = inner.counters.heads.load(Ordering::Relaxed);
        let ended = session::session(&inner, &mut acknowledgements).await;
        inner.channel.store(None);
        lock(&inner.cache).clear();
        let error = match ended {
            Ok(never) => match never {},
            Err(error) => error,
        };
        tracing::warn!(%error, relay = inner.settings.address, "no relay; trying again");
        if inner.counters.heads.load(Ordering::Relaxed) != heads {
            backoff = delays.build();
        }
        tokio::time::sleep(backoff.next().unwrap_or(longest)).await;
    }
}

impl Inner {
    fn acknowledge(&self, notice_id: &str, enforcement: Enforcement) {
        let notice_id = notice_id.to_owned();
        let said = v1::Acknowledgement {
            notice_id,
            enforcement: enforcement.into(),
        };
        // Full or closed: the relay sends its notices again with the next connection.
        let _ = self.acknowledge.try_send(said);
    }

    fn client(&self) -> Result<StateServiceClient<Channel>, EndpointError> {
        let client = self.channel.load_full();
        client
            .map(|client| StateServiceClient::clone(&client))
            .ok_or_else(|| EndpointError::new(Kind::Connect, "no connection to the relay"))
    }

    async fn read_account(
        &self,
        block: B256,
        address: Address,
        slots: &[U256],
    ) -> Result<AccountClaims, EndpointError> {
        let request = v1::ReadAccountRequest {
            chain_id: self.settings.chain_id,
            block_hash: wire::from_hash(&block),
            address: bytes::Bytes::copy_from_slice(address.as_slice()),
            slots: slots.iter().map(wire::from_number).collect(),
        };
        let mut client = self.client()?;
        let state = answered(client.read_account(request)).await?.state;
        let malformed = |e: RelayError| EndpointError::new(Kind::Malformed, e.to_string());
        let accounts = wire::accounts(&state.unwrap_or_default()).map_err(malformed)?;
        match <[_; 1]>::try_from(accounts) {
            Ok([(served, claims)]) if served == address => Ok(claims),
            _ => Err(EndpointError::new(
                Kind::Lied,
                "another account than asked for",
            )),
        }
    }

    async fn read_code(
        &self,
        block: B256,
        address: Address,
        code_hash: B256,
    ) -> Result<Bytes, EndpointError> {
        let request = v1::ReadCodeRequest {
            chain_id: self.settings.chain_id,
            block_hash: wire::from_hash(&block),
            address: bytes::Bytes::copy_from_slice(address.as_slice()),
            code_hash: wire::from_hash(&code_hash),
        };
        let mut client = self.client()?;
        Ok(answered(client.read_code(request)).await?.code.into())
    }
}

/// An answer in time.
async fn answered<T>(
    call: impl Future<Output = Result<tonic::Response<T>, tonic::Status>>,
) -> Result<T, EndpointError> {
    answered_within(REQUEST, call).await
}

async fn answered_within<T>(
    within: Duration,
    call: impl Future<Output = Result<tonic::Response<T>, tonic::Status>>,
) -> Result<T, EndpointError> {
    match tokio::time::timeout(within, call).await {
        Ok(Ok(response)) => Ok(response.into_inner()),
        Ok(Err(status)) => {
            let kind = match status.code() {
                tonic::Code::NotFound => Kind::NotFound,
                tonic::Code::OutOfRange => Kind::TooLarge,
                tonic::Code::ResourceExhausted => Kind::Throttled,
                tonic::Code::DeadlineExceeded => Kind::Timeout,
                _ => Kind::Rpc,
            };
            Err(EndpointError::new(kind, crate::excerpt(status.message())))
        }
        Err(_) => Err(EndpointError::new(Kind::Timeout, "the relay is silent")),
    }
}

impl Relay for RelayClient {
    fn label(&self) -> &str {
        &self.inner.settings.address
    }

    fn head(&self) -> Option<ProvedHeader> {
        let head = lock(&self.inner.head);
        let head = head.as_ref()?;
        let since = self.inner.clock.monotonic().saturating_sub(head.at);
        (since <= self.inner.settings.grace).then(|| head.header.clone())
    }

    fn changes(&self) -> watch::Receiver<u64> {
        self.inner.changes.subscribe()
    }

    fn want(&self, keys: &BTreeSet<StateKey>) {
        let wanted = wants(keys);
        self.inner.wants.send_if_modified(|before| {
            let changed = **before != wanted;
            if changed {
                *before = Arc::new(wanted);
            }
            changed
        });
    }

    fn account<'a>(
        &'a self,
        header: &'a ProvedHeader,
        address: Address,
        slots: &'a [U256],
    ) -> BoxFuture<'a, Result<AccountClaims, EndpointError>> {
        let found = lock(&self.inner.cache).find(header.hash, address, slots);
        match found {
            Some(claims) => futures::future::ready(Ok(claims)).boxed(),
            None => self.inner.read_account(header.hash, address, slots).boxed(),
        }
    }

    fn code<'a>(
        &'a self,
        header: &'a ProvedHeader,
        address: Address,
        code_hash: B256,
    ) -> BoxFuture<'a, Result<Bytes, EndpointError>> {
        self.inner
            .read_code(header.hash, address, code_hash)
            .boxed()
    }
}

/// A poisoned lock guards plain data that is valid after every statement.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
