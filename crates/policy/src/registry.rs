//! What the registries say about an agent: the part of a decision that depends on the snapshot alone.

use std::sync::{Arc, Mutex, PoisonError};

use alloy_primitives::map::HashMap;
use alloy_primitives::{Address, B256, Bytes};
use alloy_sol_types::SolCall;
use serde::{Deserialize, Serialize};

use crate::abi::{Agent, Binding, IAgentRegistry, IPolicyRegistry};
use crate::evm::ProfileEvm;
use crate::{EvalError, ProfileRefusal, Snapshot, StateKey};

/// Where the registries stand.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Registries {
    /// EIP-155 chain id.
    pub chain_id: u64,
    /// `AgentRegistry`.
    pub agents: Address,
    /// `PolicyRegistry`.
    pub policies: Address,
}

/// The state of an agent in the registry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum AgentStatus {
    /// Never registered.
    Unknown,
    /// May act.
    Active,
    /// May not act for now.
    Paused,
    /// May not act again.
    Revoked,
}

/// What the registries say about an agent: all that a PEP compares an envelope with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Registration {
    /// Whether the agent may act.
    pub status: AgentStatus,
    /// Its policy.
    pub policy_id: [u8; 32],
    /// Model that must act, 0 for any.
    pub model: [u8; 32],
    /// Organisation, hashed.
    pub organisation: [u8; 32],
    /// Contract of the current policy version, zero if there is none.
    pub contract: Address,
    /// keccak256 of that contract's code, as registered.
    pub code_hash: [u8; 32],
    /// SHA-256 of the catalog, as registered.
    pub catalog_hash: [u8; 32],
    /// Version counter of the policy.
    pub version: u64,
    /// True if the policy, or every policy, is paused.
    pub paused: bool,
}

/// What the registries say about an agent at the snapshot's block.
///
/// # Errors
/// As [`crate::decide`].
pub fn registration(
    snapshot: &Snapshot,
    registries: &Registries,
    agent_key: &[u8; 32],
) -> Result<Registration, EvalError> {
    let entry = resolve(snapshot, registries, B256::from(*agent_key))?;
    Ok(Registration {
        status: entry.status,
        policy_id: entry.agent.policyId.0,
        model: entry.agent.model.0,
        organisation: entry.agent.organisation.0,
        contract: entry.binding.policy,
        code_hash: entry.binding.codeHash.0,
        catalog_hash: entry.binding.catalogHash.0,
        version: entry.binding.version,
        paused: entry.binding.paused,
    })
}

/// An agent with its policy, and how this was found out.
#[derive(Debug)]
pub(crate) struct Resolved {
    pub status: AgentStatus,
    pub agent: Agent,
    /// All zero for an unknown agent.
    pub binding: Binding,
    /// What was read, in order.
    pub touched: Vec<StateKey>,
    /// (address, code hash) of the registry code that ran.
    pub ran: Vec<(Address, B256)>,
}

/// Entries already read from this snapshot. They follow from the snapshot, so remembering them changes no answer.
///
/// The lock is held for one look-up or insertion, never while anything is evaluated.
#[derive(Debug, Default)]
pub(crate) struct Memory(Mutex<HashMap<(Registries, B256), Arc<Resolved>>>);

/// Most entries remembered per snapshot.
const MAX_REMEMBERED: usize = 1024;

impl Memory {
    fn get(&self, key: &(Registries, B256)) -> Option<Arc<Resolved>> {
        let entries = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        entries.get(key).cloned()
    }

    fn put(&self, key: (Registries, B256), entry: &Arc<Resolved>) {
        let mut entries = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if entries.len() < MAX_REMEMBERED {
            entries.insert(key, Arc::clone(entry));
        }
    }
}

/// A copy of a snapshot starts without memories.
impl Clone for Memory {
    fn clone(&self) -> Self {
        Self::default()
    }
}

/// Reads agent and policy from the registries, in an EVM of its own: what it costs and touches is the same whether it
/// was remembered or not.
pub(crate) fn resolve(
    snapshot: &Snapshot,
    registries: &Registries,
    key: B256,
) -> Result<Arc<Resolved>, EvalError> {
    if snapshot.chain_id() != registries.chain_id {
        let (snapshot, registries) = (snapshot.chain_id(), registries.chain_id);
        return Err(EvalError::WrongChain {
            snapshot,
            registries,
        });
    }
    let remembered = (*registries, key);
    if let Some(entry) = snapshot.memory.get(&remembered) {
        return Ok(entry);
    }
    both_registries(snapshot, registries)?;
    let mut evm = ProfileEvm::new(snapshot);
    let call = IAgentRegistry::agentOfCall { key };
    let answer = evm.call(registries.agents, call.abi_encode().into())?;
    let decode = IAgentRegistry::agentOfCall::abi_decode_returns_validate;
    let agent = exactly(registries.agents, &answer, 5 * 32, decode)?;
    let status = agent_status(&agent, registries.agents)?;
    let binding = if status == AgentStatus::Unknown {
        Binding::default()
    } else {
        let call = IPolicyRegistry::policyOfCall {
            policyId: agent.policyId,
        };
        let answer = evm.call(registries.policies, call.abi_encode().into())?;
        let decode = IPolicyRegistry::policyOfCall::abi_decode_returns_validate;
        exactly(registries.policies, &answer, 5 * 32, decode)?
    };
    let entry = Arc::new(Resolved {
        status,
        agent,
        binding,
        touched: evm.touched().to_vec(),
        ran: evm.ran().to_vec(),
    });
    snapshot.memory.put(remembered, &entry);
    Ok(entry)
}

/// The agent registry comes first; whoever lacks it will lack the other, too, so both are asked for at once.
fn both_registries(snapshot: &Snapshot, registries: &Registries) -> Result<(), EvalError> {
    let keys = |address| [StateKey::Account(address), StateKey::Code(address)];
    let known = |key: &StateKey| snapshot.contains(key);
    if keys(registries.agents).iter().all(known) {
        return Ok(());
    }
    let both = [registries.agents, registries.policies];
    let mut missing: Vec<StateKey> = both.into_iter().flat_map(keys).collect();
    missing.retain(|key| !known(key));
    missing.sort_unstable();
    missing.dedup();
    Err(EvalError::Missing(missing))
}

fn agent_status(agent: &Agent, registry: Address) -> Result<AgentStatus, ProfileRefusal> {
    match agent.status {
        0 => Ok(AgentStatus::Unknown),
        1 => Ok(AgentStatus::Active),
        2 => Ok(AgentStatus::Paused),
        3 => Ok(AgentStatus::Revoked),
        _ => Err(ProfileRefusal::MalformedAnswer(registry)),
    }
}

/// Decodes an answer that must be exactly as long as its type: no slack for a contract of another interface.
pub(crate) fn exactly<T>(
    from: Address,
    answer: &Bytes,
    length: usize,
    decode: impl Fn(&[u8]) -> alloy_sol_types::Result<T>,
) -> Result<T, EvalError> {
    let malformed = || EvalError::from(ProfileRefusal::MalformedAnswer(from));
    if answer.len() != length {
        return Err(malformed());
    }
    decode(answer).map_err(|_| malformed())
}
