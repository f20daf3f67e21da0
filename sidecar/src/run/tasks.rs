//! What runs beside the data path: DNS, reload, gauges, counts.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use notify::Watcher;
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::MissedTickBehavior;
use writ_ledger::{Dns, Entry};

use super::parts::Parts;
use super::{RunError, reload};
use crate::config::Config;
use crate::dns::{self, RefusalSink, RefusedQuery};
use crate::relay::Reported;
use crate::seen::Due;

/// How often gauges are read and counts are written.
const EVERY: Duration = Duration::from_secs(5);

/// How often counts are told that grew without anything new, in multiples of [`EVERY`].
const COUNTS: u64 = 12;
/// How long a relay that does not keep reports is left alone.
const REFUSED: Duration = Duration::from_secs(30);

/// Handles of the tasks that end when the sidecar has drained.
pub(super) struct Background {
    tasks: JoinSet<()>,
    // Dropping it ends the watch.
    _watcher: notify::RecommendedWatcher,
}

impl Background {
    pub(super) fn abort_all(mut self) {
        self.tasks.abort_all();
    }
}

pub(super) async fn spawn(
    path: &Path,
    config: &Config,
    parts: Arc<Parts>,
) -> Result<Background, RunError> {
    let mut tasks = JoinSet::new();
    serve_dns(config, &parts, &mut tasks).await?;
    tasks.spawn(keep_gauges(Arc::clone(&parts)));
    tasks.spawn(tell_seen(Arc::clone(&parts)));
    let watcher = watch(path, config, parts, &mut tasks)?;
    Ok(Background {
        tasks,
        _watcher: watcher,
    })
}

async fn serve_dns(
    config: &Config,
    parts: &Arc<Parts>,
    tasks: &mut JoinSet<()>,
) -> Result<AbortHandle, RunError> {
    let port = config.listen.dns;
    let mut addresses = vec![SocketAddr::from((Ipv4Addr::LOCALHOST, port))];
    // A pod without IPv6 has no ::1 to listen on.
    if tokio::net::UdpSocket::bind((Ipv6Addr::LOCALHOST, 0))
        .await
        .is_ok()
    {
        addresses.push(SocketAddr::from((Ipv6Addr::LOCALHOST, port)));
    }
    let live = Arc::clone(&parts.outbound.live);
    let gate = Arc::clone(&parts.gate);
    let names: Arc<dyn dns::NameSet> =
        Arc::new(move |name: &str| live.load().catalog.resolvable(name) || gate.observing());
    let server = dns::Server::bind(
        &addresses,
        names,
        Arc::clone(&parts.resolver),
        Arc::new(Recorded(Arc::clone(parts))),
        dns::Limits::default(),
    )
    .await?;
    Ok(tasks.spawn(server.run()))
}

/// Refused names, in the record.
struct Recorded(Arc<Parts>);

impl RefusalSink for Recorded {
    fn refused(&self, refused: RefusedQuery) {
        let parts = Arc::clone(&self.0);
        parts
            .metrics
            .dns_refused
            .inc_by(refused.suppressed.saturating_add(1));
        tokio::spawn(async move {
            let entry = Entry::Dns(Dns {
                count: refused.suppressed.saturating_add(1),
                name: refused.query.name,
                qtype: refused.query.record_type,
                reason: refused.query.reason.code().to_owned(),
            });
            if let Err(error) = parts.log.record(entry).await {
                tracing::error!(%error, "refused name not recorded");
            }
        });
    }
}

async fn keep_gauges(parts: Arc<Parts>) {
    let mut ticks = tokio::time::interval(EVERY);
    loop {
        ticks.tick().await;
        parts.gate.flush_counts().await;
        parts.read_gauges();
    }
}

/// Tells the relay what the agent did: new kinds of actions soon, counts now and then.
async fn tell_seen(parts: Arc<Parts>) {
    let mut ticks = tokio::time::interval(EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut dropped = 0;
    for tick in 1_u64.. {
        ticks.tick().await;
        let due = if tick % COUNTS == 0 {
            Due::All
        } else {
            Due::New
        };
        if parts.report(due).await == Reported::Refused {
            tokio::time::sleep(REFUSED).await;
        }
        let now = parts.outbound.seen.dropped();
        if now > dropped {
            tracing::warn!(
                actions = now - dropped,
                "too many kinds of actions to tell of all"
            );
            dropped = now;
        }
    }
}

/// Watches the folders of the configuration and its catalogs: Kubernetes swaps a symlink there, so
/// a watch on the file itself would miss the change.
fn watch(
    path: &Path,
    config: &Config,
    parts: Arc<Parts>,
    tasks: &mut JoinSet<()>,
) -> Result<notify::RecommendedWatcher, RunError> {
    let (tell, mut told) = tokio::sync::mpsc::channel::<()>(1);
    let mut watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
        if event.is_ok_and(|event| !event.kind.is_access()) {
            // Full means that a reload is due already.
            let _ = tell.try_send(());
        }
    })?;
    let files = config.callers.catalogs.iter().chain(&config.catalog);
    let mut folders: Vec<&Path> = std::iter::once(path)
        .chain(files.map(AsRef::as_ref))
        .filter_map(Path::parent)
        .collect();
    folders.sort_unstable();
    folders.dedup();
    for folder in folders {
        watcher.watch(folder, notify::RecursiveMode::NonRecursive)?;
    }
    let path = path.to_owned();
    let mut running = config.clone();
    tasks.spawn(async move {
        while told.recv().await.is_some() {
            // Editors and the kubelet write in several steps; wait until they are through.
            tokio::time::sleep(Duration::from_millis(200)).await;
            while told.try_recv().is_ok() {}
            match reload::reload(&path, &running, &parts) {
                Ok(config) => {
                    tracing::info!("configuration reloaded");
                    running = config;
                }
                Err(reason) => {
                    parts.metrics.reload_refused.inc();
                    tracing::error!(
                        reason,
                        "configuration refused; the one before stays in force"
                    );
                }
            }
        }
    });
    Ok(watcher)
}
