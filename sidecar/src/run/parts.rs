//! The parts of a running sidecar, each made from its section of the configuration.

mod make;

use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use arc_swap::ArcSwap;
use tokio_util::sync::CancellationToken;
use writ_chain::clock::{Clock, SystemClock};
use writ_chain::{Age, StateFeed};
use writ_identity::{SvidSource, WorkloadApiSource};
use writ_ledger::Log;

use super::RunError;
use super::reload::{self, Files};
use crate::admin::{self, Status};
use crate::config::{Config, Mode};
use crate::dns::Resolver;
use crate::gate::Gate;
use crate::inbound::{Inbound, Port};
use crate::metrics::Metrics;
use crate::outbound::Outbound;
use crate::parents::OpenRequests;
use crate::probes::Probes;
use crate::relay::{Relays, Reported};
use crate::scrapes::Scrapes;
use crate::seen::Due;

const STARTING: u8 = 0;
const READY: u8 = 1;
const DRAINING: u8 = 2;

/// After this long without proved state the log says so.
const LONG: std::time::Duration = std::time::Duration::from_secs(10);

/// A running sidecar.
pub(super) struct Parts {
    pub(super) metrics: Arc<Metrics>,
    pub(super) gate: Arc<Gate>,
    pub(super) outbound: Arc<Outbound>,
    pub(super) inbound: Arc<Inbound>,
    pub(super) resolver: Arc<Resolver>,
    pub(super) log: Log,
    identity: Arc<WorkloadApiSource>,
    feed: Arc<StateFeed>,
    relays: Relays,
    clock: Arc<dyn Clock>,
    pep: make::PepParts,
    phase: AtomicU8,
}

impl Parts {
    /// Starts every part, in the order in which one needs the other.
    pub(super) async fn start(
        config: &Config,
        files: &Files,
        scrapes: Scrapes,
        stop: CancellationToken,
    ) -> Result<Self, RunError> {
        let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
        let metrics = Arc::new(Metrics::new()?);
        make::private_directory(&config.record.directory)?;
        let identity = Arc::new(make::identity(config).await?);
        tracing::info!(agent = identity.svid().spiffe_id(), "identity issued");
        let source: Arc<dyn SvidSource> = Arc::clone(&identity) as Arc<dyn SvidSource>;
        let log = make::log(config, &source, &clock)?;
        let relays = Relays::new(config, Arc::clone(&source), Arc::clone(&clock));
        let client = relays.first(config).await?;
        let relay = client
            .clone()
            .map(|client| client as Arc<dyn writ_chain::Relay>);
        let feed = make::feed(config, files, &source, &clock, relay).await?;
        if let Some(client) = client {
            relays.follow(config, client, &feed);
        }
        let open = OpenRequests::default();
        let gate = Arc::new(make::gate(
            config,
            &source,
            &log,
            &feed,
            &clock,
            &metrics,
            &open,
            &relays.holds,
        )?);
        gate.observe(config.mode == Mode::Observe);
        let resolver = Arc::new(make::resolver(config)?);
        let live = Arc::new(ArcSwap::from_pointee(reload::live(config, files)?));
        let outbound = Arc::new(Outbound {
            live,
            gate: Arc::clone(&gate),
            upstreams: Arc::new(make::upstreams(config, &resolver, &source)?),
            metrics: Arc::clone(&metrics),
            ca: make::pod_ca(config, files, &clock)?,
            refusing: make::refusing_tls()?,
            own_ports: config.listen.ports(),
            seen: Arc::default(),
            clock: Arc::clone(&clock),
            stop: stop.clone(),
        });
        let pep = make::PepParts::new(config, &source, &log, &feed, &gate, &metrics, &clock, open)?;
        let ports: HashMap<u16, Arc<Port>> = pep.ports(config, files)?;
        let inbound = Arc::new(Inbound {
            ports: Arc::new(ArcSwap::from_pointee(ports)),
            tls: ArcSwap::new(make::inbound_tls(config, &source)?),
            identity: source,
            gate: Arc::clone(&gate),
            scrapes,
            metrics: Arc::clone(&metrics),
            stop,
        });
        Ok(Self {
            metrics,
            gate,
            outbound,
            inbound,
            resolver,
            log,
            identity,
            feed,
            relays,
            clock,
            pep,
            phase: AtomicU8::new(STARTING),
        })
    }

    /// Waits until everything that the catalog can lead to is proved.
    pub(super) async fn warm(&self) {
        if tokio::time::timeout(LONG, self.feed.ready()).await.is_err() {
            tracing::warn!("no proved chain state yet; check chain.endpoints and chain.quorum");
            self.feed.ready().await;
        }
    }

    /// Puts what a reload may change in force.
    ///
    /// # Errors
    /// Nothing is taken; the text says why.
    pub(super) fn swap(&self, config: &Config, files: Files) -> Result<(), String> {
        let live = reload::live(config, &files).map_err(|error| error.to_string())?;
        let ports = self
            .pep
            .ports(config, &files)
            .map_err(|error| error.to_string())?;
        let source: Arc<dyn SvidSource> = Arc::clone(&self.identity) as Arc<dyn SvidSource>;
        let tls = make::inbound_tls(config, &source).map_err(|error| error.to_string())?;
        self.relays
            .reload(config, &self.feed)
            .map_err(|error| error.to_string())?;
        self.outbound.live.store(Arc::new(live));
        self.inbound.ports.store(Arc::new(ports));
        self.inbound.tls.store(tls);
        let observing = config.mode == Mode::Observe;
        if observing != self.gate.observing() {
            self.gate.observe(observing);
        }
        Ok(())
    }

    /// Tells the relay what the agent did.
    pub(super) async fn report(&self, due: Due) -> Reported {
        self.relays.report(&self.outbound.seen, due).await
    }

    pub(super) fn spiffe_id(&self) -> String {
        self.identity.svid().spiffe_id().to_owned()
    }

    pub(super) fn set_ready(&self) {
        self.phase.store(READY, Ordering::Release);
    }

    pub(super) fn set_draining(&self) {
        self.phase.store(DRAINING, Ordering::Release);
    }

    pub(super) fn read_gauges(&self) {
        let now = self.clock.unix_seconds();
        let expiry = self.identity.svid().not_after().saturating_sub(now);
        self.metrics
            .svid_expiry
            .set(expiry.try_into().unwrap_or(i64::MAX));
        let connected = self.relays.connected() == Some(true);
        self.metrics.relay_connected.set(connected.into());
        if let Some(head) = self.feed.current() {
            let number = head.snapshot.header().number;
            self.metrics.head.set(number.try_into().unwrap_or(i64::MAX));
            let (Age::Fresh(age) | Age::Cached(age) | Age::TooOld(age)) =
                self.feed.state_age(&head);
            self.metrics
                .state_age
                .set(age.try_into().unwrap_or(i64::MAX));
        }
    }

    /// Closes the record.
    pub(super) async fn close(&self) {
        let log = self.log.clone();
        // Closing waits for the disk.
        if tokio::task::spawn_blocking(move || log.close())
            .await
            .is_err()
        {
            tracing::error!("the record did not close cleanly");
        }
    }
}

impl Status for Parts {
    fn ready(&self) -> Result<(), Vec<String>> {
        let mut missing = Vec::new();
        match self.phase.load(Ordering::Acquire) {
            READY => {}
            DRAINING => missing.push("draining".to_owned()),
            _ => missing.push("starting".to_owned()),
        }
        if !self.identity.svid().is_valid_at(self.clock.unix_seconds()) {
            missing.push("the SVID has expired; check the Workload API".to_owned());
        }
        match self.feed.current() {
            None => missing.push("no proved chain state yet; check chain.endpoints".to_owned()),
            Some(head) if !head.warm => {
                missing.push("the catalog's chain state is not proved yet".to_owned());
            }
            Some(head) => {
                if let Age::TooOld(age) = self.feed.state_age(&head) {
                    missing.push(format!("chain state is {age} s old; check chain.endpoints"));
                }
            }
        }
        if let Some(error) = &*self.log.health().borrow() {
            missing.push(format!("the record cannot be written: {error}"));
        }
        if missing.is_empty() {
            Ok(())
        } else {
            Err(missing)
        }
    }

    fn metrics(&self) -> Vec<u8> {
        self.read_gauges();
        self.metrics.text()
    }
}

/// The admin port's thread, which ends with the process.
pub(super) struct AdminThread(
    #[allow(dead_code, reason = "held, not read")] std::thread::JoinHandle<()>,
);

/// Serves the admin port on a runtime of its own.
pub(super) fn serve_admin(
    config: &Config,
    status: Arc<Parts>,
    probes: Probes,
) -> Result<AdminThread, RunError> {
    let port = config.listen.admin;
    let failed = move |source| RunError::listen("admin", port, source);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(failed)?;
    let address = SocketAddr::from((Ipv4Addr::UNSPECIFIED, port));
    // Bound here, so that a port in use is an error at start.
    let listener = std::net::TcpListener::bind(address).map_err(failed)?;
    listener.set_nonblocking(true).map_err(failed)?;
    let thread = std::thread::Builder::new()
        .name("writ-admin".to_owned())
        .spawn(move || {
            runtime.block_on(async move {
                if let Err(error) = admin::serve(listener, status, Arc::new(probes)).await {
                    tracing::error!(%error, "admin port ended");
                }
            });
        })
        .map_err(failed)?;
    Ok(AdminThread(thread))
}
