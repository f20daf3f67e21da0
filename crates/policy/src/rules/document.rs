//! The YAML document as written.

use std::collections::BTreeSet;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{MAX_INPUT, MAX_NAME, MAX_RULES, RulesError};

/// Rules of one policy. What no rule allows is denied.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Ruleset {
    /// Version of this format: 1.
    pub version: u32,
    /// Decimal places of amounts: with 2, "100.00" is 10000 of the catalog's smallest unit.
    #[serde(default)]
    #[schemars(range(max = 36))]
    pub scale: u8,
    /// Unit of amounts, for people. The catalog decides what is counted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unit: Option<String>,
    /// The rules. Their order does not matter.
    #[schemars(length(max = 512))]
    pub rules: Vec<RuleDocument>,
}

/// One rule.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RuleDocument {
    /// Unique name, for messages and explanations.
    pub name: String,
    /// SPIFFE ID of the agent, or "any" for every registered agent that has no rule of its own.
    pub agent: String,
    /// Capability of the catalog, or a pattern: "payments.*", "*". One or a list.
    pub capability: OneOrMany<String>,
    /// What the rule says.
    pub effect: RuleEffect,
    /// Largest amount of one action, exact decimal. Without it only actions without an amount are allowed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_amount: Option<String>,
    /// Highest data class. Required unless the effect is deny.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_class: Option<Class>,
    /// Highest risk, 0 to 100. Default 100.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(max = 100))]
    pub max_risk: Option<u8>,
    /// SHA-256 of the model that must act, in hex.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// First second in which the rule allows, RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub not_before: Option<String>,
    /// Last second in which the rule allows, RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub not_after: Option<String>,
    /// "100.00 per 1h", "20 calls per 60s", or both in a list, with one window. The catalog must name the same window.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub budget: Option<OneOrMany<Budget>>,
    /// How bodies may be bound. Default: bound.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bindings: Option<Vec<BodyBinding>>,
    /// Amounts from here on need an approval, exact decimal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub approval_from: Option<String>,
    /// How old the chain state may be, in seconds, 0 to 300. Default 60.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(max = 300))]
    pub max_state_age: Option<u32>,
    /// Life of the envelope in seconds, 30 to 300. Default 60.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 30, max = 300))]
    pub ttl: Option<u32>,
    /// Assurance tier, 1 to 3. Tier 3 is indexed on chain one by one. Default 2.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 3))]
    pub tier: Option<u8>,
    /// What the target must do besides.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub obligations: Option<Vec<Obligation>>,
}

/// One value, or a list of values.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum OneOrMany<T> {
    /// One.
    One(T),
    /// A list.
    Many(Vec<T>),
}

impl<T> OneOrMany<T> {
    /// The values, in order.
    pub fn as_slice(&self) -> &[T] {
        match self {
            Self::One(value) => std::slice::from_ref(value),
            Self::Many(values) => values,
        }
    }
}

/// A budget as written: "100.00 per 1h" or "20 calls per 60s".
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(transparent)]
pub struct Budget(
    #[schemars(regex(pattern = r"^[0-9]+(\.[0-9]+)?( calls)? per [0-9]+[a-z]+$"))] pub String,
);

/// What a rule says when its conditions hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum RuleEffect {
    /// Refused, whatever else is said.
    Deny,
    /// Allowed.
    Allow,
    /// Allowed with an approval only.
    RequireApproval,
}

/// Data class.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Class {
    /// 0.
    Public,
    /// 1.
    Internal,
    /// 2.
    Confidential,
    /// 3.
    Restricted,
}

/// How a body is bound to its envelope.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum BodyBinding {
    /// By digest.
    Bound,
    /// Too large or streaming: not bound.
    Unbound,
    /// The whole connection is opaque.
    Opaque,
}

/// What a target must do besides executing the action.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Obligation {
    /// Bit 0: return a signed receipt.
    Receipt,
    /// Bit 1: notify a person.
    Notify,
}

impl Ruleset {
    /// Reads rules from YAML.
    ///
    /// # Errors
    /// [`RulesError`] names what is wrong: length, form, unknown or duplicate fields, duplicate names, bounds.
    pub fn from_yaml(text: &str) -> Result<Self, RulesError> {
        if text.len() > MAX_INPUT {
            return Err(RulesError::TooLong(text.len()));
        }
        let ruleset: Self =
            serde_saphyr::from_str(text).map_err(|e| RulesError::Form(e.to_string()))?;
        ruleset.check()?;
        Ok(ruleset)
    }

    /// The published JSON Schema of the document.
    pub fn json_schema() -> serde_json::Value {
        schemars::schema_for!(Self).to_value()
    }

    fn check(&self) -> Result<(), RulesError> {
        if self.version != 1 {
            return Err(RulesError::Version(self.version));
        }
        if self.scale > 36 {
            return Err(RulesError::Scale(self.scale));
        }
        if self.rules.len() > MAX_RULES {
            return Err(RulesError::TooMany(self.rules.len()));
        }
        let mut names = BTreeSet::new();
        for rule in &self.rules {
            rule.check_names()?;
            if !names.insert(&rule.name) {
                return Err(RulesError::DuplicateName(rule.name.clone()));
            }
        }
        Ok(())
    }
}

impl RuleDocument {
    fn check_names(&self) -> Result<(), RulesError> {
        let patterns = self.capability.as_slice();
        if patterns.is_empty() {
            return Err(RulesError::rule(&self.name, "capability names nothing"));
        }
        if patterns.len() > MAX_RULES {
            return Err(RulesError::rule(
                &self.name,
                format!("capability names more than {MAX_RULES} patterns"),
            ));
        }
        for name in [&self.name, &self.agent].into_iter().chain(patterns) {
            if name.is_empty() || name.len() > MAX_NAME || name.chars().any(char::is_control) {
                let problem = format!("names have 1 to {MAX_NAME} bytes and no control characters");
                return Err(RulesError::rule(&self.name, problem));
            }
        }
        Ok(())
    }
}
