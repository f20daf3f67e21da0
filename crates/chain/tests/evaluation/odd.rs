//! Contracts that do what no policy should.

use std::collections::BTreeSet;

use alloy::providers::Provider;
use alloy_primitives::{Address, B256, U256};
use alloy_sol_types::SolCall;
use writ_policy::abi::{self, IPolicy};
use writ_policy::testing::{allowing, return_memory, verdict_contract};
use writ_policy::{Action, Effect, EvalError, ProfileRefusal, SnapshotBuilder, StateKey, decide};

use crate::agent;
use crate::support::Chain;

/// The code, then an allowing verdict if the code lets it.
fn then_allow(mut code: Vec<u8>) -> Vec<u8> {
    code.extend(verdict_contract(&allowing()));
    code
}

fn call_of(opcode: u8, to: Address) -> Vec<u8> {
    use revm_opcodes::*;
    let mut code = vec![PUSH0, PUSH0, PUSH0, PUSH0, PUSH20];
    code.extend(to);
    code.extend([GAS, opcode, POP]);
    code
}

/// The few opcodes that odd contracts are made of.
mod revm_opcodes {
    pub const ADD: u8 = 0x01;
    pub const BLOCKHASH: u8 = 0x40;
    pub const POP: u8 = 0x50;
    pub const MLOAD: u8 = 0x51;
    pub const SLOAD: u8 = 0x54;
    pub const SSTORE: u8 = 0x55;
    pub const JUMP: u8 = 0x56;
    pub const GAS: u8 = 0x5a;
    pub const JUMPDEST: u8 = 0x5b;
    pub const PUSH0: u8 = 0x5f;
    pub const PUSH1: u8 = 0x60;
    pub const PUSH20: u8 = 0x73;
    pub const CREATE: u8 = 0xf0;
    pub const DELEGATECALL: u8 = 0xf4;
    pub const STATICCALL: u8 = 0xfa;
    pub const REVERT: u8 = 0xfd;
    pub const INVALID: u8 = 0xfe;
    pub const SELFDESTRUCT: u8 = 0xff;
    pub const STOP: u8 = 0x00;
}

#[tokio::test]
async fn odd_contracts_are_refused_whatever_the_node_would_answer() {
    use ProfileRefusal as P;
    use revm_opcodes::*;
    let chain = Chain::start().await;
    let helper = Address::repeat_byte(0x60);
    let delegated = Address::repeat_byte(0x61);
    let nothing = Address::repeat_byte(0x62);
    let own = |index: usize| Address::left_padding_from(&[0x70, index as u8]);
    chain.set_code(helper, &[STOP]).await;
    chain
        .set_code(
            delegated,
            &[&[0xef, 0x01, 0x00][..], helper.as_slice()].concat(),
        )
        .await;
    let precompile = |number: u8| Address::left_padding_from(&[number]);

    type Expected = fn(&ProfileRefusal) -> bool;
    let contracts: Vec<(&str, Vec<u8>, Expected)> = vec![
        ("reverts", vec![PUSH0, PUSH0, REVERT], |r| {
            matches!(r, P::Reverted(_))
        }),
        ("loops", vec![JUMPDEST, PUSH0, JUMP], |r| *r == P::OutOfGas),
        ("returns nothing", vec![STOP], |r| {
            matches!(r, P::MalformedAnswer(_))
        }),
        ("returns too little", return_memory(223), |r| {
            matches!(r, P::MalformedAnswer(_))
        }),
        ("returns too much", return_memory(60_000), |r| {
            matches!(r, P::MalformedAnswer(_))
        }),
        ("invalid instruction", vec![INVALID], |r| {
            matches!(r, P::Halted(_))
        }),
        ("stack underflow", vec![ADD], |r| matches!(r, P::Halted(_))),
        ("blockhash", then_allow(vec![PUSH0, BLOCKHASH, POP]), |r| {
            matches!(r, P::ForbiddenOpcode { .. })
        }),
        (
            "creates",
            then_allow(vec![PUSH0, PUSH0, PUSH0, CREATE, POP]),
            |r| matches!(r, P::ForbiddenOpcode { .. }),
        ),
        ("self-destructs", vec![PUSH0, SELFDESTRUCT], |r| {
            matches!(r, P::ForbiddenOpcode { .. })
        }),
        (
            "delegates",
            then_allow(call_of(DELEGATECALL, helper)),
            |r| matches!(r, P::ForbiddenOpcode { .. }),
        ),
        ("stores", then_allow(vec![PUSH1, 1, PUSH0, SSTORE]), |r| {
            matches!(r, P::Halted(_))
        }),
        (
            "calls delegated code",
            then_allow(call_of(STATICCALL, delegated)),
            |r| matches!(r, P::DelegatedCode(_)),
        ),
        (
            "calls nobody",
            then_allow(call_of(STATICCALL, nothing)),
            |r| matches!(r, P::NoCode(_)),
        ),
        (
            "calls ecrecover",
            then_allow(call_of(STATICCALL, precompile(1))),
            |r| matches!(r, P::NoCode(_)),
        ),
        (
            "calls modexp",
            then_allow(call_of(STATICCALL, precompile(5))),
            |r| matches!(r, P::NoCode(_)),
        ),
        (
            "calls itself",
            then_allow(call_of(STATICCALL, own(17))),
            |r| *r == P::CallTooDeep,
        ),
        (
            "expands memory",
            then_allow(vec![
                PUSH20, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff,
                0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, MLOAD, POP,
            ]),
            |r| matches!(r, P::OutOfGas | P::Halted(_)),
        ),
    ];
    let mut actions = Vec::new();
    for (index, (_, code, _)) in contracts.iter().enumerate() {
        // "calls itself" is the 17th: its address is part of its code.
        chain.set_code(own(index + 1), code).await;
        chain.install(agent(index), own(index + 1)).await;
        actions.push(Action {
            version: 1,
            agent: agent(index),
            ..Action::default()
        });
    }
    assert_eq!(contracts[16].0, "calls itself");
    let snapshot = chain.snapshot_for(&actions).await;
    let mut node_would_allow = 0;
    for ((index, (name, _, expected)), action) in contracts.iter().enumerate().zip(&actions) {
        match decide(&snapshot, &chain.registries, action) {
            Err(EvalError::Refused(refusal)) => assert!(expected(&refusal), "{name}: {refusal}"),
            other => panic!("{name}: {other:?}"),
        }
        let answer = chain
            .call(None, own(index + 1), action.call_data())
            .await
            .unwrap_or_default();
        let verdict = IPolicy::evaluateCall::abi_decode_returns(&answer);
        node_would_allow +=
            usize::from(verdict.is_ok_and(|verdict| verdict.effect == abi::Effect::Allow));
    }
    assert!(
        node_would_allow >= 6,
        "the profile is stricter than the node: {node_would_allow}"
    );
}

#[tokio::test]
async fn a_slot_that_was_not_proved_stops_the_evaluation() {
    use revm_opcodes::*;
    let chain = Chain::start().await;
    let policy = Address::repeat_byte(0x50);
    chain
        .set_code(policy, &then_allow(vec![PUSH1, 9, SLOAD, POP]))
        .await;
    let slot = (policy, U256::from(8), B256::repeat_byte(1));
    chain
        .provider
        .raw_request::<_, bool>("anvil_setStorageAt".into(), slot)
        .await
        .unwrap();
    chain.install(agent(0), policy).await;
    let action = Action {
        version: 1,
        agent: agent(0),
        ..Action::default()
    };
    let complete = chain.snapshot_for(std::slice::from_ref(&action)).await;
    assert_eq!(
        decide(&complete, &chain.registries, &action)
            .unwrap()
            .effect,
        Effect::Allow
    );
    let gap = StateKey::Slot(policy, U256::from(9));
    let keys: BTreeSet<StateKey> = complete.keys().filter(|key| *key != gap).collect();
    let mut builder = SnapshotBuilder::new(complete.header().clone(), chain.registries.chain_id);
    chain.prove(&mut builder, &keys).await;
    assert_eq!(
        decide(&builder.build(), &chain.registries, &action),
        Err(EvalError::Missing(vec![gap]))
    );
}
