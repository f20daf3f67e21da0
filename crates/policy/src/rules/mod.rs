//! The rule compiler: readable rules in YAML become one immutable version of `RulePolicy`.
//!
//! ```text
//! YAML ─▶ Ruleset::from_yaml ─▶ compile(names) ─▶ Compiled { rules } ─▶ init_code(approvals) ─▶ one contract
//!                                                                            └─▶ Trial: the same contract, in-process
//! ```
//!
//! What no rule allows is denied. For one action the contract looks for a rule of this agent, then for one of any
//! registered agent. Of several patterns that match a capability the most specific one counts, whatever its position:
//! `payments.transfer` before `payments.*` before `*`. Two rules of the same agent with equally specific patterns
//! contradict each other and are refused.
//!
//! Strict and without I/O: unknown and duplicate fields, names that the catalog lacks, and values that would be cut or
//! rounded are refused with the rule's name.

mod artifact;
mod compile;
mod document;
mod explain;
#[cfg(test)]
mod tests;
mod trial;
mod value;

pub use artifact::{ArtifactError, MAX_INIT_CODE, init_code};
pub use compile::{Compiled, CompiledRule, Names, compile};
pub use document::{
    BodyBinding, Budget, Class, Obligation, OneOrMany, RuleDocument, RuleEffect, Ruleset,
};
pub use explain::{conditions, explain};
pub use trial::{Ruling, Trial, TrialError};
pub use value::{format_amount, parse_amount};

/// Longest accepted YAML, in bytes.
pub const MAX_INPUT: usize = 256 * 1024;
/// Most rules in one document, before wildcards are expanded.
pub const MAX_RULES: usize = 512;
/// Longest name, capability or SPIFFE ID, in bytes.
pub const MAX_NAME: usize = 512;

/// Why rules are refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RulesError {
    /// The document is longer than [`MAX_INPUT`].
    #[error(
        "the rules have {0} bytes, at most {MAX_INPUT} are read: split them into several policies"
    )]
    TooLong(usize),
    /// Not YAML, or not of the published schema.
    #[error("the rules are not in the expected form (see `writ rules schema`): {0}")]
    Form(String),
    /// The document states another version of the format.
    #[error("the rules say version {0}; this compiler reads version 1")]
    Version(u32),
    /// The scale is not usable.
    #[error("scale {0} is out of range: 0 to 36 decimal places")]
    Scale(u8),
    /// More than [`MAX_RULES`] rules.
    #[error("{0} rules, at most {MAX_RULES} are compiled")]
    TooMany(usize),
    /// Two rules have one name.
    #[error("two rules are named {0:?}: rename one")]
    DuplicateName(String),
    /// Something in one rule.
    #[error("rule {rule:?}: {problem}")]
    Rule {
        /// The rule's name.
        rule: String,
        /// What to change.
        problem: String,
    },
    /// Two rules say something about the same agent and capability, with equally specific patterns.
    #[error(
        "rules {first:?} and {second:?} contradict each other: both cover {capability:?} for agent {agent:?}"
    )]
    Contradiction {
        /// The earlier rule.
        first: String,
        /// The later rule.
        second: String,
        /// Agent as written.
        agent: String,
        /// Capability of the catalog.
        capability: String,
    },
}

impl RulesError {
    fn rule(rule: &str, problem: impl Into<String>) -> Self {
        Self::Rule {
            rule: rule.to_owned(),
            problem: problem.into(),
        }
    }
}
