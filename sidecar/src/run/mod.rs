//! `writ-sidecar run`: puts the parts together, keeps them running, and drains them.

mod error;
mod parts;
mod reload;
mod tasks;

use std::path::PathBuf;
use std::sync::Arc;

use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use writ_service::signalled;

use crate::api::{self, LocalActions};
use crate::config::Config;
use crate::listen::{self, Direction};
use crate::probes::Probes;
use crate::scrapes::Scrapes;
use crate::seen::Due;
use crate::traces;

pub use error::RunError;
use parts::Parts;

/// How long open requests may take to end after the signal.
const DRAIN: std::time::Duration = std::time::Duration::from_secs(25);

/// How long the last report of what the agent did may take to be sent.
const LAST_REPORT: std::time::Duration = std::time::Duration::from_secs(1);

/// Arguments of `writ-sidecar run`.
#[derive(clap::Args, Clone, Debug)]
pub struct Args {
    /// The sidecar's configuration (YAML); it is read again when it changes.
    #[arg(long, env = "WRIT_CONFIG", default_value = "/etc/writ/sidecar.yaml")]
    pub config: PathBuf,
    /// Only read and check the configuration, its catalogs included.
    #[arg(long)]
    pub check: bool,
    /// The application's probes to answer at the admin port, as JSON; the webhook sets it.
    #[arg(long, env = "WRIT_PROBES", value_name = "JSON")]
    pub probes: Option<String>,
    /// The ports and paths of the application's metrics, as JSON; the webhook sets it.
    #[arg(long, env = "WRIT_SCRAPES", value_name = "JSON")]
    pub scrapes: Option<String>,
    /// The pod's own address, at which the application is probed and scraped.
    #[arg(long, env = "WRIT_POD_IP", value_name = "ADDRESS")]
    pub pod_ip: Option<std::net::IpAddr>,
    /// Where traces go.
    #[command(flatten)]
    pub traces: traces::Args,
}

/// Runs until SIGTERM or SIGINT, then drains.
///
/// # Errors
/// [`RunError`] when the sidecar cannot start; each names the setting or the part to look at.
pub async fn run(args: &Args) -> Result<(), RunError> {
    let config = Config::load(&args.config)?;
    let files = reload::Files::load(&config)?;
    let probes = Probes::parse(args.probes.as_deref(), args.pod_ip)?;
    let scrapes = Scrapes::parse(args.scrapes.as_deref(), args.pod_ip)?;
    if args.check {
        return Ok(());
    }
    tracing::info!(version = env!("CARGO_PKG_VERSION"), "sidecar starting");
    let stop = CancellationToken::new();
    let tasks = TaskTracker::new();
    let parts = Arc::new(Parts::start(&config, &files, scrapes, stop.clone()).await?);
    let admin = parts::serve_admin(&config, Arc::clone(&parts), probes)?;

    let limit = config.outbound.max_connections;
    for listener in listen::bind(Direction::Outbound, config.listen.outbound)
        .map_err(|source| RunError::listen("outbound", config.listen.outbound, source))?
    {
        let outbound = Arc::clone(&parts.outbound);
        tasks.spawn(listen::accept(
            listener,
            Direction::Outbound,
            limit,
            Arc::clone(&parts.metrics),
            stop.clone(),
            tasks.clone(),
            move |captured| Arc::clone(&outbound).handle(captured),
        ));
    }
    for listener in listen::bind(Direction::Inbound, config.listen.inbound)
        .map_err(|source| RunError::listen("inbound", config.listen.inbound, source))?
    {
        let inbound = Arc::clone(&parts.inbound);
        tasks.spawn(listen::accept(
            listener,
            Direction::Inbound,
            limit,
            Arc::clone(&parts.metrics),
            stop.clone(),
            tasks.clone(),
            move |captured| Arc::clone(&inbound).handle(captured),
        ));
    }
    serve_api(&config, &parts, &stop, &tasks)?;
    let background = tasks::spawn(&args.config, &config, Arc::clone(&parts)).await?;
    let ready = async {
        parts.warm().await;
        parts.set_ready();
        tracing::info!(agent = parts.spiffe_id(), "sidecar ready");
        std::future::pending::<()>().await;
    };
    tokio::select! {
        () = ready => {}
        ended = signalled() => ended?,
    }
    tracing::info!("draining");
    parts.set_draining();
    stop.cancel();
    tasks.close();
    if tokio::time::timeout(DRAIN, tasks.wait()).await.is_err() {
        tracing::warn!("some connections were still open when the drain ended");
    }
    background.abort_all();
    parts.gate.flush_counts().await;
    parts.close().await;
    // What is sent is kept, answered or not.
    let _ = tokio::time::timeout(LAST_REPORT, parts.report(Due::All)).await;
    drop(admin);
    Ok(())
}

/// Serves the local API on loopback, both families under one limit.
fn serve_api(
    config: &Config,
    parts: &Parts,
    stop: &CancellationToken,
    tasks: &TaskTracker,
) -> Result<(), RunError> {
    let port = config.listen.api;
    let actions = Arc::new(LocalActions {
        gate: Arc::clone(&parts.gate),
        live: Arc::clone(&parts.outbound.live),
        seen: Arc::clone(&parts.outbound.seen),
    });
    let limits = api::Limits::default();
    let permits = Arc::new(Semaphore::new(limits.connections));
    for listener in listen::bind(Direction::Outbound, port)
        .map_err(|source| RunError::listen("local API", port, source))?
    {
        tasks.spawn(api::serve(
            listener,
            Arc::clone(&actions),
            limits,
            Arc::clone(&permits),
            stop.clone(),
            tasks.clone(),
        ));
    }
    Ok(())
}
