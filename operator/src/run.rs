//! Puts the parts together and runs them: everybody serves health, the leader acts.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::jiff::Timestamp;
use kube::runtime::events::{Recorder, Reporter};
use kube::{Api, Client};
use ring::rand::SystemRandom;
use tokio::sync::mpsc;
use writ_service::{Admin, ServiceError, listen, signalled};

use crate::args::Args;
use crate::keys::Keyring;
use crate::leader::{Candidate, Timing};
use crate::relay::args::Role;
use crate::{Context, Metrics, OperatorError, chain, policy, relay, revocation, witness};

/// Name of the Lease.
const LEASE: &str = "writ-operator";
/// How often the inventory is counted.
const INVENTORY: Duration = Duration::from_secs(15);

/// Why the operator ended.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// A flag cannot be used.
    #[error("{0}")]
    Flags(String),
    /// No client for the Kubernetes API.
    #[error("no Kubernetes API: {0}; run in a pod with a service account, or set KUBECONFIG")]
    Kubernetes(String),
    /// Logs, signals, metrics or the admin port.
    #[error(transparent)]
    Service(#[from] ServiceError),
    /// Leadership ended. Another process acts now; this one starts again as a candidate.
    #[error("leadership lost: {0}")]
    LeadershipLost(String),
    /// No SVID.
    #[error(
        "identity: {0}; check that the Workload API's socket is mounted and that an entry selects this pod"
    )]
    Identity(String),
    /// A relay or witness does not start.
    #[error("{0}")]
    Relay(String),
    /// The cluster could not be watched.
    #[error(transparent)]
    Operator(#[from] OperatorError),
    /// A controller ended by itself.
    #[error("the {0} ended; see the log")]
    Ended(&'static str),
}

/// Runs in the role that `args` name until SIGTERM or SIGINT; as a controller also until leadership is lost.
///
/// # Errors
/// [`RunError`].
pub async fn run(args: &Args) -> Result<(), RunError> {
    match args.relaying.role {
        Role::Controller => control(args).await,
        Role::Relay => relay::run(args).await,
        Role::Witness => witness::run(args).await,
    }
}

async fn control(args: &Args) -> Result<(), RunError> {
    let timing = args.timing().map_err(RunError::Flags)?;
    let client = Client::try_default()
        .await
        .map_err(|e| RunError::Kubernetes(e.to_string()))?;
    let metrics = Arc::new(Metrics::new()?);
    let answered = Arc::new(AtomicBool::new(false));
    let listener = listen(args.admin_listen).await?;
    let (asked, counted) = (Arc::clone(&answered), Arc::clone(&metrics));
    let ready = move || {
        let is = asked.load(Ordering::Relaxed);
        is.then_some(())
            .ok_or_else(|| "no answer from the API server yet".to_owned())
    };
    tokio::spawn(Admin::new(ready, move || counted.text()).serve(listener));
    let me = identity(args)?;
    let leases: Api<Lease> = Api::namespaced(client.clone(), &args.namespace);
    let mut candidate = Candidate::new(leases, LEASE, &me, timing);
    tracing::info!(
        identity = me,
        trust_domain = args.trust_domain,
        "operator started"
    );
    let ended = tokio::select! {
        ended = lead(args, client, &metrics, &mut candidate, timing, &answered, &me) => ended,
        ended = signalled() => ended.map_err(RunError::from),
    };
    metrics.leader.set(0);
    tracing::info!("ending");
    if let Err(error) = candidate.release().await {
        tracing::warn!(%error, "the lease was not given back; the next leader waits for its end");
    }
    ended
}

async fn lead(
    args: &Args,
    client: Client,
    metrics: &Arc<Metrics>,
    candidate: &mut Candidate,
    timing: Timing,
    answered: &AtomicBool,
    me: &str,
) -> Result<(), RunError> {
    loop {
        match candidate.tick(Timestamp::now()).await {
            Ok(leads) => {
                answered.store(true, Ordering::Relaxed);
                if leads {
                    break;
                }
            }
            Err(error) => tracing::warn!(%error, "the lease cannot be read; trying again"),
        }
        tokio::time::sleep(timing.renew).await;
    }
    tracing::info!("leading");
    metrics.leader.set(1);
    tokio::select! {
        lost = renew(candidate, timing) => Err(lost),
        ended = act(args, client, metrics, me) => ended,
    }
}

/// Renews until that fails for as long as somebody else would wait, less one renewal: this process
/// must stop before another one starts.
async fn renew(candidate: &mut Candidate, timing: Timing) -> RunError {
    let mut renewed = tokio::time::Instant::now();
    loop {
        tokio::time::sleep(timing.renew).await;
        let tried = tokio::time::timeout(timing.renew, candidate.tick(Timestamp::now())).await;
        let problem = match tried {
            Ok(Ok(true)) => {
                renewed = tokio::time::Instant::now();
                continue;
            }
            Ok(Ok(false)) => {
                return RunError::LeadershipLost("somebody else holds the lease".to_owned());
            }
            Ok(Err(error)) => error.to_string(),
            Err(_) => "the API server does not answer".to_owned(),
        };
        tracing::warn!(problem, "the lease was not renewed");
        if renewed.elapsed() + timing.renew * 2 >= timing.lease {
            return RunError::LeadershipLost(problem);
        }
    }
}

async fn act(
    args: &Args,
    client: Client,
    metrics: &Arc<Metrics>,
    me: &str,
) -> Result<(), RunError> {
    let (sender, touched) = mpsc::unbounded_channel();
    let (stores, watching) = policy::watch(&client, sender);
    let reporter = Reporter {
        controller: writ_api::OPERATOR.to_owned(),
        instance: Some(me.to_owned()),
    };
    let context = Arc::new(Context::new(
        client.clone(),
        args.settings(),
        Keyring::new(args.keys.clone()),
        Arc::new(SystemRandom::new()),
        Timestamp::now,
        Recorder::new(client, reporter),
        Arc::clone(metrics),
        stores.clone(),
    ));
    let controllers = async {
        stores.ready().await?;
        let ended = tokio::select! {
            () = chain::run(Arc::clone(&context)) => "Chain controller",
            () = policy::run(Arc::clone(&context), touched) => "AgentPolicy controller",
            () = revocation::run(Arc::clone(&context)) => "AgentRevocation controller",
            () = inventory(&stores, metrics) => "inventory",
        };
        Err(RunError::Ended(ended))
    };
    tokio::select! {
        () = watching => Err(RunError::Ended("watch of pods and AgentPolicies")),
        ended = controllers => ended,
    }
}

/// Counts the pods that ask for a sidecar and have none.
async fn inventory(stores: &policy::Stores, metrics: &Metrics) {
    loop {
        metrics.unprotected_pods.reset();
        for (namespace, pods) in stores.unprotected() {
            metrics
                .unprotected_pods
                .with_label_values(&[&namespace])
                .set(pods);
        }
        tokio::time::sleep(INVENTORY).await;
    }
}

/// The pod's name, or a random one.
fn identity(args: &Args) -> Result<String, RunError> {
    if let Some(name) = &args.identity {
        return Ok(name.clone());
    }
    use crate::salts::Random as _;
    let random = SystemRandom::new().salt()?;
    Ok(format!("writ-operator-{}", hex::encode(random)))
}
