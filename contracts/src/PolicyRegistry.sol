// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {Governed} from "./Governed.sol";

/// @notice The current version of a policy.
struct Binding {
    /// Contract of this version; zero when the policy is unknown.
    address policy;
    /// keccak256 of that contract's code.
    bytes32 codeHash;
    /// SHA-256 of the catalog's RFC 8785 form.
    bytes32 catalogHash;
    uint64 version;
    /// True if this policy, or every policy, is paused.
    bool paused;
}

/// @notice One published version. It never changes.
struct Version {
    address policy;
    uint64 publishedAt;
    bytes32 codeHash;
    bytes32 catalogHash;
}

/// @title Which contract decides under a policy id, with which catalog.
/// @notice A change is a new version, published by the owners after the timelock's delay. The guardian pauses.
contract PolicyRegistry is Governed {
    struct Current {
        address policy;
        uint64 version;
        bool paused;
        bytes32 codeHash;
        bytes32 catalogHash;
    }

    /// @notice The kill switch: every policy is paused.
    bool public allPaused;
    mapping(bytes32 policyId => Current) private _current;
    mapping(bytes32 policyId => mapping(uint64 version => Version)) private _versions;

    event PolicyPublished(
        bytes32 indexed policyId,
        uint64 indexed version,
        address indexed policy,
        bytes32 codeHash,
        bytes32 catalogHash,
        bytes32 previousCodeHash
    );
    event PolicyPaused(bytes32 indexed policyId, address indexed by);
    event PolicyUnpaused(bytes32 indexed policyId);
    event AllPaused(address indexed by);
    event AllUnpaused();

    error PolicyUnknown(bytes32 policyId);
    /// @notice There is no contract at the address, or not with this code.
    error CodeMismatch(address policy, bytes32 expected, bytes32 actual);
    /// @notice Delegated code (EIP-7702) can change and is no policy.
    error DelegatedCode(address policy);
    error AlreadyPaused(bytes32 policyId);
    error NotPaused(bytes32 policyId);

    constructor(address timelock_, address multisig_, address guardian_) Governed(timelock_, multisig_, guardian_) {}

    /// @notice The current version of this policy; all zero, but for `paused`, when unknown.
    function policyOf(bytes32 policyId) external view returns (Binding memory) {
        Current storage c = _current[policyId];
        return Binding(c.policy, c.codeHash, c.catalogHash, c.version, c.paused || allPaused);
    }

    /// @notice A version as it was published; all zero when there is none.
    function versionOf(bytes32 policyId, uint64 version) external view returns (Version memory) {
        return _versions[policyId][version];
    }

    /// @notice Publishes the next version. A paused policy stays paused.
    /// @param codeHash what the owners saw and agreed to: keccak256 of the contract's code.
    function publish(bytes32 policyId, address policy, bytes32 codeHash, bytes32 catalogHash) external onlyTimelock {
        if (policyId == 0 || catalogHash == 0) revert ZeroValue();
        _publish(policyId, policy, codeHash, catalogHash);
    }

    /// @notice Publishes the next version with the same contract and another catalog.
    function pinCatalog(bytes32 policyId, bytes32 catalogHash) external onlyTimelock {
        if (catalogHash == 0) revert ZeroValue();
        Current storage c = _known(policyId);
        _publish(policyId, c.policy, c.codeHash, catalogHash);
    }

    /// @notice Stops every action under this policy.
    function pause(bytes32 policyId) external onlyGuardianOrTimelock {
        Current storage c = _known(policyId);
        if (c.paused) revert AlreadyPaused(policyId);
        c.paused = true;
        emit PolicyPaused(policyId, msg.sender);
    }

    function unpause(bytes32 policyId) external onlyTimelock {
        Current storage c = _known(policyId);
        if (!c.paused) revert NotPaused(policyId);
        c.paused = false;
        emit PolicyUnpaused(policyId);
    }

    /// @notice Stops every action under every policy.
    function pauseAll() external onlyGuardianOrTimelock {
        if (allPaused) revert AlreadyPaused(0);
        allPaused = true;
        emit AllPaused(msg.sender);
    }

    /// @notice Ends pauseAll; policies paused by name stay paused.
    function unpauseAll() external onlyTimelock {
        if (!allPaused) revert NotPaused(0);
        allPaused = false;
        emit AllUnpaused();
    }

    function _publish(bytes32 policyId, address policy, bytes32 codeHash, bytes32 catalogHash) private {
        bytes32 actual = policy.codehash;
        if (policy.code.length == 0 || actual != codeHash) revert CodeMismatch(policy, codeHash, actual);
        if (policy.code[0] == 0xef) revert DelegatedCode(policy);
        Current storage c = _current[policyId];
        bytes32 previous = c.codeHash;
        uint64 version = c.version + 1;
        c.policy = policy;
        c.version = version;
        c.codeHash = codeHash;
        c.catalogHash = catalogHash;
        _versions[policyId][version] = Version(policy, uint64(block.timestamp), codeHash, catalogHash);
        emit PolicyPublished(policyId, version, policy, codeHash, catalogHash, previous);
    }

    function _known(bytes32 policyId) private view returns (Current storage c) {
        c = _current[policyId];
        if (c.version == 0) revert PolicyUnknown(policyId);
    }
}
