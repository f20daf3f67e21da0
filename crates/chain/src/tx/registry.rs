//! Agents and policies: what the registries say, and the changes to them.

use alloy::primitives::{Address, B256, Bytes, keccak256};
use alloy::sol_types::SolCall;
use serde::Serialize;

use super::{Call, Governance, Progress, Session, TxError};
use crate::bindings::{AgentRegistry, PolicyRegistry};
use crate::deploy::{self, Manifest};

/// An agent to register.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AgentRecord {
    /// keccak256(salt, SPIFFE ID).
    pub key: B256,
    /// Policy that decides for it.
    pub policy_id: B256,
    /// SHA-256 of the model that must act, 0 for any.
    pub model: B256,
    /// Salted hash of the organisation.
    pub organisation: B256,
    /// Digest of the declared capabilities.
    pub capabilities: B256,
}

/// A policy version to publish.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PolicyVersion {
    /// Policy.
    pub policy_id: B256,
    /// Init code of the version's contract, see `writ_policy::rules::init_code`.
    pub init_code: Bytes,
    /// SHA-256 of the catalog's RFC 8785 form.
    pub catalog_hash: B256,
}

/// An agent as the registry says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct AgentState {
    /// "unknown", "active", "paused" or "revoked".
    pub status: &'static str,
    /// Policy that decides for it.
    pub policy_id: B256,
    /// SHA-256 of the model, 0 for any.
    pub model: B256,
    /// Salted hash of the organisation.
    pub organisation: B256,
    /// Digest of the declared capabilities.
    pub capabilities: B256,
}

/// A policy as the registry says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PolicyState {
    /// Contract of the current version; zero when unknown.
    pub contract: Address,
    /// keccak256 of its code.
    pub code_hash: B256,
    /// SHA-256 of the catalog.
    pub catalog_hash: B256,
    /// Version counter.
    pub version: u64,
    /// True if this policy or every policy is paused.
    pub paused: bool,
}

/// Calls of the owners, to be batched into one change.
pub mod calls {
    use super::*;

    /// Registers a new agent.
    ///
    /// # Errors
    /// The manifest names no agent registry.
    pub fn register_agent(manifest: &Manifest, record: &AgentRecord) -> Result<Call, TxError> {
        let AgentRecord {
            key,
            policy_id,
            model,
            organisation,
            capabilities,
        } = *record;
        let call = AgentRegistry::registerCall {
            key,
            policyId: policy_id,
            model,
            organisation,
            capabilities,
        };
        Ok(Call::new(manifest.address("AgentRegistry")?, &call))
    }

    /// Changes what an agent is bound to.
    ///
    /// # Errors
    /// The manifest names no agent registry.
    pub fn update_agent(manifest: &Manifest, record: &AgentRecord) -> Result<Call, TxError> {
        let AgentRecord {
            key,
            policy_id,
            model,
            organisation,
            capabilities,
        } = *record;
        let call = AgentRegistry::updateCall {
            key,
            policyId: policy_id,
            model,
            organisation,
            capabilities,
        };
        Ok(Call::new(manifest.address("AgentRegistry")?, &call))
    }

    /// Publishes a version whose contract is already there.
    ///
    /// # Errors
    /// The manifest names no policy registry.
    pub fn publish(
        manifest: &Manifest,
        policy_id: B256,
        contract: Address,
        code_hash: B256,
        catalog_hash: B256,
    ) -> Result<Call, TxError> {
        let call = PolicyRegistry::publishCall {
            policyId: policy_id,
            policy: contract,
            codeHash: code_hash,
            catalogHash: catalog_hash,
        };
        Ok(Call::new(manifest.address("PolicyRegistry")?, &call))
    }
}

/// What the registry says about an agent.
///
/// # Errors
/// The endpoint fails.
pub async fn agent(
    session: &Session,
    manifest: &Manifest,
    key: B256,
) -> Result<AgentState, TxError> {
    let registry = AgentRegistry::new(manifest.address("AgentRegistry")?, session.provider());
    let agent = registry
        .agentOf(key)
        .call()
        .await
        .map_err(|e| TxError::contract("reading the agent", e))?;
    let status = match agent.status {
        1 => "active",
        2 => "paused",
        3 => "revoked",
        _ => "unknown",
    };
    Ok(AgentState {
        status,
        policy_id: agent.policyId,
        model: agent.model,
        organisation: agent.organisation,
        capabilities: agent.capabilities,
    })
}

/// What the registry says about a policy.
///
/// # Errors
/// The endpoint fails.
pub async fn policy(
    session: &Session,
    manifest: &Manifest,
    policy_id: B256,
) -> Result<PolicyState, TxError> {
    let registry = PolicyRegistry::new(manifest.address("PolicyRegistry")?, session.provider());
    let binding = registry
        .policyOf(policy_id)
        .call()
        .await
        .map_err(|e| TxError::contract("reading the policy", e))?;
    Ok(PolicyState {
        contract: binding.policy,
        code_hash: binding.codeHash,
        catalog_hash: binding.catalogHash,
        version: binding.version,
        paused: binding.paused,
    })
}

/// Registers agents, or changes what registered ones are bound to, in one change. Agents that are as told stay untouched.
///
/// # Errors
/// The owners' step is refused, or the endpoint fails.
pub async fn register_agents(
    session: &Session,
    manifest: &Manifest,
    records: &[AgentRecord],
) -> Result<Progress, TxError> {
    let mut wanted = Vec::new();
    for record in records {
        let there = agent(session, manifest, record.key).await?;
        let AgentRecord {
            policy_id,
            model,
            organisation,
            capabilities,
            ..
        } = *record;
        if there.status == "unknown" {
            wanted.push(calls::register_agent(manifest, record)?);
        } else if (
            there.policy_id,
            there.model,
            there.organisation,
            there.capabilities,
        ) != (policy_id, model, organisation, capabilities)
        {
            wanted.push(calls::update_agent(manifest, record)?);
        }
    }
    advance(session, manifest, &wanted).await
}

/// Deploys the version's contract if it is not there, and publishes it. The contract's address is derived from its init
/// code (CREATE2), so the address pins the rules as well as the code.
///
/// # Errors
/// The owners' step is refused, or the endpoint fails.
pub async fn publish_policy(
    session: &Session,
    manifest: &Manifest,
    version: &PolicyVersion,
) -> Result<Progress, TxError> {
    let contract = deploy::create(session, "RulePolicy", &version.init_code, B256::ZERO).await?;
    let code_hash = keccak256(session.code(contract).await?);
    let there = policy(session, manifest, version.policy_id).await?;
    if (there.contract, there.code_hash, there.catalog_hash)
        == (contract, code_hash, version.catalog_hash)
    {
        return Ok(Progress::Unchanged);
    }
    let call = calls::publish(
        manifest,
        version.policy_id,
        contract,
        code_hash,
        version.catalog_hash,
    )?;
    advance(session, manifest, &[call]).await
}

/// Publishes the next version with the same contract and another catalog.
///
/// # Errors
/// The owners' step is refused, or the endpoint fails.
pub async fn pin_catalog(
    session: &Session,
    manifest: &Manifest,
    policy_id: B256,
    catalog_hash: B256,
) -> Result<Progress, TxError> {
    if policy(session, manifest, policy_id).await?.catalog_hash == catalog_hash {
        return Ok(Progress::Unchanged);
    }
    let call = PolicyRegistry::pinCatalogCall {
        policyId: policy_id,
        catalogHash: catalog_hash,
    };
    advance(
        session,
        manifest,
        &[Call::new(manifest.address("PolicyRegistry")?, &call)],
    )
    .await
}

/// Revokes an agent with the guardian's key, at once. `reason` is short ASCII.
///
/// # Errors
/// The key is not the guardian's, the agent is unknown, or the endpoint fails.
pub async fn revoke(
    session: &Session,
    manifest: &Manifest,
    key: B256,
    reason: &str,
) -> Result<Progress, TxError> {
    if agent(session, manifest, key).await?.status == "revoked" {
        return Ok(Progress::Unchanged);
    }
    let call = AgentRegistry::revokeCall {
        key,
        reason: short_text(reason),
    };
    direct(
        session,
        "revoking the agent",
        manifest.address("AgentRegistry")?,
        &call,
    )
    .await
}

/// Pauses an agent with the guardian's key, at once.
///
/// # Errors
/// The key is not the guardian's, the agent is not active, or the endpoint fails.
pub async fn pause_agent(
    session: &Session,
    manifest: &Manifest,
    key: B256,
) -> Result<Progress, TxError> {
    if agent(session, manifest, key).await?.status == "paused" {
        return Ok(Progress::Unchanged);
    }
    direct(
        session,
        "pausing the agent",
        manifest.address("AgentRegistry")?,
        &AgentRegistry::pauseCall { key },
    )
    .await
}

/// Pauses a policy with the guardian's key, at once.
///
/// # Errors
/// The key is not the guardian's, the policy is unknown, or the endpoint fails.
pub async fn pause_policy(
    session: &Session,
    manifest: &Manifest,
    policy_id: B256,
) -> Result<Progress, TxError> {
    let call = PolicyRegistry::pauseCall {
        policyId: policy_id,
    };
    if policy(session, manifest, policy_id).await?.paused {
        return Ok(Progress::Unchanged);
    }
    direct(
        session,
        "pausing the policy",
        manifest.address("PolicyRegistry")?,
        &call,
    )
    .await
}

/// The kill switch: pauses every policy with the guardian's key, at once.
///
/// # Errors
/// The key is not the guardian's, or the endpoint fails.
pub async fn pause_all(session: &Session, manifest: &Manifest) -> Result<Progress, TxError> {
    if all_paused(session, manifest).await? {
        return Ok(Progress::Unchanged);
    }
    let target = manifest.address("PolicyRegistry")?;
    direct(
        session,
        "pausing all policies",
        target,
        &PolicyRegistry::pauseAllCall {},
    )
    .await
}

/// Lets a paused or revoked agent act again: owners only.
///
/// # Errors
/// The owners' step is refused, or the endpoint fails.
pub async fn reinstate(
    session: &Session,
    manifest: &Manifest,
    key: B256,
) -> Result<Progress, TxError> {
    if agent(session, manifest, key).await?.status == "active" {
        return Ok(Progress::Unchanged);
    }
    let call = Call::new(
        manifest.address("AgentRegistry")?,
        &AgentRegistry::reinstateCall { key },
    );
    advance(session, manifest, &[call]).await
}

/// Ends the pause of a policy: owners only.
///
/// # Errors
/// The owners' step is refused, or the endpoint fails.
pub async fn unpause_policy(
    session: &Session,
    manifest: &Manifest,
    policy_id: B256,
) -> Result<Progress, TxError> {
    if !policy(session, manifest, policy_id).await?.paused {
        return Ok(Progress::Unchanged);
    }
    let call = PolicyRegistry::unpauseCall {
        policyId: policy_id,
    };
    advance(
        session,
        manifest,
        &[Call::new(manifest.address("PolicyRegistry")?, &call)],
    )
    .await
}

/// Ends the kill switch: owners only.
///
/// # Errors
/// The owners' step is refused, or the endpoint fails.
pub async fn unpause_all(session: &Session, manifest: &Manifest) -> Result<Progress, TxError> {
    if !all_paused(session, manifest).await? {
        return Ok(Progress::Unchanged);
    }
    let call = Call::new(
        manifest.address("PolicyRegistry")?,
        &PolicyRegistry::unpauseAllCall {},
    );
    advance(session, manifest, &[call]).await
}

/// Replaces the guardian of every contract, by the multisig, without delay. Run again by each owner until all are done.
///
/// # Errors
/// The owners' step is refused, or the endpoint fails.
pub async fn set_guardian(
    session: &Session,
    manifest: &Manifest,
    guardian: Address,
) -> Result<Vec<Progress>, TxError> {
    let governance = Governance::of(manifest)?;
    let mut steps = Vec::new();
    for name in [
        "AgentRegistry",
        "PolicyRegistry",
        "ModelRegistry",
        "SaeAnchor",
        "ApprovalRegistry",
    ] {
        let target = manifest.address(name)?;
        // The functions of `Governed` are the same in all of them.
        let contract = AgentRegistry::new(target, session.provider());
        let there = contract
            .guardian()
            .call()
            .await
            .map_err(|e| TxError::contract("reading the guardian", e))?;
        if there == guardian {
            steps.push(Progress::Unchanged);
            continue;
        }
        let call = Call::new(
            target,
            &AgentRegistry::setGuardianCall {
                guardian_: guardian,
            },
        );
        steps.push(governance.through_multisig(session, &call).await?);
    }
    Ok(steps)
}

async fn all_paused(session: &Session, manifest: &Manifest) -> Result<bool, TxError> {
    let registry = PolicyRegistry::new(manifest.address("PolicyRegistry")?, session.provider());
    registry
        .allPaused()
        .call()
        .await
        .map_err(|e| TxError::contract("reading the kill switch", e))
}

async fn advance(
    session: &Session,
    manifest: &Manifest,
    calls: &[Call],
) -> Result<Progress, TxError> {
    if calls.is_empty() {
        return Ok(Progress::Unchanged);
    }
    Governance::of(manifest)?.advance(session, calls).await
}

async fn direct(
    session: &Session,
    what: &'static str,
    to: Address,
    call: &impl SolCall,
) -> Result<Progress, TxError> {
    let receipt = session.send(what, to, call.abi_encode().into()).await?;
    Ok(Progress::Executed {
        transaction: receipt.transaction_hash,
        block: receipt.block_number.unwrap_or_default(),
    })
}

/// Up to 32 bytes of a text; what is longer is cut, what is not printable ASCII becomes `?`.
fn short_text(text: &str) -> B256 {
    let mut bytes = [0; 32];
    for (to, from) in bytes.iter_mut().zip(text.chars()) {
        *to = if from.is_ascii_graphic() || from == ' ' {
            u8::try_from(from).unwrap_or(b'?')
        } else {
            b'?'
        };
    }
    bytes.into()
}
