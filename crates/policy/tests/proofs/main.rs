//! Headers, proofs and snapshots: what is accepted is exactly what the state root commits to.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

mod drawn;
mod headers;
mod snapshots;
mod state;

use alloy_primitives::keccak256;
use writ_policy::testing::{CHAIN_ID, World};
use writ_policy::{Address, SnapshotBuilder, U256};

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
