//! What every controller shares.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use kube::runtime::events::Recorder;
use kube::{Api, Client};
use writ_api::{Chain, conditions};

use crate::chain::Link;
use crate::keys::Keyring;
use crate::metrics::Metrics;
use crate::salts::Random;
use crate::{OperatorError, policy};

/// What the installation says.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Namespace of the operator.
    pub namespace: String,
    /// Trust domain of the agents' SPIFFE IDs.
    pub trust_domain: String,
    /// File name of the Workload API's socket, in the folder where the sidecar mounts it.
    pub spire_socket: String,
    /// Whether a NetworkPolicy is kept for the pods of each AgentPolicy.
    pub network_policies: NetworkPolicies,
    /// Namespace of the cluster's resolvers.
    pub dns_namespace: String,
    /// Where sidecars send traces, if anywhere.
    pub collector: Option<url::Url>,
    /// The relay that sidecars are told of.
    pub relay: Option<RelayAt>,
}

/// Where a relay is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RelayAt {
    /// `host:port`.
    pub address: String,
    /// Its SPIFFE ID.
    pub spiffe_id: String,
}

/// Whether a NetworkPolicy is kept for the pods of each AgentPolicy.
#[derive(clap::ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
pub enum NetworkPolicies {
    /// It is.
    Keep,
    /// Somebody else sees to it.
    None,
}

/// What every controller shares.
pub struct Context {
    /// The Kubernetes API.
    pub client: Client,
    /// What the installation says.
    pub settings: Settings,
    /// The keys that sign.
    pub keyring: Keyring,
    /// Randomness.
    pub random: Arc<dyn Random>,
    /// The time.
    pub clock: fn() -> Timestamp,
    /// Events.
    pub recorder: Recorder,
    /// Metrics.
    pub metrics: Arc<Metrics>,
    /// Every AgentPolicy, and the pods that may be agents.
    pub stores: policy::Stores,
    failures: Mutex<HashMap<String, u32>>,
    turns: Mutex<HashMap<String, Turns>>,
}

/// One account sends one transaction at a time: two would take the same nonce.
#[derive(Clone, Debug, Default)]
pub struct Turns {
    /// Deployer and owner.
    pub governance: Arc<tokio::sync::Mutex<()>>,
    /// Guardian. A revocation does not wait for a deployment.
    pub guardian: Arc<tokio::sync::Mutex<()>>,
}

impl Context {
    /// A context that has seen nothing yet.
    #[must_use]
    #[allow(
        clippy::too_many_arguments,
        reason = "one place puts the parts together"
    )]
    pub fn new(
        client: Client,
        settings: Settings,
        keyring: Keyring,
        random: Arc<dyn Random>,
        clock: fn() -> Timestamp,
        recorder: Recorder,
        metrics: Arc<Metrics>,
        stores: policy::Stores,
    ) -> Self {
        Self {
            client,
            settings,
            keyring,
            random,
            clock,
            recorder,
            metrics,
            stores,
            failures: Mutex::default(),
            turns: Mutex::default(),
        }
    }

    /// The time, as Kubernetes writes it.
    #[must_use]
    pub fn now(&self) -> Time {
        Time((self.clock)())
    }

    /// Counts a failure of an object; returns how many came before it in a row.
    pub fn failed(&self, object: &str) -> u32 {
        let mut failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
        let count = failures.entry(object.to_owned()).or_insert(0);
        let before = *count;
        *count = count.saturating_add(1);
        before
    }

    /// Ends a row of failures.
    pub fn succeeded(&self, object: &str) {
        let mut failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
        failures.remove(object);
    }

    /// Who may send on a chain.
    #[must_use]
    pub fn turns(&self, chain: &str) -> Turns {
        let mut turns = self.turns.lock().unwrap_or_else(PoisonError::into_inner);
        turns.entry(chain.to_owned()).or_default().clone()
    }

    /// A connection to a chain that is ready.
    ///
    /// # Errors
    /// [`OperatorError::ChainNotReady`] says what to look at.
    pub async fn link(&self, name: &str) -> Result<(Arc<Chain>, Link), OperatorError> {
        let api: Api<Chain> = Api::all(self.client.clone());
        let Some(chain) = api.get_opt(name).await? else {
            return Err(OperatorError::ChainNotReady(format!(
                "there is no Chain {name:?}: make it, or name another one"
            )));
        };
        let status = chain.status.clone().unwrap_or_default();
        let ready = conditions::holds(&status.conditions, conditions::READY);
        let contracts = status.contracts.filter(|_| ready).ok_or_else(|| {
            OperatorError::ChainNotReady(format!(
                "Chain {name:?} is not ready: see `kubectl describe chain {name}`"
            ))
        })?;
        let link = Link::open(&chain.spec, &contracts, &self.keyring, self.turns(name)).await?;
        Ok((Arc::new(chain), link))
    }
}
