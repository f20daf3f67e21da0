//! Deployment, governance and rules on a real node.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

use std::collections::BTreeMap;
use std::time::Duration;

use alloy::primitives::{Address, B256, U256, keccak256};
use alloy::providers::Provider;
use alloy::signers::local::PrivateKeySigner;
use alloy::sol_types::SolCall;
use writ_chain::bindings::{AgentRegistry, ApprovalRegistry, RulePolicy, SaeAnchor};
use writ_chain::deploy::{DeployPlan, Manifest, Profile, deploy};
use writ_chain::devnode::{DEV_KEYS, DevNode, DevNodeOptions};
use writ_chain::tx::{
    self, AgentRecord, Call, Governance, PolicyVersion, Progress, Session, TxError,
};
use writ_policy::names;
use writ_policy::rules::{Names, Ruleset, compile, init_code};

const OWNER: usize = 0;
const GUARDIAN: usize = 1;
const ANCHORER: usize = 2;
const APPROVER: usize = 3;
const STRANGER: usize = 4;
const SALT: [u8; 16] = [5; 16];
const AGENT: &str = "spiffe://example.org/ns/demo/sa/buyer";

fn key(n: usize) -> PrivateKeySigner {
    DEV_KEYS[n].parse().unwrap()
}

struct Chain {
    node: DevNode,
    manifest: Manifest,
}

impl Chain {
    async fn development() -> Self {
        let plan = DeployPlan::development(
            key(OWNER).address(),
            key(GUARDIAN).address(),
            key(ANCHORER).address(),
            key(APPROVER).address(),
        );
        Self::with(plan).await
    }

    async fn with(plan: DeployPlan) -> Self {
        let node = DevNode::start(DevNodeOptions::default()).await.unwrap();
        let session = Session::with_wallet(node.url(), Some(node.chain_id()), key(OWNER))
            .await
            .unwrap();
        let manifest = deploy(&session, &plan).await.unwrap();
        Self { node, manifest }
    }

    async fn as_key(&self, n: usize) -> Session {
        Session::with_wallet(self.node.url(), Some(self.node.chain_id()), key(n))
            .await
            .unwrap()
    }

    /// Moves the chain's clock on.
    async fn advance(&self, time: Duration) {
        let session = self.as_key(OWNER).await;
        let _: u64 = session
            .provider()
            .raw_request("anvil_increaseTime".into(), [time.as_secs()])
            .await
            .unwrap_or(0);
        let _: serde_json::Value = session
            .provider()
            .raw_request("anvil_mine".into(), [1])
            .await
            .unwrap();
    }
}

fn record(policy: B256) -> AgentRecord {
    AgentRecord {
        key: names::agent_key(&SALT, AGENT).into(),
        policy_id: policy,
        model: B256::ZERO,
        organisation: B256::ZERO,
        capabilities: B256::ZERO,
    }
}

fn executed(progress: &Progress) -> bool {
    matches!(progress, Progress::Executed { .. })
}

fn refused_as(result: Result<Progress, TxError>, name: &str) {
    let error = result.expect_err("refused").to_string();
    assert!(error.contains(name), "{error}");
}

#[tokio::test]
async fn deploying_twice_changes_nothing() {
    let chain = Chain::development().await;
    let session = chain.as_key(OWNER).await;
    let block = session.block_number().await.unwrap();
    let plan = DeployPlan::development(
        key(OWNER).address(),
        key(GUARDIAN).address(),
        key(ANCHORER).address(),
        key(APPROVER).address(),
    );
    let again = deploy(&session, &plan).await.unwrap();
    assert_eq!(again, chain.manifest);
    assert_eq!(
        session.block_number().await.unwrap(),
        block,
        "nothing was sent"
    );
    assert_eq!(again.contracts.len(), 7);
    assert!(again.mismatches(&session).await.unwrap().is_empty());
    // What is written is what is read.
    let text = serde_json::to_string(&again).unwrap();
    assert_eq!(serde_json::from_str::<Manifest>(&text).unwrap(), again);
}

#[tokio::test]
async fn another_chain_id_works_by_configuration_and_a_wrong_one_is_refused() {
    let options = DevNodeOptions {
        chain_id: 31_338,
        ..DevNodeOptions::default()
    };
    let node = DevNode::start(options).await.unwrap();
    let session = Session::with_wallet(node.url(), Some(31_338), key(OWNER))
        .await
        .unwrap();
    let [owner, guardian, anchorer, approver] =
        [OWNER, GUARDIAN, ANCHORER, APPROVER].map(|n| key(n).address());
    let manifest = deploy(
        &session,
        &DeployPlan::development(owner, guardian, anchorer, approver),
    )
    .await
    .unwrap();
    assert_eq!(manifest.chain_id, 31_338);
    let wrong = Session::connect(node.url(), Some(84_532)).await;
    assert!(matches!(
        wrong,
        Err(TxError::WrongChain {
            expected: 84_532,
            actual: 31_338
        })
    ));
}

#[tokio::test]
async fn one_owner_without_delay_registers_at_once_and_repeating_changes_nothing() {
    let chain = Chain::development().await;
    let owner = chain.as_key(OWNER).await;
    let records = [record(B256::repeat_byte(1))];
    assert!(executed(
        &tx::register_agents(&owner, &chain.manifest, &records)
            .await
            .unwrap()
    ));
    assert_eq!(
        tx::agent(&owner, &chain.manifest, records[0].key)
            .await
            .unwrap()
            .status,
        "active"
    );
    assert_eq!(
        tx::register_agents(&owner, &chain.manifest, &records)
            .await
            .unwrap(),
        Progress::Unchanged
    );
    let moved = [record(B256::repeat_byte(2))];
    assert!(executed(
        &tx::register_agents(&owner, &chain.manifest, &moved)
            .await
            .unwrap()
    ));
    assert_eq!(
        tx::agent(&owner, &chain.manifest, moved[0].key)
            .await
            .unwrap()
            .policy_id,
        B256::repeat_byte(2)
    );
}

#[tokio::test]
async fn a_revoked_agent_shows_and_only_the_owners_reinstate_it() {
    let chain = Chain::development().await;
    let (owner, guardian) = (chain.as_key(OWNER).await, chain.as_key(GUARDIAN).await);
    let agent = record(B256::repeat_byte(1));
    tx::register_agents(&owner, &chain.manifest, &[agent])
        .await
        .unwrap();
    refused_as(
        tx::revoke(&owner, &chain.manifest, agent.key, "not the guardian").await,
        "Unauthorized",
    );
    assert!(executed(
        &tx::revoke(&guardian, &chain.manifest, agent.key, "stolen")
            .await
            .unwrap()
    ));
    assert_eq!(
        tx::agent(&owner, &chain.manifest, agent.key)
            .await
            .unwrap()
            .status,
        "revoked"
    );
    assert_eq!(
        tx::revoke(&guardian, &chain.manifest, agent.key, "stolen")
            .await
            .unwrap(),
        Progress::Unchanged
    );
    let reinstated = tx::reinstate(&guardian, &chain.manifest, agent.key).await;
    assert!(
        matches!(reinstated, Err(TxError::NotOwner(_))),
        "{reinstated:?}"
    );
    assert!(executed(
        &tx::reinstate(&owner, &chain.manifest, agent.key)
            .await
            .unwrap()
    ));
    assert_eq!(
        tx::agent(&owner, &chain.manifest, agent.key)
            .await
            .unwrap()
            .status,
        "active"
    );
}

#[tokio::test]
async fn roles_hold_on_the_real_node() {
    let chain = Chain::development().await;
    let agents = chain.manifest.address("AgentRegistry").unwrap();
    let anchor = chain.manifest.address("SaeAnchor").unwrap();
    let register = AgentRegistry::registerCall {
        key: B256::repeat_byte(1),
        policyId: B256::repeat_byte(2),
        model: B256::ZERO,
        organisation: B256::ZERO,
        capabilities: B256::ZERO,
    };
    let checkpoint = SaeAnchor::anchorCheckpointCall {
        logId: B256::repeat_byte(1),
        size: 1,
        root: B256::repeat_byte(2),
        previousRoot: B256::ZERO,
    };
    for who in [OWNER, GUARDIAN, ANCHORER, STRANGER] {
        let session = chain.as_key(who).await;
        let error = session
            .send("registering", agents, register.abi_encode().into())
            .await
            .unwrap_err();
        assert!(error.to_string().contains("Unauthorized"), "{who}: {error}");
        let result = session
            .send("anchoring", anchor, checkpoint.abi_encode().into())
            .await;
        assert_eq!(result.is_ok(), who == ANCHORER, "{who}");
    }
    let stranger = chain.as_key(STRANGER).await;
    refused_as(
        tx::pause_all(&stranger, &chain.manifest).await,
        "Unauthorized",
    );
    let call = Call {
        target: agents,
        data: register.abi_encode().into(),
    };
    let proposal = Governance::of(&chain.manifest)
        .unwrap()
        .advance(&stranger, &[call])
        .await;
    assert!(matches!(proposal, Err(TxError::NotOwner(_))));
}

#[tokio::test]
async fn an_anchored_event_is_found_by_hash_and_by_agent() {
    let chain = Chain::development().await;
    let anchorer = chain.as_key(ANCHORER).await;
    let address = chain.manifest.address("SaeAnchor").unwrap();
    let (hash, agent) = (B256::repeat_byte(3), B256::repeat_byte(4));
    let saes = vec![SaeAnchor::Sae {
        hash,
        parent: B256::ZERO,
        agent,
    }];
    let data = SaeAnchor::anchorSaesCall { saes }.abi_encode();
    anchorer
        .send("anchoring", address, data.into())
        .await
        .unwrap();
    let contract = SaeAnchor::new(address, anchorer.provider());
    for filter in [
        contract.SaeAnchored_filter().topic1(hash),
        contract.SaeAnchored_filter().topic3(agent),
    ] {
        let found = filter.from_block(0).query().await.unwrap();
        assert_eq!(found.len(), 1);
        assert_eq!((found[0].0.hash, found[0].0.agent), (hash, agent));
    }
    let none = contract
        .SaeAnchored_filter()
        .topic1(agent)
        .from_block(0)
        .query()
        .await
        .unwrap();
    assert!(none.is_empty());
}

fn production() -> DeployPlan {
    let owners = (0..5).map(|n| key(n).address()).collect();
    let other = |n: u64| Address::from_word(keccak256(n.to_be_bytes()));
    DeployPlan {
        profile: Profile::Production,
        owners,
        threshold: 3,
        delay: Duration::from_secs(86_400),
        ..DeployPlan::development(Address::ZERO, key(5).address(), other(1), other(2))
    }
}

#[tokio::test]
async fn three_of_five_owners_queue_a_change_and_it_takes_effect_after_the_delay() {
    let chain = Chain::with(production()).await;
    let records = [record(B256::repeat_byte(1))];
    let step = async |n: usize| {
        tx::register_agents(&chain.as_key(n).await, &chain.manifest, &records)
            .await
            .unwrap()
    };
    assert!(matches!(
        step(0).await,
        Progress::Proposed {
            confirmations: 1,
            threshold: 3,
            ..
        }
    ));
    // The same owner again counts once.
    assert!(matches!(
        step(0).await,
        Progress::Proposed {
            confirmations: 1,
            ..
        }
    ));
    assert!(matches!(
        step(1).await,
        Progress::Proposed {
            confirmations: 2,
            ..
        }
    ));
    assert!(matches!(step(2).await, Progress::Queued { .. }));
    assert!(
        matches!(step(3).await, Progress::Queued { .. }),
        "early execution is not tried"
    );
    let status = async || {
        tx::agent(&chain.as_key(0).await, &chain.manifest, records[0].key)
            .await
            .unwrap()
            .status
    };
    assert_eq!(status().await, "unknown");
    chain.advance(Duration::from_secs(86_300)).await;
    assert!(matches!(step(4).await, Progress::Queued { .. }));
    chain.advance(Duration::from_secs(101)).await;
    assert!(executed(&step(4).await));
    assert_eq!(status().await, "active");
}

#[tokio::test]
async fn the_timelock_itself_refuses_early_execution() {
    let chain = Chain::with(production()).await;
    let records = [record(B256::repeat_byte(1))];
    for n in 0..3 {
        tx::register_agents(&chain.as_key(n).await, &chain.manifest, &records)
            .await
            .unwrap();
    }
    let call = tx::calls::register_agent(&chain.manifest, &records[0]).unwrap();
    let execute = writ_chain::bindings::TimelockController::executeBatchCall {
        targets: vec![call.target],
        values: vec![U256::ZERO],
        payloads: vec![call.data],
        predecessor: B256::ZERO,
        salt: B256::ZERO,
    };
    let session = chain.as_key(0).await;
    let timelock = chain.manifest.address("TimelockController").unwrap();
    let error = session
        .send("executing early", timelock, execute.abi_encode().into())
        .await
        .unwrap_err();
    assert!(
        error
            .to_string()
            .contains("TimelockUnexpectedOperationState"),
        "{error}"
    );
}

#[tokio::test]
async fn the_owners_replace_the_guardian_without_delay() {
    let chain = Chain::with(production()).await;
    let new = key(STRANGER).address();
    for n in 0..3 {
        tx::set_guardian(&chain.as_key(n).await, &chain.manifest, new)
            .await
            .unwrap();
    }
    let steps = tx::set_guardian(&chain.as_key(0).await, &chain.manifest, new)
        .await
        .unwrap();
    assert!(
        steps.iter().all(|step| *step == Progress::Unchanged),
        "{steps:?}"
    );
    refused_as(
        tx::pause_all(&chain.as_key(5).await, &chain.manifest).await,
        "Unauthorized",
    );
    assert!(executed(
        &tx::pause_all(&chain.as_key(STRANGER).await, &chain.manifest)
            .await
            .unwrap()
    ));
}

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

#[tokio::test]
async fn a_refused_call_does_not_hold_up_the_next_one() {
    let chain = Chain::development().await;
    let owner = chain.as_key(OWNER).await;
    let agent = record(B256::repeat_byte(1));
    refused_as(
        tx::pause_agent(&owner, &chain.manifest, agent.key).await,
        "Unauthorized",
    );
    assert!(executed(
        &tx::register_agents(&owner, &chain.manifest, &[agent])
            .await
            .unwrap()
    ));
}
