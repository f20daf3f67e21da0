//! The role `relay`: serves every Chain that names witnesses, and tells sidecars of AgentRevocations at once.

pub mod args;
pub mod core;
pub mod keep;
pub mod seen;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures::StreamExt;
use kube::api::{Patch, PatchParams};
use kube::runtime::reflector::{self, Store};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Client, Resource, ResourceExt};
use serde_json::json;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use writ_api::{AgentPolicy, AgentRevocation, Chain, Enforcement};
use writ_chain::{Clock, SystemClock};
use writ_identity::tls::Authorize;
use writ_identity::{SvidSource, WorkloadApiSource};
use writ_relay::{ChainSettings, Notice, RelayError, RelayServer, ServerSettings};
use writ_service::{Admin, listen, signalled};

use self::core::{COLLECT, ChainRead, enforcement, notice, served};
use self::keep::Keeper;
use crate::args::Args;
use crate::run::RunError;
use crate::{Metrics, OperatorError};

/// How long the first SVID is waited for.
const FIRST_SVID: Duration = Duration::from_secs(60);
/// How often metrics are read.
const EVERY: Duration = Duration::from_secs(5);
/// A relay without a head that was signed this many seconds ago is not ready.
const OLD: u64 = 30;
/// How long the port of the server before is waited for: it is free again a moment after that ended.
const PORT: Duration = Duration::from_secs(10);

/// Runs until SIGTERM or SIGINT.
///
/// # Errors
/// [`RunError`].
pub async fn run(args: &Args) -> Result<(), RunError> {
    let client = Client::try_default()
        .await
        .map_err(|e| RunError::Kubernetes(e.to_string()))?;
    let metrics = Arc::new(Metrics::new()?);
    let idle = Arc::new(AtomicBool::new(false));
    serve_admin(args, &metrics, Arc::clone(&idle)).await?;
    let source = svid(args).await?;
    tracing::info!(spiffe_id = source.svid().spiffe_id(), "relay started");
    let relay = Relay {
        client,
        source,
        clock: Arc::new(SystemClock::new()),
        settings: ServerSettings {
            listen: args.relaying.relay_listen,
            chains: Vec::new(),
            authorize: Authorize::TrustDomain(args.trust_domain.clone()),
            max_connections: args.relaying.max_sidecars,
            max_streams_per_id: args.relaying.max_sidecars_per_id,
            reports: None,
        },
        trust_domain: args.trust_domain.clone(),
        name: args
            .identity
            .clone()
            .unwrap_or_else(|| "writ-relay".to_owned()),
        metrics,
        idle,
    };
    tokio::select! {
        ended = relay.follow() => ended,
        ended = signalled() => ended.map_err(RunError::from),
    }
}

/// Health, readiness and metrics: ready while a head was signed a short while ago, or where there is none to sign.
pub(crate) async fn serve_admin(
    args: &Args,
    metrics: &Arc<Metrics>,
    idle: Arc<AtomicBool>,
) -> Result<(), RunError> {
    let listener = listen(args.admin_listen).await?;
    let signed_at = metrics.signed_at.clone();
    let ready = move || {
        let now = i64::try_from(SystemClock::new().unix_seconds()).unwrap_or(i64::MAX);
        let old = i64::try_from(OLD).unwrap_or(i64::MAX);
        if idle.load(Ordering::Relaxed) || now.saturating_sub(signed_at.get()) <= old {
            Ok(())
        } else {
            Err("no head was signed a short while ago; check witnesses and endpoints".to_owned())
        }
    };
    let metrics = Arc::clone(metrics);
    tokio::spawn(Admin::new(ready, move || metrics.text()).serve(listener));
    Ok(())
}

/// The SVID, kept fresh.
pub(crate) async fn svid(args: &Args) -> Result<Arc<dyn SvidSource>, RunError> {
    let endpoint = args.relaying.workload_api.to_string_lossy();
    let source = WorkloadApiSource::builder(&endpoint)
        .first_svid_within(FIRST_SVID)
        .connect()
        .await
        .map_err(|error| RunError::Identity(error.to_string()))?;
    Ok(Arc::new(source))
}

struct Relay {
    client: Client,
    trust_domain: String,
    source: Arc<dyn SvidSource>,
    clock: Arc<dyn Clock>,
    settings: ServerSettings,
    name: String,
    metrics: Arc<Metrics>,
    /// No Chain names witnesses.
    idle: Arc<AtomicBool>,
}

/// What is being served.
struct Serving {
    chains: BTreeMap<u64, ChainSettings>,
    problems: Vec<String>,
    /// None where no Chain names witnesses.
    server: Option<RelayServer>,
    /// Tell when sidecars acknowledge.
    _watching: JoinSet<()>,
}

impl Serving {
    /// Waits until a part of it ends, which none should.
    async fn ended(&mut self) {
        match &mut self.server {
            Some(server) => server.ended().await,
            None => std::future::pending().await,
        }
    }
}

impl Relay {
    /// Watches the cluster, and serves.
    async fn follow(mut self) -> Result<(), RunError> {
        let (wake, woken) = mpsc::channel(1);
        let (chains, watching_chains) = watch::<Chain>(&self.client, wake.clone(), |_| ());
        let (revocations, watching_revocations) =
            watch::<AgentRevocation>(&self.client, wake.clone(), |_| ());
        // What an AgentPolicy says wakes nobody: it is looked up when a report comes.
        let (quiet, _) = mpsc::channel(1);
        let (policies, watching_policies) = watch::<AgentPolicy>(&self.client, quiet, keep::strip);
        let (reports, reported) = mpsc::channel(keep::QUEUE);
        self.settings.reports = Some(reports);
        let keeper = Keeper::new(self.client.clone(), self.trust_domain.clone(), policies);
        tokio::select! {
            () = watching_chains => Err(RunError::Ended("watch of Chains")),
            () = watching_revocations => Err(RunError::Ended("watch of AgentRevocations")),
            () = watching_policies => Err(RunError::Ended("watch of AgentPolicies")),
            () = keeper.run(reported) => Err(RunError::Ended("keeper of reports")),
            failed = self.work(chains, revocations, wake, woken) => Err(failed),
        }
    }

    /// Serves what the Chains say, anew whenever that changes, and keeps the notices. Ends when it cannot.
    async fn work(
        &self,
        chains: Store<Chain>,
        revocations: Store<AgentRevocation>,
        wake: mpsc::Sender<()>,
        mut woken: mpsc::Receiver<()>,
    ) -> RunError {
        let listed = (
            chains.wait_until_ready().await,
            revocations.wait_until_ready().await,
        );
        if listed.0.is_err() || listed.1.is_err() {
            return RunError::Ended("watch of Chains and AgentRevocations");
        }
        let mut serving: Option<Serving> = None;
        let mut told: BTreeMap<String, Enforcement> = BTreeMap::new();
        loop {
            let reads: Vec<ChainRead> = chains.state().iter().map(|c| ChainRead::of(c)).collect();
            let mut now = match self.serve(serving, &reads, &wake).await {
                Ok(now) => now,
                Err(error) => return error,
            };
            if let Some(server) = &now.server {
                let revocations = revocations.state();
                push(server, &reads, &revocations);
                self.tell(server, &reads, &revocations, &mut told).await;
                self.measure(server);
            }
            tokio::select! {
                _ = woken.recv() => {}
                () = tokio::time::sleep(EVERY) => {}
                () = now.ended() => return RunError::Ended("relay's server"),
            }
            serving = Some(now);
        }
    }

    /// What the Chains say is served: what was before, or anew.
    async fn serve(
        &self,
        before: Option<Serving>,
        reads: &[ChainRead],
        wake: &mpsc::Sender<()>,
    ) -> Result<Serving, RunError> {
        let (chains, problems) = served(reads);
        // Settings print everything that they say.
        let print = |chains: &BTreeMap<u64, ChainSettings>| format!("{chains:?}");
        if let Some(mut serving) = before
            && print(&serving.chains) == print(&chains)
        {
            complain(&problems, &serving.problems);
            serving.problems = problems;
            return Ok(serving);
        }
        // What was before is dropped now: its port is taken anew.
        complain(&problems, &[]);
        self.metrics.relay.reset();
        self.metrics.signed_at.set(0);
        self.idle.store(chains.is_empty(), Ordering::Relaxed);
        let mut watching = JoinSet::new();
        let server = if chains.is_empty() {
            tracing::warn!("no Chain names witnesses (spec.witnesses): nothing to relay yet");
            None
        } else {
            tracing::info!(chains = ?chains.keys(), "relaying");
            Some(self.start(&chains).await?)
        };
        let ids = server.iter().flat_map(|server| {
            let of = |id: &u64| server.enforcement(*id);
            chains.keys().filter_map(of).collect::<Vec<_>>()
        });
        for mut changed in ids {
            let wake = wake.clone();
            watching.spawn(async move {
                while changed.changed().await.is_ok() {
                    tokio::time::sleep(COLLECT).await;
                    // Full: it wakes already.
                    let _ = wake.try_send(());
                }
            });
        }
        Ok(Serving {
            chains,
            problems,
            server,
            _watching: watching,
        })
    }

    async fn start(&self, chains: &BTreeMap<u64, ChainSettings>) -> Result<RelayServer, RunError> {
        let until = tokio::time::Instant::now() + PORT;
        loop {
            let settings = ServerSettings {
                chains: chains.values().cloned().collect(),
                ..self.settings.clone()
            };
            let (source, clock) = (Arc::clone(&self.source), Arc::clone(&self.clock));
            match RelayServer::start(settings, source, clock).await {
                Err(RelayError::Listen(_, error))
                    if error.kind() == std::io::ErrorKind::AddrInUse
                        && tokio::time::Instant::now() < until =>
                {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
                started => return started.map_err(|error| RunError::Relay(error.to_string())),
            }
        }
    }

    /// Writes how many sidecars enforce each revocation, where that changed.
    async fn tell(
        &self,
        server: &RelayServer,
        reads: &[ChainRead],
        revocations: &[Arc<AgentRevocation>],
        told: &mut BTreeMap<String, Enforcement>,
    ) {
        told.retain(|name, _| revocations.iter().any(|r| r.name_any() == *name));
        for revocation in revocations {
            let Some((id, notice)) = of(revocation, reads) else {
                continue;
            };
            let name = revocation.name_any();
            let now = enforcement(&self.name, server.enforced(id, &notice.id));
            if told.get(&name) == Some(&now) {
                continue;
            }
            match self.write(&name, &now).await {
                Ok(()) => drop(told.insert(name, now)),
                Err(error) => tracing::warn!(%error, name, "enforcement was not written"),
            }
        }
    }

    async fn write(&self, name: &str, enforcement: &Enforcement) -> Result<(), OperatorError> {
        let api: Api<AgentRevocation> = Api::all(self.client.clone());
        let body = json!({
            "apiVersion": AgentRevocation::api_version(&()),
            "kind": AgentRevocation::kind(&()),
            "metadata": {"name": name},
            "status": {"sidecars": [enforcement]},
        });
        let parameters = PatchParams::apply(&format!("writ-relay-{}", self.name)).force();
        match api
            .patch_status(name, &parameters, &Patch::Apply(&body))
            .await
        {
            Ok(_) => Ok(()),
            Err(kube::Error::Api(answer)) if answer.code == 404 => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    fn measure(&self, server: &RelayServer) {
        let number = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
        let count = |n: usize| i64::try_from(n).unwrap_or(i64::MAX);
        let mut newest = 0;
        for (id, numbers) in server.metrics() {
            let id = id.to_string();
            let set = |what: &str, value: i64| {
                self.metrics
                    .relay
                    .with_label_values(&[&id, what])
                    .set(value);
            };
            set("head", number(numbers.head.unwrap_or_default()));
            set("sidecars", count(numbers.sidecars));
            set("accounts", count(numbers.accounts));
            set("slots", count(numbers.slots));
            set("reads", number(numbers.reads));
            set("slow", number(numbers.slow));
            set("notices", count(numbers.notices));
            newest = newest.max(number(numbers.signed_at.unwrap_or_default()));
        }
        self.metrics.signed_at.set(newest);
    }
}

/// Says what cannot be relayed, once.
fn complain(problems: &[String], before: &[String]) {
    for problem in problems.iter().filter(|problem| !before.contains(problem)) {
        tracing::error!(problem, "a chain is not relayed");
    }
}

/// The chain and the notice of a revocation.
fn of(revocation: &AgentRevocation, reads: &[ChainRead]) -> Option<(u64, Notice)> {
    let chain = reads
        .iter()
        .find(|read| read.name == revocation.spec.chain)?;
    Some((chain.spec.chain_id, notice(revocation)?))
}

/// Puts the notices of all revocations in force.
fn push(server: &RelayServer, reads: &[ChainRead], revocations: &[Arc<AgentRevocation>]) {
    let mut by_chain: BTreeMap<u64, Vec<Notice>> = BTreeMap::new();
    for read in reads {
        by_chain.entry(read.spec.chain_id).or_default();
    }
    for (id, notice) in revocations.iter().filter_map(|r| of(r, reads)) {
        by_chain.entry(id).or_default().push(notice);
    }
    for (id, notices) in by_chain {
        server.set_notices(id, notices);
    }
}

/// Every object of a kind, less what `strip` takes away, and the task that keeps them and wakes at every change.
fn watch<K>(
    client: &Client,
    wake: mpsc::Sender<()>,
    strip: fn(&mut K),
) -> (Store<K>, impl Future<Output = ()> + Send + 'static)
where
    K: Resource<DynamicType = ()>
        + Clone
        + std::fmt::Debug
        + serde::de::DeserializeOwned
        + Send
        + Sync
        + 'static,
{
    let (store, writer) = reflector::store();
    let watching = watcher(Api::<K>::all(client.clone()), watcher::Config::default())
        .default_backoff()
        .modify(strip)
        .reflect(writer)
        .for_each(move |event| {
            match event {
                // Full: it wakes already.
                Ok(_) => drop(wake.try_send(())),
                Err(error) => tracing::warn!(%error, "a watch failed; trying again"),
            }
            futures::future::ready(())
        });
    (store, watching)
}
