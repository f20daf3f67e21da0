//! The rules as a table for people.

use std::fmt::Write as _;

use alloy_primitives::U256;

use super::{Compiled, CompiledRule, format_amount};
use crate::abi::Effect;

/// One line for each agent and capability, and the default. Columns are padded with spaces.
pub fn explain(compiled: &Compiled) -> String {
    let mut rows = vec![["AGENT", "CAPABILITY", "EFFECT", "CONDITIONS", "RULE"].map(String::from)];
    for rule in &compiled.rules {
        rows.push([
            rule.agent.clone(),
            rule.capability.clone(),
            effect(rule).to_owned(),
            conditions(rule, compiled).join(", "),
            rule.name.clone(),
        ]);
    }
    rows.push(["any", "anything else", "deny", "", "(default)"].map(String::from));
    let mut widths = [0; 5];
    for row in &rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = cell.chars().count().max(*width);
        }
    }
    let mut table = String::new();
    for row in &rows {
        let mut line = String::new();
        for (width, cell) in widths.iter().zip(row) {
            // Writing to a String does not fail.
            let _ = write!(line, "{cell:<width$}  ");
        }
        table.push_str(line.trim_end());
        table.push('\n');
    }
    table
}

fn effect(rule: &CompiledRule) -> &'static str {
    match rule.rule.effect {
        Effect::Allow => "allow",
        Effect::RequireApproval => "require-approval",
        _ => "deny",
    }
}

/// The conditions of a rule in words, each by itself. A denial has none.
pub fn conditions(compiled: &CompiledRule, all: &Compiled) -> Vec<String> {
    let rule = &compiled.rule;
    if rule.effect == Effect::Deny {
        return Vec::new();
    }
    let amount = |value: U256| {
        let unit = all
            .unit
            .as_ref()
            .map(|unit| format!(" {unit}"))
            .unwrap_or_default();
        format!("{}{unit}", format_amount(value, all.scale))
    };
    let mut parts = Vec::new();
    parts.push(if rule.maxAmount.is_zero() {
        "no amount".into()
    } else {
        format!("amount <= {}", amount(rule.maxAmount))
    });
    let class = match rule.classCeiling {
        0 => "public",
        1 => "internal",
        2 => "confidential",
        _ => "restricted",
    };
    parts.push(format!("class <= {class}"));
    if rule.riskCeiling < 100 {
        parts.push(format!("risk <= {}", rule.riskCeiling));
    }
    if rule.window != 0 {
        if rule.maxSpent != U256::MAX {
            parts.push(format!("{} per {}s", amount(rule.maxSpent), rule.window));
        }
        if rule.maxCalls != u64::MAX {
            parts.push(format!("{} calls per {}s", rule.maxCalls, rule.window));
        }
    }
    if rule.approvalThreshold != U256::MAX {
        parts.push(format!("approval from {}", amount(rule.approvalThreshold)));
    }
    if !rule.model.is_zero() {
        parts.push(format!("model {:.10}", rule.model.to_string()));
    }
    if rule.notBefore != 0 {
        parts.push(format!("from {}", time(rule.notBefore)));
    }
    if rule.notAfter != 0 {
        parts.push(format!("until {}", time(rule.notAfter)));
    }
    let names = ["bound", "unbound", "opaque"];
    let bindings: Vec<&str> = names
        .iter()
        .enumerate()
        .filter(|(bit, _)| rule.bindings >> bit & 1 == 1)
        .map(|(_, name)| *name)
        .collect();
    if rule.bindings != 1 {
        parts.push(format!("bodies {}", bindings.join(" or ")));
    }
    parts.push(format!("state <= {}s", rule.maxStateAge));
    parts.push(format!("ttl {}s", rule.ttl));
    parts.push(format!("tier {}", rule.tier));
    if rule.obligations != 0 {
        let names = ["receipt", "notify"];
        let set: Vec<&str> = names
            .iter()
            .enumerate()
            .filter(|(bit, _)| rule.obligations >> bit & 1 == 1)
            .map(|(_, name)| *name)
            .collect();
        parts.push(format!("obligations {}", set.join(", ")));
    }
    parts
}

fn time(seconds: u64) -> String {
    let time = std::time::UNIX_EPOCH.checked_add(std::time::Duration::from_secs(seconds));
    time.map_or_else(
        || seconds.to_string(),
        |time| humantime::format_rfc3339_seconds(time).to_string(),
    )
}
