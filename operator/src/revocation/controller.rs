//! Sends revocations, and follows them.

use std::sync::Arc;
use std::time::Duration;

use alloy::eips::BlockNumberOrTag;
use alloy::primitives::B256;
use alloy::providers::Provider;
use futures::StreamExt;
use kube::runtime::controller::{Action, Config, Controller};
use kube::runtime::watcher;
use kube::{Api, ResourceExt};
use writ_api::{AgentRevocation, AgentRevocationStatus, Phase, namespace_and_account};
use writ_chain::bindings::AgentRegistry;
use writ_chain::tx::{self, Session, TxError};
use writ_policy::names;

use super::core::{self, Seen, Sent};
use crate::chain::Link;
use crate::salts::{self, Of};
use crate::{Context, OperatorError, report};

/// How often one is looked at until it is final, and after that.
const UNSETTLED: Duration = Duration::from_secs(2);
const SETTLED: Duration = Duration::from_secs(60);
/// How many blocks back the transaction is looked for: endpoints answer for a limited range.
const SEARCHED_BLOCKS: u64 = 9_000;

/// Runs until the process ends.
pub async fn run(context: Arc<Context>) {
    let revocations: Api<AgentRevocation> = Api::all(context.client.clone());
    Controller::new(revocations, watcher::Config::default())
        .with_config(Config::default().concurrency(16))
        .run(reconcile, report::retry::<AgentRevocation>, context)
        .for_each(|_| futures::future::ready(()))
        .await;
}

async fn reconcile(
    revocation: Arc<AgentRevocation>,
    context: Arc<Context>,
) -> Result<Action, OperatorError> {
    // No finalizer: deleting the object undoes nothing.
    if revocation.metadata.deletion_timestamp.is_some() {
        return Ok(Action::await_change());
    }
    let work = follow(&revocation, &context);
    report::counted(&context, "revocation", revocation.as_ref(), work).await
}

async fn follow(revocation: &AgentRevocation, context: &Context) -> Result<Action, OperatorError> {
    let mut status = revocation.status.clone().unwrap_or_default();
    status.sidecars.clear();
    let (key, done) = match key(revocation, context).await {
        Err(error) => (None, Err(error)),
        Ok(None) => (None, Ok(waits_for_key(revocation, context))),
        Ok(Some(key)) => {
            let text = Some(key.to_string());
            (text, look(revocation, context, key, &mut status).await)
        }
    };
    let (seen, failure) = match done {
        Ok(seen) => (seen, None),
        Err(error) => (Seen::Waiting(error.cause(), error.to_string()), Some(error)),
    };
    let status = write(revocation, context, &status, key, &seen).await?;
    match failure {
        Some(error) => Err(error),
        None if status.phase == Some(Phase::Final) => Ok(Action::requeue(SETTLED)),
        None => Ok(Action::requeue(UNSETTLED)),
    }
}

fn waits_for_key(revocation: &AgentRevocation, context: &Context) -> Seen {
    let id = &revocation.spec.spiffe_id;
    if namespace_and_account(&context.settings.trust_domain, id).is_some() {
        Seen::Unknown
    } else {
        let text = format!(
            "{id} is not of the form spiffe://{}/ns/<namespace>/sa/<service account>: name its key in spec.agentKey",
            context.settings.trust_domain
        );
        Seen::Waiting("AgentKeyMissing", text)
    }
}

async fn write(
    revocation: &AgentRevocation,
    context: &Context,
    before: &AgentRevocationStatus,
    key: Option<String>,
    seen: &Seen,
) -> Result<AgentRevocationStatus, OperatorError> {
    let generation = revocation.metadata.generation.unwrap_or_default();
    let status = core::status(before, generation, key, seen, &context.now());
    report::transitions(context, revocation, &before.conditions, &status.conditions).await;
    if status != *before || revocation.status.is_none() {
        let api: Api<AgentRevocation> = Api::all(context.client.clone());
        report::patch_status(&api, &revocation.name_any(), &status).await?;
    }
    Ok(status)
}

/// The agent's key: as the object says, or by the salt that was made for the agent.
async fn key(
    revocation: &AgentRevocation,
    context: &Context,
) -> Result<Option<B256>, OperatorError> {
    let spec = &revocation.spec;
    if let Some(text) = &spec.agent_key {
        let key = text
            .parse()
            .map_err(|_| OperatorError::Key("spec.agentKey is not 64 hex digits".to_owned()))?;
        return Ok(Some(key));
    }
    let domain = &context.settings.trust_domain;
    let Some((namespace, account)) = namespace_and_account(domain, &spec.spiffe_id) else {
        return Ok(None);
    };
    let of = Of::Agent(account.to_owned());
    let home = &context.settings.namespace;
    let found = salts::find(&context.client, home, namespace, std::slice::from_ref(&of)).await?;
    Ok(found
        .get(&of)
        .map(|salt| names::agent_key(salt, &spec.spiffe_id).into()))
}

async fn look(
    revocation: &AgentRevocation,
    context: &Context,
    key: B256,
    status: &mut AgentRevocationStatus,
) -> Result<Seen, OperatorError> {
    let (_, link) = context.link(&revocation.spec.chain).await?;
    let there = tx::agent(&link.reader, &link.manifest, key).await?;
    match there.status {
        "unknown" => return Ok(Seen::Unknown),
        "revoked" => {}
        _ if core::was_revoked(status) => return Ok(Seen::Reinstated),
        _ => {
            let Some(guardian) = &link.guardian else {
                let text = "the Chain names no guardian key (spec.keys.guardian): revoke with `writ chain revoke`";
                return Ok(Seen::Waiting("GuardianKeyMissing", text.to_owned()));
            };
            *status = write(
                revocation,
                context,
                status,
                Some(key.to_string()),
                &Seen::Sending,
            )
            .await?;
            let _turn = link.turns.guardian.lock().await;
            tx::revoke(guardian, &link.manifest, key, &revocation.spec.reason).await?;
            context
                .metrics
                .transactions
                .with_label_values(&["revoke", "Included"])
                .inc();
        }
    }
    Ok(seen_on_chain(&link, key, status.transaction.is_some()).await?)
}

/// What the chain tells of an agent that is revoked.
///
/// # Errors
/// The endpoint fails. That it keeps no old logs, or knows no safe or final block, is none.
pub async fn seen_on_chain(link: &Link, key: B256, known: bool) -> Result<Seen, TxError> {
    let transaction = if known { None } else { find(link, key).await? };
    Ok(Seen::Revoked {
        transaction,
        safe: tagged(&link.reader, BlockNumberOrTag::Safe).await,
        last: tagged(&link.reader, BlockNumberOrTag::Finalized).await,
    })
}

async fn find(link: &Link, key: B256) -> Result<Option<Sent>, TxError> {
    let head = link.reader.block_number().await?;
    let registry = AgentRegistry::new(
        link.manifest.address("AgentRegistry")?,
        link.reader.provider(),
    );
    let filter = registry
        .AgentRevoked_filter()
        .topic1(key)
        .from_block(head.saturating_sub(SEARCHED_BLOCKS));
    let Ok(found) = filter.query().await else {
        return Ok(None);
    };
    Ok(found.last().map(|(event, log)| Sent {
        hash: log.transaction_hash.unwrap_or_default().to_string(),
        block: log.block_number.unwrap_or_default(),
        by: event.by.to_string(),
    }))
}

async fn tagged(session: &Session, tag: BlockNumberOrTag) -> Option<u64> {
    let block = session.provider().get_block_by_number(tag).await.ok()??;
    Some(block.header.number)
}
