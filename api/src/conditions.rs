//! Status conditions: types, reasons, and how a list of them changes.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};

/// Chain: its endpoints agree, its contracts are there, and transactions can be sent.
pub const READY: &str = "Ready";
/// Chain: whether this is a chain for development. `True` means: not for production.
pub const DEVELOPMENT: &str = "Development";
/// AgentPolicy: the object can be carried out, and nothing older claims its agents.
pub const ACCEPTED: &str = "Accepted";
/// AgentPolicy: what it says is submitted to the chain and written for the sidecars.
pub const PROGRAMMED: &str = "Programmed";
/// AgentPolicy: the chain decides as it says.
pub const IN_FORCE: &str = "InForce";
/// AgentPolicy: denials are enforced. `False` means: they are only observed, nothing is protected.
pub const ENFORCED: &str = "Enforced";
/// AgentRevocation: the chain refuses the agent.
pub const REVOKED: &str = "Revoked";

/// What a condition says, before it is known when it began to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Said {
    /// One of this module's types.
    pub kind: &'static str,
    /// `True`, `False` or `Unknown`.
    pub status: Truth,
    /// One word in CamelCase.
    pub reason: &'static str,
    /// A sentence for people: what it is, and what to do about it.
    pub message: String,
}

/// Status of a condition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Truth {
    /// It holds.
    True,
    /// It does not.
    False,
    /// It cannot be told.
    Unknown,
}

impl Truth {
    /// As Kubernetes writes it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::True => "True",
            Self::False => "False",
            Self::Unknown => "Unknown",
        }
    }
}

impl Said {
    /// A condition.
    #[must_use]
    pub fn new(
        kind: &'static str,
        status: Truth,
        reason: &'static str,
        message: impl Into<String>,
    ) -> Self {
        Self {
            kind,
            status,
            reason,
            message: message.into(),
        }
    }
}

/// The conditions after `said`: those that are said again with the same status keep the time at
/// which they began, those that are not said are gone.
#[must_use]
pub fn merge(before: &[Condition], said: &[Said], generation: i64, now: &Time) -> Vec<Condition> {
    said.iter()
        .map(|said| {
            let since = before
                .iter()
                .find(|c| c.type_ == said.kind && c.status == said.status.as_str())
                .map_or_else(|| now.clone(), |c| c.last_transition_time.clone());
            Condition {
                type_: said.kind.to_owned(),
                status: said.status.as_str().to_owned(),
                reason: said.reason.to_owned(),
                message: bounded(&said.message),
                observed_generation: Some(generation),
                last_transition_time: since,
            }
        })
        .collect()
}

/// Whether a condition of this type is `True`.
#[must_use]
pub fn holds(conditions: &[Condition], kind: &str) -> bool {
    conditions
        .iter()
        .any(|c| c.type_ == kind && c.status == Truth::True.as_str())
}

/// At most 32,768 characters, which the schema allows.
fn bounded(message: &str) -> String {
    message.chars().take(32_768).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::jiff::Timestamp;

    fn at(second: i64) -> Time {
        Time(Timestamp::from_second(second).unwrap())
    }

    #[test]
    fn a_condition_keeps_its_time_until_its_status_changes() {
        let first = merge(
            &[],
            &[Said::new(READY, Truth::False, "Waiting", "a")],
            1,
            &at(10),
        );
        let same = merge(
            &first,
            &[Said::new(READY, Truth::False, "Other", "b")],
            2,
            &at(20),
        );
        assert_eq!(same[0].last_transition_time, at(10));
        assert_eq!(
            (same[0].reason.as_str(), same[0].observed_generation),
            ("Other", Some(2))
        );
        let changed = merge(
            &same,
            &[Said::new(READY, Truth::True, "Ready", "c")],
            2,
            &at(30),
        );
        assert_eq!(changed[0].last_transition_time, at(30));
        assert!(holds(&changed, READY) && !holds(&same, READY));
    }

    #[test]
    fn what_is_not_said_any_more_is_gone() {
        let first = merge(
            &[],
            &[Said::new(READY, Truth::False, "Waiting", "a")],
            1,
            &at(10),
        );
        assert!(merge(&first, &[], 1, &at(20)).is_empty());
    }
}
