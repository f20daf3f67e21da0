//! A version of rules before it is deployed: the contract's own code, created and asked in-process.

use std::borrow::Cow;
use std::sync::Arc;

use alloy_primitives::map::HashMap;
use alloy_primitives::{Address, B256, Bytes, TxKind, U256};
use alloy_sol_types::SolCall;
use alloy_trie::{EMPTY_ROOT_HASH, TrieAccount};
use revm::context::result::{ExecutionResult, Output};
use revm::context::{Context, TxEnv};
use revm::{ExecuteEvm, MainBuilder, MainContext};

use crate::abi::{self, IPolicy};
use crate::decide::{Effect, reason_text};
use crate::evm::ProfileEvm;
use crate::profile::SPEC;
use crate::registry::{Memory, exactly};
use crate::snapshot::{ProvedAccount, ProvedSlot, Storage};
use crate::{Action, EvalError, PolicyError, ProfileRefusal, ProvedHeader, Snapshot, StateKey};

/// Gas of the constructor: as many rules as init code holds, and no endless loop.
const CONSTRUCTOR_GAS: u64 = 200_000_000;
/// Rounds of evaluating and of adding state that is 0.
const MAX_ROUNDS: usize = 16;
/// Chain id of the chain on which it stands: none that exists.
const CHAIN_ID: u64 = 0;
/// Storage root of a contract whose slots are known and whose trie is not.
const SOME_ROOT: B256 = B256::repeat_byte(1);

/// Why rules cannot be tried.
#[derive(Debug, thiserror::Error)]
pub enum TrialError {
    /// The constructor did not create a contract.
    #[error("the contract cannot be created: {0}")]
    Constructor(String),
    /// What stands in for a block is not one.
    #[error(transparent)]
    State(#[from] PolicyError),
}

/// What the contract says about an action. The registries are not asked: whether the agent is active
/// and the policy is not paused, they say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ruling {
    /// What is decided.
    pub effect: Effect,
    /// Key of the rule that matched, or 0; [`super::CompiledRule::key`] tells which that is.
    pub rule: B256,
    /// Stable short reason.
    pub reason: String,
    /// Life of the envelope in seconds.
    pub ttl: u32,
    /// How old the state may be, in seconds.
    pub max_state_age: u32,
    /// Assurance tier.
    pub tier: u8,
    /// Bit set of obligations.
    pub obligations: u32,
}

/// A policy contract as its constructor makes it, with nothing else on its chain.
#[derive(Debug, Clone)]
pub struct Trial {
    snapshot: Snapshot,
    contract: Address,
    code_hash: B256,
}

impl Trial {
    /// Runs the constructor.
    ///
    /// # Errors
    /// [`TrialError`]: it reverted or did not end.
    pub fn of(init_code: &Bytes) -> Result<Self, TrialError> {
        let failed = |what: &dyn std::fmt::Debug| TrialError::Constructor(format!("{what:?}"));
        let mut evm = Context::mainnet()
            .modify_cfg_chained(|cfg| {
                cfg.set_spec_and_mainnet_gas_params(SPEC);
                // A chain bounds one transaction; how many rules fit there is for the deployer to find out.
                cfg.tx_gas_limit_cap = Some(u64::MAX);
            })
            .build_mainnet();
        let create = TxEnv {
            kind: TxKind::Create,
            data: init_code.clone(),
            gas_limit: CONSTRUCTOR_GAS,
            ..TxEnv::default()
        };
        let done = evm.transact(create).map_err(|error| failed(&error))?;
        let contract = match &done.result {
            ExecutionResult::Success {
                output: Output::Create(_, Some(contract)),
                ..
            } => *contract,
            ExecutionResult::Success { .. } => return Err(failed(&"nothing was created")),
            ExecutionResult::Revert { output, .. } => return Err(failed(output)),
            ExecutionResult::Halt { reason, .. } => return Err(failed(reason)),
        };
        let created = done.state.get(&contract);
        let created = created.ok_or_else(|| failed(&"nothing was created"))?;
        let code_hash = created.info.code_hash;
        let code = created.info.code.clone().unwrap_or_default();
        let slots = created.storage.iter().map(|(slot, kept)| {
            let value = kept.present_value;
            (
                *slot,
                ProvedSlot {
                    value,
                    nodes: Arc::from([]),
                },
            )
        });
        let account = ProvedAccount {
            state: Some(TrieAccount {
                nonce: 1,
                balance: U256::ZERO,
                storage_root: SOME_ROOT,
                code_hash,
            }),
            nodes: Arc::from([]),
            storage: Arc::new(Storage {
                root: SOME_ROOT,
                slots: slots.collect(),
            }),
        };
        let header = alloy_consensus::Header {
            number: 1,
            gas_limit: CONSTRUCTOR_GAS,
            base_fee_per_gas: Some(0),
            ..Default::default()
        };
        let snapshot = Snapshot {
            header: ProvedHeader::from_consensus(&header)?,
            chain_id: CHAIN_ID,
            accounts: HashMap::from_iter([(contract, account)]),
            codes: HashMap::from_iter([(code_hash, code)]),
            memory: Memory::default(),
        };
        Ok(Self {
            snapshot,
            contract,
            code_hash,
        })
    }

    /// keccak256 of the contract's code, which the rules are part of: the same rules, approval
    /// registry and salts have the same code wherever they stand.
    #[must_use]
    pub fn code_hash(&self) -> B256 {
        self.code_hash
    }

    /// Asks the contract under the profile that sidecars use. What its constructor did not write is 0.
    ///
    /// # Errors
    /// [`EvalError`]: the profile refuses, or there is no end of what the contract asks for.
    pub fn evaluate(&self, action: &Action) -> Result<Ruling, EvalError> {
        let mut snapshot = Cow::Borrowed(&self.snapshot);
        let mut missing = Vec::new();
        for _ in 0..MAX_ROUNDS {
            let mut evm = ProfileEvm::new(&snapshot);
            let answer = evm.call(self.contract, action.call_data().into());
            drop(evm);
            match answer {
                Ok(answer) => return self.ruling(&answer),
                Err(EvalError::Missing(keys)) => {
                    missing = keys;
                    empty(snapshot.to_mut(), &missing);
                }
                Err(refused) => return Err(refused),
            }
        }
        Err(EvalError::Missing(missing))
    }

    fn ruling(&self, answer: &Bytes) -> Result<Ruling, EvalError> {
        let decode = IPolicy::evaluateCall::abi_decode_returns_validate;
        let verdict = exactly(self.contract, answer, 7 * 32, decode)?;
        let malformed = || EvalError::from(ProfileRefusal::MalformedAnswer(self.contract));
        let effect = match verdict.effect {
            abi::Effect::Deny => Effect::Deny,
            abi::Effect::Allow => Effect::Allow,
            abi::Effect::RequireApproval => Effect::RequireApproval,
            _ => return Err(malformed()),
        };
        Ok(Ruling {
            effect,
            rule: verdict.rule,
            reason: reason_text(verdict.reason).ok_or_else(malformed)?,
            ttl: verdict.ttl,
            max_state_age: verdict.maxStateAge,
            tier: verdict.tier,
            obligations: verdict.obligations,
        })
    }
}

/// Makes these keys known as what they are on a chain with nothing else: no account, 0.
fn empty(snapshot: &mut Snapshot, keys: &[StateKey]) {
    for key in keys {
        match key {
            StateKey::Slot(address, slot) => {
                if let Some(account) = snapshot.accounts.get_mut(address) {
                    let zero = ProvedSlot {
                        value: U256::ZERO,
                        nodes: Arc::from([]),
                    };
                    Arc::make_mut(&mut account.storage)
                        .slots
                        .entry(*slot)
                        .or_insert(zero);
                }
            }
            StateKey::Account(address) | StateKey::Code(address) => {
                snapshot
                    .accounts
                    .entry(*address)
                    .or_insert_with(|| ProvedAccount {
                        state: None,
                        nodes: Arc::from([]),
                        storage: Arc::new(Storage {
                            root: EMPTY_ROOT_HASH,
                            slots: HashMap::default(),
                        }),
                    });
            }
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::indexing_slicing)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::names::{agent_key, name_hash};
    use crate::rules::{Compiled, Names, Ruleset, compile, init_code};

    const SALT: [u8; 16] = [7; 16];
    const AGENT: &str = "spiffe://example.org/ns/demo/sa/buyer";

    fn compiled(rules: &str) -> Compiled {
        let agents = BTreeMap::from([(AGENT.to_owned(), [9; 16])]);
        let capabilities = ["mail.send", "pay.transfer"].map(String::from).to_vec();
        let known = Names {
            salt: &SALT,
            agents: &agents,
            capabilities: &capabilities,
        };
        let text = format!("version: 1\nscale: 2\nrules:\n{rules}");
        compile(&Ruleset::from_yaml(&text).unwrap(), known).unwrap()
    }

    fn trial(compiled: &Compiled) -> Trial {
        Trial::of(&init_code(&compiled.contract_rules(), Address::ZERO).unwrap()).unwrap()
    }

    fn action(capability: &str, amount: u64) -> Action {
        Action {
            version: 1,
            agent: agent_key(&[9; 16], AGENT).into(),
            capability: name_hash(&SALT, "capability", capability).into(),
            amount: U256::from(amount),
            ..Action::default()
        }
    }

    #[test]
    fn the_contract_decides_and_names_the_rule() {
        let compiled = compiled(&format!(
            "  - {{name: pay, agent: {AGENT}, capability: pay.transfer, effect: allow, max_class: public, max_amount: \"10.00\"}}\n  \
               - {{name: mail, agent: any, capability: mail.*, effect: require-approval, max_class: public}}\n"
        ));
        let trial = trial(&compiled);
        for (capability, amount, effect, reason, rule) in [
            ("pay.transfer", 1_000, Effect::Allow, "allowed", Some("pay")),
            (
                "pay.transfer",
                1_001,
                Effect::Deny,
                "amount-over-limit",
                Some("pay"),
            ),
            (
                "mail.send",
                0,
                Effect::RequireApproval,
                "approval-required",
                Some("mail"),
            ),
            ("other.thing", 0, Effect::Deny, "no-rule", None),
        ] {
            let ruling = trial.evaluate(&action(capability, amount)).unwrap();
            let named = compiled.rules.iter().find(|r| r.key() == ruling.rule);
            assert_eq!(
                (
                    ruling.effect,
                    ruling.reason.as_str(),
                    named.map(|r| r.name.as_str())
                ),
                (effect, reason, rule),
                "{capability} {amount}"
            );
        }
    }

    #[test]
    fn an_approval_that_nobody_keeps_is_none() {
        let compiled = compiled(
            "  - {name: mail, agent: any, capability: mail.send, effect: require-approval, max_class: public}\n",
        );
        let asked = Action {
            approval: B256::repeat_byte(1),
            ..action("mail.send", 0)
        };
        let ruling = trial(&compiled).evaluate(&asked).unwrap();
        assert_eq!(ruling.reason, "approval-invalid");
    }

    #[test]
    fn the_code_hash_tells_rules_apart_and_nothing_else() {
        let rule = |amount: &str| {
            compiled(&format!(
                "  - {{name: pay, agent: any, capability: pay.transfer, effect: allow, max_class: public, max_amount: \"{amount}\"}}\n"
            ))
        };
        assert_eq!(
            trial(&rule("1.00")).code_hash(),
            trial(&rule("1.00")).code_hash()
        );
        assert_ne!(
            trial(&rule("1.00")).code_hash(),
            trial(&rule("2.00")).code_hash()
        );
    }

    #[test]
    fn no_rules_deny_everything() {
        let none = Compiled {
            rules: Vec::new(),
            scale: 0,
            unit: None,
        };
        let ruling = trial(&none).evaluate(&action("mail.send", 0)).unwrap();
        assert_eq!(
            (ruling.effect, ruling.reason.as_str()),
            (Effect::Deny, "no-rule")
        );
    }

    #[test]
    fn code_that_is_none_is_refused() {
        assert!(matches!(
            Trial::of(&Bytes::from_static(&[0xfe])),
            Err(TrialError::Constructor(_))
        ));
    }
}
