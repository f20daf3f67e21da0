// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {Approval, ApprovalRegistry} from "../src/ApprovalRegistry.sol";
import {Base} from "./Base.sol";

contract ApprovalRegistryTest is Base {
    ApprovalRegistry internal approvals;
    /// Keys in the order of their addresses.
    uint256[3] internal keys;

    function setUp() public {
        vm.warp(1000);
        uint256[3] memory k = [uint256(11), 12, 13];
        for (uint256 i = 0; i < 3; ++i) {
            for (uint256 j = i + 1; j < 3; ++j) {
                if (vm.addr(k[j]) < vm.addr(k[i])) (k[i], k[j]) = (k[j], k[i]);
            }
        }
        keys = k;
        address[] memory who = new address[](3);
        for (uint256 i = 0; i < 3; ++i) {
            who[i] = vm.addr(k[i]);
        }
        approvals = new ApprovalRegistry(TIMELOCK, MULTISIG, GUARDIAN, ANCHORER, who, 2);
    }

    function _approval() private pure returns (Approval memory) {
        return Approval("agent", "audience", "target", "params", 500, 2000, "nonce");
    }

    function _sign(uint256 key, bytes32 id) private pure returns (bytes memory) {
        (uint8 v, bytes32 r, bytes32 s) = vm.sign(key, id);
        return abi.encodePacked(r, s, v);
    }

    function _signatures(Approval memory a, uint256 first, uint256 second) private view returns (bytes[] memory list) {
        bytes32 id = approvals.approvalId(a);
        list = new bytes[](2);
        list[0] = _sign(first, id);
        list[1] = _sign(second, id);
    }

    function _open() private returns (bytes32) {
        Approval memory a = _approval();
        return approvals.approve(a, _signatures(a, keys[0], keys[2]));
    }

    function _isOpen(bytes32 id) private view returns (bool) {
        return approvals.isOpen(id, "agent", "target", "params", 500);
    }

    function test_enough_signatures_open_an_approval() public {
        bytes32 id = _open();
        ok(_isOpen(id), "open");
        eq(approvals.approvalOf(id).audience, "audience");
    }

    function test_it_covers_one_action_only() public {
        bytes32 id = _open();
        ok(!approvals.isOpen(id, "other", "target", "params", 500), "agent");
        ok(!approvals.isOpen(id, "agent", "other", "params", 500), "target");
        ok(!approvals.isOpen(id, "agent", "target", "other", 500), "params");
        ok(!approvals.isOpen(id, "agent", "target", "params", 501), "amount");
        ok(!approvals.isOpen("other", "agent", "target", "params", 500), "id");
        ok(approvals.isOpen(id, "agent", "target", "params", 499), "less is covered");
    }

    function test_it_expires() public {
        bytes32 id = _open();
        vm.warp(2000);
        ok(!_isOpen(id), "expired");
    }

    function test_one_signature_is_not_enough() public {
        Approval memory a = _approval();
        bytes[] memory list = new bytes[](1);
        list[0] = _sign(keys[0], approvals.approvalId(a));
        vm.expectRevert(abi.encodeWithSelector(ApprovalRegistry.NotEnoughSignatures.selector, 1, 2));
        approvals.approve(a, list);
    }

    function test_one_approver_counts_once() public {
        Approval memory a = _approval();
        bytes[] memory list = _signatures(a, keys[0], keys[0]);
        vm.expectRevert(abi.encodeWithSelector(ApprovalRegistry.SignerRefused.selector, vm.addr(keys[0])));
        approvals.approve(a, list);
    }

    function test_signatures_are_ordered() public {
        Approval memory a = _approval();
        bytes[] memory list = _signatures(a, keys[1], keys[0]);
        vm.expectRevert(abi.encodeWithSelector(ApprovalRegistry.SignerRefused.selector, vm.addr(keys[0])));
        approvals.approve(a, list);
    }

    function testFuzz_a_stranger_does_not_approve(uint256 key) public {
        key = key % 1_000_000 + 100;
        Approval memory a = _approval();
        bytes[] memory list = new bytes[](2);
        bytes32 id = approvals.approvalId(a);
        list[0] = _sign(key, id);
        list[1] = _sign(keys[2], id);
        vm.expectRevert(abi.encodeWithSelector(ApprovalRegistry.SignerRefused.selector, vm.addr(key)));
        approvals.approve(a, list);
    }

    function testFuzz_signatures_for_another_approval_do_not_count(uint256 maxAmount) public {
        vm.assume(maxAmount != 500);
        Approval memory a = _approval();
        bytes[] memory list = _signatures(a, keys[0], keys[1]);
        a.maxAmount = maxAmount;
        vm.expectRevert(ApprovalRegistry.SignerRefused.selector);
        this.submit(a, list);
    }

    /// @dev External, so that the revert reason's arguments need not be known: only its selector is compared.
    function submit(Approval memory a, bytes[] memory list) external {
        try approvals.approve(a, list) {}
        catch (bytes memory reason) {
            bytes4 selector = bytes4(reason);
            assembly {
                mstore(0, selector)
                revert(0, 4)
            }
        }
    }

    function test_an_approval_is_used_once() public {
        bytes32 id = _open();
        vm.prank(ANCHORER);
        approvals.consume(id, "sae");
        ok(!_isOpen(id), "closed");
        bytes memory used =
            abi.encodeWithSelector(ApprovalRegistry.ApprovalStatus.selector, id, ApprovalRegistry.Status.Used);
        vm.expectRevert(used);
        vm.prank(ANCHORER);
        approvals.consume(id, "sae2");
        Approval memory a = _approval();
        bytes[] memory list = _signatures(a, keys[0], keys[1]);
        vm.expectRevert(used);
        approvals.approve(a, list);
    }

    function testFuzz_only_the_consumer_uses(address caller) public {
        vm.assume(caller != ANCHORER);
        bytes32 id = _open();
        vm.expectRevert(unauthorized(caller));
        vm.prank(caller);
        approvals.consume(id, "sae");
    }

    function test_an_approver_withdraws() public {
        bytes32 id = _open();
        vm.prank(vm.addr(keys[1]));
        approvals.withdraw(id);
        ok(!_isOpen(id), "withdrawn");
    }

    function test_a_withdrawn_approval_never_opens() public {
        Approval memory a = _approval();
        bytes32 id = approvals.approvalId(a);
        vm.prank(GUARDIAN);
        approvals.withdraw(id);
        bytes[] memory list = _signatures(a, keys[0], keys[1]);
        vm.expectRevert(
            abi.encodeWithSelector(ApprovalRegistry.ApprovalStatus.selector, id, ApprovalRegistry.Status.Withdrawn)
        );
        approvals.approve(a, list);
    }

    function test_a_stranger_does_not_withdraw() public {
        bytes32 id = _open();
        vm.expectRevert(unauthorized(STRANGER));
        vm.prank(STRANGER);
        approvals.withdraw(id);
    }

    function test_an_expired_approval_does_not_open() public {
        Approval memory a = _approval();
        bytes[] memory list = _signatures(a, keys[0], keys[1]);
        vm.warp(2000);
        vm.expectRevert(abi.encodeWithSelector(ApprovalRegistry.ApprovalExpired.selector, 2000));
        approvals.approve(a, list);
    }

    function test_the_approvers_change_by_the_timelock_only() public {
        address[] memory who = new address[](1);
        who[0] = STRANGER;
        vm.expectRevert(unauthorized(GUARDIAN));
        vm.prank(GUARDIAN);
        approvals.setApprovers(who, 1);
        vm.prank(TIMELOCK);
        approvals.setApprovers(who, 1);
        ok(approvals.isApprover(STRANGER) && !approvals.isApprover(vm.addr(keys[0])), "replaced");
    }

    function test_a_threshold_beyond_the_approvers_is_refused() public {
        address[] memory who = new address[](1);
        who[0] = STRANGER;
        vm.expectRevert(ApprovalRegistry.InvalidApprovers.selector);
        vm.prank(TIMELOCK);
        approvals.setApprovers(who, 2);
        vm.expectRevert(ApprovalRegistry.InvalidApprovers.selector);
        vm.prank(TIMELOCK);
        approvals.setApprovers(who, 0);
    }
}
