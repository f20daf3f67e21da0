//! Who changes what: owners, timelock, guardian.

use std::time::Duration;

use alloy::primitives::{Address, B256, U256, keccak256};
use alloy::sol_types::SolCall;
use writ_chain::deploy::{DeployPlan, Profile};
use writ_chain::tx::{self, Progress, TxError};

use crate::{Chain, GUARDIAN, OWNER, STRANGER, executed, key, record, refused_as};

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
