//! The decision: agent, policy version, code hash, verdict.

use alloy_primitives::{Address, B256, Bytes, KECCAK256_EMPTY};
use alloy_sol_types::SolCall;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::abi::{self, Action, Agent, Binding, IAgentRegistry, IPolicy, IPolicyRegistry, Verdict};
use crate::evm::ProfileEvm;
use crate::profile::PROFILE;
use crate::{EvalError, ProfileRefusal, Snapshot, StateKey};

/// Where the registries stand.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Registries {
    /// EIP-155 chain id.
    pub chain_id: u64,
    /// `AgentRegistry`.
    pub agents: Address,
    /// `PolicyRegistry`.
    pub policies: Address,
}

/// What was decided. Only [`Effect::Allow`] lets an action pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Effect {
    /// Refused.
    Deny,
    /// Allowed.
    Allow,
    /// Refused until a human approval is presented.
    RequireApproval,
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

/// A decision with everything needed to state it, bind it and repeat it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Decision {
    /// What was decided.
    pub effect: Effect,
    /// Key of the rule that matched, or 0.
    pub rule: [u8; 32],
    /// Stable short reason; empty only if the contract gave none.
    pub reason: String,
    /// Life of the envelope in seconds, as the contract says.
    pub ttl: u32,
    /// How old the state may be, in seconds, as the contract says.
    pub max_state_age: u32,
    /// Assurance tier.
    pub tier: u8,
    /// Bit set of obligations.
    pub obligations: u32,
    /// Policy id of the agent, 0 if it has none.
    pub policy_id: [u8; 32],
    /// The policy contract, zero if none was reached.
    pub contract: Address,
    /// keccak256 of the contract's code, as registered.
    pub registered_code_hash: [u8; 32],
    /// SHA-256 over the sorted (address, keccak256 of code) pairs of all code that ran, registries included.
    pub code_hash: [u8; 32],
    /// SHA-256 of the catalog, as registered.
    pub catalog_hash: [u8; 32],
    /// EVM profile.
    pub evm: String,
    /// EIP-155 chain id.
    pub chain_id: u64,
    /// Block that was read.
    pub block: u64,
    /// Its hash.
    pub block_hash: [u8; 32],
    /// SHA-256 of the ABI-encoded action.
    pub input: [u8; 32],
    /// All state that was read, in the order of reading.
    pub touched: Vec<StateKey>,
}

/// Decides on an action at the snapshot's block: reads the agent, its policy version, compares the code hash, and asks
/// the policy contract. Everything unusual is a denial or an error, never an allow.
///
/// # Errors
/// [`EvalError::Missing`] if the snapshot lacks state, [`EvalError::Refused`] if the EVM profile refuses,
/// [`EvalError::WrongChain`] if snapshot and registries are of different chains.
pub fn decide(
    snapshot: &Snapshot,
    registries: &Registries,
    action: &Action,
) -> Result<Decision, EvalError> {
    let mut session = Session::open(snapshot, registries)?;
    let agent = session.agent(action.agent)?;
    match agent_status(&agent, session.registries.agents)? {
        AgentStatus::Unknown => return Ok(session.deny("agent-unknown", action, &agent, None)),
        AgentStatus::Paused => return Ok(session.deny("agent-paused", action, &agent, None)),
        AgentStatus::Revoked => return Ok(session.deny("agent-revoked", action, &agent, None)),
        AgentStatus::Active => {}
    }
    if !agent.model.is_zero() && agent.model != action.model {
        return Ok(session.deny("model-mismatch", action, &agent, None));
    }
    let binding = session.binding(agent.policyId)?;
    if binding.policy.is_zero() {
        return Ok(session.deny("policy-unknown", action, &agent, None));
    }
    if binding.paused {
        return Ok(session.deny("policy-paused", action, &agent, Some(&binding)));
    }
    if session.code_hash(binding.policy)? != binding.codeHash {
        return Ok(session.deny("code-mismatch", action, &agent, Some(&binding)));
    }
    let verdict = session.verdict(binding.policy, action)?;
    let malformed = || ProfileRefusal::MalformedAnswer(binding.policy);
    let effect = match verdict.effect {
        abi::Effect::Deny => Effect::Deny,
        abi::Effect::Allow => Effect::Allow,
        abi::Effect::RequireApproval => Effect::RequireApproval,
        abi::Effect::__Invalid => return Err(malformed().into()),
    };
    let reason = reason_text(verdict.reason).ok_or_else(malformed)?;
    Ok(session.decision(effect, reason, &verdict, action, &agent, Some(&binding)))
}

/// What the registries say about an agent at the snapshot's block.
///
/// # Errors
/// As [`decide`].
pub fn registration(
    snapshot: &Snapshot,
    registries: &Registries,
    agent_key: &[u8; 32],
) -> Result<Registration, EvalError> {
    let mut session = Session::open(snapshot, registries)?;
    let agent = session.agent(B256::from(*agent_key))?;
    let status = agent_status(&agent, registries.agents)?;
    let binding = match status {
        AgentStatus::Unknown => Binding::default(),
        _ => session.binding(agent.policyId)?,
    };
    Ok(Registration {
        status,
        policy_id: agent.policyId.0,
        model: agent.model.0,
        organisation: agent.organisation.0,
        contract: binding.policy,
        code_hash: binding.codeHash.0,
        catalog_hash: binding.catalogHash.0,
        version: binding.version,
        paused: binding.paused,
    })
}

/// One EVM over one snapshot, for the calls of one decision.
struct Session<'a> {
    snapshot: &'a Snapshot,
    registries: &'a Registries,
    evm: ProfileEvm<'a>,
}

impl<'a> Session<'a> {
    fn open(snapshot: &'a Snapshot, registries: &'a Registries) -> Result<Self, EvalError> {
        if snapshot.chain_id() != registries.chain_id {
            let (snapshot, registries) = (snapshot.chain_id(), registries.chain_id);
            return Err(EvalError::WrongChain {
                snapshot,
                registries,
            });
        }
        // The agent registry comes first; whoever lacks it will lack the other, too, so ask for both at once.
        let keys = |address| [StateKey::Account(address), StateKey::Code(address)];
        if !keys(registries.agents)
            .iter()
            .all(|key| snapshot.contains(key))
        {
            let both = [registries.agents, registries.policies];
            let mut missing: Vec<StateKey> = both
                .into_iter()
                .flat_map(keys)
                .filter(|key| !snapshot.contains(key))
                .collect();
            missing.sort_unstable();
            missing.dedup();
            return Err(EvalError::Missing(missing));
        }
        Ok(Self {
            snapshot,
            registries,
            evm: ProfileEvm::new(snapshot),
        })
    }

    fn agent(&mut self, key: B256) -> Result<Agent, EvalError> {
        let to = self.registries.agents;
        let call = IAgentRegistry::agentOfCall { key };
        let answer = self.evm.call(to, call.abi_encode().into())?;
        exactly(
            to,
            &answer,
            5 * 32,
            IAgentRegistry::agentOfCall::abi_decode_returns_validate,
        )
    }

    fn binding(&mut self, policy_id: B256) -> Result<Binding, EvalError> {
        let to = self.registries.policies;
        let call = IPolicyRegistry::policyOfCall {
            policyId: policy_id,
        };
        let answer = self.evm.call(to, call.abi_encode().into())?;
        exactly(
            to,
            &answer,
            5 * 32,
            IPolicyRegistry::policyOfCall::abi_decode_returns_validate,
        )
    }

    fn verdict(&mut self, policy: Address, action: &Action) -> Result<Verdict, EvalError> {
        let answer = self.evm.call(policy, action.call_data().into())?;
        exactly(
            policy,
            &answer,
            7 * 32,
            IPolicy::evaluateCall::abi_decode_returns_validate,
        )
    }

    /// EXTCODEHASH of the policy, and the certainty that its code is at hand.
    fn code_hash(&self, policy: Address) -> Result<B256, EvalError> {
        let keys = [StateKey::Account(policy), StateKey::Code(policy)];
        let missing: Vec<StateKey> = keys
            .into_iter()
            .filter(|key| !self.snapshot.contains(key))
            .collect();
        match self.snapshot.account(&policy) {
            Some(account) if missing.is_empty() => {
                Ok(account.map_or(KECCAK256_EMPTY, |state| state.code_hash))
            }
            _ => Err(EvalError::Missing(missing)),
        }
    }

    fn deny(
        self,
        reason: &str,
        action: &Action,
        agent: &Agent,
        binding: Option<&Binding>,
    ) -> Decision {
        self.decision(
            Effect::Deny,
            reason.to_owned(),
            &Verdict::default(),
            action,
            agent,
            binding,
        )
    }

    fn decision(
        self,
        effect: Effect,
        reason: String,
        verdict: &Verdict,
        action: &Action,
        agent: &Agent,
        binding: Option<&Binding>,
    ) -> Decision {
        let header = self.snapshot.header();
        let mut touched = self.evm.touched().to_vec();
        if let Some(binding) = binding {
            // The code hash was compared even if the contract never ran.
            for key in [
                StateKey::Account(binding.policy),
                StateKey::Code(binding.policy),
            ] {
                if !touched.contains(&key) {
                    touched.push(key);
                }
            }
        }
        Decision {
            effect,
            rule: verdict.rule.0,
            reason,
            ttl: verdict.ttl,
            max_state_age: verdict.maxStateAge,
            tier: verdict.tier,
            obligations: verdict.obligations,
            policy_id: agent.policyId.0,
            contract: binding.map_or(Address::ZERO, |binding| binding.policy),
            registered_code_hash: binding.map_or([0; 32], |binding| binding.codeHash.0),
            code_hash: code_set_hash(self.evm.ran()),
            catalog_hash: binding.map_or([0; 32], |binding| binding.catalogHash.0),
            evm: PROFILE.to_owned(),
            chain_id: self.snapshot.chain_id(),
            block: header.number,
            block_hash: header.hash.0,
            input: action.input(),
            touched,
        }
    }
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
fn exactly<T>(
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

/// The reason as text: printable ASCII, then only zero bytes.
fn reason_text(reason: B256) -> Option<String> {
    let length = reason
        .iter()
        .position(|byte| *byte == 0)
        .unwrap_or(reason.len());
    let (text, padding) = reason.split_at(length);
    let printable = text.iter().all(u8::is_ascii_graphic) && padding.iter().all(|byte| *byte == 0);
    printable.then(|| String::from_utf8_lossy(text).into_owned())
}

fn code_set_hash(ran: &[(Address, B256)]) -> [u8; 32] {
    let mut pairs = ran.to_vec();
    pairs.sort_unstable();
    pairs.dedup();
    let mut hasher = Sha256::new();
    for (address, hash) in &pairs {
        hasher.update(address);
        hasher.update(hash);
    }
    hasher.finalize().into()
}
