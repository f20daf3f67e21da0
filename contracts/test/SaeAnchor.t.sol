// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {Governed} from "../src/Governed.sol";
import {SaeAnchor} from "../src/SaeAnchor.sol";
import {Base} from "./Base.sol";

contract SaeAnchorTest is Base {
    SaeAnchor internal anchor;

    event CheckpointAnchored(bytes32 indexed logId, uint64 indexed size, bytes32 indexed root, bytes32 previousRoot);
    event SaeAnchored(bytes32 indexed hash, bytes32 indexed parent, bytes32 indexed agent);
    event Equivocation(
        bytes32 indexed logId, uint64 indexed size, bytes32 anchoredRoot, bytes32 otherRoot, bytes32 indexed evidence
    );
    event ActionLogged(
        uint256 indexed recordId, string indexed agentId, bytes32 indexed actionHash, uint256 timestamp, string metadata
    );

    function setUp() public {
        anchor = new SaeAnchor(TIMELOCK, MULTISIG, GUARDIAN, ANCHORER);
        vm.warp(1000);
    }

    function _anchor(uint64 size, bytes32 root, bytes32 previous) private {
        vm.prank(ANCHORER);
        anchor.anchorCheckpoint("log", size, root, previous);
    }

    function test_a_checkpoint_continues_the_one_before() public {
        vm.expectEmit(true, true, true, true);
        emit CheckpointAnchored("log", 3, "root3", 0);
        _anchor(3, "root3", 0);
        _anchor(5, "root5", "root3");
        eq(anchor.headOf("log").size, 5);
        eq(anchor.headOf("log").root, "root5");
        eq(anchor.headOf("log").anchoredAt, 1000);
        eq(anchor.rootAt("log", 3), "root3");
    }

    function test_repeating_a_checkpoint_is_harmless() public {
        _anchor(3, "root3", 0);
        _anchor(5, "root5", "root3");
        vm.warp(2000);
        _anchor(3, "root3", 0);
        eq(anchor.headOf("log").size, 5);
        eq(anchor.headOf("log").anchoredAt, 1000);
    }

    function test_a_checkpoint_that_does_not_grow_is_refused() public {
        _anchor(5, "root5", 0);
        vm.expectRevert(abi.encodeWithSelector(SaeAnchor.SizeNotGrowing.selector, bytes32("log"), 5, 4));
        _anchor(4, "root4", "root5");
    }

    function test_a_checkpoint_that_skips_one_is_refused() public {
        _anchor(5, "root5", 0);
        vm.expectRevert(
            abi.encodeWithSelector(
                SaeAnchor.PreviousRootMismatch.selector, bytes32("log"), bytes32("root5"), bytes32("x")
            )
        );
        _anchor(6, "root6", "x");
    }

    function test_another_root_of_the_same_size_is_refused() public {
        _anchor(5, "root5", 0);
        vm.expectRevert(abi.encodeWithSelector(SaeAnchor.RootConflict.selector, bytes32("log"), 5, bytes32("root5")));
        _anchor(5, "other", 0);
    }

    function test_two_roots_of_one_size_are_recorded_as_equivocation() public {
        _anchor(5, "root5", 0);
        vm.expectEmit(true, true, true, true);
        emit Equivocation("log", 5, "root5", "other", "evidence");
        vm.prank(ANCHORER);
        anchor.reportEquivocation("log", 5, "other", "evidence");
        ok(anchor.equivocated("log"), "recorded");
        eq(anchor.rootAt("log", 5), "root5");
    }

    function test_what_is_no_equivocation_is_refused() public {
        _anchor(5, "root5", 0);
        bytes memory same = abi.encodeWithSelector(SaeAnchor.NoEquivocation.selector, bytes32("log"), 5);
        vm.expectRevert(same);
        vm.prank(ANCHORER);
        anchor.reportEquivocation("log", 5, "root5", "evidence");
        vm.expectRevert(abi.encodeWithSelector(SaeAnchor.NoEquivocation.selector, bytes32("log"), 4));
        vm.prank(ANCHORER);
        anchor.reportEquivocation("log", 4, "root5", "evidence");
    }

    function test_envelopes_are_found_by_hash_parent_and_agent() public {
        SaeAnchor.Sae[] memory saes = new SaeAnchor.Sae[](2);
        saes[0] = SaeAnchor.Sae("hash1", 0, "agent");
        saes[1] = SaeAnchor.Sae("hash2", "hash1", "agent");
        vm.expectEmit(true, true, true, true);
        emit SaeAnchored("hash1", 0, "agent");
        vm.expectEmit(true, true, true, true);
        emit SaeAnchored("hash2", "hash1", "agent");
        vm.prank(ANCHORER);
        anchor.anchorSaes(saes);
        eq(anchor.anchoredAt("hash1"), 1000);
        vm.warp(2000);
        vm.prank(ANCHORER);
        anchor.anchorSaes(saes);
        eq(anchor.anchoredAt("hash1"), 1000);
    }

    function test_a_batch_is_bounded() public {
        vm.expectRevert(abi.encodeWithSelector(SaeAnchor.BatchTooLarge.selector, 257));
        vm.prank(ANCHORER);
        anchor.anchorSaes(new SaeAnchor.Sae[](257));
    }

    function test_daalog_records_actions_and_batches() public {
        vm.expectEmit(true, true, true, true);
        emit ActionLogged(0, "agent-1", "action", 1000, "ipfs://x");
        vm.prank(ANCHORER);
        eq(anchor.logAction("agent-1", "action", "ipfs://x"), 0);
        vm.prank(ANCHORER);
        eq(anchor.logBatch("agent-1", "merkle", ""), 1);
        eq(anchor.recordCount(), 2);
        eq(anchor.records(1).actionHash, "merkle");
        eq(anchor.records(0).timestamp, 1000);
    }

    function test_daalog_texts_are_bounded() public {
        vm.expectRevert(abi.encodeWithSelector(SaeAnchor.TextTooLong.selector, 257));
        vm.prank(ANCHORER);
        anchor.logAction(string(new bytes(257)), "action", "");
        vm.expectRevert(abi.encodeWithSelector(SaeAnchor.TextTooLong.selector, 1025));
        vm.prank(ANCHORER);
        anchor.logBatch("agent", "action", string(new bytes(1025)));
        vm.expectRevert(Governed.ZeroValue.selector);
        vm.prank(ANCHORER);
        anchor.logAction("", "action", "");
    }

    function testFuzz_only_an_anchorer_writes(address caller) public {
        vm.assume(caller != ANCHORER);
        bytes memory refused = unauthorized(caller);
        vm.expectRevert(refused);
        vm.prank(caller);
        anchor.anchorCheckpoint("log", 1, "root", 0);
        vm.expectRevert(refused);
        vm.prank(caller);
        anchor.anchorSaes(new SaeAnchor.Sae[](0));
        vm.expectRevert(refused);
        vm.prank(caller);
        anchor.logAction("agent", "action", "");
        vm.expectRevert(refused);
        vm.prank(caller);
        anchor.logBatch("agent", "action", "");
        vm.expectRevert(refused);
        vm.prank(caller);
        anchor.reportEquivocation("log", 1, "root", "evidence");
    }

    function test_the_guardian_takes_the_role_and_only_the_timelock_gives_it() public {
        vm.prank(GUARDIAN);
        anchor.removeAnchorer(ANCHORER);
        vm.expectRevert(unauthorized(ANCHORER));
        _anchor(1, "root", 0);
        vm.expectRevert(unauthorized(GUARDIAN));
        vm.prank(GUARDIAN);
        anchor.addAnchorer(GUARDIAN);
        vm.prank(TIMELOCK);
        anchor.addAnchorer(ANCHORER);
        _anchor(1, "root", 0);
    }
}
