// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {Agent, AgentRegistry} from "../src/AgentRegistry.sol";
import {Governed} from "../src/Governed.sol";
import {Model, ModelRegistry} from "../src/ModelRegistry.sol";
import {Binding, PolicyRegistry, Version} from "../src/PolicyRegistry.sol";
import {Base} from "./Base.sol";

contract AgentRegistryTest is Base {
    AgentRegistry internal agents;
    bytes32 internal constant KEY = "agent";

    function setUp() public {
        agents = new AgentRegistry(TIMELOCK, MULTISIG, GUARDIAN);
        vm.prank(TIMELOCK);
        agents.register(KEY, "policy", "model", "organisation", "capabilities");
    }

    function test_a_registered_agent_is_active() public view {
        Agent memory a = agents.agentOf(KEY);
        eq(a.status, 1);
        eq(a.policyId, "policy");
        eq(a.model, "model");
        eq(a.organisation, "organisation");
        eq(a.capabilities, "capabilities");
    }

    function test_an_unknown_agent_has_status_none() public view {
        eq(agents.agentOf("other").status, 0);
    }

    function test_an_agent_is_registered_once() public {
        vm.expectRevert(abi.encodeWithSelector(AgentRegistry.AgentExists.selector, KEY));
        vm.prank(TIMELOCK);
        agents.register(KEY, "policy2", 0, 0, 0);
    }

    function test_a_key_and_a_policy_must_be_given() public {
        vm.expectRevert(Governed.ZeroValue.selector);
        vm.prank(TIMELOCK);
        agents.register(0, "policy", 0, 0, 0);
        vm.expectRevert(Governed.ZeroValue.selector);
        vm.prank(TIMELOCK);
        agents.register("new", 0, 0, 0, 0);
        vm.expectRevert(Governed.ZeroValue.selector);
        vm.prank(TIMELOCK);
        agents.update(KEY, 0, 0, 0, 0);
    }

    function test_only_the_timelock_gives_rights() public {
        address[3] memory others = [GUARDIAN, MULTISIG, STRANGER];
        for (uint256 i = 0; i < others.length; ++i) {
            vm.expectRevert(unauthorized(others[i]));
            vm.prank(others[i]);
            agents.register("new", "policy", 0, 0, 0);
            vm.expectRevert(unauthorized(others[i]));
            vm.prank(others[i]);
            agents.update(KEY, "policy2", 0, 0, 0);
            vm.expectRevert(unauthorized(others[i]));
            vm.prank(others[i]);
            agents.reinstate(KEY);
        }
    }

    function test_the_guardian_revokes_at_once() public {
        vm.prank(GUARDIAN);
        agents.revoke(KEY, "stolen");
        eq(agents.agentOf(KEY).status, 3);
    }

    function test_the_guardian_pauses_at_once() public {
        vm.prank(GUARDIAN);
        agents.pause(KEY);
        eq(agents.agentOf(KEY).status, 2);
        vm.prank(GUARDIAN);
        agents.revoke(KEY, "worse");
        eq(agents.agentOf(KEY).status, 3);
    }

    function test_a_stranger_cannot_revoke_or_pause() public {
        vm.expectRevert(unauthorized(STRANGER));
        vm.prank(STRANGER);
        agents.revoke(KEY, 0);
        vm.expectRevert(unauthorized(STRANGER));
        vm.prank(STRANGER);
        agents.pause(KEY);
    }

    function test_a_revoked_agent_is_changed_only_by_reinstating() public {
        vm.prank(GUARDIAN);
        agents.revoke(KEY, 0);
        bytes memory refused = abi.encodeWithSelector(AgentRegistry.AgentStatus.selector, KEY, 3);
        vm.expectRevert(refused);
        vm.prank(GUARDIAN);
        agents.pause(KEY);
        vm.expectRevert(refused);
        vm.prank(TIMELOCK);
        agents.update(KEY, "policy2", 0, 0, 0);
        vm.prank(TIMELOCK);
        agents.reinstate(KEY);
        eq(agents.agentOf(KEY).status, 1);
    }

    function test_the_owners_replace_the_guardian_without_delay() public {
        vm.prank(MULTISIG);
        agents.setGuardian(STRANGER);
        vm.expectRevert(unauthorized(GUARDIAN));
        vm.prank(GUARDIAN);
        agents.revoke(KEY, 0);
        vm.prank(STRANGER);
        agents.revoke(KEY, 0);
    }

    function test_nobody_else_replaces_the_guardian() public {
        address[3] memory others = [GUARDIAN, TIMELOCK, STRANGER];
        for (uint256 i = 0; i < others.length; ++i) {
            vm.expectRevert(unauthorized(others[i]));
            vm.prank(others[i]);
            agents.setGuardian(others[i]);
        }
    }

    function testFuzz_an_update_keeps_the_status(bytes32 policy, bytes32 model, bool paused) public {
        vm.assume(policy != 0);
        if (paused) {
            vm.prank(GUARDIAN);
            agents.pause(KEY);
        }
        vm.prank(TIMELOCK);
        agents.update(KEY, policy, model, 0, 0);
        eq(agents.agentOf(KEY).status, paused ? 2 : 1);
        eq(agents.agentOf(KEY).policyId, policy);
    }

    function testFuzz_an_unknown_agent_is_neither_paused_nor_revoked(bytes32 key) public {
        vm.assume(key != KEY);
        bytes memory unknown = abi.encodeWithSelector(AgentRegistry.AgentUnknown.selector, key);
        vm.expectRevert(unknown);
        vm.prank(GUARDIAN);
        agents.revoke(key, 0);
        vm.expectRevert(unknown);
        vm.prank(GUARDIAN);
        agents.pause(key);
    }
}

contract Code {}

contract PolicyRegistryTest is Base {
    PolicyRegistry internal policies;
    address internal code;
    bytes32 internal hash;

    event PolicyPublished(
        bytes32 indexed policyId,
        uint64 indexed version,
        address indexed policy,
        bytes32 codeHash,
        bytes32 catalogHash,
        bytes32 previousCodeHash
    );

    function setUp() public {
        policies = new PolicyRegistry(TIMELOCK, MULTISIG, GUARDIAN);
        code = address(new Code());
        hash = code.codehash;
        vm.prank(TIMELOCK);
        policies.publish("policy", code, hash, "catalog");
    }

    function test_a_published_policy_is_bound_to_its_code_and_catalog() public view {
        Binding memory b = policies.policyOf("policy");
        eq(b.policy, code);
        eq(b.codeHash, hash);
        eq(b.catalogHash, "catalog");
        eq(b.version, 1);
        ok(!b.paused, "not paused");
    }

    function test_an_unknown_policy_is_all_zero() public view {
        Binding memory b = policies.policyOf("other");
        eq(b.policy, address(0));
        eq(b.version, 0);
    }

    function test_a_change_is_a_new_version_and_an_event() public {
        vm.expectEmit(true, true, true, true);
        emit PolicyPublished("policy", 2, code, hash, "catalog2", hash);
        vm.prank(TIMELOCK);
        policies.publish("policy", code, hash, "catalog2");
        eq(policies.policyOf("policy").version, 2);
        Version memory first = policies.versionOf("policy", 1);
        eq(first.catalogHash, "catalog");
        eq(first.policy, code);
    }

    function test_pinning_a_catalog_is_a_new_version_with_the_same_contract() public {
        vm.prank(TIMELOCK);
        policies.pinCatalog("policy", "catalog2");
        Binding memory b = policies.policyOf("policy");
        eq(b.version, 2);
        eq(b.policy, code);
        eq(b.catalogHash, "catalog2");
    }

    function test_a_contract_with_other_code_is_refused() public {
        vm.expectRevert(abi.encodeWithSelector(PolicyRegistry.CodeMismatch.selector, code, bytes32("x"), hash));
        vm.prank(TIMELOCK);
        policies.publish("policy", code, "x", "catalog");
    }

    function test_an_address_without_code_is_refused() public {
        bytes32 actual = STRANGER.codehash;
        vm.expectRevert(abi.encodeWithSelector(PolicyRegistry.CodeMismatch.selector, STRANGER, actual, actual));
        vm.prank(TIMELOCK);
        policies.publish("policy", STRANGER, actual, "catalog");
    }

    function test_delegated_code_is_refused() public {
        vm.etch(STRANGER, abi.encodePacked(hex"ef0100", code));
        bytes32 actual = STRANGER.codehash;
        vm.expectRevert();
        vm.prank(TIMELOCK);
        policies.publish("policy", STRANGER, actual, "catalog");
        eq(policies.policyOf("policy").policy, code);
    }

    function test_only_the_timelock_publishes_and_unpauses() public {
        address[3] memory others = [GUARDIAN, MULTISIG, STRANGER];
        for (uint256 i = 0; i < others.length; ++i) {
            vm.expectRevert(unauthorized(others[i]));
            vm.prank(others[i]);
            policies.publish("policy", code, hash, "catalog");
            vm.expectRevert(unauthorized(others[i]));
            vm.prank(others[i]);
            policies.pinCatalog("policy", "catalog2");
            vm.expectRevert(unauthorized(others[i]));
            vm.prank(others[i]);
            policies.unpause("policy");
            vm.expectRevert(unauthorized(others[i]));
            vm.prank(others[i]);
            policies.unpauseAll();
        }
    }

    function test_the_guardian_pauses_one_policy() public {
        vm.prank(TIMELOCK);
        policies.publish("second", code, hash, "catalog");
        vm.prank(GUARDIAN);
        policies.pause("policy");
        ok(policies.policyOf("policy").paused, "paused");
        ok(!policies.policyOf("second").paused, "the other is not");
        vm.prank(TIMELOCK);
        policies.unpause("policy");
        ok(!policies.policyOf("policy").paused, "unpaused");
    }

    function test_the_kill_switch_pauses_every_policy() public {
        vm.prank(GUARDIAN);
        policies.pauseAll();
        ok(policies.policyOf("policy").paused, "paused");
        ok(policies.policyOf("unknown").paused, "even one to come");
        vm.prank(TIMELOCK);
        policies.unpauseAll();
        ok(!policies.policyOf("policy").paused, "unpaused");
    }

    function test_a_new_version_stays_paused() public {
        vm.prank(GUARDIAN);
        policies.pause("policy");
        vm.prank(TIMELOCK);
        policies.publish("policy", code, hash, "catalog2");
        ok(policies.policyOf("policy").paused, "paused");
    }

    function test_pausing_twice_is_refused() public {
        vm.prank(GUARDIAN);
        policies.pause("policy");
        vm.expectRevert(abi.encodeWithSelector(PolicyRegistry.AlreadyPaused.selector, bytes32("policy")));
        vm.prank(GUARDIAN);
        policies.pause("policy");
    }

    function test_a_stranger_cannot_pause() public {
        vm.expectRevert(unauthorized(STRANGER));
        vm.prank(STRANGER);
        policies.pause("policy");
        vm.expectRevert(unauthorized(STRANGER));
        vm.prank(STRANGER);
        policies.pauseAll();
    }

    function testFuzz_an_unknown_policy_is_neither_paused_nor_pinned(bytes32 id) public {
        vm.assume(id != "policy");
        bytes memory unknown = abi.encodeWithSelector(PolicyRegistry.PolicyUnknown.selector, id);
        vm.expectRevert(unknown);
        vm.prank(GUARDIAN);
        policies.pause(id);
        vm.expectRevert(unknown);
        vm.prank(TIMELOCK);
        policies.pinCatalog(id, "catalog");
    }
}

contract ModelRegistryTest is Base {
    ModelRegistry internal models;

    function setUp() public {
        models = new ModelRegistry(TIMELOCK, MULTISIG, GUARDIAN);
        vm.prank(TIMELOCK);
        models.register("model", "sbom", "provenance");
    }

    function test_a_model_has_its_digests() public view {
        Model memory m = models.modelOf("model");
        eq(m.status, 1);
        eq(m.sbom, "sbom");
        eq(m.provenance, "provenance");
    }

    function test_the_digests_of_a_model_never_change() public {
        vm.expectRevert(abi.encodeWithSelector(ModelRegistry.ModelExists.selector, bytes32("model")));
        vm.prank(TIMELOCK);
        models.register("model", "sbom2", "provenance2");
    }

    function test_the_guardian_revokes_a_model_and_the_owners_reinstate_it() public {
        vm.prank(GUARDIAN);
        models.revoke("model", "poisoned");
        eq(models.modelOf("model").status, 2);
        vm.expectRevert(unauthorized(GUARDIAN));
        vm.prank(GUARDIAN);
        models.reinstate("model");
        vm.prank(TIMELOCK);
        models.reinstate("model");
        eq(models.modelOf("model").status, 1);
    }

    function test_only_the_timelock_registers_models() public {
        vm.expectRevert(unauthorized(GUARDIAN));
        vm.prank(GUARDIAN);
        models.register("other", "sbom", "provenance");
    }
}
