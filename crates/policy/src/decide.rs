//! The decision: agent, policy version, code hash, verdict.

use alloy_primitives::{Address, B256, KECCAK256_EMPTY};
use alloy_sol_types::SolCall;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::abi::{self, Action, IPolicy, Verdict};
use crate::evm::ProfileEvm;
use crate::profile::PROFILE;
use crate::registry::{AgentStatus, Registries, Resolved, exactly, resolve};
use crate::{EvalError, ProfileRefusal, Snapshot, StateKey};

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
    /// The policy contract, zero if there is none.
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
    let entry = resolve(snapshot, registries, action.agent)?;
    let mut case = Case {
        snapshot,
        action,
        touched: entry.touched.clone(),
        ran: entry.ran.clone(),
        entry: &entry,
    };
    match entry.status {
        AgentStatus::Unknown => return Ok(case.deny("agent-unknown")),
        AgentStatus::Paused => return Ok(case.deny("agent-paused")),
        AgentStatus::Revoked => return Ok(case.deny("agent-revoked")),
        AgentStatus::Active => {}
    }
    if !entry.agent.model.is_zero() && entry.agent.model != action.model {
        return Ok(case.deny("model-mismatch"));
    }
    let policy = entry.binding.policy;
    if policy.is_zero() {
        return Ok(case.deny("policy-unknown"));
    }
    if entry.binding.paused {
        return Ok(case.deny("policy-paused"));
    }
    if case.code_hash(policy)? != entry.binding.codeHash {
        return Ok(case.deny("code-mismatch"));
    }
    let verdict = case.verdict(policy)?;
    let malformed = || ProfileRefusal::MalformedAnswer(policy);
    let effect = match verdict.effect {
        abi::Effect::Deny => Effect::Deny,
        abi::Effect::Allow => Effect::Allow,
        abi::Effect::RequireApproval => Effect::RequireApproval,
        abi::Effect::__Invalid => return Err(malformed().into()),
    };
    let reason = reason_text(verdict.reason).ok_or_else(malformed)?;
    Ok(case.decision(effect, reason, &verdict))
}

/// A decision in the making.
struct Case<'a> {
    snapshot: &'a Snapshot,
    action: &'a Action,
    entry: &'a Resolved,
    touched: Vec<StateKey>,
    ran: Vec<(Address, B256)>,
}

impl Case<'_> {
    /// EXTCODEHASH of the policy, and the certainty that its code is at hand.
    fn code_hash(&mut self, policy: Address) -> Result<B256, EvalError> {
        let keys = [StateKey::Account(policy), StateKey::Code(policy)];
        let mut missing = keys.to_vec();
        missing.retain(|key| !self.snapshot.contains(key));
        match self.snapshot.account(&policy) {
            Some(account) if missing.is_empty() => {
                self.touch(&keys);
                Ok(account.map_or(KECCAK256_EMPTY, |state| state.code_hash))
            }
            _ => Err(EvalError::Missing(missing)),
        }
    }

    fn verdict(&mut self, policy: Address) -> Result<Verdict, EvalError> {
        let mut evm = ProfileEvm::new(self.snapshot);
        let answer = evm.call(policy, self.action.call_data().into())?;
        self.touch(evm.touched());
        self.ran.extend_from_slice(evm.ran());
        let decode = IPolicy::evaluateCall::abi_decode_returns_validate;
        exactly(policy, &answer, 7 * 32, decode)
    }

    /// Adds keys, each once. An EVM reads a key once; only what went before it can be there already.
    fn touch(&mut self, keys: &[StateKey]) {
        let before = self.touched.len();
        for key in keys {
            if !self.touched.iter().take(before).any(|known| known == key) {
                self.touched.push(*key);
            }
        }
    }

    fn deny(self, reason: &str) -> Decision {
        self.decision(Effect::Deny, reason.to_owned(), &Verdict::default())
    }

    fn decision(self, effect: Effect, reason: String, verdict: &Verdict) -> Decision {
        let header = self.snapshot.header();
        Decision {
            effect,
            rule: verdict.rule.0,
            reason,
            ttl: verdict.ttl,
            max_state_age: verdict.maxStateAge,
            tier: verdict.tier,
            obligations: verdict.obligations,
            policy_id: self.entry.agent.policyId.0,
            contract: self.entry.binding.policy,
            registered_code_hash: self.entry.binding.codeHash.0,
            code_hash: code_set_hash(self.ran),
            catalog_hash: self.entry.binding.catalogHash.0,
            evm: PROFILE.to_owned(),
            chain_id: self.snapshot.chain_id(),
            block: header.number,
            block_hash: header.hash.0,
            input: self.action.input(),
            touched: self.touched,
        }
    }
}

/// The reason as text: printable ASCII, then only zero bytes.
pub(crate) fn reason_text(reason: B256) -> Option<String> {
    let length = reason
        .iter()
        .position(|byte| *byte == 0)
        .unwrap_or(reason.len());
    let (text, padding) = reason.split_at(length);
    let printable = text.iter().all(u8::is_ascii_graphic) && padding.iter().all(|byte| *byte == 0);
    printable.then(|| String::from_utf8_lossy(text).into_owned())
}

fn code_set_hash(mut ran: Vec<(Address, B256)>) -> [u8; 32] {
    ran.sort_unstable();
    ran.dedup();
    let mut hasher = Sha256::new();
    for (address, hash) in &ran {
        hasher.update(address);
        hasher.update(hash);
    }
    hasher.finalize().into()
}
