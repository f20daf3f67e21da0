//! Names become salted hashes, patterns become capabilities, values become what the contract stores.

use std::collections::BTreeMap;

use alloy_primitives::{B256, U256, keccak256};
use alloy_sol_types::SolValue;

use super::document::{BodyBinding, Obligation, RuleDocument, RuleEffect, Ruleset};
use super::value::{ParsedBudget, parse_amount, parse_budget, parse_digest, parse_time};
use super::{MAX_RULES, RulesError};
use crate::abi::{Effect, Rule};
use crate::names;

/// What names stand for.
#[derive(Debug, Clone, Copy)]
pub struct Names<'a> {
    /// Salt of capability hashes.
    pub salt: &'a [u8; 16],
    /// Salt of each agent by SPIFFE ID: opens its key in `AgentRegistry`.
    pub agents: &'a BTreeMap<String, [u8; 16]>,
    /// Capabilities of the catalog: patterns expand to these, and nothing else can be named.
    pub capabilities: &'a [String],
}

/// One rule for one agent and capability.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CompiledRule {
    /// Name of the rule that it comes from.
    pub name: String,
    /// SPIFFE ID, or "any".
    pub agent: String,
    /// Capability of the catalog.
    pub capability: String,
    /// What the contract stores.
    pub rule: Rule,
}

impl CompiledRule {
    /// What the contract calls this rule in its verdicts.
    #[must_use]
    pub fn key(&self) -> B256 {
        keccak256((self.rule.agent, self.rule.capability).abi_encode())
    }
}

/// All rules, ordered by agent and capability hash, so that the same rules give the same contract.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Compiled {
    /// The rules with their names.
    pub rules: Vec<CompiledRule>,
    /// Decimal places of amounts.
    pub scale: u8,
    /// Unit of amounts.
    pub unit: Option<String>,
}

impl Compiled {
    /// What `RulePolicy`'s constructor takes.
    pub fn contract_rules(&self) -> Vec<Rule> {
        self.rules
            .iter()
            .map(|compiled| compiled.rule.clone())
            .collect()
    }
}

/// Compiles rules against the names that exist.
///
/// # Errors
/// [`RulesError`]: a name that does not exist, a value that does not fit, conditions that can never hold, rules that
/// contradict each other.
pub fn compile(ruleset: &Ruleset, names: Names<'_>) -> Result<Compiled, RulesError> {
    // (agent key, capability) -> how specific the pattern was, and the rule.
    let mut found: BTreeMap<(B256, B256), (usize, CompiledRule)> = BTreeMap::new();
    for document in &ruleset.rules {
        let template = template(document, ruleset.scale)?;
        let agent = agent_key(document, names)?;
        for (capability, specific) in expand(document, names.capabilities)? {
            let hash = B256::from(names::name_hash(names.salt, "capability", capability));
            let compiled = CompiledRule {
                name: document.name.clone(),
                agent: document.agent.clone(),
                capability: capability.to_owned(),
                rule: Rule {
                    agent,
                    capability: hash,
                    ..template.clone()
                },
            };
            match found.get(&(agent, hash)) {
                Some((there, earlier)) if *there == specific => {
                    return Err(RulesError::Contradiction {
                        first: earlier.name.clone(),
                        second: document.name.clone(),
                        agent: document.agent.clone(),
                        capability: capability.to_owned(),
                    });
                }
                Some((there, _)) if *there > specific => {}
                _ => drop(found.insert((agent, hash), (specific, compiled))),
            }
        }
    }
    if found.len() > MAX_RULES {
        return Err(RulesError::TooMany(found.len()));
    }
    let rules = found.into_values().map(|(_, compiled)| compiled).collect();
    Ok(Compiled {
        rules,
        scale: ruleset.scale,
        unit: ruleset.unit.clone(),
    })
}

fn agent_key(document: &RuleDocument, names: Names<'_>) -> Result<B256, RulesError> {
    if document.agent == "any" {
        return Ok(B256::ZERO);
    }
    let salt = names.agents.get(&document.agent).ok_or_else(|| {
        let problem = format!(
            "agent {:?} has no salt: register it, or write \"any\"",
            document.agent
        );
        RulesError::rule(&document.name, problem)
    })?;
    Ok(names::agent_key(salt, &document.agent).into())
}

/// The capabilities that a rule covers, each with the length of the longest pattern that matched it; a name itself
/// counts as longer than any pattern.
fn expand<'c>(
    document: &RuleDocument,
    known: &'c [String],
) -> Result<BTreeMap<&'c str, usize>, RulesError> {
    let mut covered = BTreeMap::new();
    for pattern in document.capability.as_slice() {
        let prefix = pattern.strip_suffix('*');
        let well_formed = match prefix {
            Some(prefix) => prefix.is_empty() || (prefix.ends_with('.') && !prefix.contains('*')),
            None => !pattern.contains('*'),
        };
        if !well_formed {
            let problem = format!(
                "capability {pattern:?}: a wildcard stands alone or ends a dotted prefix, as in payments.*"
            );
            return Err(RulesError::rule(&document.name, problem));
        }
        let mut matched = false;
        for capability in known {
            let specific = match prefix {
                Some(prefix) if capability.starts_with(prefix) => prefix.len(),
                None if capability == pattern => usize::MAX,
                _ => continue,
            };
            matched = true;
            let entry = covered.entry(capability.as_str()).or_insert(specific);
            *entry = specific.max(*entry);
        }
        if !matched {
            let problem = format!("capability {pattern:?} matches nothing in the catalog");
            return Err(RulesError::rule(&document.name, problem));
        }
    }
    Ok(covered)
}

/// The rule without its agent and capability.
fn template(document: &RuleDocument, scale: u8) -> Result<Rule, RulesError> {
    let refuse = |problem: String| RulesError::rule(&document.name, problem);
    if document.effect == RuleEffect::Deny {
        return deny_template(document);
    }
    let class = document
        .max_class
        .ok_or_else(|| refuse("max_class is missing: name the highest data class".into()))?;
    let amount = |field: &str, text: &Option<String>| match text {
        None => Ok(None),
        Some(text) => parse_amount(text, scale).map(Some).ok_or_else(|| {
            refuse(format!(
                "{field} {text:?} is not an exact decimal with at most {scale} decimal places"
            ))
        }),
    };
    let time = |field: &str, text: &Option<String>| {
        match text {
        None => Ok(None),
        Some(text) => parse_time(text).map(Some).ok_or_else(|| {
            refuse(format!("{field} {text:?} is not an RFC 3339 time in whole seconds, such as 2026-01-31T08:00:00Z"))
        }),
    }
    };
    let max_amount = amount("max_amount", &document.max_amount)?.unwrap_or(U256::ZERO);
    let approval_from = amount("approval_from", &document.approval_from)?;
    if document.effect == RuleEffect::RequireApproval && approval_from.is_some() {
        return Err(refuse(
            "effect require-approval asks for every action; approval_from says otherwise".into(),
        ));
    }
    if approval_from.is_some_and(|from| from > max_amount) {
        return Err(refuse(
            "approval_from is above max_amount, so it never applies".into(),
        ));
    }
    let not_before = time("not_before", &document.not_before)?.unwrap_or(0);
    let not_after = time("not_after", &document.not_after)?.unwrap_or(0);
    if not_after != 0 && not_after < not_before {
        return Err(refuse(
            "not_after is before not_before, so the rule never allows".into(),
        ));
    }
    let model = match &document.model {
        None => B256::ZERO,
        Some(text) => parse_digest(text)
            .filter(|digest| !digest.is_zero())
            .ok_or_else(|| refuse(format!("model {text:?} is not a SHA-256 in 64 hex digits")))?,
    };
    let budget = budget(document, scale)?;
    Ok(Rule {
        agent: B256::ZERO,
        capability: B256::ZERO,
        effect: if document.effect == RuleEffect::Allow {
            Effect::Allow
        } else {
            Effect::RequireApproval
        },
        maxAmount: max_amount,
        classCeiling: class as u8,
        riskCeiling: bounded(
            document,
            "max_risk",
            document.max_risk.unwrap_or(100),
            0,
            100,
        )?,
        model,
        notBefore: not_before,
        notAfter: not_after,
        window: budget.window,
        maxSpent: budget.spent,
        maxCalls: budget.calls,
        bindings: bindings(document)?,
        approvalThreshold: approval_from.unwrap_or(U256::MAX),
        maxStateAge: bounded(
            document,
            "max_state_age",
            document.max_state_age.unwrap_or(60),
            0,
            300,
        )?,
        ttl: bounded(document, "ttl", document.ttl.unwrap_or(60), 30, 300)?,
        tier: bounded(document, "tier", document.tier.unwrap_or(2), 1, 3)?,
        obligations: obligations(document)?,
    })
}

/// A denial has no conditions: any that is written contradicts it.
fn deny_template(document: &RuleDocument) -> Result<Rule, RulesError> {
    let bare = RuleDocument {
        tier: document.tier,
        ..RuleDocument::bare(document)
    };
    if *document != bare {
        return Err(RulesError::rule(
            &document.name,
            "effect deny takes no conditions but tier: remove the others",
        ));
    }
    Ok(Rule {
        effect: Effect::Deny,
        bindings: 1,
        ttl: 60,
        tier: bounded(document, "tier", document.tier.unwrap_or(2), 1, 3)?,
        approvalThreshold: U256::MAX,
        ..Rule::default()
    })
}

impl RuleDocument {
    /// The same rule without conditions.
    fn bare(other: &Self) -> Self {
        Self {
            name: other.name.clone(),
            agent: other.agent.clone(),
            capability: other.capability.clone(),
            effect: other.effect,
            max_amount: None,
            max_class: None,
            max_risk: None,
            model: None,
            not_before: None,
            not_after: None,
            budget: None,
            bindings: None,
            approval_from: None,
            max_state_age: None,
            ttl: None,
            tier: None,
            obligations: None,
        }
    }
}

fn bounded<T: PartialOrd + std::fmt::Display>(
    document: &RuleDocument,
    field: &str,
    value: T,
    least: T,
    most: T,
) -> Result<T, RulesError> {
    if value < least || value > most {
        let problem = format!("{field} {value} is out of range: {least} to {most}");
        return Err(RulesError::rule(&document.name, problem));
    }
    Ok(value)
}

struct Budgets {
    window: u32,
    spent: U256,
    calls: u64,
}

/// Without a budget the window is 0 and the totals, which the contract then does not read, are the largest.
fn budget(document: &RuleDocument, scale: u8) -> Result<Budgets, RulesError> {
    let refuse = |problem: String| RulesError::rule(&document.name, problem);
    let mut spent = None;
    let mut calls = None;
    let mut windows = Vec::new();
    for written in document.budget.iter().flat_map(|budget| budget.as_slice()) {
        match parse_budget(&written.0, scale).map_err(refuse)? {
            ParsedBudget::Amount { total, window } => {
                windows.push(window);
                if spent.replace(total).is_some() {
                    return Err(refuse("two budgets of amounts".into()));
                }
            }
            ParsedBudget::Calls { total, window } => {
                windows.push(window);
                if calls.replace(total).is_some() {
                    return Err(refuse("two budgets of calls".into()));
                }
            }
        }
    }
    let window = windows.first().copied().unwrap_or(0);
    if windows.iter().any(|other| *other != window) {
        return Err(refuse(
            "the budgets name different windows; one rule counts in one window".into(),
        ));
    }
    Ok(Budgets {
        window,
        spent: spent.unwrap_or(U256::MAX),
        calls: calls.unwrap_or(u64::MAX),
    })
}

fn bindings(document: &RuleDocument) -> Result<u8, RulesError> {
    let Some(bindings) = &document.bindings else {
        return Ok(1);
    };
    let mask = bindings.iter().fold(0, |mask, binding| {
        mask | match binding {
            BodyBinding::Bound => 1,
            BodyBinding::Unbound => 2,
            BodyBinding::Opaque => 4,
        }
    });
    if mask == 0 {
        return Err(RulesError::rule(
            &document.name,
            "bindings is empty, so the rule never allows",
        ));
    }
    Ok(mask)
}

fn obligations(document: &RuleDocument) -> Result<u32, RulesError> {
    let mut mask = 0;
    for obligation in document.obligations.iter().flatten() {
        let bit = match obligation {
            Obligation::Receipt => 1,
            Obligation::Notify => 2,
        };
        if mask & bit != 0 {
            return Err(RulesError::rule(
                &document.name,
                "an obligation is named twice",
            ));
        }
        mask |= bit;
    }
    Ok(mask)
}
