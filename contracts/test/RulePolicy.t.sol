// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {Action, Effect, IApprovals, Verdict} from "../src/IPolicy.sol";
import {Rule, RulePolicy} from "../src/RulePolicy.sol";
import {Base} from "./Base.sol";

/// @dev Answers yes for one approval.
contract OneApproval is IApprovals {
    bytes32 public open;

    constructor(bytes32 open_) {
        open = open_;
    }

    function isOpen(bytes32 approval, bytes32, bytes32, bytes32, uint256) external view returns (bool) {
        return approval == open;
    }
}

contract RulePolicyTest is Base {
    RulePolicy internal policy;

    function setUp() public {
        policy = _with(_rule());
    }

    function _rule() private pure returns (Rule memory) {
        return Rule({
            agent: "agent",
            capability: "pay",
            effect: Effect.Allow,
            maxAmount: 100,
            classCeiling: 2,
            riskCeiling: 50,
            model: "model",
            notBefore: 1000,
            notAfter: 2000,
            window: 60,
            maxSpent: 150,
            maxCalls: 3,
            bindings: 1,
            approvalThreshold: 80,
            maxStateAge: 60,
            ttl: 45,
            tier: 3,
            obligations: 5
        });
    }

    function _action() private pure returns (Action memory a) {
        a.version = 1;
        a.agent = "agent";
        a.capability = "pay";
        a.amount = 10;
        a.window = 60;
        a.classification = 2;
        a.risk = 50;
        a.stateAge = 60;
        a.model = "model";
        a.time = 1500;
    }

    function _with(Rule memory rule) private returns (RulePolicy) {
        Rule[] memory rules = new Rule[](1);
        rules[0] = rule;
        return new RulePolicy(rules, address(new OneApproval("open")));
    }

    function _denied(Action memory a, bytes32 reason) private view {
        Verdict memory v = policy.evaluate(a);
        eq(uint256(v.effect), uint256(Effect.Deny));
        eq(v.reason, reason);
    }

    function test_an_action_within_the_rule_is_allowed() public view {
        Verdict memory v = policy.evaluate(_action());
        eq(uint256(v.effect), uint256(Effect.Allow));
        eq(v.reason, "allowed");
        eq(v.rule, keccak256(abi.encode(bytes32("agent"), bytes32("pay"))));
        eq(v.ttl, 45);
        eq(v.maxStateAge, 60);
        eq(v.tier, 3);
        eq(v.obligations, 5);
    }

    function test_no_rule_is_a_denial() public view {
        Action memory a = _action();
        a.capability = "other";
        _denied(a, "no-rule");
        eq(policy.evaluate(a).rule, 0);
        a = _action();
        a.agent = "other";
        _denied(a, "no-rule");
    }

    function test_an_empty_policy_denies() public {
        policy = new RulePolicy(new Rule[](0), address(0));
        _denied(_action(), "no-rule");
    }

    function test_another_version_of_the_action_is_a_denial() public view {
        Action memory a = _action();
        a.version = 2;
        _denied(a, "unsupported-version");
    }

    function test_a_rule_may_deny() public {
        Rule memory r = _rule();
        r.effect = Effect.Deny;
        policy = _with(r);
        _denied(_action(), "denied-by-rule");
    }

    function test_the_ceilings_hold() public view {
        Action memory a = _action();
        a.classification = 3;
        _denied(a, "class-over-ceiling");
        a = _action();
        a.risk = 51;
        _denied(a, "risk-over-ceiling");
        a = _action();
        a.amount = 101;
        _denied(a, "amount-over-limit");
        a = _action();
        a.stateAge = 61;
        _denied(a, "state-too-old");
    }

    function test_another_model_is_a_denial() public view {
        Action memory a = _action();
        a.model = "other";
        _denied(a, "model-not-allowed");
    }

    function test_the_time_window_includes_its_ends() public view {
        Action memory a = _action();
        a.time = 999;
        _denied(a, "outside-time-window");
        a.time = 2001;
        _denied(a, "outside-time-window");
        a.time = 1000;
        eq(uint256(policy.evaluate(a).effect), uint256(Effect.Allow));
        a.time = 2000;
        eq(uint256(policy.evaluate(a).effect), uint256(Effect.Allow));
    }

    function test_another_budget_window_is_a_denial() public view {
        Action memory a = _action();
        a.window = 0;
        _denied(a, "window-mismatch");
        a.window = 61;
        _denied(a, "window-mismatch");
    }

    function test_the_budget_holds() public view {
        Action memory a = _action();
        a.spent = 140;
        eq(uint256(policy.evaluate(a).effect), uint256(Effect.Allow));
        a.spent = 141;
        _denied(a, "budget-spent");
        a = _action();
        a.calls = 2;
        eq(uint256(policy.evaluate(a).effect), uint256(Effect.Allow));
        a.calls = 3;
        _denied(a, "budget-calls");
    }

    function test_only_the_named_bindings_are_allowed() public view {
        Action memory a = _action();
        a.binding = 1;
        _denied(a, "binding-not-allowed");
        a.binding = 2;
        _denied(a, "binding-not-allowed");
        a.binding = 200;
        _denied(a, "binding-not-allowed");
    }

    function test_an_amount_from_the_threshold_needs_an_approval() public view {
        Action memory a = _action();
        a.amount = 79;
        eq(uint256(policy.evaluate(a).effect), uint256(Effect.Allow));
        a.amount = 80;
        Verdict memory v = policy.evaluate(a);
        eq(uint256(v.effect), uint256(Effect.RequireApproval));
        eq(v.reason, "approval-required");
        a.approval = "closed";
        v = policy.evaluate(a);
        eq(uint256(v.effect), uint256(Effect.RequireApproval));
        eq(v.reason, "approval-invalid");
        a.approval = "open";
        eq(uint256(policy.evaluate(a).effect), uint256(Effect.Allow));
    }

    function test_an_approval_does_not_lift_the_limits() public view {
        Action memory a = _action();
        a.approval = "open";
        a.amount = 101;
        _denied(a, "amount-over-limit");
    }

    function test_without_an_approval_registry_nothing_is_approved() public {
        Rule[] memory rules = new Rule[](1);
        rules[0] = _rule();
        policy = new RulePolicy(rules, address(0));
        Action memory a = _action();
        a.amount = 80;
        a.approval = "open";
        eq(policy.evaluate(a).reason, "approval-invalid");
    }

    function test_the_agents_own_rule_counts_before_the_rule_for_any() public {
        Rule[] memory rules = new Rule[](2);
        rules[0] = _rule();
        rules[0].effect = Effect.Deny;
        rules[1] = _rule();
        rules[1].agent = 0;
        policy = new RulePolicy(rules, address(0));
        _denied(_action(), "denied-by-rule");
        Action memory a = _action();
        a.agent = "other";
        Verdict memory v = policy.evaluate(a);
        eq(uint256(v.effect), uint256(Effect.Allow));
        eq(v.rule, keccak256(abi.encode(bytes32(0), bytes32("pay"))));
    }

    function test_two_rules_for_one_key_are_refused() public {
        Rule[] memory rules = new Rule[](2);
        rules[0] = _rule();
        rules[1] = _rule();
        vm.expectRevert(abi.encodeWithSelector(RulePolicy.DuplicateRule.selector, 1));
        new RulePolicy(rules, address(0));
    }

    function test_each_set_of_rules_has_a_code_hash_of_its_own() public {
        Rule memory r = _rule();
        r.maxAmount = 101;
        ok(address(_with(r)).codehash != address(policy).codehash, "the code hash pins the rules");
        ok(policy.rulesHash() != 0 && policy.count() == 1, "rules hash");
    }

    function testFuzz_values_out_of_range_are_refused(uint32 ttl, uint8 bindings, uint8 class, uint8 risk, uint32 age)
        public
    {
        bool valid =
            ttl >= 30 && ttl <= 300 && bindings != 0 && bindings <= 7 && class <= 3 && risk <= 100 && age <= 300;
        Rule[] memory rules = new Rule[](1);
        rules[0] = _rule();
        rules[0].ttl = ttl;
        rules[0].bindings = bindings;
        rules[0].classCeiling = class;
        rules[0].riskCeiling = risk;
        rules[0].maxStateAge = age;
        if (!valid) vm.expectRevert(abi.encodeWithSelector(RulePolicy.InvalidRule.selector, 0));
        new RulePolicy(rules, address(0));
    }

    /// @dev Any action: nothing is allowed beyond the rule, and evaluation does not revert.
    function testFuzz_what_is_allowed_is_within_the_rule(Action memory a) public view {
        a.agent = "agent";
        a.capability = "pay";
        Verdict memory v = policy.evaluate(a);
        if (v.effect != Effect.Allow) return;
        Rule memory r = _rule();
        ok(a.version == 1, "version");
        ok(a.amount <= r.maxAmount, "amount");
        ok(a.spent + a.amount <= r.maxSpent && a.calls < r.maxCalls && a.window == r.window, "budget");
        ok(a.classification <= r.classCeiling && a.risk <= r.riskCeiling, "ceilings");
        ok(a.model == r.model && a.binding == 0, "model and binding");
        ok(a.time >= r.notBefore && a.time <= r.notAfter && a.stateAge <= r.maxStateAge, "times");
    }

    function testFuzz_a_budget_never_overflows(uint256 spent, uint256 amount) public {
        Rule memory r = _rule();
        r.maxAmount = type(uint256).max;
        r.approvalThreshold = type(uint256).max;
        policy = _with(r);
        Action memory a = _action();
        a.spent = spent;
        a.amount = amount;
        bool fits = spent <= r.maxSpent && amount <= r.maxSpent - spent;
        eq(uint256(policy.evaluate(a).effect), uint256(fits ? Effect.Allow : Effect.Deny));
    }
}
