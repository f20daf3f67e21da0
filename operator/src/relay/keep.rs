//! Keeps what sidecars report of their agents: the ConfigMap `writ-seen-<policy>` beside each AgentPolicy.
//!
//! A report is answered once it is written, so that nothing is lost where a relay ends. Several relays write the same
//! ConfigMaps, and each adds what came to it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::ConfigMap;
use k8s_openapi::jiff::Timestamp;
use kube::api::{Patch, PatchParams, PostParams};
use kube::runtime::reflector::{ObjectRef, Store};
use kube::{Api, Client, Resource, ResourceExt};
use serde_json::json;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior};
use writ_api::{AgentPolicy, MANAGED_BY, namespace_and_account};
use writ_relay::{Report, Unkept};

use super::seen::Actions;
use crate::OperatorError;

/// Field manager, and value of [`MANAGED_BY`]: of all relays the same.
pub const KEEPER: &str = "writ-relay";
/// Key of the ConfigMap.
pub const KEY: &str = "actions.json";
/// Longest name of a ConfigMap, in bytes.
const MAX_NAME: usize = 253;
/// How often is looked whether something is due to be written.
const EVERY: Duration = Duration::from_secs(1);
/// How often one AgentPolicy's actions are written at most.
const SPACED: Duration = Duration::from_secs(5);
/// AgentPolicies written at one time, and how long one may take.
const WRITES: usize = 4;
const WRITE: Duration = Duration::from_secs(10);
/// How often a write is tried anew when another relay was faster.
const TRIES: usize = 8;
/// Kinds of actions that wait to be written, of all AgentPolicies together.
const MAX_WAITING: usize = 50_000;
/// Reports that wait to be merged.
pub const QUEUE: usize = 64;

type Kept = oneshot::Sender<Result<(), Unkept>>;

/// An AgentPolicy's place.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Of {
    namespace: String,
    name: String,
}

#[derive(Default)]
struct Waiting {
    actions: Actions,
    reports: Vec<Kept>,
}

/// Keeps reports.
pub struct Keeper {
    client: Client,
    trust_domain: String,
    policies: Store<AgentPolicy>,
    waiting: BTreeMap<Of, Waiting>,
    /// When each was written last.
    written: BTreeMap<Of, Instant>,
}

impl Keeper {
    /// One that knows these AgentPolicies.
    #[must_use]
    pub fn new(client: Client, trust_domain: String, policies: Store<AgentPolicy>) -> Self {
        Self {
            client,
            trust_domain,
            policies,
            waiting: BTreeMap::new(),
            written: BTreeMap::new(),
        }
    }

    /// Takes reports and writes them, until nobody reports any more.
    pub async fn run(mut self, mut reports: mpsc::Receiver<Report>) {
        let mut ticks = tokio::time::interval(EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut writing = JoinSet::new();
        loop {
            tokio::select! {
                report = reports.recv() => match report {
                    Some(report) => self.take(report),
                    None => return,
                },
                _ = ticks.tick() => self.write_due(&mut writing),
                Some(_) = writing.join_next() => self.write_due(&mut writing),
            }
        }
    }

    fn take(&mut self, report: Report) {
        let answer = match self.policy_of(&report.agent) {
            None => Unkept::Nobody,
            Some(_) if self.waiting() >= MAX_WAITING => Unkept::Busy,
            Some(of) => {
                let actions = Actions::of(&report.agent, &report.actions, Timestamp::now());
                let waiting = self.waiting.entry(of).or_default();
                waiting.actions.merge(actions);
                waiting.reports.push(report.kept);
                return;
            }
        };
        // The sidecar may have gone.
        let _ = report.kept.send(Err(answer));
    }

    fn waiting(&self) -> usize {
        self.waiting.values().map(|w| w.actions.len()).sum()
    }

    /// The AgentPolicy that an agent is under; the oldest, should several say so.
    fn policy_of(&self, agent: &str) -> Option<Of> {
        let (namespace, _) = namespace_and_account(&self.trust_domain, agent)?;
        let policies = self.policies.state();
        let claims = |policy: &&Arc<AgentPolicy>| {
            let status = policy.status.as_ref();
            policy.namespace().as_deref() == Some(namespace)
                && status.is_some_and(|s| s.agents.iter().any(|a| a.spiffe_id == agent))
        };
        let oldest = policies
            .iter()
            .filter(claims)
            .min_by_key(|policy| (policy.creation_timestamp(), policy.name_any()))?;
        let name = oldest.name_any();
        let fits = config_map(&name).len() <= MAX_NAME;
        fits.then(|| Of {
            namespace: namespace.to_owned(),
            name,
        })
    }

    /// Starts to write what was not written a moment ago, as much as may be under way.
    fn write_due(&mut self, writing: &mut JoinSet<()>) {
        self.written.retain(|_, at| at.elapsed() < SPACED);
        while writing.len() < WRITES {
            let written = &self.written;
            let due = self.waiting.keys().find(|of| !written.contains_key(of));
            let Some((of, waiting)) = due.cloned().and_then(|of| self.waiting.remove_entry(&of))
            else {
                return;
            };
            self.written.insert(of.clone(), Instant::now());
            let key = ObjectRef::new(&of.name).within(&of.namespace);
            let policy = self.policies.get(&key);
            let client = self.client.clone();
            writing.spawn(async move {
                let Waiting { actions, reports } = waiting;
                let answer = match policy {
                    None => Err(Unkept::Nobody),
                    Some(policy) => kept_in_time(&client, &of, &policy, &actions).await,
                };
                for report in reports {
                    // The sidecar may have gone.
                    let _ = report.send(answer);
                }
            });
        }
    }
}

async fn kept_in_time(
    client: &Client,
    of: &Of,
    policy: &AgentPolicy,
    actions: &Actions,
) -> Result<(), Unkept> {
    let written = tokio::time::timeout(WRITE, write(client, of, policy, actions)).await;
    let written = written.unwrap_or_else(|_| Err("no answer in time".to_owned()));
    written.map_err(|error| {
        let Of { namespace, name } = of;
        tracing::warn!(error, namespace, policy = name, "reports were not kept");
        Unkept::Failed
    })
}

/// Drops what a relay does not need of an AgentPolicy: catalogs and rules are large.
pub fn strip(policy: &mut AgentPolicy) {
    policy.metadata.managed_fields = None;
    policy.metadata.annotations = None;
    policy.spec.rules = None;
    policy.spec.catalog = None;
    if let Some(status) = policy.status.take() {
        policy.status = Some(writ_api::AgentPolicyStatus {
            agents: status.agents,
            ..writ_api::AgentPolicyStatus::default()
        });
    }
}

/// Name of the ConfigMap of an AgentPolicy.
#[must_use]
pub fn config_map(policy: &str) -> String {
    format!("writ-seen-{policy}")
}

/// Adds to what is kept already.
async fn write(
    client: &Client,
    of: &Of,
    policy: &AgentPolicy,
    actions: &Actions,
) -> Result<(), String> {
    let api: Api<ConfigMap> = Api::namespaced(client.clone(), &of.namespace);
    let name = config_map(&of.name);
    for _ in 0..TRIES {
        let there = read(&api, &name).await.map_err(|e| e.to_string())?;
        let mut all = there.as_ref().map(kept).unwrap_or_default();
        all.merge(actions.clone());
        match put(&api, &name, policy, there.as_ref(), &all).await {
            Ok(()) => return Ok(()),
            // Another relay was faster.
            Err(kube::Error::Api(answer)) if answer.code == 409 => {}
            Err(error) => return Err(OperatorError::from(error).to_string()),
        }
    }
    Err("other relays were faster each time".to_owned())
}

/// The ConfigMap as it is. A relay may read no other: a patch that changes nothing is its only way.
async fn read(api: &Api<ConfigMap>, name: &str) -> Result<Option<ConfigMap>, kube::Error> {
    let nothing = Patch::Merge(json!({}));
    match api.patch(name, &PatchParams::default(), &nothing).await {
        Ok(there) => Ok(Some(there)),
        Err(kube::Error::Api(answer)) if answer.code == 404 => Ok(None),
        Err(error) => Err(error),
    }
}

fn kept(there: &ConfigMap) -> Actions {
    let text = there.data.as_ref().and_then(|data| data.get(KEY));
    let Some(text) = text else {
        return Actions::default();
    };
    Actions::parse(text).unwrap_or_else(|error| {
        tracing::error!(
            error,
            name = there.name_any(),
            "what was kept cannot be read, and is replaced"
        );
        Actions::default()
    })
}

async fn put(
    api: &Api<ConfigMap>,
    name: &str,
    policy: &AgentPolicy,
    there: Option<&ConfigMap>,
    actions: &Actions,
) -> Result<(), kube::Error> {
    let metadata = json!({
        "name": name,
        "labels": {MANAGED_BY: KEEPER},
        // It goes with the policy.
        "ownerReferences": policy.owner_ref(&()).into_iter().collect::<Vec<_>>(),
        "resourceVersion": there.and_then(ResourceExt::resource_version),
    });
    let body = json!({
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": metadata,
        "data": {KEY: actions.to_json()},
    });
    if there.is_some() {
        let parameters = PatchParams::apply(KEEPER).force();
        return api
            .patch(name, &parameters, &Patch::Apply(&body))
            .await
            .map(drop);
    }
    // Applying would replace what another relay made since.
    let parameters = PostParams {
        field_manager: Some(KEEPER.to_owned()),
        ..PostParams::default()
    };
    let object: ConfigMap = serde_json::from_value(body).map_err(kube::Error::SerdeError)?;
    api.create(&parameters, &object).await.map(drop)
}
