//! Odd contracts under `writ-evm/1`: each gets a clear refusal, and never an allow.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

use revm::bytecode::opcode as op;
use writ_policy::testing::{World, allowing, return_memory, verdict_contract};
use writ_policy::{
    Action, Address, B256, Decision, Effect, EvalError, GAS_LIMIT, MAX_DEPTH, ProfileRefusal,
    StateKey, U256, decide,
};

const AGENT: B256 = B256::repeat_byte(0x11);
const POLICY: Address = Address::repeat_byte(0xc3);
const OTHER: Address = Address::repeat_byte(0xd4);

fn action() -> Action {
    Action {
        version: 1,
        agent: AGENT,
        ..Action::default()
    }
}

fn world(policy: Vec<u8>) -> World {
    let mut world = World::new();
    world.install_policy(AGENT, POLICY, policy);
    world
}

fn evaluate(world: &World) -> Result<Decision, EvalError> {
    decide(
        &world.snapshot_for(&[action()]),
        &world.registries(),
        &action(),
    )
}

fn refusal(world: &World) -> ProfileRefusal {
    match evaluate(world) {
        Err(EvalError::Refused(refusal)) => refusal,
        other => panic!("expected a refusal, got {other:?}"),
    }
}

/// The code, then an allowing verdict if the code lets it.
fn then_allow(mut code: Vec<u8>) -> Vec<u8> {
    code.extend(verdict_contract(&allowing()));
    code
}

/// `CALL`, `STATICCALL`, ... of an address with this much gas, the success flag dropped.
fn call(opcode: u8, to: Address, gas: u32) -> Vec<u8> {
    let mut code = vec![op::PUSH0, op::PUSH0, op::PUSH0, op::PUSH0];
    if matches!(opcode, op::CALL | op::CALLCODE) {
        code.push(op::PUSH0);
    }
    code.push(op::PUSH20);
    code.extend(to);
    code.push(op::PUSH4);
    code.extend(gas.to_be_bytes());
    code.extend([opcode, op::POP]);
    code
}

fn static_call(to: Address) -> Vec<u8> {
    call(op::STATICCALL, to, u32::MAX)
}

#[test]
fn the_helper_contract_itself_allows() {
    assert_eq!(
        evaluate(&world(then_allow(vec![]))).unwrap().effect,
        Effect::Allow
    );
}

#[test]
fn forbidden_instructions_are_refused_in_the_policy_itself() {
    let zeros = [op::PUSH0; 7];
    for (opcode, name) in [
        (op::BLOCKHASH, "BLOCKHASH"),
        (op::CREATE, "CREATE"),
        (op::CREATE2, "CREATE2"),
        (op::SELFDESTRUCT, "SELFDESTRUCT"),
        (op::DELEGATECALL, "DELEGATECALL"),
        (op::CALLCODE, "CALLCODE"),
    ] {
        let code = then_allow([&zeros[..], &[opcode]].concat());
        assert_eq!(
            refusal(&world(code)),
            ProfileRefusal::ForbiddenOpcode { name }
        );
    }
}

#[test]
fn forbidden_instructions_are_refused_in_a_callee_whose_failure_the_policy_ignores() {
    for opcode in [
        op::BLOCKHASH,
        op::CREATE,
        op::CREATE2,
        op::SELFDESTRUCT,
        op::DELEGATECALL,
        op::CALLCODE,
    ] {
        let mut world = world(then_allow(static_call(OTHER)));
        world.set_code(OTHER, [&[op::PUSH0; 7][..], &[opcode]].concat());
        assert!(matches!(
            refusal(&world),
            ProfileRefusal::ForbiddenOpcode { .. }
        ));
    }
}

#[test]
fn a_loop_without_end_is_refused_for_gas() {
    let code = vec![op::JUMPDEST, op::PUSH0, op::JUMP];
    assert_eq!(refusal(&world(code)), ProfileRefusal::OutOfGas);
}

#[test]
fn gas_running_out_in_a_callee_is_refused_though_the_policy_goes_on() {
    let mut world = world(then_allow(call(op::STATICCALL, OTHER, 10_000)));
    world.set_code(OTHER, vec![op::JUMPDEST, op::PUSH0, op::JUMP]);
    assert_eq!(refusal(&world), ProfileRefusal::OutOfGas);
}

#[test]
fn too_little_gas_for_a_cold_access_is_refused() {
    let mut world = world(then_allow(call(op::STATICCALL, OTHER, 50)));
    world.set_code(OTHER, vec![op::PUSH0, op::SLOAD, op::STOP]);
    assert_eq!(refusal(&world), ProfileRefusal::OutOfGas);
}

#[test]
fn memory_beyond_all_gas_is_refused() {
    let code = vec![op::PUSH0, op::PUSH4, 0xff, 0xff, 0xff, 0xff, op::MSTORE];
    assert_eq!(refusal(&world(code)), ProfileRefusal::OutOfGas);
}

#[test]
fn a_revert_of_the_policy_is_refused() {
    assert_eq!(
        refusal(&world(vec![op::PUSH0, op::PUSH0, op::REVERT])),
        ProfileRefusal::Reverted(POLICY)
    );
}

#[test]
fn a_revert_of_a_callee_is_the_policys_own_business() {
    let mut world = world(then_allow(static_call(OTHER)));
    world.set_code(OTHER, vec![op::PUSH0, op::PUSH0, op::REVERT]);
    assert_eq!(evaluate(&world).unwrap().effect, Effect::Allow);
}

#[test]
fn short_empty_and_giant_answers_are_refused() {
    let answers = [vec![op::STOP], return_memory(223), return_memory(225), {
        // 1 MiB
        vec![op::PUSH3, 0x10, 0, 0, op::PUSH0, op::RETURN]
    }];
    for code in answers {
        assert_eq!(
            refusal(&world(code)),
            ProfileRefusal::MalformedAnswer(POLICY)
        );
    }
}

#[test]
fn state_changes_are_refused() {
    let log = [op::PUSH0, op::PUSH0, op::LOG0];
    let store = [op::PUSH1, 1, op::PUSH0, op::SSTORE];
    let transient = [op::PUSH1, 1, op::PUSH0, op::TSTORE];
    for code in [&log[..], &store, &transient] {
        let policy = world(then_allow(code.to_vec()));
        assert!(
            matches!(refusal(&policy), ProfileRefusal::Halted(_)),
            "{code:?}"
        );
        let mut callee = world(then_allow(call(op::CALL, OTHER, 100_000)));
        callee.set_code(OTHER, code.to_vec());
        assert!(
            matches!(refusal(&callee), ProfileRefusal::Halted(_)),
            "{code:?} in a callee"
        );
    }
}

#[test]
fn sending_value_is_refused() {
    let mut code = vec![
        op::PUSH0,
        op::PUSH0,
        op::PUSH0,
        op::PUSH0,
        op::PUSH1,
        1,
        op::PUSH20,
    ];
    code.extend(OTHER);
    code.extend([op::GAS, op::CALL]);
    let mut world = world(then_allow(code));
    world.set_code(OTHER, vec![op::STOP]);
    world.accounts.get_mut(&POLICY).unwrap().balance = U256::from(10);
    assert!(matches!(refusal(&world), ProfileRefusal::Halted(_)));
}

#[test]
fn unknown_and_invalid_instructions_are_refused() {
    for code in [
        vec![0x0c],
        vec![op::INVALID],
        vec![op::PUSH1, 7, op::JUMP],
        vec![op::ADD],
    ] {
        assert!(matches!(refusal(&world(code)), ProfileRefusal::Halted(_)));
    }
}

#[test]
fn a_call_to_an_address_without_code_is_refused() {
    assert_eq!(
        refusal(&world(then_allow(static_call(OTHER)))),
        ProfileRefusal::NoCode(OTHER)
    );
}

#[test]
fn precompiles_other_than_sha256_and_identity_are_refused() {
    for number in (1..=0x11).chain([0x100]) {
        let precompile = Address::left_padding_from(&u16::to_be_bytes(number));
        let world = world(then_allow(static_call(precompile)));
        match number {
            2 | 4 => assert_eq!(evaluate(&world).unwrap().effect, Effect::Allow),
            _ => assert_eq!(refusal(&world), ProfileRefusal::NoCode(precompile)),
        }
    }
}

#[test]
fn the_sha256_precompile_hashes() {
    // Puts SHA-256 of nothing into the verdict's rule.
    let mut code = vec![
        op::PUSH1,
        32,
        op::PUSH0,
        op::PUSH0,
        op::PUSH0,
        op::PUSH1,
        2,
        op::GAS,
        op::STATICCALL,
    ];
    code.extend([op::POP, op::PUSH0, op::MLOAD]);
    let verdict = verdict_contract(&allowing());
    let return_length = return_memory(224).len();
    code.extend(&verdict[..verdict.len() - return_length]);
    code.extend([op::PUSH1, 32, op::MSTORE]);
    code.extend(return_memory(224));
    let decision = evaluate(&world(code)).unwrap();
    let digest = <sha2::Sha256 as sha2::Digest>::digest([]);
    assert_eq!(decision.rule, <[u8; 32]>::from(digest));
}

#[test]
fn delegated_code_is_refused_for_the_policy_and_for_callees() {
    let designator = [&[0xef, 0x01, 0x00][..], OTHER.as_slice()].concat();
    let mut policy = world(designator.clone());
    policy.set_code(OTHER, verdict_contract(&allowing()));
    assert_eq!(refusal(&policy), ProfileRefusal::DelegatedCode(POLICY));
    let middle = Address::repeat_byte(0xe5);
    for look in [static_call(middle), {
        let mut code = vec![op::PUSH20];
        code.extend(middle);
        code.extend([op::EXTCODEHASH, op::POP]);
        code
    }] {
        let mut callee = world(then_allow(look));
        callee.set_code(middle, designator.clone());
        callee.set_code(OTHER, verdict_contract(&allowing()));
        assert_eq!(refusal(&callee), ProfileRefusal::DelegatedCode(middle));
    }
}

#[test]
fn calls_may_nest_to_the_limit_and_no_deeper() {
    // The policy is depth 0; each callee calls the next address.
    let chain = |calls: usize| {
        let step = |index: usize| Address::left_padding_from(&[0x40, index as u8]);
        let mut world = world(then_allow(static_call(step(1))));
        for index in 1..calls {
            world.set_code(step(index), static_call(step(index + 1)));
        }
        world.set_code(step(calls), vec![op::STOP]);
        world
    };
    assert_eq!(evaluate(&chain(MAX_DEPTH)).unwrap().effect, Effect::Allow);
    assert_eq!(refusal(&chain(MAX_DEPTH + 1)), ProfileRefusal::CallTooDeep);
}

#[test]
fn a_contract_that_calls_itself_without_end_is_refused() {
    assert_eq!(
        refusal(&world(then_allow(static_call(POLICY)))),
        ProfileRefusal::CallTooDeep
    );
}

#[test]
fn reading_more_state_than_a_witness_holds_is_refused() {
    // for (i = 1; ; i++) sload(i), on an account whose storage is empty and so proved for every slot.
    let code = vec![
        op::PUSH0,
        op::JUMPDEST,
        op::PUSH1,
        1,
        op::ADD,
        op::DUP1,
        op::SLOAD,
        op::POP,
        op::PUSH1,
        1,
        op::JUMP,
    ];
    assert_eq!(refusal(&world(code)), ProfileRefusal::TooManyReads);
}

#[test]
fn an_unproved_slot_is_missing_and_never_zero() {
    let code = then_allow(vec![op::PUSH1, 9, op::SLOAD, op::POP]);
    let mut world = world(code);
    world.set_slot(POLICY, U256::from(1), U256::from(1));
    let complete = world.snapshot_for(&[action()]);
    let without: Vec<StateKey> = complete
        .keys()
        .filter(|key| *key != StateKey::Slot(POLICY, U256::from(9)))
        .collect();
    let error = decide(&world.snapshot(&without), &world.registries(), &action()).unwrap_err();
    assert_eq!(
        error,
        EvalError::Missing(vec![StateKey::Slot(POLICY, U256::from(9))])
    );
}

#[test]
fn every_piece_of_a_complete_snapshot_is_needed() {
    let mut world = world(then_allow(
        [static_call(OTHER), vec![op::PUSH1, 9, op::SLOAD, op::POP]].concat(),
    ));
    world.set_code(OTHER, vec![op::PUSH1, 3, op::SLOAD, op::STOP]);
    world.set_slot(POLICY, U256::from(1), U256::from(1));
    world.set_slot(OTHER, U256::from(1), U256::from(1));
    let decision = evaluate(&world).unwrap();
    for left_out in &decision.touched {
        let rest: Vec<StateKey> = decision
            .touched
            .iter()
            .copied()
            .filter(|key| match (left_out, key) {
                // Without the account nothing of it can be proved.
                (StateKey::Account(gone), StateKey::Slot(of, _) | StateKey::Code(of)) => gone != of,
                _ => key != left_out,
            })
            .collect();
        match decide(&world.snapshot(&rest), &world.registries(), &action()) {
            Err(EvalError::Missing(keys)) => {
                assert!(keys.contains(left_out), "{left_out:?} not in {keys:?}")
            }
            other => panic!("without {left_out:?}: {other:?}"),
        }
    }
    assert_eq!(
        decide(
            &world.snapshot(&decision.touched),
            &world.registries(),
            &action()
        )
        .unwrap(),
        decision
    );
}

#[test]
fn the_environment_is_the_profiles_and_the_headers() {
    // Each instruction's value goes into the verdict's rule.
    let value_of = |instruction: &[u8]| {
        let mut code = instruction.to_vec();
        let verdict = verdict_contract(&allowing());
        code.extend(&verdict[..verdict.len() - return_memory(224).len()]);
        code.extend([op::PUSH1, 32, op::MSTORE]);
        code.extend(return_memory(224));
        U256::from_be_bytes(evaluate(&world(code)).unwrap().rule)
    };
    let header = World::new().header();
    assert_eq!(value_of(&[op::NUMBER]), U256::from(header.number));
    assert_eq!(value_of(&[op::TIMESTAMP]), U256::from(header.timestamp));
    assert_eq!(value_of(&[op::CHAINID]), U256::from(31337));
    assert_eq!(value_of(&[op::BASEFEE]), U256::from(7));
    assert_eq!(value_of(&[op::CALLER]), U256::ZERO);
    assert_eq!(value_of(&[op::ORIGIN]), U256::ZERO);
    assert_eq!(value_of(&[op::GASPRICE]), U256::ZERO);
    assert_eq!(value_of(&[op::CALLVALUE]), U256::ZERO);
    assert_eq!(
        value_of(&[op::ADDRESS]),
        U256::from_be_slice(POLICY.as_slice())
    );
    // GAS costs 2: no call made before it leaves a trace in what is left.
    assert_eq!(value_of(&[op::GAS]), U256::from(GAS_LIMIT - 2));
}

#[test]
fn balances_of_other_accounts_are_read_from_proofs() {
    let mut code = vec![op::PUSH20];
    code.extend(OTHER);
    code.extend([op::BALANCE, op::POP]);
    let mut world = world(then_allow(code));
    world.accounts.entry(OTHER).or_default().balance = U256::from(3);
    let decision = evaluate(&world).unwrap();
    assert!(decision.touched.contains(&StateKey::Account(OTHER)));
}
