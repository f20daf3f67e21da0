// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {AgentRegistry} from "../src/AgentRegistry.sol";
import {ApprovalRegistry} from "../src/ApprovalRegistry.sol";
import {Multisig} from "../src/Multisig.sol";
import {PolicyRegistry} from "../src/PolicyRegistry.sol";
import {SaeAnchor} from "../src/SaeAnchor.sol";
import {TimelockController} from "@openzeppelin/contracts/governance/TimelockController.sol";

/// @dev The few cheatcodes that the tests need.
interface Vm {
    function prank(address sender) external;
    function warp(uint256 time) external;
    function expectRevert() external;
    function expectRevert(bytes calldata revertData) external;
    function expectRevert(bytes4 revertData) external;
    function expectEmit(bool topic1, bool topic2, bool topic3, bool data) external;
    function sign(uint256 key, bytes32 digest) external pure returns (uint8 v, bytes32 r, bytes32 s);
    function addr(uint256 key) external pure returns (address);
    function etch(address target, bytes calldata code) external;
    function assume(bool condition) external pure;
}

/// @dev Checks that say what they compared.
abstract contract Base {
    Vm internal constant vm = Vm(address(uint160(uint256(keccak256("hevm cheat code")))));

    address internal constant TIMELOCK = address(0x71);
    address internal constant MULTISIG = address(0x72);
    address internal constant GUARDIAN = address(0x73);
    address internal constant ANCHORER = address(0x74);
    address internal constant STRANGER = address(0x75);

    error NotEqual(bytes32 actual, bytes32 expected);
    error NotTrue(string what);

    function eq(bytes32 actual, bytes32 expected) internal pure {
        if (actual != expected) revert NotEqual(actual, expected);
    }

    function eq(uint256 actual, uint256 expected) internal pure {
        eq(bytes32(actual), bytes32(expected));
    }

    function eq(address actual, address expected) internal pure {
        eq(bytes32(uint256(uint160(actual))), bytes32(uint256(uint160(expected))));
    }

    function ok(bool condition, string memory what) internal pure {
        if (!condition) revert NotTrue(what);
    }

    function unauthorized(address caller) internal pure returns (bytes memory) {
        return abi.encodeWithSignature("Unauthorized(address)", caller);
    }
}
