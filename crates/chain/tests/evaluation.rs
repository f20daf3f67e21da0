//! Local evaluation against a real node: what `decide` says about proved state is what `eth_call` answers there.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

#[path = "support/evaluation.rs"]
mod support;

use std::collections::{BTreeMap, BTreeSet};

use alloy::providers::Provider;
use alloy_primitives::{Address, B256, U256, keccak256};
use alloy_sol_types::{SolCall, SolValue};
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;
use support::{Chain, account_claim};
use writ_policy::abi::{self, IPolicy, Rule, Verdict};
use writ_policy::testing::{allowing, return_memory, verdict_contract};
use writ_policy::{
    Action, Effect, EvalError, PolicyError, ProfileRefusal, SnapshotBuilder, StateKey,
    StorageProof, Witness, decide, witness,
};

const POLICIES: usize = 40;
const ACTIONS: usize = 60;
const TARGET: B256 = B256::repeat_byte(0x71);
const PARAMS: B256 = B256::repeat_byte(0x72);
const MODEL: B256 = B256::repeat_byte(0x73);

fn agent(index: usize) -> B256 {
    keccak256(format!("agent {index}"))
}

fn capability(index: u8) -> B256 {
    B256::repeat_byte(0x40 + index)
}

/// Mostly the first value, sometimes one of the others.
fn mostly<T: Clone + std::fmt::Debug + 'static>(
    usual: T,
    others: Vec<T>,
) -> impl Strategy<Value = T> {
    prop_oneof![8 => Just(usual), 2 => proptest::sample::select(others)]
}

fn rule(agent: B256) -> impl Strategy<Value = Rule> {
    use abi::Effect::{Allow, Deny, RequireApproval};
    let amounts = vec![U256::ZERO, U256::from(100), U256::from(500)];
    let who = (
        prop_oneof![Just(agent), Just(B256::ZERO)],
        0u8..4,
        mostly(Allow, vec![Deny, RequireApproval]),
    );
    let limits = (
        mostly(U256::MAX, amounts.clone()),
        mostly(3u8, vec![0, 1]),
        mostly(100u8, vec![0, 50]),
    );
    let when = (
        mostly(B256::ZERO, vec![MODEL]),
        mostly(0u64, vec![1000]),
        mostly(0u64, vec![2000]),
    );
    let budget = (
        mostly(3600u32, vec![0, 60]),
        mostly(U256::MAX, amounts.clone()),
        mostly(u64::MAX, vec![0, 1, 5]),
    );
    let rest = (
        1u8..8,
        mostly(U256::MAX, amounts),
        mostly(300u32, vec![0, 60]),
        30u32..=300,
        0u8..4,
        any::<u32>(),
    );
    (who, limits, when, budget, rest).prop_map(
        |(
            (agent, name, effect),
            (max_amount, class, risk),
            (model, not_before, not_after),
            (window, spent, calls),
            (bindings, threshold, age, ttl, tier, obligations),
        )| Rule {
            agent,
            capability: capability(name),
            effect,
            maxAmount: max_amount,
            classCeiling: class,
            riskCeiling: risk,
            model,
            notBefore: not_before,
            notAfter: not_after,
            window,
            maxSpent: spent,
            maxCalls: calls,
            bindings,
            approvalThreshold: threshold,
            maxStateAge: age,
            ttl,
            tier,
            obligations,
        },
    )
}

fn action(agent: B256, approval: B256) -> impl Strategy<Value = Action> {
    let edges = vec![
        U256::ZERO,
        U256::from(99),
        U256::from(100),
        U256::from(101),
        U256::MAX,
    ];
    let what = (
        mostly(1u16, vec![0, 2]),
        0u8..5,
        mostly(TARGET, vec![B256::ZERO]),
        mostly(PARAMS, vec![B256::ZERO]),
    );
    let much = (
        mostly(U256::from(1), edges.clone()),
        mostly(U256::ZERO, edges),
        mostly(0u64, vec![1, 5, u64::MAX]),
    );
    let how = (
        mostly(3600u32, vec![0, 60]),
        mostly(0u8, vec![1, 2, 3, 255]),
        mostly(0u8, vec![50, 51, 255]),
    );
    let when = (
        mostly(0u32, vec![60, 61, 300, 301, u32::MAX]),
        mostly(1500u64, vec![0, 999, 1000, 2000, 2001]),
    );
    let who = (
        mostly(MODEL, vec![B256::ZERO]),
        prop_oneof![
            Just(B256::ZERO),
            Just(approval),
            any::<[u8; 32]>().prop_map(B256::from)
        ],
    );
    (what, much, how, when, who, 0u8..4, any::<[u8; 32]>()).prop_map(
        move |(
            (version, name, target, params),
            (amount, spent, calls),
            (window, binding, risk),
            (age, time),
            (model, approval),
            class,
            other,
        )| {
            Action {
                version,
                agent,
                principal: other.into(),
                capability: capability(name),
                resource: other.into(),
                target,
                params,
                parent: B256::ZERO,
                amount,
                spent,
                calls,
                window,
                classification: class,
                risk,
                binding,
                stateAge: age,
                model,
                session: other.into(),
                approval,
                time,
                ext: B256::ZERO,
            }
        },
    )
}

/// Rules with one entry per (agent, capability), as the contract insists.
fn rules(runner: &mut TestRunner, agent: B256) -> Vec<Rule> {
    let drawn = proptest::collection::vec(rule(agent), 0..7)
        .new_tree(runner)
        .unwrap()
        .current();
    let distinct: BTreeMap<_, _> = drawn
        .into_iter()
        .map(|rule| ((rule.agent, rule.capability), rule))
        .collect();
    distinct.into_values().collect()
}

fn effect(effect: abi::Effect) -> Effect {
    match effect {
        abi::Effect::Allow => Effect::Allow,
        abi::Effect::RequireApproval => Effect::RequireApproval,
        _ => Effect::Deny,
    }
}

fn text(reason: B256) -> String {
    String::from_utf8(
        reason
            .iter()
            .copied()
            .take_while(|byte| *byte != 0)
            .collect(),
    )
    .unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn random_rules_and_actions_get_the_verdict_that_the_node_computes() {
    let chain = Chain::start().await;
    let mut runner = TestRunner::deterministic();
    let mut actions: Vec<(Address, Action)> = Vec::new();
    for index in 0..POLICIES {
        let agent = agent(index);
        let set = rules(&mut runner, agent);
        let policy = chain
            .deploy("RulePolicy", &(set, chain.approvals).abi_encode_params())
            .await;
        chain.install(agent, policy).await;
        let approval = chain.approve(agent, TARGET, PARAMS, U256::from(500)).await;
        for _ in 0..ACTIONS {
            actions.push((
                policy,
                action(agent, approval)
                    .new_tree(&mut runner)
                    .unwrap()
                    .current(),
            ));
        }
    }
    let asked: Vec<Action> = actions.iter().map(|(_, action)| action.clone()).collect();
    let snapshot = chain.snapshot_for(&asked).await;
    let balances = balances(&chain).await;

    let mut seen = BTreeSet::new();
    for (index, (policy, action)) in actions.iter().enumerate() {
        let decision = decide(&snapshot, &chain.registries, action).unwrap();
        let answer = chain
            .call(Some(snapshot.header().hash), *policy, action.call_data())
            .await
            .unwrap();
        let verdict: Verdict = IPolicy::evaluateCall::abi_decode_returns_validate(&answer).unwrap();
        assert_eq!(decision.effect, effect(verdict.effect), "{action:?}");
        assert_eq!(decision.rule, verdict.rule.0, "{action:?}");
        assert_eq!(decision.reason, text(verdict.reason), "{action:?}");
        assert_eq!(
            (
                decision.ttl,
                decision.max_state_age,
                decision.tier,
                decision.obligations
            ),
            (
                verdict.ttl,
                verdict.maxStateAge,
                verdict.tier,
                verdict.obligations
            ),
            "{action:?}"
        );
        assert_eq!(
            (decision.contract, decision.block_hash),
            (*policy, snapshot.header().hash.0)
        );
        seen.insert((decision.effect as u8, decision.reason.clone()));
        // One in twenty also as a stranger would: from the bytes of its witness.
        if index % 20 == 0 {
            let bytes = witness(&snapshot, &decision).to_bytes();
            let read = Witness::from_bytes(&bytes).unwrap();
            assert_eq!(read.replay(&chain.registries, action).unwrap(), decision);
        }
    }
    let reasons: BTreeSet<&str> = seen.iter().map(|(_, reason)| reason.as_str()).collect();
    for reason in [
        "allowed",
        "no-rule",
        "unsupported-version",
        "denied-by-rule",
        "class-over-ceiling",
        "risk-over-ceiling",
        "binding-not-allowed",
        "state-too-old",
        "outside-time-window",
        "model-not-allowed",
        "amount-over-limit",
        "window-mismatch",
        "budget-spent",
        "budget-calls",
        "approval-required",
        "approval-invalid",
    ] {
        assert!(reasons.contains(reason), "the draw never led to {reason}");
    }

    // Nothing of this was a transaction, and none of it needs the node.
    assert_eq!(chain.head().await.hash, snapshot.header().hash);
    assert_eq!(self::balances(&chain).await, balances);
    let registries = chain.registries;
    drop(chain);
    for (_, action) in actions.iter().cycle().take(10_000) {
        decide(&snapshot, &registries, action).unwrap();
    }
}

async fn balances(chain: &Chain) -> Vec<U256> {
    let mut all = Vec::new();
    for account in chain.provider.get_accounts().await.unwrap() {
        all.push(chain.provider.get_balance(account).await.unwrap());
    }
    all
}

#[tokio::test]
async fn the_registries_on_chain_deny_whom_they_do_not_admit() {
    let chain = Chain::start().await;
    let policy = Address::repeat_byte(0x50);
    chain.set_code(policy, &verdict_contract(&allowing())).await;
    chain.install(agent(0), policy).await;
    let known = Action {
        version: 1,
        agent: agent(0),
        ..Action::default()
    };
    let stranger = Action {
        agent: agent(1),
        ..known.clone()
    };
    let before = chain.snapshot_for(&[known.clone(), stranger.clone()]).await;
    let allowed = decide(&before, &chain.registries, &known).unwrap();
    assert_eq!(allowed.effect, Effect::Allow);
    let unknown = decide(&before, &chain.registries, &stranger).unwrap();
    assert_eq!(
        (unknown.effect, unknown.reason.as_str()),
        (Effect::Deny, "agent-unknown")
    );

    // Only the contract's state changes: so does the next decision, and not the one at the old block.
    chain.revoke(agent(0)).await;
    let after = chain.snapshot_for(std::slice::from_ref(&known)).await;
    let revoked = decide(&after, &chain.registries, &known).unwrap();
    assert_eq!(
        (revoked.effect, revoked.reason.as_str()),
        (Effect::Deny, "agent-revoked")
    );
    assert_eq!(decide(&before, &chain.registries, &known).unwrap(), allowed);

    // New code at the same address does not match what was registered.
    chain.install(agent(2), policy).await;
    chain
        .set_code(
            policy,
            &verdict_contract(&Verdict {
                ttl: 61,
                ..allowing()
            }),
        )
        .await;
    chain.mine().await;
    let swapped = Action {
        agent: agent(2),
        ..known
    };
    let snapshot = chain.snapshot_for(std::slice::from_ref(&swapped)).await;
    assert_eq!(
        decide(&snapshot, &chain.registries, &swapped)
            .unwrap()
            .reason,
        "code-mismatch"
    );
}

#[tokio::test]
async fn the_verdict_at_a_past_block_stays_what_it_was() {
    let chain = Chain::start().await;
    let allow = Rule {
        effect: abi::Effect::Allow,
        ..open_rule()
    };
    let deny = Rule {
        effect: abi::Effect::Deny,
        ..open_rule()
    };
    let first = chain
        .deploy(
            "RulePolicy",
            &(vec![allow], Address::ZERO).abi_encode_params(),
        )
        .await;
    let second = chain
        .deploy(
            "RulePolicy",
            &(vec![deny], Address::ZERO).abi_encode_params(),
        )
        .await;
    let policy_id = chain.install(agent(0), first).await;
    let action = Action {
        version: 1,
        agent: agent(0),
        capability: capability(0),
        ..Action::default()
    };
    let snapshot = chain.snapshot_for(std::slice::from_ref(&action)).await;
    let decision = decide(&snapshot, &chain.registries, &action).unwrap();
    assert_eq!(decision.effect, Effect::Allow);
    let kept = witness(&snapshot, &decision).to_bytes();

    chain.publish(policy_id, second).await;
    let now = chain.snapshot_for(std::slice::from_ref(&action)).await;
    assert_eq!(
        decide(&now, &chain.registries, &action).unwrap().reason,
        "denied-by-rule"
    );

    // The node still knows the old block; the witness needs no node at all.
    let block = B256::from(decision.block_hash);
    let registered = abi::IPolicyRegistry::policyOfCall {
        policyId: policy_id,
    };
    let answer = chain
        .call(
            Some(block),
            chain.registries.policies,
            registered.abi_encode(),
        )
        .await
        .unwrap();
    let binding = abi::IPolicyRegistry::policyOfCall::abi_decode_returns(&answer).unwrap();
    assert_eq!(
        (binding.policy, binding.codeHash.0),
        (first, decision.registered_code_hash)
    );
    let answer = chain
        .call(Some(block), decision.contract, action.call_data())
        .await
        .unwrap();
    let verdict = IPolicy::evaluateCall::abi_decode_returns(&answer).unwrap();
    assert_eq!(
        (effect(verdict.effect), verdict.rule.0),
        (decision.effect, decision.rule)
    );
    let registries = chain.registries;
    drop(chain);
    assert_eq!(
        Witness::from_bytes(&kept)
            .unwrap()
            .replay(&registries, &action)
            .unwrap(),
        decision
    );
}

fn open_rule() -> Rule {
    Rule {
        capability: capability(0),
        maxAmount: U256::MAX,
        classCeiling: 3,
        riskCeiling: 100,
        bindings: 7,
        approvalThreshold: U256::MAX,
        maxStateAge: 300,
        ttl: 60,
        ..Rule::default()
    }
}

/// The code, then an allowing verdict if the code lets it.
fn then_allow(mut code: Vec<u8>) -> Vec<u8> {
    code.extend(verdict_contract(&allowing()));
    code
}

fn call_of(opcode: u8, to: Address) -> Vec<u8> {
    use revm_opcodes::*;
    let mut code = vec![PUSH0, PUSH0, PUSH0, PUSH0, PUSH20];
    code.extend(to);
    code.extend([GAS, opcode, POP]);
    code
}

/// The few opcodes that odd contracts are made of.
mod revm_opcodes {
    pub const ADD: u8 = 0x01;
    pub const BLOCKHASH: u8 = 0x40;
    pub const POP: u8 = 0x50;
    pub const MLOAD: u8 = 0x51;
    pub const SLOAD: u8 = 0x54;
    pub const SSTORE: u8 = 0x55;
    pub const JUMP: u8 = 0x56;
    pub const GAS: u8 = 0x5a;
    pub const JUMPDEST: u8 = 0x5b;
    pub const PUSH0: u8 = 0x5f;
    pub const PUSH1: u8 = 0x60;
    pub const PUSH20: u8 = 0x73;
    pub const CREATE: u8 = 0xf0;
    pub const DELEGATECALL: u8 = 0xf4;
    pub const STATICCALL: u8 = 0xfa;
    pub const REVERT: u8 = 0xfd;
    pub const INVALID: u8 = 0xfe;
    pub const SELFDESTRUCT: u8 = 0xff;
    pub const STOP: u8 = 0x00;
}

#[tokio::test]
async fn odd_contracts_are_refused_whatever_the_node_would_answer() {
    use ProfileRefusal as P;
    use revm_opcodes::*;
    let chain = Chain::start().await;
    let helper = Address::repeat_byte(0x60);
    let delegated = Address::repeat_byte(0x61);
    let nothing = Address::repeat_byte(0x62);
    let own = |index: usize| Address::left_padding_from(&[0x70, index as u8]);
    chain.set_code(helper, &[STOP]).await;
    chain
        .set_code(
            delegated,
            &[&[0xef, 0x01, 0x00][..], helper.as_slice()].concat(),
        )
        .await;
    let precompile = |number: u8| Address::left_padding_from(&[number]);

    type Expected = fn(&ProfileRefusal) -> bool;
    let contracts: Vec<(&str, Vec<u8>, Expected)> = vec![
        ("reverts", vec![PUSH0, PUSH0, REVERT], |r| {
            matches!(r, P::Reverted(_))
        }),
        ("loops", vec![JUMPDEST, PUSH0, JUMP], |r| *r == P::OutOfGas),
        ("returns nothing", vec![STOP], |r| {
            matches!(r, P::MalformedAnswer(_))
        }),
        ("returns too little", return_memory(223), |r| {
            matches!(r, P::MalformedAnswer(_))
        }),
        ("returns too much", return_memory(60_000), |r| {
            matches!(r, P::MalformedAnswer(_))
        }),
        ("invalid instruction", vec![INVALID], |r| {
            matches!(r, P::Halted(_))
        }),
        ("stack underflow", vec![ADD], |r| matches!(r, P::Halted(_))),
        ("blockhash", then_allow(vec![PUSH0, BLOCKHASH, POP]), |r| {
            matches!(r, P::ForbiddenOpcode { .. })
        }),
        (
            "creates",
            then_allow(vec![PUSH0, PUSH0, PUSH0, CREATE, POP]),
            |r| matches!(r, P::ForbiddenOpcode { .. }),
        ),
        ("self-destructs", vec![PUSH0, SELFDESTRUCT], |r| {
            matches!(r, P::ForbiddenOpcode { .. })
        }),
        (
            "delegates",
            then_allow(call_of(DELEGATECALL, helper)),
            |r| matches!(r, P::ForbiddenOpcode { .. }),
        ),
        ("stores", then_allow(vec![PUSH1, 1, PUSH0, SSTORE]), |r| {
            matches!(r, P::Halted(_))
        }),
        (
            "calls delegated code",
            then_allow(call_of(STATICCALL, delegated)),
            |r| matches!(r, P::DelegatedCode(_)),
        ),
        (
            "calls nobody",
            then_allow(call_of(STATICCALL, nothing)),
            |r| matches!(r, P::NoCode(_)),
        ),
        (
            "calls ecrecover",
            then_allow(call_of(STATICCALL, precompile(1))),
            |r| matches!(r, P::NoCode(_)),
        ),
        (
            "calls modexp",
            then_allow(call_of(STATICCALL, precompile(5))),
            |r| matches!(r, P::NoCode(_)),
        ),
        (
            "calls itself",
            then_allow(call_of(STATICCALL, own(17))),
            |r| *r == P::CallTooDeep,
        ),
        (
            "expands memory",
            then_allow(vec![
                PUSH20, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff,
                0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, MLOAD, POP,
            ]),
            |r| matches!(r, P::OutOfGas | P::Halted(_)),
        ),
    ];
    let mut actions = Vec::new();
    for (index, (_, code, _)) in contracts.iter().enumerate() {
        // "calls itself" is the 17th: its address is part of its code.
        chain.set_code(own(index + 1), code).await;
        chain.install(agent(index), own(index + 1)).await;
        actions.push(Action {
            version: 1,
            agent: agent(index),
            ..Action::default()
        });
    }
    assert_eq!(contracts[16].0, "calls itself");
    let snapshot = chain.snapshot_for(&actions).await;
    let mut node_would_allow = 0;
    for ((index, (name, _, expected)), action) in contracts.iter().enumerate().zip(&actions) {
        match decide(&snapshot, &chain.registries, action) {
            Err(EvalError::Refused(refusal)) => assert!(expected(&refusal), "{name}: {refusal}"),
            other => panic!("{name}: {other:?}"),
        }
        let answer = chain
            .call(None, own(index + 1), action.call_data())
            .await
            .unwrap_or_default();
        let verdict = IPolicy::evaluateCall::abi_decode_returns(&answer);
        node_would_allow +=
            usize::from(verdict.is_ok_and(|verdict| verdict.effect == abi::Effect::Allow));
    }
    assert!(
        node_would_allow >= 6,
        "the profile is stricter than the node: {node_would_allow}"
    );
}

#[tokio::test]
async fn a_slot_that_was_not_proved_stops_the_evaluation() {
    use revm_opcodes::*;
    let chain = Chain::start().await;
    let policy = Address::repeat_byte(0x50);
    chain
        .set_code(policy, &then_allow(vec![PUSH1, 9, SLOAD, POP]))
        .await;
    let slot = (policy, U256::from(8), B256::repeat_byte(1));
    chain
        .provider
        .raw_request::<_, bool>("anvil_setStorageAt".into(), slot)
        .await
        .unwrap();
    chain.install(agent(0), policy).await;
    let action = Action {
        version: 1,
        agent: agent(0),
        ..Action::default()
    };
    let complete = chain.snapshot_for(std::slice::from_ref(&action)).await;
    assert_eq!(
        decide(&complete, &chain.registries, &action)
            .unwrap()
            .effect,
        Effect::Allow
    );
    let gap = StateKey::Slot(policy, U256::from(9));
    let keys: BTreeSet<StateKey> = complete.keys().filter(|key| *key != gap).collect();
    let mut builder = SnapshotBuilder::new(complete.header().clone(), chain.registries.chain_id);
    chain.prove(&mut builder, &keys).await;
    assert_eq!(
        decide(&builder.build(), &chain.registries, &action),
        Err(EvalError::Missing(vec![gap]))
    );
}

#[tokio::test]
async fn no_lie_of_an_endpoint_enters_a_snapshot() {
    let chain = Chain::start().await;
    let set = vec![Rule {
        effect: abi::Effect::Deny,
        ..open_rule()
    }];
    let policy = chain
        .deploy("RulePolicy", &(set, Address::ZERO).abi_encode_params())
        .await;
    chain.install(agent(0), policy).await;
    let action = Action {
        version: 1,
        agent: agent(0),
        capability: capability(0),
        ..Action::default()
    };
    let honest = chain.snapshot_for(std::slice::from_ref(&action)).await;
    assert_eq!(
        decide(&honest, &chain.registries, &action).unwrap().effect,
        Effect::Deny
    );
    let header = honest.header().clone();
    let id = chain.registries.chain_id;

    let mut slots_tried = 0;
    for key in honest.keys() {
        let mut builder = SnapshotBuilder::new(header.clone(), id);
        match key {
            StateKey::Account(address) => {
                let mut claim = account_claim(&chain.proof(header.hash, address, &[]).await);
                claim.code_hash = keccak256(verdict_contract(&allowing()));
                assert_eq!(
                    builder.add_account_proof(address, &claim),
                    Err(PolicyError::AccountProof(address))
                );
            }
            StateKey::Slot(address, slot) => {
                let answer = chain.proof(header.hash, address, &[slot]).await;
                builder
                    .add_account_proof(address, &account_claim(&answer))
                    .unwrap();
                let told = &answer.storage_proof[0];
                for lie in [told.value + U256::from(1), U256::ZERO, U256::from(1)] {
                    if lie != told.value {
                        let claim = StorageProof {
                            value: lie,
                            proof: told.proof.clone(),
                        };
                        let refused = Err(PolicyError::StorageProof { address, slot });
                        assert_eq!(builder.add_storage_proof(address, slot, &claim), refused);
                        slots_tried += 1;
                    }
                }
            }
            StateKey::Code(address) => {
                let answer = chain.proof(header.hash, address, &[]).await;
                builder
                    .add_account_proof(address, &account_claim(&answer))
                    .unwrap();
                let refused = builder.add_code(address, verdict_contract(&allowing()).into());
                assert!(matches!(refused, Err(PolicyError::CodeHash { .. })));
            }
        }
    }
    assert!(slots_tried > 10);
    // Yesterday's proof under today's header.
    let old = account_claim(&chain.proof(header.hash, chain.registries.agents, &[]).await);
    chain.revoke(agent(0)).await;
    let mut builder = SnapshotBuilder::new(chain.head().await, id);
    let refused = builder.add_account_proof(chain.registries.agents, &old);
    assert_eq!(
        refused,
        Err(PolicyError::AccountProof(chain.registries.agents))
    );
}
