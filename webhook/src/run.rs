//! Puts the parts together and runs them until a signal.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use kube::Client;
use ring::rand::SystemRandom;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use writ_service::{Admin, ServiceError, listen, signalled};

use crate::args::{Args, CertArgs, InjectionArgs, PolicySource};
use crate::certs::{
    CertError, Configurations, Current, Folder, Lifetimes, Rotation, SecretStore, follow,
};
use crate::choice::Choice;
use crate::lookup::KubeLookup;
use crate::metrics::Metrics;
use crate::policies::Policies;
use crate::server::{self, Reviews};
use crate::settings::Settings;

/// Endpoints still name a pod for a moment after it was told to end.
const LINGER: Duration = Duration::from_secs(5);
/// How long open reviews may take after that.
const DRAIN: Duration = Duration::from_secs(10);

/// Why the webhook ended.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// A flag cannot be used.
    #[error("{0}")]
    Flags(String),
    /// No client for the Kubernetes API.
    #[error("no Kubernetes API: {0}; run in a pod with a service account, or set KUBECONFIG")]
    Kubernetes(#[from] Box<kube::Error>),
    /// No configuration for that client.
    #[error("no Kubernetes API: {0}; run in a pod with a service account, or set KUBECONFIG")]
    Config(#[from] Box<kube::config::InferConfigError>),
    /// Nobody would learn of new AgentPolicies any more.
    #[error("the watch on AgentPolicies ended; start the webhook again")]
    Watch,
    /// Certificates.
    #[error(transparent)]
    Certificates(#[from] CertError),
    /// TLS.
    #[error("TLS: {0}")]
    Tls(#[from] rustls::Error),
    /// Logs, signals, metrics or the admin port.
    #[error(transparent)]
    Service(#[from] ServiceError),
}

/// Runs until SIGTERM or SIGINT, then lets open reviews end.
///
/// # Errors
/// [`RunError`], when it cannot start or its certificate folder is gone.
pub async fn run(args: &Args) -> Result<(), RunError> {
    let settings = args.injection.settings().map_err(RunError::Flags)?;
    let lifetimes = args.certificates.lifetimes().map_err(RunError::Flags)?;
    let client = client().await?;
    let metrics = Arc::new(Metrics::new()?);
    let current = Arc::new(Current::default());
    let (choice, mut watching) = choice(&args.injection, &settings, &client);
    let reviews = Arc::new(Reviews {
        choice: Arc::clone(&choice),
        settings,
        lookup: Arc::new(KubeLookup(client.clone())),
        random: Arc::new(SystemRandom::new()),
        metrics: Arc::clone(&metrics),
    });
    let (stop, tasks) = (CancellationToken::new(), TaskTracker::new());
    let listener = listen(args.listen).await?;
    let admin = listen(args.admin_listen).await?;
    let (served, leaving) = (Arc::clone(&current), stop.clone());
    let ready = move || {
        if leaving.is_cancelled() {
            Err("ending".to_owned())
        } else if !served.is_set() {
            Err("no serving certificate yet".to_owned())
        } else {
            choice.ready().map_err(str::to_owned)
        }
    };
    // Reviews go on for a while after the pod was told to end; readiness ends at once.
    let closed = CancellationToken::new();
    let counted = Arc::clone(&metrics);
    let admin = Admin::new(ready, move || counted.text()).serve(admin);
    tasks.spawn(closed.clone().run_until_cancelled_owned(admin));
    tasks.spawn(server::serve(
        listener,
        server::tls(Arc::clone(&current) as _)?,
        reviews,
        stop.clone(),
        closed.clone(),
        tasks.clone(),
    ));
    let certificates = keep(&args.certificates, lifetimes, client, current, metrics);
    tracing::info!(listen = %args.listen, admin = %args.admin_listen, "webhook started");
    tokio::select! {
        ended = certificates => ended?,
        _ = &mut watching => return Err(RunError::Watch),
        ended = signalled() => ended?,
    }
    tracing::info!("ending");
    stop.cancel();
    tokio::time::sleep(LINGER).await;
    closed.cancel();
    tasks.close();
    if tokio::time::timeout(DRAIN, tasks.wait()).await.is_err() {
        tracing::warn!("some reviews were still open at the end");
    }
    watching.abort();
    Ok(())
}

/// What chooses configurations, and the task that keeps it. Reviews that come after the signal to
/// end still need it.
fn choice(
    args: &InjectionArgs,
    settings: &Settings,
    client: &Client,
) -> (Arc<dyn Choice>, JoinHandle<()>) {
    match (args.policies, args.fixed(settings)) {
        (PolicySource::Static, Some(fixed)) => {
            (Arc::new(fixed), tokio::spawn(std::future::pending()))
        }
        (_, fixed) => {
            let (policies, watch) = Policies::watch(client.clone(), fixed);
            (Arc::new(policies), tokio::spawn(watch))
        }
    }
}

async fn client() -> Result<Client, RunError> {
    let mut config = kube::Config::infer().await.map_err(Box::new)?;
    // A review that waits for the API server must not outlast the API server's own patience.
    config.connect_timeout = Some(Duration::from_secs(3));
    Ok(Client::try_from(config).map_err(Box::new)?)
}

/// Keeps `current`; returns only when that is no longer possible.
async fn keep(
    args: &CertArgs,
    lifetimes: Lifetimes,
    client: Client,
    current: Arc<Current>,
    metrics: Arc<Metrics>,
) -> Result<(), RunError> {
    if let Some(folder) = &args.cert_dir {
        return Ok(follow(Folder::new(PathBuf::from(folder)), current).await?);
    }
    let store = SecretStore::new(client.clone(), &args.namespace, &args.authorities_secret);
    let publisher = Configurations::new(client, &args.configuration);
    let mut rotation = Rotation::new(store, publisher, args.names(), lifetimes);
    let mut ticks = tokio::time::interval(args.cert_check);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        match rotation.tick(now.map_or(0, |now| now.as_secs())).await {
            Ok(None) => {}
            Ok(Some(certified)) => {
                current.set(certified);
                tracing::info!(expires = rotation.expires(), "serving a new certificate");
            }
            Err(error) => {
                metrics.certificate_failures.inc();
                tracing::error!(%error, "certificates not kept; trying again");
            }
        }
        let expires = i64::try_from(rotation.expires().unwrap_or_default());
        metrics.certificate_expires.set(expires.unwrap_or(i64::MAX));
    }
}
