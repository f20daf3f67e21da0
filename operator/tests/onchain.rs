//! What a policy wants, carried out on a real node.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

use std::collections::BTreeSet;
use std::time::Duration;

use alloy::primitives::{Address, B256, keccak256};
use alloy::providers::Provider;
use alloy::signers::local::PrivateKeySigner;
use serde_json::json;
use writ_api::{AgentPolicy, ChainSpec, Contracts, Phase};
use writ_chain::deploy::{self, DeployPlan, Manifest, Profile};
use writ_chain::devnode::{DEV_KEYS, DevNode, DevNodeOptions};
use writ_chain::tx::{self, Governance, Session, Standing};
use writ_operator::chain::Link;
use writ_operator::keys::{Keyring, Role};
use writ_operator::policy::standing::{Ended, say};
use writ_operator::policy::steps::{Outcome, carry_out};
use writ_operator::policy::want::{Code, Want, want};
use writ_operator::revocation::core::{Seen, phase};
use writ_operator::revocation::seen_on_chain;
use writ_operator::salts::{Of, Salts};

fn key(n: usize) -> PrivateKeySigner {
    DEV_KEYS[n].parse().unwrap()
}

struct World {
    node: DevNode,
    contracts: Contracts,
    keys: tempfile::TempDir,
}

impl World {
    /// A development chain, deployed as the operator deploys it.
    async fn development() -> Self {
        let [owner, guardian, anchorer, approver] = [0, 1, 2, 3].map(|n| key(n).address());
        Self::with(DeployPlan::development(owner, guardian, anchorer, approver)).await
    }

    /// Three of five owners, and a day.
    async fn production() -> Self {
        let other = |n: u64| Address::from_word(keccak256(n.to_be_bytes()));
        Self::with(DeployPlan {
            profile: Profile::Production,
            owners: (0..5).map(|n| key(n).address()).collect(),
            threshold: 3,
            delay: Duration::from_secs(86_400),
            ..DeployPlan::development(Address::ZERO, key(5).address(), other(1), other(2))
        })
        .await
    }

    async fn with(plan: DeployPlan) -> Self {
        let node = DevNode::start(DevNodeOptions::default()).await.unwrap();
        let session = Session::with_wallet(node.url(), Some(node.chain_id()), key(0))
            .await
            .unwrap();
        let manifest = deploy::deploy(&session, &plan).await.unwrap();
        let keys = tempfile::tempdir().unwrap();
        for (n, text) in DEV_KEYS.iter().enumerate() {
            std::fs::write(keys.path().join(format!("key-{n}")), text).unwrap();
        }
        Self {
            contracts: contracts(&manifest),
            node,
            keys,
        }
    }

    fn spec(&self, development: bool, keys: serde_json::Value) -> ChainSpec {
        serde_json::from_value(json!({
            "chainId": self.node.chain_id(), "endpoints": [self.node.url().as_str()],
            "development": development, "keys": keys, "contracts": self.contracts,
        }))
        .unwrap()
    }

    async fn link(&self, spec: &ChainSpec) -> Link {
        let keyring = Keyring::new(self.keys.path().to_owned());
        Link::open(spec, &self.contracts, &keyring, Default::default())
            .await
            .unwrap()
    }

    async fn dev_link(&self) -> Link {
        self.link(&self.spec(true, json!({}))).await
    }

    async fn later(&self, time: Duration) {
        let session = Session::connect(self.node.url(), None).await.unwrap();
        let provider = session.provider();
        let _: serde_json::Value = provider
            .raw_request("anvil_increaseTime".into(), [time.as_secs()])
            .await
            .unwrap_or_default();
        let _: serde_json::Value = provider
            .raw_request("anvil_mine".into(), [1])
            .await
            .unwrap();
    }

    async fn blocks(&self, link: &Link) -> u64 {
        assert_eq!(link.manifest.chain_id, self.node.chain_id());
        link.reader.block_number().await.unwrap()
    }
}

fn contracts(manifest: &Manifest) -> Contracts {
    let at = |name: &str| manifest.address(name).unwrap().to_string();
    Contracts {
        agent_registry: at("AgentRegistry"),
        policy_registry: at("PolicyRegistry"),
        approval_registry: at("ApprovalRegistry"),
        anchor: at("SaeAnchor"),
        multisig: at("Multisig"),
        timelock: at("TimelockController"),
    }
}

fn policy(uid: &str, class: &str) -> AgentPolicy {
    serde_json::from_value(json!({
        "apiVersion": "writ.dev/v1alpha1", "kind": "AgentPolicy",
        "metadata": {"name": "buyers", "namespace": "shop", "uid": uid},
        "spec": {
            "rules": {"version": 1, "rules": [
                {"name": "search", "agent": "any", "capability": "search.*", "effect": "allow", "max_class": class},
            ]},
            "catalog": {
                "version": 1, "name": "shop",
                "destinations": [{
                    "name": "search", "host": "search.shop", "port": 80,
                    "peer": {"spiffe": "spiffe://example.org/ns/shop/sa/search"},
                    "upstream": {"mode": "mtls"}, "agent_tls": "originate", "envelope": "stamp", "pep": "sidecar",
                }],
                "entries": [{
                    "name": "query", "destination": "search", "protocol": "http", "method": "GET", "path": "/q",
                    "capability": "search.query", "class": "public",
                }],
            },
        },
    }))
    .unwrap()
}

fn wanted(link: &Link, policy: &AgentPolicy) -> Want {
    let accounts = BTreeSet::from(["buyer".to_owned(), "scout".to_owned()]);
    let salts = Salts::from([
        (Of::Policy("buyers".to_owned()), [1; 16]),
        (Of::Agent("buyer".to_owned()), [2; 16]),
        (Of::Agent("scout".to_owned()), [3; 16]),
    ]);
    let approvals = link.manifest.address("ApprovalRegistry").unwrap();
    want(policy, &accounts, &salts, "example.org", approvals)
        .unwrap()
        .unwrap()
}

fn in_force(want: &Want, outcome: &Outcome) -> (&'static str, &'static str) {
    let said = say(&Ended::Came(want, outcome), &[], writ_api::Mode::Enforce);
    (said[2].status.as_str(), said[2].reason)
}

#[tokio::test]
async fn on_a_development_chain_a_policy_is_in_force_at_once() {
    let world = World::development().await;
    let link = world.dev_link().await;
    let want = wanted(&link, &policy("u-1", "public"));
    let outcome = carry_out(&link, &want, &[]).await.unwrap();
    assert_eq!(in_force(&want, &outcome), ("True", "InForce"));
    assert_eq!(
        outcome.transactions.len(),
        3,
        "published, and two agents registered"
    );
    assert_eq!(
        outcome.policy.as_ref().unwrap().catalog_hash,
        want.catalog_hash
    );
}

#[tokio::test]
async fn carrying_out_again_sends_nothing_and_an_edit_makes_the_next_version() {
    let world = World::development().await;
    let link = world.dev_link().await;
    let want = wanted(&link, &policy("u-1", "public"));
    carry_out(&link, &want, &[]).await.unwrap();
    let block = world.blocks(&link).await;
    let again = carry_out(&link, &want, &[]).await.unwrap();
    assert!(again.transactions.is_empty());
    assert_eq!(world.blocks(&link).await, block);
    let edited = wanted(&link, &policy("u-1", "internal"));
    assert_eq!(edited.policy_id, want.policy_id);
    let outcome = carry_out(&link, &edited, &[]).await.unwrap();
    assert_eq!(
        (
            outcome.policy.as_ref().unwrap().version,
            outcome.transactions.len()
        ),
        (2, 1)
    );
    assert_eq!(in_force(&edited, &outcome), ("True", "InForce"));
}

#[tokio::test]
async fn a_leader_that_died_anywhere_in_the_middle_is_followed_by_one_that_goes_on() {
    let world = World::development().await;
    let link = world.dev_link().await;
    let want = wanted(&link, &policy("u-1", "public"));
    let owner = link.owner.as_ref().unwrap();
    // It died after deploying the contract,
    let Code::Create(init) = &want.code else {
        panic!("rules are compiled")
    };
    let contract = deploy::create(owner, "RulePolicy", init, B256::ZERO)
        .await
        .unwrap();
    // the next one after proposing and putting it into the timelock,
    let hash = keccak256(owner.code(contract).await.unwrap());
    let call = tx::calls::publish(
        &link.manifest,
        want.policy_id,
        contract,
        hash,
        want.catalog_hash,
    )
    .unwrap();
    let governance = Governance::of(&link.manifest).unwrap();
    let Standing::Unset { schedule, .. } =
        governance.standing(&link.reader, &[call]).await.unwrap()
    else {
        panic!("nothing is queued yet");
    };
    governance.through_multisig(owner, &schedule).await.unwrap();
    // and one after the first of two registrations.
    let register = tx::calls::register_agent(&link.manifest, &want.agents[0].record).unwrap();
    governance.advance(owner, &[register]).await.unwrap();
    let outcome = carry_out(&world.dev_link().await, &want, &[])
        .await
        .unwrap();
    assert_eq!(in_force(&want, &outcome), ("True", "InForce"));
    assert_eq!(outcome.policy.unwrap().version, 1, "published once");
    assert_eq!(
        outcome.transactions.len(),
        2,
        "the rest: execution, and the second agent"
    );
}

#[tokio::test]
async fn without_an_owners_key_the_status_says_what_the_owners_must_propose_and_then_follows_it() {
    let world = World::production().await;
    let spec = world.spec(false, json!({"deployer": "key-4", "guardian": "key-5"}));
    let link = world.link(&spec).await;
    assert!(link.owner.is_none());
    let want = wanted(&link, &policy("u-1", "public"));
    let outcome = carry_out(&link, &want, &[]).await.unwrap();
    assert_eq!(in_force(&want, &outcome), ("False", "AwaitingOwners"));
    let waits = outcome.queued[0].clone();
    assert_eq!(waits.proposal, None);
    // Three owners propose and confirm exactly what the status says.
    let call = tx::Call {
        target: waits.target.unwrap().parse().unwrap(),
        data: waits.data.unwrap().parse().unwrap(),
    };
    let governance = Governance::of(&link.manifest).unwrap();
    for n in 0..3 {
        let owner = Session::with_wallet(world.node.url(), None, key(n))
            .await
            .unwrap();
        governance.through_multisig(&owner, &call).await.unwrap();
        let outcome = carry_out(&link, &want, &[]).await.unwrap();
        let waits = &outcome.queued[0];
        if n < 2 {
            assert_eq!(
                (waits.confirmations, waits.threshold),
                (Some(n as i64 + 1), Some(3))
            );
        } else {
            assert!(waits.ready_at.is_some(), "queued: {waits:?}");
            assert_eq!(in_force(&want, &outcome), ("False", "Queued"));
        }
    }
    // Before the delay nothing happens; after it the deployer, who has no right of its own, executes.
    world.later(Duration::from_secs(86_300)).await;
    assert_eq!(
        carry_out(&link, &want, &[])
            .await
            .unwrap()
            .policy
            .unwrap()
            .version,
        0
    );
    world.later(Duration::from_secs(101)).await;
    let outcome = carry_out(&link, &want, &[]).await.unwrap();
    assert_eq!(outcome.policy.as_ref().unwrap().version, 1);
    assert_eq!(in_force(&want, &outcome), ("False", "AgentNotRegistered"));
    assert_eq!(outcome.queued.len(), 2, "each agent is a change of its own");
}

#[tokio::test]
async fn a_reference_whose_code_hash_differs_is_not_bound() {
    let world = World::development().await;
    let link = world.dev_link().await;
    let mut wrong = wanted(&link, &policy("u-1", "public"));
    let address: Address = world.contracts.anchor.parse().unwrap();
    wrong.code = Code::Existing {
        address,
        code_hash: B256::repeat_byte(1),
    };
    let outcome = carry_out(&link, &wrong, &[]).await.unwrap();
    assert_eq!(outcome.stopped.as_ref().unwrap().0, "CodeHashMismatch");
    assert!(outcome.transactions.is_empty());
    assert_eq!(outcome.policy.unwrap().version, 0);
    wrong.code = Code::Existing {
        address: Address::repeat_byte(0x77),
        code_hash: keccak256([]),
    };
    let nothing = carry_out(&link, &wrong, &[]).await.unwrap();
    assert!(nothing.stopped.unwrap().1.contains("no code"));
}

#[tokio::test]
async fn a_reference_with_the_right_code_hash_is_bound() {
    let world = World::development().await;
    let link = world.dev_link().await;
    let mut want = wanted(&link, &policy("u-1", "public"));
    let Code::Create(init) = &want.code else {
        panic!("rules are compiled")
    };
    let address = deploy::create(
        link.deployer.as_ref().unwrap(),
        "RulePolicy",
        init,
        B256::ZERO,
    )
    .await
    .unwrap();
    let code_hash = keccak256(link.reader.code(address).await.unwrap());
    want.code = Code::Existing { address, code_hash };
    let outcome = carry_out(&link, &want, &[]).await.unwrap();
    assert_eq!(in_force(&want, &outcome), ("True", "InForce"));
}

#[tokio::test]
async fn an_agent_that_is_revoked_is_neither_changed_nor_registered_anew() {
    let world = World::development().await;
    let link = world.dev_link().await;
    let want = wanted(&link, &policy("u-1", "public"));
    let stopped = want.agents[0].record.key;
    // Named by an AgentRevocation before it was ever registered.
    let outcome = carry_out(&link, &want, &[stopped]).await.unwrap();
    assert_eq!(outcome.agents[0].status, "unknown");
    assert_eq!(outcome.agents[1].status, "active");
    let outcome = carry_out(&link, &want, &[]).await.unwrap();
    assert_eq!(outcome.agents[0].status, "active");
    // Revoked on chain by somebody else, and the object made again: another policy id, the same agent.
    let guardian = link.guardian.as_ref().unwrap();
    tx::revoke(guardian, &link.manifest, stopped, "stolen")
        .await
        .unwrap();
    let again = wanted(&link, &policy("u-2", "public"));
    let outcome = carry_out(&link, &again, &[]).await.unwrap();
    assert_eq!(outcome.agents[0].status, "revoked");
    assert_eq!(in_force(&again, &outcome), ("True", "AgentsRevoked"));
    assert_eq!(
        outcome.agents[1].policy_id, again.policy_id,
        "the other one moved"
    );
}

#[tokio::test]
async fn a_revocation_on_chain_is_found_with_its_sender_and_ages_to_final() {
    let world = World::development().await;
    let link = world.dev_link().await;
    let want = wanted(&link, &policy("u-1", "public"));
    carry_out(&link, &want, &[]).await.unwrap();
    let guardian = link.guardian.as_ref().unwrap();
    let key = want.agents[0].record.key;
    tx::revoke(guardian, &link.manifest, key, "stolen")
        .await
        .unwrap();
    let Seen::Revoked {
        transaction: Some(sent),
        safe,
        last,
    } = seen_on_chain(&link, key, false).await.unwrap()
    else {
        panic!("the revocation is in the logs");
    };
    assert_eq!(sent.by, guardian.sender().unwrap().to_string());
    assert_eq!(sent.block, world.blocks(&link).await);
    assert_eq!(phase(Some(sent.block), safe, last), Phase::Included);
    let provider = link.reader.provider();
    let _: serde_json::Value = provider
        .raw_request("anvil_mine".into(), [200])
        .await
        .unwrap();
    let Seen::Revoked { safe, last, .. } = seen_on_chain(&link, key, true).await.unwrap() else {
        panic!("it stays revoked");
    };
    assert_eq!(phase(Some(sent.block), safe, last), Phase::Final);
}

#[tokio::test]
async fn the_second_endpoint_is_read_when_the_first_is_down_or_of_another_chain() {
    let world = World::development().await;
    let other = DevNode::start(DevNodeOptions {
        chain_id: 31_338,
        ..DevNodeOptions::default()
    })
    .await
    .unwrap();
    let mut spec = world.spec(true, json!({}));
    spec.endpoints = vec![
        "http://127.0.0.1:1/".to_owned(),
        other.url().to_string(),
        world.node.url().to_string(),
    ];
    assert_eq!(
        world.link(&spec).await.reader.chain_id(),
        world.node.chain_id()
    );
    spec.endpoints.pop();
    let keyring = Keyring::new(world.keys.path().to_owned());
    let Err(error) = Link::open(&spec, &world.contracts, &keyring, Default::default()).await else {
        panic!("no endpoint is of the right chain");
    };
    assert_eq!(error.cause(), "WrongChain");
    assert!(keyring.signer(&spec, Role::Guardian).unwrap().is_some());
}
