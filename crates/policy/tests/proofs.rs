//! Headers, proofs and snapshots: what is accepted is exactly what the state root commits to.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

use std::collections::BTreeMap;

use alloy_primitives::{KECCAK256_EMPTY, keccak256};
use alloy_trie::EMPTY_ROOT_HASH;
use proptest::prelude::*;
use writ_policy::testing::{CHAIN_ID, TestAccount, World};
use writ_policy::{
    AccountProof, Address, B256, Bytes, MAX_HEADER_BYTES, MAX_NODE_BYTES, MAX_PROOF_NODES,
    PolicyError, ProvedHeader, SnapshotBuilder, StateKey, StorageProof, U256, check_account,
    check_slot,
};

fn address(index: u64) -> Address {
    Address::from_slice(&keccak256(index.to_be_bytes())[12..])
}

/// Some hundred accounts, so that tries are several levels deep.
fn crowded() -> World {
    let mut world = World::new();
    for index in 0..200u64 {
        let account = world.accounts.entry(address(index)).or_default();
        account.balance = U256::from(index);
        account.nonce = index;
    }
    for slot in 0..200u64 {
        world.set_slot(address(7), U256::from(slot), U256::from(slot * slot));
    }
    world.set_code(address(7), vec![0x60, 0x00]);
    world
}

fn builder(world: &World) -> SnapshotBuilder {
    SnapshotBuilder::new(world.header(), CHAIN_ID)
}

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

#[test]
fn a_new_head_keeps_the_slots_of_an_unchanged_storage_root_and_drops_the_others() {
    let mut world = crowded();
    world.set_slot(address(8), U256::from(1), U256::from(1));
    let keys = [
        StateKey::Account(address(7)),
        StateKey::Code(address(7)),
        StateKey::Slot(address(7), U256::from(3)),
        StateKey::Account(address(8)),
        StateKey::Slot(address(8), U256::from(1)),
    ];
    let before = world.snapshot(&keys);
    world.number += 1;
    world.set_slot(address(8), U256::from(2), U256::from(2));
    world.accounts.get_mut(&address(7)).unwrap().balance += U256::from(1);
    let mut builder = SnapshotBuilder::following(&before, world.header());
    let mut stale = builder.stale();
    stale.sort();
    let mut accounts = vec![StateKey::Account(address(7)), StateKey::Account(address(8))];
    accounts.sort();
    assert_eq!(stale, accounts, "accounts are always proved anew");
    world.prove(&mut builder, &accounts);
    let stale = builder.stale();
    assert_eq!(stale, [StateKey::Slot(address(8), U256::from(1))]);
    world.prove(&mut builder, &stale);
    assert_eq!(builder.stale(), []);
    let after = builder.build();
    assert_eq!(after.header().number, world.number);
    assert_eq!(after.slot(&address(7), U256::from(3)), Some(U256::from(9)));
    assert_eq!(after.slot(&address(8), U256::from(1)), Some(U256::from(1)));
    assert_eq!(
        after.account(&address(7)).unwrap().unwrap().balance,
        U256::from(8)
    );
    assert!(keys.iter().all(|key| after.contains(key)));
}

#[test]
fn an_account_that_is_not_proved_anew_is_unknown_at_the_new_head() {
    let mut world = crowded();
    let before = world.snapshot(&[StateKey::Account(address(7))]);
    world.number += 1;
    let after = SnapshotBuilder::following(&before, world.header()).build();
    assert_eq!(after.account(&address(7)), None);
    assert_eq!(after.size(), (0, 0));
}

#[test]
fn a_slot_that_changed_has_its_new_value_only_after_a_new_proof() {
    let mut world = crowded();
    let key = StateKey::Slot(address(7), U256::from(3));
    let before = world.snapshot(&[StateKey::Account(address(7)), key]);
    world.number += 1;
    world.set_slot(address(7), U256::from(3), U256::from(1000));
    let mut builder = SnapshotBuilder::following(&before, world.header());
    world.prove(&mut builder, &[StateKey::Account(address(7))]);
    assert!(!builder.build().contains(&key));
}

#[test]
fn extending_keeps_everything_at_the_same_head() {
    let world = crowded();
    let before = world.snapshot(&[
        StateKey::Account(address(7)),
        StateKey::Slot(address(7), U256::from(3)),
    ]);
    let mut builder = SnapshotBuilder::extending(&before);
    world.prove(&mut builder, &[StateKey::Slot(address(7), U256::from(4))]);
    let after = builder.build();
    assert_eq!(after.slot(&address(7), U256::from(3)), Some(U256::from(9)));
    assert_eq!(after.slot(&address(7), U256::from(4)), Some(U256::from(16)));
    assert_eq!(
        before.slot(&address(7), U256::from(4)),
        None,
        "a snapshot never changes"
    );
}

#[test]
fn a_snapshot_has_room_for_so_many_accounts() {
    let mut world = World::new();
    let addresses: Vec<Address> = (0..=writ_policy::MAX_ACCOUNTS as u64)
        .map(address)
        .collect();
    let nobody = world.account_proof(Address::repeat_byte(0xfe));
    world.accounts.clear();
    let mut builder = builder(&world);
    let empty = AccountProof {
        proof: vec![],
        ..nobody
    };
    let (last, rest) = addresses.split_last().unwrap();
    for address in rest {
        builder.add_account_proof(*address, &empty).unwrap();
    }
    assert!(matches!(
        builder.add_account_proof(*last, &empty),
        Err(PolicyError::SnapshotFull { .. })
    ));
    assert_eq!(
        builder.add_account_proof(rest[0], &empty),
        Ok(()),
        "a known one may be proved again"
    );
}

#[test]
fn the_hash_of_a_header_is_computed_here() {
    let header = alloy_consensus::Header {
        number: 5,
        base_fee_per_gas: Some(1),
        ..Default::default()
    };
    let read = ProvedHeader::from_consensus(&header).unwrap();
    assert_eq!(read.hash, header.hash_slow());
    assert_eq!(
        (read.number, read.state_root, read.base_fee),
        (5, header.state_root, 1)
    );
    assert!(read.clone().expect_hash(header.hash_slow()).is_ok());
    assert!(matches!(
        read.expect_hash(B256::ZERO),
        Err(PolicyError::HeaderHash { .. })
    ));
}

/// Header 0x63 of Ethereum mainnet's beginnings and one with fields that no fork knows: both are read.
#[test]
fn headers_with_fewer_or_more_fields_are_read() {
    let old = alloy_consensus::Header {
        number: 99,
        ..Default::default()
    };
    let read = ProvedHeader::from_consensus(&old).unwrap();
    assert_eq!(
        (read.number, read.base_fee, read.excess_blob_gas),
        (99, 0, 0)
    );

    let full = World::new().header();
    let mut rest: &[u8] = full.rlp();
    let payload = alloy_rlp::Header::decode_bytes(&mut rest, true).unwrap();
    let mut extended = Vec::new();
    let extra = alloy_rlp::encode(B256::repeat_byte(1));
    alloy_rlp::Header {
        list: true,
        payload_length: payload.len() + extra.len(),
    }
    .encode(&mut extended);
    extended.extend_from_slice(payload);
    extended.extend_from_slice(&extra);
    let read = ProvedHeader::from_rlp(extended.clone()).unwrap();
    assert_eq!(read.hash, keccak256(&extended));
    assert_eq!(
        (read.number, read.state_root),
        (full.number, full.state_root)
    );
}

#[test]
fn bytes_that_are_not_one_header_are_refused() {
    let good = World::new().header().rlp().to_vec();
    let mut trailing = good.clone();
    trailing.push(0);
    for bad in [
        vec![],
        vec![0xc0],
        vec![0x80],
        good[..good.len() - 1].to_vec(),
        trailing,
        vec![0; MAX_HEADER_BYTES + 1],
    ] {
        assert!(matches!(
            ProvedHeader::from_rlp(bad),
            Err(PolicyError::Header(_))
        ));
    }
}

fn storage() -> impl Strategy<Value = BTreeMap<U256, U256>> {
    let slot = prop_oneof![
        (0u64..32).prop_map(U256::from),
        any::<[u8; 32]>().prop_map(U256::from_be_bytes)
    ];
    let value = prop_oneof![
        Just(U256::ZERO),
        (0u64..3).prop_map(U256::from),
        any::<[u8; 32]>().prop_map(U256::from_be_bytes)
    ];
    proptest::collection::btree_map(slot, value, 0..24)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever the state: every proof holds, every value is the state's, and no altered value is accepted.
    #[test]
    fn proofs_show_the_state_and_nothing_but_the_state(
        accounts in proptest::collection::btree_map(0u64..40, (any::<u64>(), storage()), 0..12),
        probes in proptest::collection::vec((0u64..48, 0u64..48), 1..12),
    ) {
        let mut world = World::new();
        world.accounts.clear();
        for (index, (nonce, storage)) in accounts {
            let account = TestAccount { nonce, balance: U256::from(index), storage, ..TestAccount::default() };
            world.accounts.insert(address(index), account);
        }
        let root = world.state_root();
        let mut builder = builder(&world);
        for (account, slot) in probes {
            let (account, slot) = (address(account), U256::from(slot));
            let expected = world.accounts.get(&account).cloned();
            let claim = world.account_proof(account);
            let found = check_account(root, account, &claim).unwrap();
            prop_assert_eq!(found.map(|found| found.nonce), expected.as_ref().map(|account| account.nonce));
            let lie = AccountProof { nonce: claim.nonce.wrapping_add(1), ..claim.clone() };
            prop_assert!(check_account(root, account, &lie).is_err());
            builder.add_account_proof(account, &claim).unwrap();
            let claim = world.storage_proof(account, slot);
            builder.add_storage_proof(account, slot, &claim).unwrap();
            let lie = StorageProof { value: claim.value.wrapping_add(U256::from(1)), ..claim };
            prop_assert!(builder.add_storage_proof(account, slot, &lie).is_err());
        }
        let snapshot = builder.build();
        for key in snapshot.keys() {
            if let StateKey::Slot(account, slot) = key {
                let value = world.accounts[&account].storage.get(&slot).copied().unwrap_or_default();
                prop_assert_eq!(snapshot.slot(&account, slot), Some(value));
            }
        }
    }

    /// A proof with any one bit changed proves nothing.
    #[test]
    fn a_proof_with_a_changed_bit_is_refused(node in any::<prop::sample::Index>(), bit in any::<prop::sample::Index>()) {
        let world = crowded();
        let mut claim = world.account_proof(address(7));
        let node = node.index(claim.proof.len());
        let mut bytes = claim.proof[node].to_vec();
        let bit = bit.index(bytes.len() * 8);
        bytes[bit / 8] ^= 1 << (bit % 8);
        claim.proof[node] = bytes.into();
        prop_assert!(check_account(world.state_root(), address(7), &claim).is_err());
    }

    /// Any bytes as nodes: an error, never a crash.
    #[test]
    fn arbitrary_nodes_are_refused(nodes in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..80), 0..6)) {
        let proof: Vec<Bytes> = nodes.into_iter().map(Bytes::from).collect();
        let root = proof.first().map_or(EMPTY_ROOT_HASH, keccak256);
        let claim = StorageProof { value: U256::from(1), proof };
        prop_assert!(check_slot(root, address(1), U256::ZERO, &claim).is_err());
    }

    /// Any bytes as a header: an error, never a crash.
    #[test]
    fn arbitrary_headers_are_refused(bytes in proptest::collection::vec(any::<u8>(), 0..700)) {
        prop_assert!(ProvedHeader::from_rlp(bytes).is_err());
    }
}
