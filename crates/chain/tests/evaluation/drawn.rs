//! Rules and actions drawn at random.

use std::collections::{BTreeMap, BTreeSet};

use alloy::providers::Provider;
use alloy_primitives::{Address, B256, U256};
use alloy_sol_types::{SolCall, SolValue};
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;
use writ_policy::abi::{self, IPolicy, Rule, Verdict};
use writ_policy::{Action, Witness, decide, witness};

use crate::support::Chain;
use crate::{agent, capability, effect};

const POLICIES: usize = 40;
const ACTIONS: usize = 60;
const TARGET: B256 = B256::repeat_byte(0x71);
const PARAMS: B256 = B256::repeat_byte(0x72);
const MODEL: B256 = B256::repeat_byte(0x73);

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
