//! Witnesses: a stranger decides again from them, and from nothing less.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

use std::sync::Arc;

use proptest::prelude::*;
use revm::bytecode::opcode as op;
use writ_policy::testing::{World, allowing, verdict_contract};
use writ_policy::{
    Action, Address, B256, Decision, EvalError, MAX_WITNESS_BYTES, PolicyError, ReplayError,
    Snapshot, SnapshotBuilder, StateKey, U256, WarmError, Witness, decide, dry_run, warm_keys,
    witness,
};

const AGENT: B256 = B256::repeat_byte(0x11);
const POLICY: Address = Address::repeat_byte(0xc3);

/// A policy that reads slot `action.amount` of its own before it allows.
fn world() -> World {
    let mut code = vec![op::PUSH2, 0x01, 0x04, op::CALLDATALOAD, op::SLOAD, op::POP];
    code.extend(verdict_contract(&allowing()));
    let mut world = World::new();
    world.install_policy(AGENT, POLICY, code);
    for slot in 0..64u64 {
        world.set_slot(POLICY, U256::from(slot), U256::from(slot + 1));
    }
    world
}

fn action(amount: u64) -> Action {
    Action {
        version: 1,
        agent: AGENT,
        amount: U256::from(amount),
        ..Action::default()
    }
}

fn decided(world: &World, amount: u64) -> (Snapshot, Decision) {
    let snapshot = world.snapshot_for(&[action(amount), action(amount + 1)]);
    let decision = decide(&snapshot, &world.registries(), &action(amount)).unwrap();
    (snapshot, decision)
}

#[test]
fn the_helper_policy_reads_the_slot_of_the_amount() {
    let (_, decision) = decided(&world(), 3);
    assert!(
        decision
            .touched
            .contains(&StateKey::Slot(POLICY, U256::from(3)))
    );
}

#[test]
fn a_stranger_decides_the_same_from_the_bytes_of_a_witness() {
    let world = world();
    for amount in [0, 3, 63, 1000] {
        let (snapshot, decision) = decided(&world, amount);
        let bytes = witness(&snapshot, &decision).to_bytes();
        let read = Witness::from_bytes(&bytes).unwrap();
        assert_eq!(
            read.replay(&world.registries(), &action(amount)).unwrap(),
            decision
        );
        assert_eq!(read.header().unwrap().hash.0, decision.block_hash);
    }
}

#[test]
fn a_witness_holds_what_was_read_and_nothing_more() {
    let world = world();
    let (snapshot, decision) = decided(&world, 3);
    let cut = witness(&snapshot, &decision).snapshot().unwrap();
    let mut held: Vec<StateKey> = cut.keys().collect();
    let mut touched = decision.touched.clone();
    held.sort();
    touched.sort();
    assert_eq!(held, touched);
    assert!(snapshot.size().1 > cut.size().1);
    let other = witness(&snapshot, &decision).replay(&world.registries(), &action(4));
    let missing = EvalError::Missing(vec![StateKey::Slot(POLICY, U256::from(4))]);
    assert_eq!(other, Err(ReplayError::Evaluation(missing)));
}

#[test]
fn denials_are_witnessed_like_allows() {
    let world = world();
    let stranger = Action {
        agent: B256::repeat_byte(0x66),
        ..action(0)
    };
    let snapshot = world.snapshot_for(std::slice::from_ref(&stranger));
    let decision = decide(&snapshot, &world.registries(), &stranger).unwrap();
    assert_eq!(decision.reason, "agent-unknown");
    let replayed = witness(&snapshot, &decision)
        .replay(&world.registries(), &stranger)
        .unwrap();
    assert_eq!(replayed, decision);
}

#[test]
fn equal_witnesses_have_equal_ids_and_other_blocks_have_other_ids() {
    let mut world = world();
    let (snapshot, decision) = decided(&world, 3);
    let first = witness(&snapshot, &decision);
    let wider = world.snapshot_for(&[action(1), action(2), action(3)]);
    let again = witness(
        &wider,
        &decide(&wider, &world.registries(), &action(3)).unwrap(),
    );
    assert_eq!(first.to_bytes(), again.to_bytes());
    assert_eq!(first.id(), again.id());
    world.number += 1;
    let (snapshot, decision) = decided(&world, 3);
    assert_ne!(witness(&snapshot, &decision).id(), first.id());
}

#[test]
fn a_witness_survives_json() {
    let world = world();
    let (snapshot, decision) = decided(&world, 3);
    let original = witness(&snapshot, &decision);
    let json = serde_json::to_string(&original).unwrap();
    assert_eq!(serde_json::from_str::<Witness>(&json).unwrap(), original);
}

#[test]
fn a_witness_of_another_profile_is_refused() {
    let world = world();
    let (snapshot, decision) = decided(&world, 3);
    let mut json = serde_json::to_value(witness(&snapshot, &decision)).unwrap();
    json["profile"] = "writ-evm/2".into();
    let other: Witness = serde_json::from_value(json).unwrap();
    assert_eq!(
        other.replay(&world.registries(), &action(3)),
        Err(ReplayError::State(PolicyError::Profile(
            "writ-evm/2".into()
        )))
    );
}

#[test]
fn a_witness_with_trailing_or_missing_bytes_or_beyond_the_size_is_refused() {
    let world = world();
    let (snapshot, decision) = decided(&world, 3);
    let bytes = witness(&snapshot, &decision).to_bytes();
    let mut longer = bytes.clone();
    longer.push(0);
    for bad in [
        &longer[..],
        &bytes[..bytes.len() - 1],
        &[],
        &vec![0; MAX_WITNESS_BYTES + 1],
    ] {
        assert!(matches!(
            Witness::from_bytes(bad),
            Err(PolicyError::Witness(_))
        ));
    }
}

#[test]
fn a_witness_cannot_show_another_state_under_the_same_block() {
    let world = world();
    let (snapshot, decision) = decided(&world, 3);
    let honest = serde_json::to_value(witness(&snapshot, &decision)).unwrap();
    let mut lies = Vec::new();
    for (index, account) in honest["accounts"].as_array().unwrap().iter().enumerate() {
        let mut lie = honest.clone();
        lie["accounts"][index]["nonce"] = 99.into();
        lies.push(lie);
        for (slot, _) in account["slots"].as_array().unwrap().iter().enumerate() {
            let mut lie = honest.clone();
            lie["accounts"][index]["slots"][slot]["value"] = "0xdead".into();
            lies.push(lie);
        }
    }
    for (index, _) in honest["codes"].as_array().unwrap().iter().enumerate() {
        let mut lie = honest.clone();
        lie["codes"][index]["code"] = "0x00".into();
        lies.push(lie);
    }
    assert!(lies.len() > 8);
    for lie in lies {
        let lie: Witness = serde_json::from_value(lie).unwrap();
        assert!(matches!(
            lie.replay(&world.registries(), &action(3)),
            Err(ReplayError::State(_))
        ));
    }
}

#[test]
fn the_warm_set_of_several_actions_is_found_by_dry_runs() {
    let world = world();
    let actions = [action(1), action(2), action(70)];
    let snapshot = world.snapshot_for(&actions);
    let warm = dry_run(&snapshot, &world.registries(), &actions).unwrap();
    assert!(warm.missing.is_empty() && warm.refused.is_empty());
    for amount in [1, 2, 70] {
        assert!(
            warm.touched
                .contains(&StateKey::Slot(POLICY, U256::from(amount)))
        );
    }
    for action in &actions {
        decide(&snapshot, &world.registries(), action).unwrap();
    }
}

#[test]
fn an_empty_snapshot_asks_for_both_registries_at_once() {
    let world = world();
    let registries = world.registries();
    let mut all = Vec::new();
    for address in [registries.agents, registries.policies] {
        all.extend([StateKey::Account(address), StateKey::Code(address)]);
    }
    all.sort();
    assert_eq!(
        decide(&world.snapshot(&[]), &registries, &action(1)),
        Err(EvalError::Missing(all))
    );
}

#[test]
fn the_slots_of_one_entry_are_asked_for_together() {
    let world = world();
    let registries = world.registries();
    let known: Vec<StateKey> = [registries.agents, registries.policies]
        .into_iter()
        .flat_map(|address| [StateKey::Account(address), StateKey::Code(address)])
        .collect();
    let first = U256::from_be_bytes(AGENT.0);
    let slots = (0..5u64)
        .map(|index| StateKey::Slot(registries.agents, first + U256::from(index)))
        .collect();
    assert_eq!(
        decide(&world.snapshot(&known), &registries, &action(1)),
        Err(EvalError::Missing(slots))
    );
}

#[test]
fn a_fetch_that_never_completes_ends() {
    let world = world();
    let empty = Arc::new(world.snapshot(&[]));
    let fetch = |current: &Snapshot, _: &_| {
        Ok::<_, &str>(Arc::new(SnapshotBuilder::extending(current).build()))
    };
    let ended = warm_keys(
        Arc::clone(&empty),
        &world.registries(),
        &[action(1)],
        5,
        fetch,
    );
    assert!(matches!(ended, Err(WarmError::Endless(5))));
    let fetch = |_: &Snapshot, _: &_| Err::<Arc<Snapshot>, _>("endpoint down");
    let ended = warm_keys(empty, &world.registries(), &[action(1)], 5, fetch);
    assert!(matches!(ended, Err(WarmError::Fetch("endpoint down"))));
}

#[test]
fn an_action_reads_back_from_its_encoding_and_from_no_other() {
    let action = Action {
        amount: U256::MAX,
        risk: 7,
        ..action(1)
    };
    let bytes = action.to_abi();
    assert_eq!(bytes.len(), 21 * 32);
    assert_eq!(Action::from_abi(&bytes), Some(action));
    let mut wide = bytes.clone();
    wide[0] = 1;
    let longer = [&bytes[..], &[0; 32]].concat();
    for bad in [&wide[..], &longer, &bytes[..bytes.len() - 1], &[]] {
        assert_eq!(Action::from_abi(bad), None);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn arbitrary_bytes_are_no_witness(bytes in proptest::collection::vec(any::<u8>(), 0..512)) {
        prop_assert!(Witness::from_bytes(&bytes).is_err());
    }

    /// One changed bit: the witness is refused, or leads to another block, or decides the same (bits of another chain
    /// id are noticed by the registries).
    #[test]
    fn a_changed_bit_never_changes_the_decision_at_this_block(at in any::<prop::sample::Index>()) {
        let world = world();
        let (snapshot, decision) = decided(&world, 3);
        let mut bytes = witness(&snapshot, &decision).to_bytes();
        let bit = at.index(bytes.len() * 8);
        bytes[bit / 8] ^= 1 << (bit % 8);
        let replayed = Witness::from_bytes(&bytes).map(|read| read.replay(&world.registries(), &action(3)));
        if let Ok(Ok(replayed)) = replayed {
            prop_assert!(replayed == decision || replayed.block_hash != decision.block_hash);
        }
    }
}
