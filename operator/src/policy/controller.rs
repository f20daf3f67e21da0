//! Carries out AgentPolicies.

use std::sync::Arc;
use std::time::Duration;

use alloy::primitives::{Address, B256};
use futures::StreamExt;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::ListParams;
use kube::runtime::controller::{Action, Config, Controller};
use kube::runtime::events::EventType;
use kube::runtime::finalizer::{Event, finalizer};
use kube::runtime::reflector::ObjectRef;
use kube::runtime::watcher;
use kube::{Api, ResourceExt};
use tokio::sync::mpsc;
use writ_api::{AgentPolicy, AgentPolicyStatus, AgentRevocation, Chain, MANAGED_BY, OPERATOR};
use writ_chain::tx;

use super::objects::{configure, fence};
use super::select::{self, Claim};
use super::standing::{self, Ended};
use super::steps::{self, Outcome};
use super::want::{self, Invalid, Want};
use super::{Admitted, admitted, peers};
use crate::chain::Link;
use crate::error::chain_cause;
use crate::salts::Of;
use crate::{Context, OperatorError, report, salts};

const FINALIZER: &str = "writ.dev/pause-policy";
/// How often a policy that is in force is compared with the chain.
const SETTLED: Duration = Duration::from_secs(30);
/// The same while something is on its way.
const UNSETTLED: Duration = Duration::from_secs(3);

/// Runs until the process ends. Policies that `touched` names are looked at again.
pub async fn run(context: Arc<Context>, touched: mpsc::UnboundedReceiver<ObjectRef<AgentPolicy>>) {
    let policies: Api<AgentPolicy> = Api::all(context.client.clone());
    let maps: Api<ConfigMap> = Api::all(context.client.clone());
    let ours = watcher::Config::default().labels(&format!("{MANAGED_BY}={OPERATOR}"));
    let chains: Api<Chain> = Api::all(context.client.clone());
    let revocations: Api<AgentRevocation> = Api::all(context.client.clone());
    let (by_chain, by_revocation) = (
        context.stores.policies.clone(),
        context.stores.policies.clone(),
    );
    let touched = futures::stream::unfold(touched, |mut touched| async move {
        let next = touched.recv().await?;
        Some((next, touched))
    });
    Controller::new(policies, watcher::Config::default())
        .owns(maps, ours)
        .watches(chains, watcher::Config::default(), move |chain| {
            let name = chain.name_any();
            let of = |p: &Arc<AgentPolicy>| p.spec.chain == name && !in_force(p);
            let state = by_chain.state();
            let refs: Vec<_> = state
                .iter()
                .filter(|p| of(p))
                .map(|p| ObjectRef::from_obj(p.as_ref()))
                .collect();
            refs
        })
        .watches(revocations, watcher::Config::default(), move |revocation| {
            let names = |p: &Arc<AgentPolicy>| {
                p.status
                    .iter()
                    .flat_map(|s| &s.agents)
                    .any(|a| a.spiffe_id == revocation.spec.spiffe_id)
            };
            let state = by_revocation.state();
            let refs: Vec<_> = state
                .iter()
                .filter(|p| names(p))
                .map(|p| ObjectRef::from_obj(p.as_ref()))
                .collect();
            refs
        })
        .reconcile_on(touched)
        .with_config(
            Config::default()
                .concurrency(8)
                .debounce(Duration::from_millis(100)),
        )
        .run(reconcile, report::retry::<AgentPolicy>, context)
        .for_each(|_| futures::future::ready(()))
        .await;
}

fn in_force(policy: &AgentPolicy) -> bool {
    let conditions = policy
        .status
        .as_ref()
        .map(|s| s.conditions.as_slice())
        .unwrap_or_default();
    writ_api::conditions::holds(conditions, writ_api::conditions::IN_FORCE)
}

async fn reconcile(
    policy: Arc<AgentPolicy>,
    context: Arc<Context>,
) -> Result<Action, OperatorError> {
    let namespace = policy
        .namespace()
        .ok_or(OperatorError::Incomplete("namespace"))?;
    let api: Api<AgentPolicy> = Api::namespaced(context.client.clone(), &namespace);
    let (home, shared) = (namespace.as_str(), context.as_ref());
    let work = finalizer(&api, FINALIZER, Arc::clone(&policy), |event| async move {
        match event {
            Event::Apply(policy) => apply(&policy, home, shared).await,
            Event::Cleanup(policy) => pause(&policy, shared).await,
        }
    });
    let work = async {
        use kube::runtime::finalizer::Error;
        work.await.map_err(|error| match error {
            Error::ApplyFailed(error) | Error::CleanupFailed(error) => error,
            other => OperatorError::Finalizer(other.to_string()),
        })
    };
    report::counted(&context, "policy", policy.as_ref(), work).await
}

/// The guardian pauses the policy's id, so that nothing acts under a policy that nobody sees any more.
async fn pause(policy: &AgentPolicy, context: &Context) -> Result<Action, OperatorError> {
    let name = policy.name_any();
    let labels = [policy.namespace().unwrap_or_default(), name.clone()];
    let status = policy.status.clone().unwrap_or_default();
    let of = Of::Policy(name);
    let home = &context.settings.namespace;
    let namespace = policy.namespace().unwrap_or_default();
    let found = salts::find(&context.client, home, &namespace, std::slice::from_ref(&of)).await?;
    // Without a salt nothing was ever sent for it.
    let Some(salt) = found.get(&of) else {
        return Ok(Action::await_change());
    };
    let policy_id = want::policy_id(policy, salt);
    let paused = async {
        let (_, link) = context.link(&policy.spec.chain).await?;
        let there = tx::policy(&link.reader, &link.manifest, policy_id).await?;
        if there.version == 0 || there.paused {
            return Ok(());
        }
        let guardian = link.guardian.as_ref().ok_or_else(|| {
            OperatorError::CannotPause(
                "the Chain names no guardian key (spec.keys.guardian)".to_owned(),
            )
        })?;
        let _turn = link.turns.guardian.lock().await;
        tx::pause_policy(guardian, &link.manifest, policy_id).await?;
        Ok::<(), OperatorError>(())
    };
    if let Err(error) = paused.await {
        let note = format!(
            "the policy stays until its id {policy_id} is paused on chain {:?}: {error}",
            policy.spec.chain
        );
        report::event(context, policy, EventType::Warning, "CannotPause", &note).await;
        return Err(error);
    }
    let _ = context
        .metrics
        .policy_in_force
        .remove_label_values(&labels.each_ref().map(String::as_str));
    let _ = context
        .metrics
        .uncovered_pods
        .remove_label_values(&labels.each_ref().map(String::as_str));
    let mut note = format!("policy id {policy_id} is paused; its agents are denied");
    if let Some(operation) = status.queued.and_then(|q| q.operation) {
        note.push_str(&format!(
            "; operation {operation} is still in the timelock: owners, cancel it"
        ));
    }
    report::event(context, policy, EventType::Normal, "PolicyPaused", &note).await;
    Ok(Action::await_change())
}

async fn apply(
    policy: &AgentPolicy,
    namespace: &str,
    context: &Context,
) -> Result<Action, OperatorError> {
    let name = policy.name_any();
    let before = policy.status.clone().unwrap_or_default();
    let admitted = admitted_to(policy, context);
    let (mut claim, refused) = claims(policy, namespace, context);
    let mut failure = None;
    let mut wanted = None;
    let mut outcome = None;
    let ended = match refused {
        Some(invalid) => Ended::Refused(invalid),
        None => match carry_out(policy, namespace, &mut claim, &admitted, context).await {
            Ok(Done::Refused(invalid)) => Ended::Refused(invalid),
            Ok(Done::Receives) => Ended::Receives,
            Ok(Done::Came(want, came)) => Ended::Came(wanted.insert(*want), outcome.insert(*came)),
            Err(error) => {
                let (cause, text) = (error.cause(), error.to_string());
                failure = Some(error);
                Ended::Stopped(cause, text)
            }
        },
    };
    let mut status = standing::status(
        policy,
        &before,
        &claim,
        &ended,
        &admitted.missing,
        &context.now(),
    );
    status.peers = peers::proposed(policy, namespace, context);
    measure(context, namespace, &name, &status);
    report::transitions(context, policy, &before.conditions, &status.conditions).await;
    tell_of_revoked(context, policy, &before, &status).await;
    if status != before {
        let api: Api<AgentPolicy> = Api::namespaced(context.client.clone(), namespace);
        report::patch_status(&api, &name, &status).await?;
    }
    match failure {
        Some(error) => Err(error),
        None if settled(&status) => Ok(Action::requeue(SETTLED)),
        None => Ok(Action::requeue(UNSETTLED)),
    }
}

/// Whether all that it says is so.
fn settled(status: &AgentPolicyStatus) -> bool {
    let in_force = writ_api::conditions::IN_FORCE;
    status
        .conditions
        .iter()
        .any(|c| c.type_ == in_force && c.reason == "InForce")
}

fn measure(context: &Context, namespace: &str, name: &str, status: &AgentPolicyStatus) {
    let holds = writ_api::conditions::holds(&status.conditions, writ_api::conditions::IN_FORCE);
    let labels = [namespace, name];
    context
        .metrics
        .policy_in_force
        .with_label_values(&labels)
        .set(i64::from(holds));
    context
        .metrics
        .uncovered_pods
        .with_label_values(&labels)
        .set(status.pods.uncovered);
}

/// An agent that was revoked on chain, by whomever, is told of.
async fn tell_of_revoked(
    context: &Context,
    policy: &AgentPolicy,
    before: &AgentPolicyStatus,
    after: &AgentPolicyStatus,
) {
    for agent in after.agents.iter().filter(|a| a.status == "revoked") {
        let was = before
            .agents
            .iter()
            .any(|b| b.key == agent.key && b.status == "revoked");
        if !was {
            let note = format!(
                "{} is revoked on chain; all its actions are refused",
                agent.spiffe_id
            );
            report::event(context, policy, EventType::Warning, "AgentRevoked", &note).await;
        }
    }
}

fn admitted_to(policy: &AgentPolicy, context: &Context) -> Admitted {
    let callers = &policy.spec.callers.policies;
    let home = policy.namespace().unwrap_or_default();
    let found: Vec<_> = callers
        .iter()
        .filter_map(|c| {
            context
                .stores
                .policy(c.namespace.as_deref().unwrap_or(&home), &c.name)
        })
        .collect();
    admitted(policy, &context.settings.trust_domain, |namespace, name| {
        let is = |p: &&Arc<AgentPolicy>| {
            p.namespace().as_deref() == Some(namespace) && p.name_any() == name
        };
        found.iter().find(is).map(Arc::as_ref)
    })
}

/// What the policy claims, and why it must not have it.
fn claims(policy: &AgentPolicy, namespace: &str, context: &Context) -> (Claim, Option<Invalid>) {
    let pods = context.stores.pods_in(namespace);
    let domain = &context.settings.trust_domain;
    let mut claim = match select::claim(policy, &pods, domain) {
        Ok(claim) => claim,
        Err(message) => {
            return (
                Claim::default(),
                Some(Invalid {
                    reason: "InvalidSelector",
                    message,
                }),
            );
        }
    };
    let all = context.stores.policies_in(namespace);
    let others: Vec<(&AgentPolicy, Claim)> = all
        .iter()
        .filter(|other| other.name_any() != policy.name_any())
        .filter_map(|other| Some((other.as_ref(), select::claim(other, &pods, domain).ok()?)))
        .collect();
    if let Some(conflict) = select::conflict(policy, &claim, &others) {
        let message = format!(
            "the older AgentPolicy {:?} claims the agents of service account {:?} already, and one SPIFFE ID has one \
             policy: narrow a selector, or let the pods name one in the annotation {}",
            conflict.with,
            conflict.account,
            writ_api::POLICY
        );
        return (
            claim,
            Some(Invalid {
                reason: "Conflicted",
                message,
            }),
        );
    }
    claim.accounts.extend(select::kept(policy, &others));
    (claim, None)
}

enum Done {
    Refused(Invalid),
    Receives,
    Came(Box<Want>, Box<Outcome>),
}

async fn carry_out(
    policy: &AgentPolicy,
    namespace: &str,
    claim: &mut Claim,
    admitted: &Admitted,
    context: &Context,
) -> Result<Done, OperatorError> {
    let (chain, link) = context.link(&policy.spec.chain).await?;
    let needed = want::salts_of(policy, &claim.accounts);
    let home = &context.settings.namespace;
    let salts = salts::ensure(
        &context.client,
        home,
        namespace,
        &needed,
        context.random.as_ref(),
    )
    .await?;
    let approvals: Address = link.manifest.address("ApprovalRegistry")?;
    let domain = &context.settings.trust_domain;
    let wanted = match want::want(policy, &claim.accounts, &salts, domain, approvals) {
        Ok(wanted) => wanted,
        Err(invalid) => return Ok(Done::Refused(invalid)),
    };
    fence(policy, namespace, &chain, wanted.as_ref(), context).await?;
    let Some(wanted) = wanted else {
        let accounts: Vec<String> = claim.accounts.iter().cloned().collect();
        let done = configure(
            policy, namespace, &chain, &accounts, None, admitted, context,
        )
        .await?;
        return Ok(done.map_or(Done::Receives, Done::Refused));
    };
    // The sidecars' configuration does not wait for the chain: until the policy is in force they refuse.
    let accounts: Vec<String> = wanted.agents.iter().map(|a| a.account.clone()).collect();
    let pinned = tx::policy(&link.reader, &link.manifest, wanted.policy_id)
        .await?
        .catalog_hash;
    let told = Some((&wanted, pinned));
    if let Some(invalid) = configure(
        policy, namespace, &chain, &accounts, told, admitted, context,
    )
    .await?
    {
        return Ok(Done::Refused(invalid));
    }
    let outcome = on_chain(&link, &wanted, context).await?;
    let now = outcome
        .policy
        .as_ref()
        .map_or(B256::ZERO, |p| p.catalog_hash);
    if now != pinned {
        configure(
            policy,
            namespace,
            &chain,
            &accounts,
            Some((&wanted, now)),
            admitted,
            context,
        )
        .await?;
    }
    Ok(Done::Came(Box::new(wanted), Box::new(outcome)))
}

async fn on_chain(link: &Link, wanted: &Want, context: &Context) -> Result<Outcome, OperatorError> {
    // An agent that an AgentRevocation names is not registered anew, on whatever chain.
    let revocations: Api<AgentRevocation> = Api::all(context.client.clone());
    let named = revocations.list(&ListParams::default()).await?;
    let revoked: Vec<B256> = wanted
        .agents
        .iter()
        .filter(|agent| named.iter().any(|r| r.spec.spiffe_id == agent.spiffe_id))
        .map(|agent| agent.record.key)
        .collect();
    let came = steps::carry_out(link, wanted, &revoked).await;
    let count = |what: &str, outcome: &str| {
        context
            .metrics
            .transactions
            .with_label_values(&[what, outcome])
            .inc()
    };
    match &came {
        Ok(outcome) => outcome
            .transactions
            .iter()
            .for_each(|sent| count(&sent.what, "Included")),
        Err(error) => count("policy", chain_cause(error)),
    }
    Ok(came?)
}
