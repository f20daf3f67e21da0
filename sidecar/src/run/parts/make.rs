//! How each part is made from the configuration.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::Ipv6Addr;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use ring::rand::{SecureRandom, SystemRandom};
use rustls::ServerConfig;
use writ_canonical::Limits;
use writ_catalog::AgentTls;
use writ_chain::clock::Clock;
use writ_chain::{ChainConfig, HeadTag, StateFeed};
use writ_identity::ca::{KeyStore, Permitted, PodCa};
use writ_identity::tls::{self as svid_tls, Authorize, UpstreamRoots, upstream_client_config};
use writ_identity::{CurrentBundles, EnvelopeKeys, KeyKind, SvidSource, WorkloadApiSource};
use writ_ledger::{CheckpointKey, Log, LogId, LogOptions, StartSignature};
use writ_pep::{
    Binding, CallerCatalog, CallerState, LayerConfig, Pep, PepConfig, PepLayer, ReceiptBook,
    RedbReplayStore, ReplayLimits,
};
use writ_policy::Registries;
use writ_relay::Holds;
use writ_sae::{Kind, ReplayStore};

use super::super::RunError;
use super::super::reload::Files;
use crate::config::{self, Config, InboundPort, InboundProtocol};
use crate::dialer::SidecarDialer;
use crate::dns::{self, Families, Resolver};
use crate::gate::{Gate, GateParts, Profile};
use crate::inbound::{App, GateRecorder, Port, ProvedCallers, Receipts};
use crate::metrics::Metrics;
use crate::parents::OpenRequests;
use crate::upstream::Upstreams;

/// Program and version, as the record names them.
const SOFTWARE: &str = concat!("writ-sidecar/", env!("CARGO_PKG_VERSION"));

/// Final receipts kept for senders that cannot read trailers.
const RECEIPTS: u64 = 1024;

/// How many blocks an envelope's block may be behind the PEP's head.
const MAX_BLOCK_LAG: u64 = 300;

/// How long to wait for a block that the sender has seen already.
const BLOCK_WAIT: Duration = Duration::from_millis(250);

/// Makes a folder that only this user can read, or checks that it is one.
pub(super) fn private_directory(path: &Path) -> Result<(), RunError> {
    let failed = |source| RunError::Directory {
        path: path.to_owned(),
        source,
    };
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .map_err(failed)?;
    let mut permissions = std::fs::metadata(path).map_err(failed)?.permissions();
    if permissions.mode() & 0o077 != 0 {
        permissions.set_mode(0o700);
        std::fs::set_permissions(path, permissions).map_err(failed)?;
    }
    Ok(())
}

pub(super) async fn identity(config: &Config) -> Result<WorkloadApiSource, RunError> {
    let endpoint = config.identity.workload_api.to_string_lossy();
    Ok(WorkloadApiSource::builder(&endpoint)
        .first_svid_within(config.identity.timeout)
        .connect()
        .await?)
}

pub(super) fn log(
    config: &Config,
    source: &Arc<dyn SvidSource>,
    clock: &Arc<dyn Clock>,
) -> Result<Log, RunError> {
    let random = SystemRandom::new();
    let mut id = [0; 10];
    random.fill(&mut id).map_err(|_| RunError::NoRandomness)?;
    let mut seed = zeroize::Zeroizing::new([0; 32]);
    random
        .fill(seed.as_mut_slice())
        .map_err(|_| RunError::NoRandomness)?;
    let key = CheckpointKey::from_seed(&seed);
    let mut options = LogOptions::new(LogId::from_random(id), key, SOFTWARE);
    options.max_bytes = config.record.max_bytes;
    options.max_witness_bytes = config.record.max_bytes / 2;
    let time = Arc::clone(clock);
    let millis = move || {
        let since = time.wall().duration_since(std::time::UNIX_EPOCH);
        since.map_or(0, |since| {
            u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
        })
    };
    let keys = EnvelopeKeys::new(Arc::clone(source), KeyKind::Svid);
    let now = clock.unix_seconds();
    let vouch = |statement: &[u8]| {
        let current = keys.current(now).ok()?;
        let value = current.signer.sign(statement).ok()?;
        Some(StartSignature {
            alg: "ES256".to_owned(),
            chain: current.signer.certificate_chain().to_vec(),
            value: value.to_vec(),
        })
    };
    let path = config.record.directory.join("log.redb");
    Ok(Log::open(&path, options, Arc::new(millis), vouch)?)
}

fn registries(config: &Config) -> Registries {
    Registries {
        chain_id: config.chain.chain_id,
        agents: config.chain.agent_registry,
        policies: config.chain.policy_registry,
    }
}

pub(super) async fn feed(
    config: &Config,
    files: &Files,
    source: &Arc<dyn SvidSource>,
    clock: &Arc<dyn Clock>,
    relay: Option<Arc<dyn writ_chain::Relay>>,
) -> Result<Arc<StateFeed>, RunError> {
    let mut chain = ChainConfig::new(config.chain.endpoints.clone(), registries(config));
    chain.quorum = config.chain.quorum;
    chain.head = match config.chain.head {
        config::HeadTag::Latest => HeadTag::Latest,
        config::HeadTag::Safe => HeadTag::Safe,
    };
    chain.poll = config.chain.poll;
    chain.fresh = config.chain.staleness.fresh;
    chain.max_stale = config.chain.staleness.max;
    let warm = crate::gate::warm::set(config, files.catalog.as_deref(), source.svid().spiffe_id());
    Ok(StateFeed::start_with(chain, Arc::clone(clock), warm, relay).await?)
}

#[allow(clippy::too_many_arguments, reason = "each is one shared part")]
pub(super) fn gate(
    config: &Config,
    source: &Arc<dyn SvidSource>,
    log: &Log,
    feed: &Arc<StateFeed>,
    clock: &Arc<dyn Clock>,
    metrics: &Arc<Metrics>,
    open: &OpenRequests,
    holds: &Arc<Holds>,
) -> Result<Gate, RunError> {
    let agent = config.agent.as_ref();
    let profile = Profile {
        salt: agent.map_or([0; 16], |agent| agent.salt.0),
        policy_salt: agent.map_or([0; 16], |agent| agent.policy_salt.0),
        model: agent.map_or([0; 32], |agent| agent.model.0),
        sbom: agent.and_then(|agent| agent.sbom).map(|sbom| sbom.0),
        envelope_seconds: config.outbound.envelope_seconds,
    };
    Gate::new(GateParts {
        profile,
        registries: registries(config),
        anchor: config.chain.anchor,
        feed: Arc::clone(feed),
        keys: EnvelopeKeys::new(Arc::clone(source), KeyKind::Svid),
        log: log.clone(),
        clock: Arc::clone(clock),
        random: Arc::new(SystemRandom::new()),
        metrics: Arc::clone(metrics),
        open: open.clone(),
        identity: Arc::clone(source),
        holds: Arc::clone(holds),
    })
    .map_err(|_| RunError::NoRandomness)
}

pub(super) fn resolver(config: &Config) -> Result<Resolver, RunError> {
    let nameservers = if config.dns.nameservers.is_empty() {
        let path = Path::new("/etc/resolv.conf");
        let text = config::read_bounded(path, 64 << 10)?;
        match dns::nameservers_from_resolv_conf(&text) {
            Ok(servers) => servers,
            // Names of the catalog may all stand in dns.hosts.
            Err(_) if !config.dns.hosts.is_empty() => Vec::new(),
            Err(error) => return Err(error.into()),
        }
    } else {
        config.dns.nameservers.clone()
    };
    let mut settings = dns::Settings::new(nameservers);
    settings.hosts = config.dns.hosts.clone();
    settings.families = families();
    Ok(Resolver::new(settings)?)
}

/// A pod without IPv6 has no `::1`, and an AAAA record leads it nowhere.
fn families() -> Families {
    match std::net::UdpSocket::bind((Ipv6Addr::LOCALHOST, 0)) {
        Ok(_) => Families::Both,
        Err(_) => Families::V4Only,
    }
}

pub(super) fn upstreams(
    config: &Config,
    resolver: &Arc<Resolver>,
    source: &Arc<dyn SvidSource>,
) -> Result<Upstreams<SidecarDialer>, RunError> {
    let mut authorities = HashMap::new();
    for (name, path) in &config.outbound.authorities {
        let pem = config::read_bounded(path, 1 << 20)?;
        let settings = upstream_client_config(&UpstreamRoots::Pem(pem.into_bytes()))?;
        authorities.insert(Some(name.clone()), settings);
    }
    // A pod without public roots still reaches targets with a CA of their own.
    match upstream_client_config(&UpstreamRoots::System) {
        Ok(settings) => {
            authorities.insert(None, settings);
        }
        Err(error) => tracing::warn!(%error, "no public certificate authorities"),
    }
    let dialer = SidecarDialer::new(Arc::clone(resolver), Arc::clone(source), authorities);
    let outbound = &config.outbound;
    Ok(Upstreams::new(
        dialer,
        outbound.max_idle,
        outbound.connect_timeout,
    ))
}

pub(super) fn pod_ca(
    config: &Config,
    files: &Files,
    clock: &Arc<dyn Clock>,
) -> Result<Option<Arc<PodCa>>, RunError> {
    let (Some(intercept), Some(catalog)) = (&config.outbound.intercept, &files.catalog) else {
        return Ok(None);
    };
    let mut permitted = Permitted::default();
    for destination in catalog.destinations() {
        if destination.agent_tls != AgentTls::Intercept {
            continue;
        }
        let host = destination.host.trim_start_matches("*.");
        match host.trim_start_matches('[').trim_end_matches(']').parse() {
            Ok(address) => drop(permitted.addresses.insert(address)),
            Err(_) => drop(permitted.names.insert(host.to_owned())),
        }
    }
    if permitted == Permitted::default() {
        return Ok(None);
    }
    private_directory(&intercept.key_directory)?;
    let store = KeyStore::MemoryBacked(intercept.key_directory.clone());
    let ca = PodCa::load_or_create(&store, permitted, clock.unix_seconds())?;
    let roots = UpstreamRoots::System.certificates().unwrap_or_default();
    ca.write_trust_bundle(&intercept.bundle, &roots)?;
    Ok(Some(Arc::new(ca)))
}

/// Settings under which every handshake ends in an alert: no certificate is ever found.
pub(super) fn refusing_tls() -> Result<Arc<ServerConfig>, RunError> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| RunError::Tls(error.to_string()))?
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(NoCertificate));
    Ok(Arc::new(config))
}

#[derive(Debug)]
struct NoCertificate;

impl rustls::server::ResolvesServerCert for NoCertificate {
    fn resolve(
        &self,
        _: rustls::server::ClientHello<'_>,
    ) -> Option<Arc<rustls::sign::CertifiedKey>> {
        None
    }
}

pub(super) fn inbound_tls(
    config: &Config,
    source: &Arc<dyn SvidSource>,
) -> Result<Arc<ServerConfig>, RunError> {
    let authorize = if config.callers.allow.is_empty() {
        Authorize::AnyInBundle
    } else {
        Authorize::Ids(
            config
                .callers
                .allow
                .iter()
                .cloned()
                .collect::<BTreeSet<_>>(),
        )
    };
    Ok(svid_tls::server_config(Arc::clone(source), authorize)?)
}

/// What every PEP of this pod shares.
pub(super) struct PepParts {
    source: Arc<dyn SvidSource>,
    callers: Arc<ProvedCallers>,
    replay: Arc<dyn ReplayStore>,
    recorder: Arc<GateRecorder>,
    receipts: Arc<Receipts>,
    book: ReceiptBook,
    clock: Arc<Millis>,
    open: OpenRequests,
    log: Log,
}

impl PepParts {
    #[allow(clippy::too_many_arguments, reason = "each is one shared part")]
    pub(super) fn new(
        config: &Config,
        source: &Arc<dyn SvidSource>,
        log: &Log,
        feed: &Arc<StateFeed>,
        gate: &Arc<Gate>,
        metrics: &Arc<Metrics>,
        clock: &Arc<dyn Clock>,
        open: OpenRequests,
    ) -> Result<Self, RunError> {
        let path = config.record.directory.join("replay.redb");
        let replay = RedbReplayStore::open(&path, ReplayLimits::default(), clock.unix_seconds())
            .map_err(|error| RunError::Replay(error.to_string()))?;
        let time = Arc::clone(clock);
        Ok(Self {
            source: Arc::clone(source),
            callers: Arc::new(ProvedCallers::new(
                Arc::clone(feed),
                registries(config),
                Arc::clone(&gate.holds),
            )),
            replay: Arc::new(replay),
            recorder: Arc::new(GateRecorder {
                log: log.clone(),
                gate: Arc::clone(gate),
                metrics: Arc::clone(metrics),
            }),
            receipts: Arc::new(Receipts::new(
                Arc::clone(source),
                Arc::new(move || time.unix_seconds()),
            )),
            book: ReceiptBook::new(RECEIPTS),
            clock: Arc::new(Millis(Arc::clone(clock))),
            open,
            log: log.clone(),
        })
    }

    /// The ports of the application, each with its PEP.
    pub(super) fn ports(
        &self,
        config: &Config,
        files: &Files,
    ) -> Result<HashMap<u16, Arc<Port>>, RunError> {
        let catalogs: Arc<dyn writ_pep::Catalogs> = Arc::new(
            files
                .callers
                .iter()
                .map(|catalog| {
                    (
                        catalog.hash(),
                        Arc::clone(catalog) as Arc<dyn CallerCatalog>,
                    )
                })
                .collect::<HashMap<[u8; 32], _>>(),
        );
        let make = |inbound: &InboundPort| {
            let port = self.port(inbound, config.callers.clock_skew, &catalogs)?;
            Ok((inbound.port, Arc::new(port)))
        };
        config.inbound.iter().map(make).collect()
    }

    fn port(
        &self,
        inbound: &InboundPort,
        skew: Duration,
        catalogs: &Arc<dyn writ_pep::Catalogs>,
    ) -> Result<Port, RunError> {
        let svid = self.source.svid();
        let callers = Arc::clone(&self.callers) as Arc<dyn CallerState>;
        let pep = Pep::new(PepConfig {
            audience: vec![svid.spiffe_id().to_owned()],
            kinds: vec![match inbound.protocol {
                InboundProtocol::Http => Kind::Http,
                InboundProtocol::Mcp => Kind::Mcp,
            }],
            skew,
            binding: Binding::Required,
            obligations: 0,
            block_wait: BLOCK_WAIT,
            max_block_lag: MAX_BLOCK_LAG,
            chains: Arc::new(CurrentBundles::new(Arc::clone(&self.source))),
            trust_domains: BTreeMap::from([(svid.trust_domain().to_owned(), callers)]),
            catalogs: Arc::clone(catalogs),
            replay: Arc::clone(&self.replay),
        })?;
        let log = self.log.id().to_string();
        let gate = Arc::clone(&self.recorder.gate);
        let layer = PepLayer::new(LayerConfig {
            pep: Arc::new(pep),
            receipts: Arc::clone(&self.receipts) as Arc<dyn writ_pep::ReceiptSource>,
            book: self.book.clone(),
            recorder: Arc::clone(&self.recorder) as Arc<dyn writ_pep::Recorder>,
            answer: Arc::new(crate::inbound::Spoken::new(inbound.protocol)),
            clock: Arc::clone(&self.clock) as Arc<dyn writ_pep::Clock>,
            decision_ids: Arc::new(move || verdict_id(&log)),
            limits: Limits::default(),
            mode: Arc::new(move || match gate.observing() {
                true => writ_pep::Mode::Observe,
                false => writ_pep::Mode::Enforce,
            }),
            max_body: inbound.body_limit,
            body_timeout: inbound.body_timeout,
        });
        Ok(Port {
            layer,
            app: App::new(
                inbound.app,
                inbound.authorities.clone(),
                self.open.clone(),
                64,
            ),
        })
    }
}

/// An id for a verdict before it has a place: the log and 64 random bits.
fn verdict_id(log: &str) -> String {
    let mut id = [0; 8];
    match SystemRandom::new().fill(&mut id) {
        Ok(()) => format!("{log}-v{}", hex::encode(id)),
        Err(_) => format!("{log}-v"),
    }
}

struct Millis(Arc<dyn Clock>);

impl writ_pep::Clock for Millis {
    fn unix_millis(&self) -> u64 {
        let since = self.0.wall().duration_since(std::time::UNIX_EPOCH);
        since.map_or(0, |since| {
            u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
        })
    }
}
