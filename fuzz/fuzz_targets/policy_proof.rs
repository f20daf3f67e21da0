//! Proof nodes from an endpoint: neither a crash nor an account or slot that the root does not commit to.
#![no_main]

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use writ_policy::{
    AccountProof, Address, B256, Bytes, ProvedHeader, StorageProof, U256, check_account, check_slot,
};

#[derive(Debug, Arbitrary)]
struct Input {
    root: [u8; 32],
    nodes: Vec<Vec<u8>>,
    nonce: u64,
    value: [u8; 32],
    slot: [u8; 32],
    header: Vec<u8>,
}

fuzz_target!(|input: Input| {
    let proof: Vec<Bytes> = input.nodes.into_iter().map(Bytes::from).collect();
    let value = U256::from_be_bytes(input.value);
    let account = AccountProof {
        nonce: input.nonce,
        balance: value,
        storage_hash: B256::from(input.slot),
        code_hash: B256::from(input.value),
        proof: proof.clone(),
    };
    let slot = StorageProof {
        value,
        proof: proof.clone(),
    };
    let address = Address::repeat_byte(1);
    let key = U256::from_be_bytes(input.slot);
    let other_account = AccountProof {
        nonce: input.nonce.wrapping_add(1),
        ..account.clone()
    };
    let other_slot = StorageProof {
        value: value.wrapping_add(U256::from(1)),
        ..slot.clone()
    };
    // Under any root, and under the root that the first node hashes to, from which the walk goes as deep as the nodes
    // lead: the same nodes never prove two different things.
    let first = proof.first().map(writ_policy::keccak256);
    for root in [Some(B256::from(input.root)), first].into_iter().flatten() {
        let (one, two) = (
            check_account(root, address, &account),
            check_account(root, address, &other_account),
        );
        assert!(one.is_err() || two.is_err());
        let (one, two) = (
            check_slot(root, address, key, &slot),
            check_slot(root, address, key, &other_slot),
        );
        assert!(one.is_err() || two.is_err());
    }
    if let Ok(header) = ProvedHeader::from_rlp(input.header.clone()) {
        assert_eq!(header.hash, writ_policy::keccak256(&input.header));
        assert_eq!(header.rlp().as_ref(), input.header.as_slice());
    }
});
