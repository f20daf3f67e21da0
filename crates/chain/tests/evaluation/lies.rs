//! Endpoints that lie about state.

use alloy_primitives::{Address, U256, keccak256};
use alloy_sol_types::SolValue;
use writ_policy::abi::{self, Rule};
use writ_policy::testing::{allowing, verdict_contract};
use writ_policy::{Action, Effect, PolicyError, SnapshotBuilder, StateKey, StorageProof, decide};

use crate::support::{Chain, account_claim};
use crate::{agent, capability, open_rule};

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
