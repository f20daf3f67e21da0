//! State, nodes and bytes drawn at random.

use std::collections::BTreeMap;

use alloy_primitives::keccak256;
use alloy_trie::EMPTY_ROOT_HASH;
use proptest::prelude::*;
use writ_policy::testing::{TestAccount, World};
use writ_policy::{
    AccountProof, Bytes, ProvedHeader, StateKey, StorageProof, U256, check_account, check_slot,
};

use crate::{address, builder, crowded};

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
