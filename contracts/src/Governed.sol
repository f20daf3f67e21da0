// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

/// @title Who may change what.
/// @notice Rights are given by the timelock only, after its public delay. They are taken away by the guardian at once.
/// The guardian is replaced by the owners' multisig without delay. No key stands above these.
abstract contract Governed {
    /// @notice Gives rights, after its delay.
    address public immutable timelock;
    /// @notice The owners: proposes to the timelock, and replaces the guardian.
    address public immutable multisig;
    /// @notice May only revoke and pause; zero for none.
    address public guardian;

    /// @notice The guardian was replaced.
    event GuardianChanged(address indexed previous, address indexed current);

    /// @notice The caller lacks the role that this function needs.
    error Unauthorized(address caller);
    /// @notice A value that must be given is zero.
    error ZeroValue();

    modifier onlyTimelock() {
        if (msg.sender != timelock) revert Unauthorized(msg.sender);
        _;
    }

    /// @dev For functions that only take rights away.
    modifier onlyGuardianOrTimelock() {
        if (msg.sender != guardian && msg.sender != timelock) revert Unauthorized(msg.sender);
        _;
    }

    constructor(address timelock_, address multisig_, address guardian_) {
        if (timelock_ == address(0) || multisig_ == address(0)) revert ZeroValue();
        timelock = timelock_;
        multisig = multisig_;
        guardian = guardian_;
        emit GuardianChanged(address(0), guardian_);
    }

    /// @notice Replaces the guardian, at once. Zero leaves none.
    function setGuardian(address guardian_) external {
        if (msg.sender != multisig) revert Unauthorized(msg.sender);
        emit GuardianChanged(guardian, guardian_);
        guardian = guardian_;
    }
}
