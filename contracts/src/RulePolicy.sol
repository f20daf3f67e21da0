// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {Action, Effect, IApprovals, IPolicy, Verdict} from "./IPolicy.sol";

/// @notice One rule, found by agent and capability.
struct Rule {
    /// Agent key, 0 for any registered agent.
    bytes32 agent;
    bytes32 capability;
    Effect effect;
    uint256 maxAmount;
    uint8 classCeiling;
    uint8 riskCeiling;
    /// Model that must act, 0 for any.
    bytes32 model;
    /// Unix seconds, inclusive.
    uint64 notBefore;
    /// Unix seconds, inclusive, 0 for no end.
    uint64 notAfter;
    /// Budget window in seconds, 0 for no budget.
    uint32 window;
    uint256 maxSpent;
    uint64 maxCalls;
    /// Bit mask: 1 bound, 2 unbound, 4 opaque.
    uint8 bindings;
    /// Amounts from here on need an approval; the maximum means never.
    uint256 approvalThreshold;
    uint32 maxStateAge;
    uint32 ttl;
    uint8 tier;
    uint32 obligations;
}

/// @title One immutable version of rules.
/// @notice Looked up as (agent, capability), then (any agent, capability); no rule is a denial. Nothing can change a
/// rule: a change is another contract. `rulesHash` stands in the code, so each set of rules has a code hash of its own.
contract RulePolicy is IPolicy {
    /// @dev Six slots. What every evaluation reads comes first.
    struct Stored {
        bool present;
        Effect effect;
        uint8 classCeiling;
        uint8 riskCeiling;
        uint8 bindings;
        uint8 tier;
        uint32 ttl;
        uint32 maxStateAge;
        uint32 obligations;
        uint32 window;
        uint64 maxCalls;
        uint64 notBefore;
        uint64 notAfter;
        bytes32 model;
        uint256 maxAmount;
        uint256 maxSpent;
        uint256 approvalThreshold;
    }

    uint256 private constant NEVER = type(uint256).max;

    /// @notice keccak256 of the ABI-encoded rules.
    bytes32 public immutable rulesHash;
    /// @notice The approval registry; zero for none, then nothing that needs an approval is allowed.
    IApprovals public immutable approvals;
    /// @notice Number of rules.
    uint256 public immutable count;

    mapping(bytes32 key => Stored) private _rules;

    event RuleSet(bytes32 indexed rule, bytes32 indexed agent, bytes32 indexed capability, Effect effect);

    error DuplicateRule(uint256 index);
    error InvalidRule(uint256 index);

    constructor(Rule[] memory rules, address approvals_) {
        rulesHash = keccak256(abi.encode(rules));
        approvals = IApprovals(approvals_);
        count = rules.length;
        for (uint256 i = 0; i < rules.length; ++i) {
            Rule memory r = rules[i];
            if (
                r.capability == 0 || r.classCeiling > 3 || r.riskCeiling > 100 || r.bindings == 0 || r.bindings > 7
                    || r.ttl < 30 || r.ttl > 300 || r.maxStateAge > 300 || (r.notAfter != 0 && r.notAfter < r.notBefore)
            ) revert InvalidRule(i);
            bytes32 key = _key(r.agent, r.capability);
            if (_rules[key].present) revert DuplicateRule(i);
            _rules[key] = Stored({
                present: true,
                effect: r.effect,
                classCeiling: r.classCeiling,
                riskCeiling: r.riskCeiling,
                bindings: r.bindings,
                tier: r.tier,
                ttl: r.ttl,
                maxStateAge: r.maxStateAge,
                obligations: r.obligations,
                window: r.window,
                maxCalls: r.maxCalls,
                notBefore: r.notBefore,
                notAfter: r.notAfter,
                model: r.model,
                maxAmount: r.maxAmount,
                maxSpent: r.maxSpent,
                approvalThreshold: r.approvalThreshold
            });
            emit RuleSet(key, r.agent, r.capability, r.effect);
        }
    }

    /// @inheritdoc IPolicy
    function evaluate(Action calldata a) external view returns (Verdict memory v) {
        if (a.version != 1) {
            v.reason = "unsupported-version";
            return v;
        }
        bytes32 key = _key(a.agent, a.capability);
        Stored storage r = _rules[key];
        if (!r.present) {
            key = _key(0, a.capability);
            r = _rules[key];
        }
        if (!r.present) {
            v.reason = "no-rule";
            return v;
        }
        v.rule = key;
        v.tier = r.tier;
        v.obligations = r.obligations;
        v.ttl = r.ttl;
        v.maxStateAge = r.maxStateAge;
        v.reason = _refusal(r, a);
        if (v.reason != 0) return v;
        if (r.effect == Effect.RequireApproval || (r.approvalThreshold != NEVER && a.amount >= r.approvalThreshold)) {
            if (a.approval == 0) {
                v.effect = Effect.RequireApproval;
                v.reason = "approval-required";
                return v;
            }
            if (
                address(approvals) == address(0) || !approvals.isOpen(a.approval, a.agent, a.target, a.params, a.amount)
            ) {
                v.effect = Effect.RequireApproval;
                v.reason = "approval-invalid";
                return v;
            }
        }
        v.effect = Effect.Allow;
        v.reason = "allowed";
    }

    /// @dev Why the rule refuses, or 0.
    function _refusal(Stored storage r, Action calldata a) private view returns (bytes32) {
        if (r.effect == Effect.Deny) return "denied-by-rule";
        if (a.classification > r.classCeiling) return "class-over-ceiling";
        if (a.risk > r.riskCeiling) return "risk-over-ceiling";
        if (a.binding > 2 || (r.bindings >> a.binding) & 1 == 0) return "binding-not-allowed";
        if (a.stateAge > r.maxStateAge) return "state-too-old";
        if (a.time < r.notBefore || (r.notAfter != 0 && a.time > r.notAfter)) return "outside-time-window";
        if (r.model != 0 && a.model != r.model) return "model-not-allowed";
        if (a.amount > r.maxAmount) return "amount-over-limit";
        if (a.window != r.window) return "window-mismatch";
        if (r.window != 0) {
            uint256 maxSpent = r.maxSpent;
            if (a.spent > maxSpent || a.amount > maxSpent - a.spent) return "budget-spent";
            if (a.calls >= r.maxCalls) return "budget-calls";
        }
        return 0;
    }

    function _key(bytes32 agent, bytes32 capability) private pure returns (bytes32) {
        return keccak256(abi.encode(agent, capability));
    }
}
