// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {AgentRegistry} from "../src/AgentRegistry.sol";
import {Multisig} from "../src/Multisig.sol";
import {Base} from "./Base.sol";
import {TimelockController} from "@openzeppelin/contracts/governance/TimelockController.sol";

contract GovernanceTest is Base {
    Multisig internal multisig;
    TimelockController internal timelock;
    AgentRegistry internal agents;
    uint256 internal constant DELAY = 24 hours;

    function _owner(uint256 i) private pure returns (address) {
        return address(uint160(0x1000 + i));
    }

    function setUp() public {
        vm.warp(1_000_000);
        address[] memory owners = new address[](5);
        for (uint256 i = 0; i < 5; ++i) {
            owners[i] = _owner(i);
        }
        multisig = new Multisig(owners, 3);
        address[] memory proposers = new address[](1);
        proposers[0] = address(multisig);
        timelock = new TimelockController(DELAY, proposers, new address[](1), address(0));
        agents = new AgentRegistry(address(timelock), address(multisig), GUARDIAN);
    }

    function _register() private view returns (bytes memory) {
        return abi.encodeCall(agents.register, (bytes32("agent"), bytes32("policy"), 0, 0, 0));
    }

    function _schedule() private view returns (bytes memory) {
        return abi.encodeCall(timelock.schedule, (address(agents), 0, _register(), 0, 0, DELAY));
    }

    function _propose(address target, bytes memory data) private returns (uint256 id) {
        vm.prank(_owner(0));
        id = multisig.propose(target, data);
    }

    function _confirm(uint256 id, uint256 owner) private {
        vm.prank(_owner(owner));
        multisig.confirm(id);
    }

    function _execute(uint256 id) private {
        vm.prank(_owner(4));
        multisig.execute(id);
    }

    function test_two_of_five_are_not_enough() public {
        uint256 id = _propose(address(timelock), _schedule());
        _confirm(id, 1);
        vm.expectRevert(abi.encodeWithSelector(Multisig.NotEnoughConfirmations.selector, id, 2, 3));
        _execute(id);
    }

    function test_three_of_five_queue_and_the_delay_must_pass() public {
        uint256 id = _propose(address(timelock), _schedule());
        _confirm(id, 1);
        _confirm(id, 2);
        _execute(id);
        bytes memory call = _register();
        vm.expectRevert(TimelockController.TimelockUnexpectedOperationState.selector);
        this.executeTimelock(call);
        vm.warp(block.timestamp + DELAY - 1);
        vm.expectRevert(TimelockController.TimelockUnexpectedOperationState.selector);
        this.executeTimelock(call);
        vm.warp(block.timestamp + 1);
        timelock.execute(address(agents), 0, call, 0, 0);
        eq(agents.agentOf("agent").status, 1);
    }

    /// @dev External, so that only the selector of the revert is compared.
    function executeTimelock(bytes memory call) external {
        try timelock.execute(address(agents), 0, call, 0, 0) {}
        catch (bytes memory reason) {
            bytes4 selector = bytes4(reason);
            assembly {
                mstore(0, selector)
                revert(0, 4)
            }
        }
    }

    function test_a_shorter_delay_is_refused() public {
        bytes memory quick = abi.encodeCall(timelock.schedule, (address(agents), 0, _register(), 0, 0, DELAY - 1));
        uint256 id = _propose(address(timelock), quick);
        _confirm(id, 1);
        _confirm(id, 2);
        vm.expectRevert(abi.encodeWithSelector(TimelockController.TimelockInsufficientDelay.selector, DELAY - 1, DELAY));
        _execute(id);
    }

    function test_nobody_goes_around_the_timelock() public {
        uint256 id = _propose(address(agents), _register());
        _confirm(id, 1);
        _confirm(id, 2);
        vm.expectRevert(unauthorized(address(multisig)));
        _execute(id);
    }

    function test_the_guardian_cannot_cancel_and_the_owners_can() public {
        uint256 id = _propose(address(timelock), _schedule());
        _confirm(id, 1);
        _confirm(id, 2);
        _execute(id);
        bytes32 operation = timelock.hashOperation(address(agents), 0, _register(), 0, 0);
        vm.expectRevert();
        vm.prank(GUARDIAN);
        timelock.cancel(operation);
        uint256 cancel = _propose(address(timelock), abi.encodeCall(timelock.cancel, (operation)));
        _confirm(cancel, 1);
        _confirm(cancel, 2);
        _execute(cancel);
        ok(!timelock.isOperation(operation), "cancelled");
    }

    function test_the_timelock_has_no_admin_but_itself() public view {
        bytes32 admin = timelock.DEFAULT_ADMIN_ROLE();
        ok(timelock.hasRole(admin, address(timelock)), "itself");
        ok(!timelock.hasRole(admin, address(multisig)) && !timelock.hasRole(admin, address(this)), "nobody else");
    }

    function test_the_owners_replace_the_guardian_at_once() public {
        uint256 id = _propose(address(agents), abi.encodeCall(agents.setGuardian, (STRANGER)));
        _confirm(id, 1);
        _confirm(id, 2);
        _execute(id);
        eq(agents.guardian(), STRANGER);
    }

    function test_a_confirmation_can_be_taken_back() public {
        uint256 id = _propose(address(timelock), _schedule());
        _confirm(id, 1);
        _confirm(id, 2);
        vm.prank(_owner(1));
        multisig.revokeConfirmation(id);
        vm.expectRevert(abi.encodeWithSelector(Multisig.NotEnoughConfirmations.selector, id, 2, 3));
        _execute(id);
    }

    function test_an_owner_confirms_once() public {
        uint256 id = _propose(address(timelock), _schedule());
        vm.expectRevert(abi.encodeWithSelector(Multisig.AlreadyConfirmed.selector, id, _owner(0)));
        _confirm(id, 0);
    }

    function test_a_proposal_is_executed_once() public {
        uint256 id = _propose(address(timelock), _schedule());
        _confirm(id, 1);
        _confirm(id, 2);
        _execute(id);
        vm.expectRevert(abi.encodeWithSelector(Multisig.ProposalExecuted.selector, id));
        _execute(id);
    }

    function testFuzz_a_stranger_does_nothing(address caller) public {
        vm.assume(!multisig.isOwner(caller));
        uint256 id = _propose(address(timelock), _schedule());
        bytes memory refused = abi.encodeWithSelector(Multisig.NotOwner.selector, caller);
        vm.expectRevert(refused);
        vm.prank(caller);
        multisig.propose(address(timelock), "");
        vm.expectRevert(refused);
        vm.prank(caller);
        multisig.confirm(id);
        vm.expectRevert(refused);
        vm.prank(caller);
        multisig.revokeConfirmation(id);
        vm.expectRevert(refused);
        vm.prank(caller);
        multisig.execute(id);
    }

    function test_owners_change_only_through_the_multisig_and_end_open_proposals() public {
        uint256 old = _propose(address(timelock), _schedule());
        _confirm(old, 1);
        _confirm(old, 2);
        address[] memory owners = new address[](3);
        for (uint256 i = 0; i < 3; ++i) {
            owners[i] = _owner(i);
        }
        vm.expectRevert(Multisig.OnlySelf.selector);
        vm.prank(_owner(0));
        multisig.changeOwners(owners, 2);
        uint256 id = _propose(address(multisig), abi.encodeCall(multisig.changeOwners, (owners, 2)));
        _confirm(id, 1);
        _confirm(id, 2);
        _execute(id);
        eq(multisig.threshold(), 2);
        ok(!multisig.isOwner(_owner(4)), "removed");
        vm.expectRevert(abi.encodeWithSelector(Multisig.ProposalVoid.selector, old));
        vm.prank(_owner(0));
        multisig.execute(old);
    }

    function test_impossible_owners_are_refused() public {
        address[] memory owners = new address[](2);
        owners[0] = _owner(0);
        owners[1] = _owner(0);
        vm.expectRevert(Multisig.InvalidOwners.selector);
        new Multisig(owners, 1);
        owners[1] = _owner(1);
        vm.expectRevert(Multisig.InvalidOwners.selector);
        new Multisig(owners, 3);
        vm.expectRevert(Multisig.InvalidOwners.selector);
        new Multisig(owners, 0);
        owners[1] = address(0);
        vm.expectRevert(Multisig.InvalidOwners.selector);
        new Multisig(owners, 1);
    }

    function test_a_call_to_an_address_without_code_is_refused() public {
        vm.expectRevert(abi.encodeWithSelector(Multisig.NoContract.selector, STRANGER));
        vm.prank(_owner(0));
        multisig.propose(STRANGER, "");
    }
}
