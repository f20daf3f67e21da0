//! The relay: reads a chain once for a whole cluster, and passes on what witnesses sign and endpoints prove.

mod hub;
mod listen;
mod service;
mod subscriber;
mod votes;
mod wants;

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};

use tokio::sync::{Semaphore, mpsc, watch};
use tokio::task::JoinSet;
use tokio_util::sync::{CancellationToken, DropGuard};
use writ_chain::{ChainConfig, Clock, Reader};
use writ_identity::tls::Authorize;
use writ_identity::{CurrentBundles, SvidSource};
use writ_proto::relay::v1::state_service_server::StateServiceServer;

use crate::limits::{
    KEEP_ALIVE, KEEP_ALIVE_TIMEOUT, MAX_NOTICES, MAX_REPORTS, MAX_REQUEST_BYTES,
    MAX_RESPONSE_BYTES, READS_PER_CONNECTION,
};
use crate::{Notice, RelayError, Report, Witnesses, statement, tls};
use hub::{Hub, lock};
use service::{Places, Service};
use votes::Votes;

pub use hub::Enforced;

/// Where a witness is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WitnessAt {
    /// Its SPIFFE ID.
    pub spiffe_id: String,
    /// `host:port`.
    pub address: String,
}

/// One chain that is relayed.
#[derive(Debug, Clone)]
pub struct ChainSettings {
    /// The chain, and the endpoints that proofs are read from. What they say is checked.
    pub chain: ChainConfig,
    /// Who signs heads.
    pub witnesses: Vec<WitnessAt>,
    /// How many of them must agree.
    pub needed: usize,
    /// How old a signature may be, in seconds.
    pub skew: u64,
}

impl ChainSettings {
    /// Refuses witnesses that cannot decide together.
    ///
    /// # Errors
    /// [`RelayError::Settings`], [`RelayError::Identity`].
    pub fn check(&self) -> Result<(), RelayError> {
        statement::distinct(&self.ids(), self.needed)?;
        let addresses = self.witnesses.iter().map(|w| w.address.as_str());
        if addresses.collect::<BTreeSet<_>>().len() != self.witnesses.len() {
            return Err(RelayError::Settings(
                "two witnesses have one address".to_owned(),
            ));
        }
        Ok(())
    }

    fn ids(&self) -> Vec<String> {
        let id = |witness: &WitnessAt| witness.spiffe_id.clone();
        self.witnesses.iter().map(id).collect()
    }
}

/// What a relay serves, and to whom.
#[derive(Debug, Clone)]
pub struct ServerSettings {
    /// Where it listens.
    pub listen: SocketAddr,
    /// Each chain once.
    pub chains: Vec<ChainSettings>,
    /// Whose sidecars may follow.
    pub authorize: Authorize,
    /// Most connections at one time.
    pub max_connections: usize,
    /// Most streams, and most reports under way, of one SPIFFE ID.
    pub max_streams_per_id: usize,
    /// Where reports of what agents did go; `None`: they are not taken.
    pub reports: Option<mpsc::Sender<Report>>,
}

/// A running relay. Dropping it ends it, and every connection to it.
#[derive(Debug)]
pub struct RelayServer {
    address: SocketAddr,
    hubs: Arc<BTreeMap<u64, Arc<Hub>>>,
    tasks: JoinSet<()>,
    _closing: DropGuard,
}

impl std::fmt::Debug for Hub {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Hub")
            .field("chain_id", &self.chain_id)
            .finish_non_exhaustive()
    }
}

/// One chain at a relay, in numbers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RelayMetrics {
    /// Height of the newest head that the witnesses agree on.
    pub head: Option<u64>,
    /// When it was signed last, unix seconds.
    pub signed_at: Option<u64>,
    /// Sidecars connected.
    pub sidecars: usize,
    /// Accounts read at every head.
    pub accounts: usize,
    /// Slots kept for every head.
    pub slots: usize,
    /// Reads of state and code from endpoints.
    pub reads: u64,
    /// Sidecars dropped because they took nothing.
    pub slow: u64,
    /// Notices in force.
    pub notices: usize,
}

impl RelayServer {
    /// Starts to listen to witnesses and to serve.
    ///
    /// # Errors
    /// Settings that cannot work, or a port in use.
    pub async fn start(
        settings: ServerSettings,
        source: Arc<dyn SvidSource>,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, RelayError> {
        let mut tasks = JoinSet::new();
        let mut hubs = BTreeMap::new();
        for chain in &settings.chains {
            let id = chain.chain.chain_id;
            let hub = Arc::new(Hub::new(id, Reader::new(&chain.chain)?));
            if hubs.insert(id, Arc::clone(&hub)).is_some() {
                return Err(RelayError::Settings(format!("chain {id} is listed twice")));
            }
            follow(chain, &source, &clock, hub, &mut tasks)?;
        }
        let hubs = Arc::new(hubs);
        let closing = CancellationToken::new();
        let (address, incoming) = tls::listen(
            settings.listen,
            &source,
            settings.authorize,
            settings.max_connections,
            &closing,
        )
        .await?;
        let service = Service {
            hubs: Arc::clone(&hubs),
            places: Arc::new(Places::default()),
            reporting: Arc::new(Places::default()),
            waiting: Semaphore::new(MAX_REPORTS),
            reports: settings.reports,
            most_per_id: settings.max_streams_per_id,
        };
        let service = StateServiceServer::new(service)
            .max_decoding_message_size(MAX_REQUEST_BYTES)
            .max_encoding_message_size(MAX_RESPONSE_BYTES);
        tasks.spawn(async move {
            let served = tonic::transport::Server::builder()
                .http2_keepalive_interval(Some(KEEP_ALIVE))
                .http2_keepalive_timeout(Some(KEEP_ALIVE_TIMEOUT))
                .http2_max_header_list_size(16 << 10)
                .max_concurrent_streams(64)
                .concurrency_limit_per_connection(READS_PER_CONNECTION)
                .add_service(service)
                .serve_with_incoming(incoming)
                .await;
            if let Err(error) = served {
                tracing::error!(%error, "the relay's port ended");
            }
        });
        Ok(Self {
            address,
            hubs,
            tasks,
            _closing: closing.drop_guard(),
        })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Puts the notices of a chain in force in place of those before: sidecars get at once those that they have not got,
    /// and whoever connects later gets all of them. The oldest are left out where there are too many.
    pub fn set_notices(&self, chain_id: u64, mut notices: Vec<Notice>) {
        let Some(hub) = self.hubs.get(&chain_id) else {
            return;
        };
        notices.sort_by_key(|notice| std::cmp::Reverse(notice.issued_at));
        notices.truncate(MAX_NOTICES);
        let by_id = notices.into_iter().map(|n| (n.id.clone(), n)).collect();
        hub.set_notices(by_id);
    }

    /// How many sidecars of a chain enforce a notice.
    pub fn enforced(&self, chain_id: u64, notice: &str) -> Enforced {
        let hub = self.hubs.get(&chain_id);
        hub.map_or_else(Enforced::default, |hub| hub.enforced(notice))
    }

    /// Changes when [`RelayServer::enforced`] may answer something else.
    pub fn enforcement(&self, chain_id: u64) -> Option<watch::Receiver<u64>> {
        Some(self.hubs.get(&chain_id)?.enforcement.subscribe())
    }

    /// Each chain in numbers.
    pub fn metrics(&self) -> BTreeMap<u64, RelayMetrics> {
        let numbers = |(id, hub): (&u64, &Arc<Hub>)| {
            let head = hub.heads.borrow().clone();
            let (accounts, slots) = hub.wanted();
            let metrics = RelayMetrics {
                head: head.as_ref().map(|head| head.header.number),
                signed_at: head.as_ref().map(|head| head.signed_at),
                sidecars: hub.enforced("").connected,
                accounts,
                slots,
                reads: hub.reads.load(Ordering::Relaxed),
                slow: hub.slow.load(Ordering::Relaxed),
                notices: hub.notices.borrow().len(),
            };
            (*id, metrics)
        };
        self.hubs.iter().map(numbers).collect()
    }

    /// Waits until a part of it ends, which none should.
    pub async fn ended(&mut self) {
        let _ = self.tasks.join_next().await;
    }
}

/// Listens to a chain's witnesses, and takes the heads that they agree on.
fn follow(
    settings: &ChainSettings,
    source: &Arc<dyn SvidSource>,
    clock: &Arc<dyn Clock>,
    hub: Arc<Hub>,
    tasks: &mut JoinSet<()>,
) -> Result<(), RelayError> {
    settings.check()?;
    let bundles = Arc::new(CurrentBundles::new(Arc::clone(source)));
    let witnesses = Witnesses::new(&settings.ids(), settings.needed, settings.skew, bundles)?;
    let votes = Arc::new(Mutex::new(Votes::new(hub.chain_id, witnesses)));
    let voted = Arc::new(watch::Sender::new(0));
    for witness in &settings.witnesses {
        tasks.spawn(listen::listen(
            hub.chain_id,
            witness.clone(),
            Arc::clone(source),
            Arc::clone(clock),
            Arc::clone(&votes),
            Arc::clone(&voted),
        ));
    }
    let (clock, skew) = (Arc::clone(clock), settings.skew);
    let mut changed = voted.subscribe();
    tasks.spawn(async move {
        while changed.changed().await.is_ok() {
            let agreed = {
                let votes = lock(&votes);
                let agreed = votes.agreed(clock.unix_seconds(), skew);
                agreed.map(|agreed| (agreed, votes.chains().clone()))
            };
            if let Some((agreed, chains)) = agreed {
                hub.take(agreed, chains).await;
            }
        }
    });
    Ok(())
}
