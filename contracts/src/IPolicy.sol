// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

/// @notice One action put before a policy. Names are salted hashes; only these stand on chain.
struct Action {
    /// Version of this structure, 1.
    uint16 version;
    /// Agent key: keccak256(salt of the agent, SPIFFE ID).
    bytes32 agent;
    /// Verified user on whose behalf the agent acts, or 0.
    bytes32 principal;
    /// Hash of the dotted capability.
    bytes32 capability;
    /// Hash of the resource, or 0.
    bytes32 resource;
    /// Hash of the canonical target.
    bytes32 target;
    /// SHA-256 of the selected parameters.
    bytes32 params;
    /// Hash of the envelope that caused this action, or 0.
    bytes32 parent;
    /// Amount in the catalog's unit, or 0.
    uint256 amount;
    /// Amounts already spent in the window, without this one.
    uint256 spent;
    /// Calls already made in the window, without this one.
    uint64 calls;
    /// Budget window in seconds, 0 for none.
    uint32 window;
    /// Data class: 0 public, 1 internal, 2 confidential, 3 restricted.
    uint8 classification;
    /// Risk, 0 to 100.
    uint8 risk;
    /// How the body is bound: 0 bound, 1 unbound, 2 opaque.
    uint8 binding;
    /// Age of the state that the decision reads, in seconds.
    uint32 stateAge;
    /// SHA-256 of the model.
    bytes32 model;
    /// Hash of the session id, or 0.
    bytes32 session;
    /// Approval presented, or 0.
    bytes32 approval;
    /// Unix time in seconds.
    uint64 time;
    /// Reserved, 0.
    bytes32 ext;
}

/// @notice What a policy says. RequireApproval is a denial that an approval would turn.
enum Effect {
    Deny,
    Allow,
    RequireApproval
}

/// @notice A policy's answer.
struct Verdict {
    Effect effect;
    /// keccak256(agent, capability) of the rule that matched, or 0.
    bytes32 rule;
    /// Short ASCII text.
    bytes32 reason;
    /// Life of the envelope in seconds.
    uint32 ttl;
    /// How old the state may be, in seconds.
    uint32 maxStateAge;
    uint8 tier;
    /// Bit set.
    uint32 obligations;
}

/// @title A policy: decides on one action, reads only.
interface IPolicy {
    /// @notice The verdict on one action. Never reverts on a well-formed action.
    function evaluate(Action calldata a) external view returns (Verdict memory);
}

/// @title The part of the approval registry that a policy reads.
interface IApprovals {
    /// @notice True if the approval is complete, unused, unexpired and covers exactly this.
    function isOpen(bytes32 approval, bytes32 agent, bytes32 target, bytes32 params, uint256 amount)
        external
        view
        returns (bool);
}
