//! What was seen of one agent and capability, and the rule that allows it. No I/O.

use std::collections::{BTreeMap, BTreeSet};

use alloy_primitives::U256;
use writ_policy::rules::{
    BodyBinding, Budget, Class as RuleClass, OneOrMany, RuleDocument, RuleEffect, format_amount,
};

use super::draft::Noted;
use super::names::{calls_up, rounded_up};
use crate::policy::local::{class_name, units};
use crate::policy::replay;
use crate::policy::seen::{Seen, SeenAmount};

/// Decimal places at which amounts are compared that no entry gives a scale to.
const COMPARED: u8 = 18;

/// What was seen of one agent and capability.
#[derive(Debug, Default)]
pub struct Measured {
    class: u8,
    risk: u8,
    amount: U256,
    spent: U256,
    calls: u64,
    window: u32,
    counts: bool,
    bindings: BTreeSet<u8>,
    count: u64,
    reasons: BTreeSet<String>,
    /// Largest amount by unit that nothing reads under the entry.
    unread: BTreeMap<String, (U256, String)>,
}

impl Measured {
    /// Counts one more.
    pub fn add(&mut self, seen: &Seen, named: &replay::Named, amount: U256) {
        self.class = self.class.max(named.class).max(seen.class);
        self.risk = self.risk.max(named.risk);
        self.amount = self.amount.max(amount);
        self.window = self.window.max(named.window);
        self.counts |= named.amount.is_some();
        if let (None, Some(SeenAmount { value, unit })) = (&named.amount, &seen.amount) {
            let parts = units(value, COMPARED).unwrap_or_default();
            let largest = self.unread.entry(unit.clone()).or_default();
            if parts >= largest.0 {
                *largest = (parts, value.clone());
            }
        }
        self.count = self.count.saturating_add(seen.count);
        let all = amount.saturating_mul(U256::from(seen.count.max(1)));
        self.spent = self.spent.saturating_add(all);
        self.calls = self.calls.saturating_add(seen.count.max(1));
        let recorded = seen.recorded.as_ref();
        if let Some(r) = recorded.filter(|r| r.window == named.window) {
            self.spent = self.spent.max(r.spent.saturating_add(amount));
            self.calls = self.calls.max(r.calls.saturating_add(1));
        }
        self.bindings.insert(match (named.opaque, recorded) {
            (true, _) => 2,
            (false, recorded) => recorded.map_or(0, |r| r.binding),
        });
        if seen.decision != "allow" {
            self.reasons
                .insert(seen.reason.clone().unwrap_or_else(|| "denied".to_owned()));
        }
    }

    /// The rule that allows what was seen, and no more.
    pub fn rule(
        self,
        name: String,
        agent: String,
        capability: String,
        scale: u8,
    ) -> Noted<RuleDocument> {
        let decimal = |amount: U256| format_amount(rounded_up(amount), scale);
        let budget = (self.window > 0).then(|| {
            let calls = format!("{} calls per {}s", calls_up(self.calls), self.window);
            let mut budgets = vec![Budget(calls)];
            if self.counts && !self.spent.is_zero() {
                budgets.push(Budget(format!(
                    "{} per {}s",
                    decimal(self.spent),
                    self.window
                )));
            }
            OneOrMany::Many(budgets)
        });
        let plain = self.bindings.iter().all(|b| *b == 0);
        let bindings = (!plain).then(|| self.bindings.iter().map(|b| binding(*b)).collect());
        let mut comments = vec![format!(
            "Seen {} times, up to class {}.",
            self.count,
            class_name(self.class)
        )];
        if !self.reasons.is_empty() {
            let reasons: Vec<&str> = self.reasons.iter().map(String::as_str).collect();
            comments.push(format!(
                "Some were denied: {}. Take the rule out if rightly so.",
                reasons.join(", ")
            ));
        }
        for (unit, (_, value)) in &self.unread {
            comments.push(format!(
                "CHECK: amounts up to {value} {unit} were seen, and nothing limits them here: say in the entry where the \
                 amount stands (amount), and in this rule how much it may be (max_amount)."
            ));
        }
        Noted {
            comments,
            value: RuleDocument {
                name,
                agent,
                capability: OneOrMany::One(capability),
                effect: RuleEffect::Allow,
                max_amount: (self.counts && !self.amount.is_zero()).then(|| decimal(self.amount)),
                max_class: Some(rule_class(self.class)),
                max_risk: (self.risk > 0).then_some(self.risk),
                model: None,
                not_before: None,
                not_after: None,
                budget,
                bindings,
                approval_from: None,
                max_state_age: None,
                ttl: None,
                tier: None,
                obligations: None,
            },
        }
    }
}

fn rule_class(class: u8) -> RuleClass {
    match class {
        0 => RuleClass::Public,
        1 => RuleClass::Internal,
        2 => RuleClass::Confidential,
        _ => RuleClass::Restricted,
    }
}

fn binding(binding: u8) -> BodyBinding {
    match binding {
        0 => BodyBinding::Bound,
        1 => BodyBinding::Unbound,
        _ => BodyBinding::Opaque,
    }
}
