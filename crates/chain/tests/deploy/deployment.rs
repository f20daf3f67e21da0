//! What is deployed, where, and who may do what there.

use alloy::primitives::B256;
use alloy::sol_types::SolCall;
use writ_chain::bindings::{AgentRegistry, SaeAnchor};
use writ_chain::deploy::{DeployPlan, Manifest, deploy};
use writ_chain::devnode::{DevNode, DevNodeOptions};
use writ_chain::tx::{self, Call, Governance, Session, TxError};

use crate::{ANCHORER, APPROVER, Chain, GUARDIAN, OWNER, STRANGER, key, refused_as};

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
