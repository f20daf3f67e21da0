// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

// Compiled with the project, so that its artifact stands beside the others: the owners' multisig proposes and cancels,
// anyone executes what is due, nobody is admin, and the delay changes only through the timelock itself.
import {TimelockController} from "@openzeppelin/contracts/governance/TimelockController.sol";
