//! What a policy wants, carried out on chain: every step looks first, so each can be repeated.

use alloy::primitives::{Address, B256, keccak256};
use writ_api::{Queued, Transaction};
use writ_chain::deploy::{self, DEPLOYER};
use writ_chain::tx::{
    self, AgentState, Call, Governance, PolicyState, Progress, Standing, TxError,
};

use super::want::{Code, Want};
use crate::chain::Link;

/// How far a policy has come on chain.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// The version's contract, where it stands or will stand.
    pub contract: Option<(Address, B256)>,
    /// What the policy registry says.
    pub policy: Option<PolicyState>,
    /// What the agent registry says, in the order of the agents that are wanted.
    pub agents: Vec<AgentState>,
    /// What waits, the first being the one that the others need.
    pub queued: Vec<Queued>,
    /// What was sent.
    pub transactions: Vec<Transaction>,
    /// Why it went no further: reason and sentence.
    pub stopped: Option<(&'static str, String)>,
}

/// Carries out what is wanted, as far as it goes now. `revoked` names agent keys that must not be registered.
///
/// # Errors
/// The endpoint fails, or a contract refuses. What was done stays done.
pub async fn carry_out(link: &Link, want: &Want, revoked: &[B256]) -> Result<Outcome, TxError> {
    let mut outcome = Outcome::default();
    let read = &link.reader;
    outcome.policy = Some(tx::policy(read, &link.manifest, want.policy_id).await?);
    let Some((contract, code_hash)) = contract(link, want, &mut outcome).await? else {
        outcome.agents = agents(link, want).await?;
        return Ok(outcome);
    };
    outcome.contract = Some((contract, code_hash));
    if !published(&outcome, want) {
        let publish = tx::calls::publish(
            &link.manifest,
            want.policy_id,
            contract,
            code_hash,
            want.catalog_hash,
        )?;
        advance(link, "publish policy version", publish, &mut outcome).await?;
        outcome.policy = Some(tx::policy(read, &link.manifest, want.policy_id).await?);
    }
    let there = agents(link, want).await?;
    let mut sent = false;
    for (agent, there) in want.agents.iter().zip(&there) {
        let record = &agent.record;
        let call = match there.status {
            "unknown" if revoked.contains(&record.key) => continue,
            "unknown" => tx::calls::register_agent(&link.manifest, record)?,
            // The registry changes nothing of a revoked agent, and neither do we.
            "revoked" => continue,
            _ if (there.policy_id, there.model) != (record.policy_id, record.model) => {
                tx::calls::update_agent(&link.manifest, record)?
            }
            _ => continue,
        };
        advance(link, "register agent", call, &mut outcome).await?;
        sent = true;
    }
    outcome.agents = if sent {
        agents(link, want).await?
    } else {
        there
    };
    Ok(outcome)
}

/// Whether the registry has the wanted version.
#[must_use]
pub fn published(outcome: &Outcome, want: &Want) -> bool {
    match (&outcome.policy, outcome.contract) {
        (Some(policy), Some((contract, code_hash))) => {
            (policy.contract, policy.code_hash, policy.catalog_hash)
                == (contract, code_hash, want.catalog_hash)
        }
        _ => false,
    }
}

async fn agents(link: &Link, want: &Want) -> Result<Vec<AgentState>, TxError> {
    let mut states = Vec::with_capacity(want.agents.len());
    for agent in &want.agents {
        states.push(tx::agent(&link.reader, &link.manifest, agent.record.key).await?);
    }
    Ok(states)
}

/// The version's contract, created where it is not there yet.
async fn contract(
    link: &Link,
    want: &Want,
    outcome: &mut Outcome,
) -> Result<Option<(Address, B256)>, TxError> {
    match &want.code {
        Code::Existing { address, code_hash } => {
            let code = link.reader.code(*address).await?;
            let actual = keccak256(&code);
            if code.is_empty() || actual != *code_hash {
                let found = if code.is_empty() {
                    "no code".to_owned()
                } else {
                    format!("code with hash {actual}")
                };
                outcome.stopped = Some((
                    "CodeHashMismatch",
                    format!(
                        "policyRef: {address} has {found}, expected {code_hash}: check address and hash"
                    ),
                ));
                return Ok(None);
            }
            Ok(Some((*address, actual)))
        }
        Code::Create(init) => {
            let address = DEPLOYER.create2_from_code(B256::ZERO, init);
            let mut code = link.reader.code(address).await?;
            if code.is_empty() {
                let Some(deployer) = &link.deployer else {
                    outcome.stopped = Some((
                        "DeployerKeyMissing",
                        "the Chain names no deployer key (spec.keys.deployer), so the version cannot be deployed".to_owned(),
                    ));
                    return Ok(None);
                };
                let _turn = link.turns.governance.lock().await;
                deploy::create(deployer, "RulePolicy", init, B256::ZERO).await?;
                code = link.reader.code(address).await?;
            }
            Ok(Some((address, keccak256(&code))))
        }
    }
}

/// Takes the next steps of one change, as far as our keys go, and notes what waits.
async fn advance(
    link: &Link,
    change: &str,
    call: Call,
    outcome: &mut Outcome,
) -> Result<(), TxError> {
    let governance = Governance::of(&link.manifest)?;
    let calls = [call];
    let _turn = link.turns.governance.lock().await;
    let standing = governance.standing(&link.reader, &calls).await?;
    let wallet = match &standing {
        Standing::Unset { .. } => link.owner.as_ref(),
        Standing::Queued { ready: false, .. } => None,
        // Anybody may execute what is due.
        Standing::Queued { ready: true, .. } => link.deployer.as_ref().or(link.owner.as_ref()),
    };
    let Some(wallet) = wallet else {
        outcome.queued.push(waiting(change, standing));
        return Ok(());
    };
    match governance.advance(wallet, &calls).await? {
        Progress::Unchanged => {}
        Progress::Executed { transaction, block } => outcome.transactions.push(Transaction {
            what: change.to_owned(),
            hash: transaction.to_string(),
            block: i64::try_from(block).unwrap_or(i64::MAX),
        }),
        Progress::Proposed { .. } | Progress::Queued { .. } => {
            let standing = governance.standing(&link.reader, &calls).await?;
            outcome.queued.push(waiting(change, standing));
        }
    }
    Ok(())
}

/// What waits, and for what.
#[must_use]
pub fn waiting(change: &str, standing: Standing) -> Queued {
    let change = change.to_owned();
    match standing {
        Standing::Unset { schedule, proposal } => Queued {
            change,
            proposal: proposal
                .as_ref()
                .map(|p| i64::try_from(p.number).unwrap_or(i64::MAX)),
            confirmations: proposal.as_ref().map(|p| i64::from(p.confirmations)),
            threshold: proposal
                .as_ref()
                .map(|p| i64::try_from(p.threshold).unwrap_or(i64::MAX)),
            target: Some(schedule.target.to_string()),
            data: Some(schedule.data.to_string()),
            ..Queued::default()
        },
        Standing::Queued {
            operation,
            ready_at,
            ..
        } => Queued {
            change,
            operation: Some(operation.to_string()),
            ready_at: Some(rfc3339(ready_at)),
            ..Queued::default()
        },
    }
}

fn rfc3339(seconds: u64) -> String {
    let seconds = i64::try_from(seconds).unwrap_or(i64::MAX);
    k8s_openapi::jiff::Timestamp::from_second(seconds)
        .map_or_else(|_| seconds.to_string(), |time| time.to_string())
}
