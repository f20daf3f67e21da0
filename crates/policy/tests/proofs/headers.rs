//! Headers: read whole, of whatever fork, and hashed here.

use alloy_primitives::keccak256;
use writ_policy::testing::World;
use writ_policy::{B256, MAX_HEADER_BYTES, PolicyError, ProvedHeader};

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
