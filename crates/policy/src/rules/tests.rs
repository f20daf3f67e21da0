#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

use std::collections::BTreeMap;

use alloy_primitives::{Address, B256, U256};
use proptest::prelude::*;

use super::*;
use crate::abi::{Effect, Rule};
use crate::names;

const SALT: [u8; 16] = [7; 16];
const AGENT: &str = "spiffe://example.org/ns/demo/sa/buyer";

fn capabilities() -> Vec<String> {
    [
        "mail.send",
        "payments.refund",
        "payments.transfer",
        "search.query",
    ]
    .map(String::from)
    .to_vec()
}

fn compiled(yaml: &str) -> Result<Compiled, RulesError> {
    let agents = BTreeMap::from([(AGENT.to_owned(), [9; 16])]);
    let capabilities = capabilities();
    compile(
        &Ruleset::from_yaml(yaml)?,
        Names {
            salt: &SALT,
            agents: &agents,
            capabilities: &capabilities,
        },
    )
}

fn document(rules: &str) -> String {
    format!("version: 1\nscale: 2\nunit: USD\nrules:\n{rules}")
}

/// One rule for payments.transfer with these extra fields.
fn one(fields: &str) -> Result<Compiled, RulesError> {
    compiled(&document(&format!(
        "  - {{name: r, agent: any, capability: payments.transfer, effect: allow, max_class: internal, {fields}}}\n"
    )))
}

fn refusal(result: Result<Compiled, RulesError>) -> String {
    result.expect_err("refused").to_string()
}

fn hash(capability: &str) -> B256 {
    names::name_hash(&SALT, "capability", capability).into()
}

#[test]
fn a_rule_becomes_what_the_contract_stores() {
    let yaml = document(&format!(
        r#"  - name: buy
    agent: {AGENT}
    capability: payments.transfer
    effect: allow
    max_amount: 100.00
    max_class: confidential
    max_risk: 70
    model: "{model}"
    not_before: 2026-01-01T00:00:00Z
    not_after: 2026-12-31T23:59:59Z
    budget: [500.00 per 1h, 20 calls per 3600s]
    bindings: [bound, unbound]
    approval_from: "80"
    max_state_age: 120
    ttl: 90
    tier: 3
    obligations: [receipt]
"#,
        model = "ab".repeat(32)
    ));
    let expected = Rule {
        agent: names::agent_key(&[9; 16], AGENT).into(),
        capability: hash("payments.transfer"),
        effect: Effect::Allow,
        maxAmount: U256::from(10_000),
        classCeiling: 2,
        riskCeiling: 70,
        model: B256::repeat_byte(0xab),
        notBefore: 1_767_225_600,
        notAfter: 1_798_761_599,
        window: 3600,
        maxSpent: U256::from(50_000),
        maxCalls: 20,
        bindings: 3,
        approvalThreshold: U256::from(8_000),
        maxStateAge: 120,
        ttl: 90,
        tier: 3,
        obligations: 1,
    };
    assert_eq!(compiled(&yaml).unwrap().contract_rules(), [expected]);
}

#[test]
fn what_is_not_said_is_narrow() {
    let rule = one("ttl: 60").unwrap().contract_rules().remove(0);
    assert_eq!(rule.agent, B256::ZERO);
    assert_eq!(rule.maxAmount, U256::ZERO);
    assert_eq!(
        (rule.bindings, rule.window, rule.maxStateAge, rule.tier),
        (1, 0, 60, 2)
    );
    assert_eq!(rule.approvalThreshold, U256::MAX);
}

#[test]
fn no_rules_compile_to_a_policy_that_denies_everything() {
    let compiled = compiled("version: 1\nrules: []\n").unwrap();
    assert!(compiled.rules.is_empty());
    assert!(
        explain(&compiled).contains("anything else"),
        "{}",
        explain(&compiled)
    );
}

#[test]
fn a_wildcard_expands_to_the_catalogs_capabilities() {
    let yaml = document(
        "  - {name: r, agent: any, capability: payments.*, effect: allow, max_class: public}\n",
    );
    let mut covered: Vec<String> = compiled(&yaml)
        .unwrap()
        .rules
        .into_iter()
        .map(|rule| rule.capability)
        .collect();
    covered.sort();
    assert_eq!(covered, ["payments.refund", "payments.transfer"]);
}

#[test]
fn the_most_specific_pattern_counts_whatever_its_position() {
    for order in [
        ["'*'", "payments.*", "payments.transfer"],
        ["payments.transfer", "payments.*", "'*'"],
    ] {
        let rules: String = order
            .iter()
            .map(|pattern| {
                let effect = match *pattern {
                    "payments.transfer" => "allow, max_class: public",
                    "payments.*" => "require-approval, max_class: public",
                    _ => "deny",
                };
                format!("  - {{name: \"{pattern}\", agent: any, capability: {pattern}, effect: {effect}}}\n")
            })
            .collect();
        let compiled = compiled(&document(&rules)).unwrap();
        let effect = |name: &str| {
            compiled
                .rules
                .iter()
                .find(|rule| rule.capability == name)
                .unwrap()
                .rule
                .effect
        };
        assert_eq!(compiled.rules.len(), 4);
        assert_eq!(effect("payments.transfer"), Effect::Allow);
        assert_eq!(effect("payments.refund"), Effect::RequireApproval);
        assert_eq!(effect("mail.send"), Effect::Deny);
    }
}

#[test]
fn equally_specific_rules_contradict_each_other() {
    let rules = "  - {name: a, agent: any, capability: payments.*, effect: deny}\n  \
                 - {name: b, agent: any, capability: payments.*, effect: allow, max_class: public}\n";
    let message = refusal(compiled(&document(rules)));
    assert!(
        message.contains("\"a\"") && message.contains("\"b\"") && message.contains("contradict"),
        "{message}"
    );
}

#[test]
fn rules_of_an_agent_and_of_any_stand_side_by_side() {
    let rules = format!(
        "  - {{name: a, agent: any, capability: mail.send, effect: deny}}\n  \
         - {{name: b, agent: \"{AGENT}\", capability: mail.send, effect: allow, max_class: public}}\n"
    );
    assert_eq!(compiled(&document(&rules)).unwrap().rules.len(), 2);
}

#[test]
fn names_that_do_not_exist_are_refused() {
    for (capability, agent, hint) in [
        ("payments.transfr", "any", "matches nothing"),
        ("pay*", "any", "wildcard"),
        ("payments.*.x", "any", "wildcard"),
        ("payments.transfer", "spiffe://example.org/other", "no salt"),
    ] {
        let rule = format!(
            "  - {{name: r, agent: \"{agent}\", capability: {capability}, effect: allow, max_class: public}}\n"
        );
        let message = refusal(compiled(&document(&rule)));
        assert!(message.contains(hint), "{capability}: {message}");
    }
}

#[test]
fn values_that_would_be_cut_or_never_hold_are_refused() {
    for (fields, hint) in [
        ("max_amount: 1.001", "decimal"),
        ("max_amount: -1", "decimal"),
        ("max_amount: 1e3", "decimal"),
        ("max_amount: 10, approval_from: 11", "never applies"),
        ("max_risk: 101", "out of range"),
        ("ttl: 29", "out of range"),
        ("ttl: 301", "out of range"),
        ("max_state_age: 301", "out of range"),
        ("tier: 0", "out of range"),
        ("tier: 4", "out of range"),
        ("model: abcd", "SHA-256"),
        ("not_before: yesterday", "RFC 3339"),
        (
            "not_before: 2026-02-01T00:00:00Z, not_after: 2026-01-01T00:00:00Z",
            "never allows",
        ),
        ("bindings: []", "never allows"),
        ("budget: 5 per week", "window"),
        ("budget: [5 per 1h, 6 per 1h]", "two budgets"),
        ("budget: [5 per 1h, 6 calls per 2h]", "different windows"),
        ("obligations: [receipt, receipt]", "twice"),
    ] {
        let message = refusal(one(fields));
        assert!(message.contains(hint), "{fields}: {message}");
    }
}

#[test]
fn a_denial_with_conditions_and_a_rule_without_a_class_are_refused() {
    let deny = "  - {name: r, agent: any, capability: mail.send, effect: deny, max_amount: 5}\n";
    assert!(refusal(compiled(&document(deny))).contains("no conditions"));
    let allow = "  - {name: r, agent: any, capability: mail.send, effect: allow}\n";
    assert!(refusal(compiled(&document(allow))).contains("max_class"));
    let both = "  - {name: r, agent: any, capability: mail.send, effect: require-approval, max_class: public, \
                max_amount: 5, approval_from: 1}\n";
    assert!(refusal(compiled(&document(both))).contains("says otherwise"));
}

#[test]
fn unknown_and_duplicate_fields_and_names_are_refused() {
    assert!(refusal(one("max_ammount: 5")).contains("max_ammount"));
    assert!(one("ttl: 60, ttl: 61").is_err());
    assert!(one("effect: deny").is_err());
    assert!(one("max_class: secret").is_err());
    assert!(refusal(compiled("version: 1\nrules: []\nextra: 1\n")).contains("extra"));
    assert!(refusal(compiled("version: 2\nrules: []\n")).contains("version 2"));
    assert!(refusal(compiled("version: 1\nscale: 37\nrules: []\n")).contains("scale 37"));
    let twice = "  - {name: r, agent: any, capability: mail.send, effect: deny}\n  \
                 - {name: r, agent: any, capability: search.query, effect: deny}\n";
    assert!(refusal(compiled(&document(twice))).contains("two rules are named"));
}

#[test]
fn overlong_input_is_refused() {
    let long = format!("version: 1\nrules: []\n# {}", "x".repeat(MAX_INPUT));
    assert!(matches!(compiled(&long), Err(RulesError::TooLong(_))));
    let many: String = (0..=MAX_RULES)
        .map(|n| format!("  - {{name: r{n}, agent: any, capability: mail.send, effect: deny}}\n"))
        .collect();
    assert!(matches!(
        compiled(&document(&many)),
        Err(RulesError::TooMany(_))
    ));
    let name = "n".repeat(MAX_NAME + 1);
    let rule = format!("  - {{name: {name}, agent: any, capability: mail.send, effect: deny}}\n");
    assert!(refusal(compiled(&document(&rule))).contains("bytes"));
}

#[test]
fn the_table_says_what_each_rule_says() {
    let table =
        explain(&one("max_amount: 100.5, budget: 20 calls per 60s, approval_from: 50").unwrap());
    for part in [
        "AGENT",
        "payments.transfer",
        "allow",
        "amount <= 100.50 USD",
        "20 calls per 60s",
        "approval from 50.00",
    ] {
        assert!(table.contains(part), "{part} is missing in\n{table}");
    }
}

#[test]
fn the_schema_names_every_field_and_accepts_the_example() {
    let schema = Ruleset::json_schema().to_string();
    for field in [
        "max_amount",
        "budget",
        "approval_from",
        "obligations",
        "not_after",
    ] {
        assert!(schema.contains(field), "{field}");
    }
}

#[test]
fn init_code_ends_with_the_rules_and_has_a_limit() {
    let rules = one("ttl: 60").unwrap().contract_rules();
    let here = init_code(&rules, Address::repeat_byte(1)).unwrap();
    let there = init_code(&rules, Address::repeat_byte(2)).unwrap();
    assert_ne!(here, there);
    let many = vec![rules[0].clone(); 100];
    assert!(matches!(
        init_code(&many, Address::ZERO),
        Err(ArtifactError::TooLarge { rules: 100, .. })
    ));
}

proptest! {
    #[test]
    fn no_text_makes_the_compiler_panic(text in "\\PC{0,200}") {
        let _ = compiled(&text);
        let _ = compiled(&document(&text));
    }

    #[test]
    fn compiled_rules_are_in_the_contracts_range_and_have_distinct_keys(
        ttl in 0u32..400, risk: u8, age in 0u32..400, tier: u8, amount in 0u64.., from in 0u64..,
    ) {
        let fields = format!(
            "ttl: {ttl}, max_risk: {risk}, max_state_age: {age}, tier: {tier}, max_amount: '{amount}', approval_from: '{from}'"
        );
        if let Ok(compiled) = one(&fields) {
            let rule = &compiled.rules[0].rule;
            prop_assert!((30..=300).contains(&rule.ttl) && rule.riskCeiling <= 100 && rule.maxStateAge <= 300);
            prop_assert_eq!(rule.maxAmount, U256::from(amount) * U256::from(100));
        } else {
            prop_assert!(!(30..=300).contains(&ttl) || risk > 100 || age > 300 || !(1..=3).contains(&tier) || from > amount);
        }
    }

    #[test]
    fn the_order_of_rules_does_not_matter(seed in proptest::sample::subsequence(vec![0usize, 1, 2, 3], 0..=4)) {
        let lines = ["payments.*", "'*'", "mail.send", "search.*"].map(|pattern| {
            format!("  - {{name: \"{pattern}\", agent: any, capability: {pattern}, effect: deny}}\n")
        });
        let forward: String = seed.iter().map(|i| lines[*i].as_str()).collect();
        let backward: String = seed.iter().rev().map(|i| lines[*i].as_str()).collect();
        let rules = |text: &str| if text.is_empty() { Vec::new() } else { compiled(&document(text)).unwrap().contract_rules() };
        prop_assert_eq!(rules(&forward), rules(&backward));
    }
}
