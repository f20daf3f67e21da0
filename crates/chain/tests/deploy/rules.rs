//! Published rules: what they decide, approvals, and the kill switch.

use std::collections::BTreeMap;

use alloy::primitives::{B256, U256};
use alloy::sol_types::SolCall;
use writ_chain::bindings::{ApprovalRegistry, RulePolicy};
use writ_chain::tx::{self, PolicyVersion, Progress, Session, TxError};
use writ_policy::names;
use writ_policy::rules::{Names, Ruleset, compile, init_code};

use crate::{
    AGENT, ANCHORER, APPROVER, Chain, GUARDIAN, OWNER, SALT, STRANGER, executed, key, refused_as,
};

const RULES: &str = "
version: 1
scale: 2
unit: USD
rules:
  - name: pay
    agent: spiffe://example.org/ns/demo/sa/buyer
    capability: payments.*
    effect: allow
    max_amount: 100.00
    max_class: confidential
    budget: [250.00 per 1h, 3 calls per 1h]
    approval_from: 80.00
    ttl: 45
  - name: search
    agent: any
    capability: search.query
    effect: allow
    max_class: public
";

/// Registers the agent under a published policy of these rules, and returns the policy id.
async fn publish(chain: &Chain, owner: &Session) -> B256 {
    let agents = BTreeMap::from([(AGENT.to_owned(), SALT)]);
    let capabilities = ["payments.refund", "payments.transfer", "search.query"].map(String::from);
    let names = Names {
        salt: &SALT,
        agents: &agents,
        capabilities: &capabilities,
    };
    let compiled = compile(&Ruleset::from_yaml(RULES).unwrap(), names).unwrap();
    let approvals = chain.manifest.address("ApprovalRegistry").unwrap();
    let policy_id = B256::repeat_byte(9);
    let version = PolicyVersion {
        policy_id,
        init_code: init_code(&compiled.contract_rules(), approvals).unwrap(),
        catalog_hash: B256::repeat_byte(8),
    };
    assert!(executed(
        &tx::publish_policy(owner, &chain.manifest, &version)
            .await
            .unwrap()
    ));
    assert_eq!(
        tx::publish_policy(owner, &chain.manifest, &version)
            .await
            .unwrap(),
        Progress::Unchanged
    );
    policy_id
}

fn action(capability: &str, amount: u64) -> RulePolicy::Action {
    let call = writ_policy::Action {
        version: 1,
        agent: names::agent_key(&SALT, AGENT).into(),
        capability: names::name_hash(&SALT, "capability", capability).into(),
        target: B256::repeat_byte(6),
        params: B256::repeat_byte(7),
        amount: U256::from(amount),
        window: if capability.starts_with("payments") {
            3600
        } else {
            0
        },
        ..writ_policy::Action::default()
    };
    // The same words: both are generated from the same declaration.
    RulePolicy::evaluateCall::abi_decode(&call.call_data())
        .unwrap()
        .a
}

#[tokio::test]
async fn rules_in_yaml_decide_on_chain_as_they_read() {
    let chain = Chain::development().await;
    let owner = chain.as_key(OWNER).await;
    let policy_id = publish(&chain, &owner).await;
    let state = tx::policy(&owner, &chain.manifest, policy_id)
        .await
        .unwrap();
    assert_eq!(
        (state.version, state.paused, state.catalog_hash),
        (1, false, B256::repeat_byte(8))
    );
    let policy = RulePolicy::new(state.contract, owner.provider());
    let cases = [
        ("payments.transfer", 7_999, (1, "allowed")),
        ("payments.refund", 100, (1, "allowed")),
        ("payments.transfer", 8_000, (2, "approval-required")),
        ("payments.transfer", 10_001, (0, "amount-over-limit")),
        ("search.query", 0, (1, "allowed")),
        ("search.query", 1, (0, "amount-over-limit")),
        ("mail.send", 0, (0, "no-rule")),
    ];
    for (capability, amount, (effect, reason)) in cases {
        let verdict = policy
            .evaluate(action(capability, amount))
            .call()
            .await
            .unwrap();
        let text = String::from_utf8(verdict.reason.to_vec()).unwrap();
        assert_eq!(
            (verdict.effect, text.trim_end_matches('\0')),
            (effect, reason),
            "{capability} {amount}"
        );
    }
    let pinned = tx::pin_catalog(&owner, &chain.manifest, policy_id, B256::repeat_byte(7))
        .await
        .unwrap();
    assert!(executed(&pinned));
    assert_eq!(
        tx::policy(&owner, &chain.manifest, policy_id)
            .await
            .unwrap()
            .version,
        2
    );
}

#[tokio::test]
async fn an_approval_turns_the_verdict_once() {
    let chain = Chain::development().await;
    let owner = chain.as_key(OWNER).await;
    let policy_id = publish(&chain, &owner).await;
    let contract = tx::policy(&owner, &chain.manifest, policy_id)
        .await
        .unwrap()
        .contract;
    let policy = RulePolicy::new(contract, owner.provider());
    let mut asked = action("payments.transfer", 9_000);
    let approval = ApprovalRegistry::Approval {
        agent: asked.agent,
        audience: B256::repeat_byte(1),
        target: asked.target,
        params: asked.params,
        maxAmount: U256::from(9_000),
        expiry: u64::MAX,
        nonce: B256::repeat_byte(2),
    };
    let signature = tx::sign_approval(&chain.manifest, &approval, &key(APPROVER)).unwrap();
    let forged = tx::sign_approval(&chain.manifest, &approval, &key(STRANGER)).unwrap();
    refused_as(
        tx::submit_approval(&owner, &chain.manifest, &approval, vec![forged]).await,
        "SignerRefused",
    );
    assert!(executed(
        &tx::submit_approval(&owner, &chain.manifest, &approval, vec![signature.clone()])
            .await
            .unwrap()
    ));
    asked.approval = tx::approval_id(&chain.manifest, &approval).unwrap();
    assert_eq!(
        policy.evaluate(asked.clone()).call().await.unwrap().effect,
        1
    );
    let anchorer = chain.as_key(ANCHORER).await;
    let consume = ApprovalRegistry::consumeCall {
        approval: asked.approval,
        sae: B256::repeat_byte(3),
    };
    let registry = chain.manifest.address("ApprovalRegistry").unwrap();
    anchorer
        .send("using the approval", registry, consume.abi_encode().into())
        .await
        .unwrap();
    let verdict = policy.evaluate(asked).call().await.unwrap();
    assert_eq!(verdict.effect, 2, "used up");
    refused_as(
        tx::submit_approval(&owner, &chain.manifest, &approval, vec![signature]).await,
        "ApprovalStatus",
    );
}

#[tokio::test]
async fn the_kill_switch_pauses_and_only_the_owners_end_it() {
    let chain = Chain::development().await;
    let (owner, guardian) = (chain.as_key(OWNER).await, chain.as_key(GUARDIAN).await);
    let policy_id = publish(&chain, &owner).await;
    assert!(executed(
        &tx::pause_all(&guardian, &chain.manifest).await.unwrap()
    ));
    assert!(
        tx::policy(&owner, &chain.manifest, policy_id)
            .await
            .unwrap()
            .paused
    );
    assert!(matches!(
        tx::unpause_all(&guardian, &chain.manifest).await,
        Err(TxError::NotOwner(_))
    ));
    assert!(executed(
        &tx::unpause_all(&owner, &chain.manifest).await.unwrap()
    ));
    assert!(
        !tx::policy(&owner, &chain.manifest, policy_id)
            .await
            .unwrap()
            .paused
    );
    assert!(executed(
        &tx::pause_policy(&guardian, &chain.manifest, policy_id)
            .await
            .unwrap()
    ));
    assert!(executed(
        &tx::unpause_policy(&owner, &chain.manifest, policy_id)
            .await
            .unwrap()
    ));
    // The same change can be made again.
    assert!(executed(
        &tx::pause_policy(&guardian, &chain.manifest, policy_id)
            .await
            .unwrap()
    ));
    assert!(executed(
        &tx::unpause_policy(&owner, &chain.manifest, policy_id)
            .await
            .unwrap()
    ));
}
