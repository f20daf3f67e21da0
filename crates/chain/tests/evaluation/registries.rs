//! What the registries say, now and at a past block.

use alloy_primitives::{Address, B256};
use alloy_sol_types::{SolCall, SolValue};
use writ_policy::abi::{self, IPolicy, Rule, Verdict};
use writ_policy::testing::{allowing, verdict_contract};
use writ_policy::{Action, Effect, Witness, decide, witness};

use crate::support::Chain;
use crate::{agent, capability, effect, open_rule};

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
