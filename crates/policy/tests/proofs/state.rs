//! Accounts, slots and code under one state root.

use alloy_primitives::{KECCAK256_EMPTY, keccak256};
use alloy_trie::EMPTY_ROOT_HASH;
use writ_policy::{
    AccountProof, Address, B256, Bytes, MAX_NODE_BYTES, MAX_PROOF_NODES, PolicyError, StorageProof,
    U256, check_account, check_slot,
};

use crate::{address, builder, crowded};

#[test]
fn an_account_is_proved_by_inclusion() {
    let world = crowded();
    let found = check_account(
        world.state_root(),
        address(7),
        &world.account_proof(address(7)),
    )
    .unwrap()
    .unwrap();
    assert_eq!(
        (found.nonce, found.balance, found.code_hash),
        (7, U256::from(7), keccak256([0x60, 0x00]))
    );
}

#[test]
fn an_absent_account_is_proved_by_exclusion_however_it_is_spelled() {
    let world = crowded();
    let nobody = Address::repeat_byte(0xfe);
    let mut claim = world.account_proof(nobody);
    assert_eq!(check_account(world.state_root(), nobody, &claim), Ok(None));
    claim.code_hash = B256::ZERO;
    claim.storage_hash = B256::ZERO;
    assert_eq!(check_account(world.state_root(), nobody, &claim), Ok(None));
}

#[test]
fn an_account_is_not_absent_without_an_exclusion_proof() {
    let world = crowded();
    let mut claim = AccountProof {
        nonce: 0,
        balance: U256::ZERO,
        storage_hash: EMPTY_ROOT_HASH,
        code_hash: KECCAK256_EMPTY,
        proof: vec![],
    };
    let refused = Err(PolicyError::AccountProof(address(7)));
    assert_eq!(
        check_account(world.state_root(), address(7), &claim),
        refused
    );
    // Any prefix of the inclusion proof, and the proof of someone else's absence.
    let nodes = world.account_proof(address(7)).proof;
    for length in 0..=nodes.len() {
        claim.proof = nodes[..length].to_vec();
        assert_eq!(
            check_account(world.state_root(), address(7), &claim),
            refused
        );
    }
    claim.proof = world.account_proof(Address::repeat_byte(0xfe)).proof;
    assert_eq!(
        check_account(world.state_root(), address(7), &claim),
        refused
    );
}

#[test]
fn every_altered_field_of_an_account_is_noticed() {
    let world = crowded();
    let honest = world.account_proof(address(7));
    let lies: [fn(&mut AccountProof); 4] = [
        |claim| claim.nonce += 1,
        |claim| claim.balance += U256::from(1),
        |claim| claim.storage_hash = EMPTY_ROOT_HASH,
        |claim| claim.code_hash = KECCAK256_EMPTY,
    ];
    for lie in lies {
        let mut claim = honest.clone();
        lie(&mut claim);
        assert_eq!(
            check_account(world.state_root(), address(7), &claim),
            Err(PolicyError::AccountProof(address(7)))
        );
    }
}

#[test]
fn a_proof_of_another_block_is_noticed() {
    let world = crowded();
    let mut later = world.clone();
    later.accounts.get_mut(&address(8)).unwrap().balance += U256::from(1);
    let stale = world.account_proof(address(8));
    assert_eq!(
        builder(&later).add_account_proof(address(8), &stale),
        Err(PolicyError::AccountProof(address(8)))
    );
}

#[test]
fn slots_are_proved_by_inclusion_and_by_exclusion() {
    let world = crowded();
    let root = world.account_proof(address(7)).storage_hash;
    for slot in [
        U256::from(3),
        U256::from(199),
        U256::ZERO,
        U256::from(5000),
        U256::MAX,
    ] {
        let claim = world.storage_proof(address(7), slot);
        assert_eq!(check_slot(root, address(7), slot, &claim), Ok(()));
        let lie = StorageProof {
            value: claim.value + U256::from(1),
            ..claim.clone()
        };
        let refused = Err(PolicyError::StorageProof {
            address: address(7),
            slot,
        });
        assert_eq!(check_slot(root, address(7), slot, &lie), refused);
        let lie = StorageProof {
            proof: vec![],
            ..claim
        };
        assert_eq!(check_slot(root, address(7), slot, &lie), refused);
    }
}

#[test]
fn a_set_slot_cannot_be_shown_as_zero() {
    let world = crowded();
    let slot = U256::from(3);
    let claim = StorageProof {
        value: U256::ZERO,
        ..world.storage_proof(address(7), slot)
    };
    let root = world.account_proof(address(7)).storage_hash;
    assert_eq!(
        check_slot(root, address(7), slot, &claim),
        Err(PolicyError::StorageProof {
            address: address(7),
            slot
        })
    );
}

#[test]
fn slots_of_an_account_without_storage_are_zero_by_its_proof_alone() {
    let world = crowded();
    let mut builder = builder(&world);
    let bare = address(9);
    builder
        .add_account_proof(bare, &world.account_proof(bare))
        .unwrap();
    let zero = StorageProof {
        value: U256::ZERO,
        proof: vec![],
    };
    assert_eq!(
        builder.add_storage_proof(bare, U256::from(1), &zero),
        Ok(())
    );
    let one = StorageProof {
        value: U256::from(1),
        proof: vec![],
    };
    assert!(
        builder
            .add_storage_proof(bare, U256::from(1), &one)
            .is_err()
    );
    let snapshot = builder.build();
    assert_eq!(snapshot.slot(&bare, U256::MAX), Some(U256::ZERO));
    assert_eq!(snapshot.slot(&address(10), U256::ZERO), None);
}

#[test]
fn slots_and_code_need_a_proved_account() {
    let world = crowded();
    let mut builder = builder(&world);
    let slot = world.storage_proof(address(7), U256::from(3));
    let missing = Err(PolicyError::AccountNotProved(address(7)));
    assert_eq!(
        builder.add_storage_proof(address(7), U256::from(3), &slot),
        missing
    );
    assert_eq!(
        builder.add_code(address(7), Bytes::from_static(&[0x60, 0x00])),
        missing
    );
}

#[test]
fn code_must_hash_to_the_proved_code_hash() {
    let world = crowded();
    let mut builder = builder(&world);
    builder
        .add_account_proof(address(7), &world.account_proof(address(7)))
        .unwrap();
    builder
        .add_account_proof(address(8), &world.account_proof(address(8)))
        .unwrap();
    for (account, code) in [(7, &[0x60, 0x01][..]), (7, &[]), (8, &[0x60, 0x00])] {
        let refused = builder.add_code(address(account), Bytes::from_static(code));
        assert!(
            matches!(refused, Err(PolicyError::CodeHash { .. })),
            "{refused:?}"
        );
    }
    let huge = Bytes::from(vec![0; writ_policy::MAX_CODE_BYTES + 1]);
    assert!(matches!(
        builder.add_code(address(7), huge),
        Err(PolicyError::CodeTooLarge { .. })
    ));
    assert_eq!(
        builder.add_code(address(7), Bytes::from_static(&[0x60, 0x00])),
        Ok(())
    );
    assert_eq!(builder.add_code(address(8), Bytes::new()), Ok(()));
    let snapshot = builder.build();
    assert_eq!(
        snapshot.code(&address(7)),
        Some(Bytes::from_static(&[0x60, 0x00]))
    );
    assert_eq!(snapshot.code(&address(8)), Some(Bytes::new()));
    assert_eq!(snapshot.code(&address(9)), None);
}

#[test]
fn proofs_beyond_the_bounds_are_refused_before_they_are_read() {
    let world = crowded();
    let root = world.state_root();
    let mut claim = world.account_proof(address(7));
    claim
        .proof
        .resize(MAX_PROOF_NODES + 1, Bytes::from_static(&[0x80]));
    assert_eq!(
        check_account(root, address(7), &claim),
        Err(PolicyError::ProofTooLarge(address(7)))
    );
    let mut claim = world.account_proof(address(7));
    claim.proof.push(Bytes::from(vec![0; MAX_NODE_BYTES + 1]));
    assert_eq!(
        check_account(root, address(7), &claim),
        Err(PolicyError::ProofTooLarge(address(7)))
    );
}

/// Nodes may be chosen by whoever made the root, too: a path longer than a key must be an error, not a crash.
#[test]
fn nodes_that_spell_more_than_a_key_are_refused() {
    use alloy_trie::Nibbles;
    use alloy_trie::nodes::{ExtensionNode, LeafNode, RlpNode};
    let path = Nibbles::unpack(keccak256(address(1)));
    let leaf = alloy_rlp::encode(LeafNode::new(path, vec![1]));
    let extension = alloy_rlp::encode(ExtensionNode::new(
        path.slice(..40),
        RlpNode::word_rlp(&keccak256(&leaf)),
    ));
    let root = keccak256(&extension);
    let claim = AccountProof {
        nonce: 0,
        balance: U256::ZERO,
        storage_hash: EMPTY_ROOT_HASH,
        code_hash: KECCAK256_EMPTY,
        proof: vec![extension.into(), leaf.into()],
    };
    assert_eq!(
        check_account(root, address(1), &claim),
        Err(PolicyError::ProofTooLarge(address(1)))
    );
}
