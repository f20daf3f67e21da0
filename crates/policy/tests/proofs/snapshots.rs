//! Snapshots from head to head.

use writ_policy::testing::World;
use writ_policy::{AccountProof, Address, PolicyError, SnapshotBuilder, StateKey, U256};

use crate::{address, builder, crowded};

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
