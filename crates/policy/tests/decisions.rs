//! What a decision says, from registries and policy contracts on an invented chain with real proofs.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

use writ_policy::abi::{self, Agent, Binding, Verdict};
use writ_policy::testing::{World, allowing, answer_contract, reason, verdict_contract};
use writ_policy::{
    Action, Address, AgentStatus, B256, Decision, Effect, EvalError, ProfileRefusal, StateKey,
    U256, decide, registration,
};

const AGENT: B256 = B256::repeat_byte(0x11);
const POLICY: Address = Address::repeat_byte(0xc3);

fn action() -> Action {
    Action {
        version: 1,
        agent: AGENT,
        capability: B256::repeat_byte(2),
        amount: U256::from(5),
        ..Action::default()
    }
}

fn decided(world: &World) -> Decision {
    decided_on(world, &action())
}

fn decided_on(world: &World, action: &Action) -> Decision {
    let snapshot = world.snapshot_for(std::slice::from_ref(action));
    decide(&snapshot, &world.registries(), action).unwrap()
}

fn failed(world: &World) -> EvalError {
    let snapshot = world.snapshot_for(&[action()]);
    decide(&snapshot, &world.registries(), &action()).unwrap_err()
}

fn with_verdict(verdict: &Verdict) -> World {
    let mut world = World::new();
    world.install_policy(AGENT, POLICY, verdict_contract(verdict));
    world
}

fn change_agent(world: &mut World, change: impl FnOnce(&mut Agent)) {
    let policy_id = alloy_primitives::keccak256(POLICY);
    let mut agent = Agent {
        status: 1,
        policyId: policy_id,
        ..Agent::default()
    };
    change(&mut agent);
    world.set_agent(AGENT, &agent);
}

fn change_binding(world: &mut World, change: impl FnOnce(&mut Binding)) {
    let mut binding = Binding {
        policy: POLICY,
        codeHash: alloy_primitives::keccak256(&world.accounts[&POLICY].code),
        catalogHash: B256::repeat_byte(0xca),
        version: 1,
        paused: false,
    };
    change(&mut binding);
    world.set_binding(alloy_primitives::keccak256(POLICY), &binding);
}

#[test]
fn a_verdict_is_reported_field_by_field() {
    let world = with_verdict(&allowing());
    let decision = decided(&world);
    let header = world.header();
    assert_eq!(decision.effect, Effect::Allow);
    assert_eq!(decision.rule, [0x77; 32]);
    assert_eq!(decision.reason, "allowed-by-test");
    assert_eq!(
        (
            decision.ttl,
            decision.max_state_age,
            decision.tier,
            decision.obligations
        ),
        (60, 300, 1, 0)
    );
    assert_eq!(decision.contract, POLICY);
    assert_eq!(decision.catalog_hash, [0xca; 32]);
    assert_eq!(decision.evm, "writ-evm/1");
    assert_eq!(
        (decision.block, decision.block_hash),
        (header.number, header.hash.0)
    );
    assert_eq!(decision.input, action().input());
    assert_eq!(
        decision.registered_code_hash,
        alloy_primitives::keccak256(&world.accounts[&POLICY].code).0
    );
}

#[test]
fn an_approval_that_is_required_is_not_an_allow() {
    let verdict = Verdict {
        effect: abi::Effect::RequireApproval,
        reason: reason("approval-required"),
        ..allowing()
    };
    let decision = decided(&with_verdict(&verdict));
    assert_eq!(
        (decision.effect, decision.reason.as_str()),
        (Effect::RequireApproval, "approval-required")
    );
}

#[test]
fn an_unknown_agent_is_denied() {
    let mut other = action();
    other.agent = B256::repeat_byte(0x99);
    let decision = decided_on(&with_verdict(&allowing()), &other);
    assert_eq!(
        (decision.effect, decision.reason.as_str()),
        (Effect::Deny, "agent-unknown")
    );
}

#[test]
fn a_paused_agent_is_denied() {
    let mut world = with_verdict(&allowing());
    change_agent(&mut world, |agent| agent.status = 2);
    assert_eq!(decided(&world).reason, "agent-paused");
}

#[test]
fn a_revoked_agent_is_denied() {
    let mut world = with_verdict(&allowing());
    change_agent(&mut world, |agent| agent.status = 3);
    let decision = decided(&world);
    assert_eq!(
        (decision.effect, decision.reason.as_str()),
        (Effect::Deny, "agent-revoked")
    );
}

#[test]
fn an_agent_status_that_the_registry_does_not_define_is_refused() {
    let mut world = with_verdict(&allowing());
    change_agent(&mut world, |agent| agent.status = 4);
    let registry = world.registries().agents;
    assert_eq!(
        failed(&world),
        ProfileRefusal::MalformedAnswer(registry).into()
    );
}

#[test]
fn another_model_than_the_registered_one_is_denied() {
    let mut world = with_verdict(&allowing());
    change_agent(&mut world, |agent| agent.model = B256::repeat_byte(0x33));
    assert_eq!(decided(&world).reason, "model-mismatch");
    let same = Action {
        model: B256::repeat_byte(0x33),
        ..action()
    };
    assert_eq!(decided_on(&world, &same).effect, Effect::Allow);
}

#[test]
fn an_agent_without_a_policy_is_denied() {
    let mut world = with_verdict(&allowing());
    change_agent(&mut world, |agent| agent.policyId = B256::repeat_byte(0x55));
    assert_eq!(decided(&world).reason, "policy-unknown");
}

#[test]
fn a_paused_policy_is_denied() {
    let mut world = with_verdict(&allowing());
    change_binding(&mut world, |binding| binding.paused = true);
    assert_eq!(decided(&world).reason, "policy-paused");
}

#[test]
fn code_other_than_the_registered_code_is_never_asked() {
    let mut world = with_verdict(&allowing());
    change_binding(&mut world, |binding| {
        binding.codeHash = B256::repeat_byte(1)
    });
    let decision = decided(&world);
    assert_eq!(
        (decision.effect, decision.reason.as_str()),
        (Effect::Deny, "code-mismatch")
    );
    assert!(
        decision.touched.contains(&StateKey::Code(POLICY)),
        "the comparison is witnessed"
    );
}

#[test]
fn a_policy_address_without_an_account_is_a_code_mismatch() {
    let mut world = with_verdict(&allowing());
    world.accounts.remove(&POLICY);
    assert_eq!(decided(&world).reason, "code-mismatch");
}

#[test]
fn an_empty_policy_denies_by_default() {
    let verdict = Verdict {
        reason: reason("no-rule"),
        ..Verdict::default()
    };
    let decision = decided(&with_verdict(&verdict));
    assert_eq!(
        (decision.effect, decision.reason.as_str()),
        (Effect::Deny, "no-rule")
    );
}

#[test]
fn a_registry_without_code_is_refused() {
    let mut world = with_verdict(&allowing());
    let agents = world.registries().agents;
    world.accounts.remove(&agents);
    assert_eq!(failed(&world), ProfileRefusal::NoCode(agents).into());
}

#[test]
fn an_effect_outside_the_enumeration_is_refused() {
    let mut answer = alloy_sol_types::SolValue::abi_encode(&allowing());
    answer[31] = 3;
    let mut world = World::new();
    world.install_policy(AGENT, POLICY, answer_contract(&answer));
    assert_eq!(
        failed(&world),
        ProfileRefusal::MalformedAnswer(POLICY).into()
    );
}

#[test]
fn a_number_wider_than_its_type_is_refused() {
    let mut answer = alloy_sol_types::SolValue::abi_encode(&allowing());
    answer[3 * 32] = 1;
    let mut world = World::new();
    world.install_policy(AGENT, POLICY, answer_contract(&answer));
    assert_eq!(
        failed(&world),
        ProfileRefusal::MalformedAnswer(POLICY).into()
    );
}

#[test]
fn a_reason_that_is_not_plain_text_is_refused() {
    for bad in [[0xff; 32], {
        let mut word = reason("bad").0;
        word[20] = b'x';
        word
    }] {
        let world = with_verdict(&Verdict {
            reason: B256::from(bad),
            ..allowing()
        });
        assert_eq!(
            failed(&world),
            ProfileRefusal::MalformedAnswer(POLICY).into()
        );
    }
}

#[test]
fn an_answer_of_another_length_is_refused() {
    let full = alloy_sol_types::SolValue::abi_encode(&allowing());
    for answer in [
        vec![],
        full[..192].to_vec(),
        [full.clone(), vec![0; 32]].concat(),
    ] {
        let mut world = World::new();
        world.install_policy(AGENT, POLICY, answer_contract(&answer));
        assert_eq!(
            failed(&world),
            ProfileRefusal::MalformedAnswer(POLICY).into()
        );
    }
}

#[test]
fn a_snapshot_of_another_chain_is_refused() {
    let world = with_verdict(&allowing());
    let snapshot = world.snapshot_for(&[action()]);
    let mut registries = world.registries();
    registries.chain_id = 1;
    let error = decide(&snapshot, &registries, &action()).unwrap_err();
    assert!(matches!(error, EvalError::WrongChain { registries: 1, .. }));
}

#[test]
fn a_change_on_chain_changes_the_next_decision() {
    let mut world = with_verdict(&allowing());
    assert_eq!(decided(&world).effect, Effect::Allow);
    change_agent(&mut world, |agent| agent.status = 3);
    world.number += 1;
    assert_eq!(decided(&world).effect, Effect::Deny);
}

#[test]
fn the_code_hash_covers_all_code_that_ran_and_nothing_else() {
    let world = with_verdict(&allowing());
    let mut changed = with_verdict(&Verdict {
        ttl: 61,
        ..allowing()
    });
    assert_ne!(decided(&world).code_hash, decided(&changed).code_hash);
    changed = world.clone();
    changed.set_code(Address::repeat_byte(0xee), vec![0]);
    changed.number += 1;
    assert_eq!(decided(&world).code_hash, decided(&changed).code_hash);
}

#[test]
fn a_registration_says_what_a_pep_compares() {
    let mut world = with_verdict(&allowing());
    let snapshot = world.snapshot_for(&[action()]);
    let found = registration(&snapshot, &world.registries(), &AGENT.0).unwrap();
    assert_eq!(
        (found.status, found.contract, found.paused),
        (AgentStatus::Active, POLICY, false)
    );
    assert_eq!((found.version, found.catalog_hash), (1, [0xca; 32]));
    change_agent(&mut world, |agent| agent.status = 3);
    world.number += 1;
    let mut builder = writ_policy::SnapshotBuilder::following(&snapshot, world.header());
    loop {
        let stale = builder.stale();
        if stale.is_empty() {
            break;
        }
        world.prove(&mut builder, &stale);
    }
    let found = registration(&builder.build(), &world.registries(), &AGENT.0).unwrap();
    assert_eq!(found.status, AgentStatus::Revoked);
}

#[test]
fn a_registration_of_nobody_is_unknown() {
    let world = with_verdict(&allowing());
    let nobody = Action {
        agent: B256::repeat_byte(0x98),
        ..action()
    };
    let snapshot = world.snapshot_for(std::slice::from_ref(&nobody));
    let found = registration(&snapshot, &world.registries(), &nobody.agent.0).unwrap();
    assert_eq!(
        (found.status, found.contract),
        (AgentStatus::Unknown, Address::ZERO)
    );
}
