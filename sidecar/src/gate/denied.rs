//! Refusals on the way out: why, under which code, and what the agent is told.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use http::StatusCode;
use writ_chain::ChainError;
use writ_identity::IdentityError;
use writ_ledger::LedgerError;
use writ_policy::Decision;
use writ_sae::{Compact, IssueError};

use super::Released;
use super::claims::Asked;
use crate::problem::Problem;

/// Most distinct codes counted between two records.
const MAX_CODES: usize = 63;

/// Refusals by which the guardian stops an agent, whatever the mode.
const STOPS: [&str; 3] = ["agent-revoked", "agent-paused", "policy-paused"];

/// Where a refusal holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Holds {
    /// Everywhere: the guardian's stop, what cannot be recorded, what is no proper request.
    Always,
    /// Where denials are enforced; where they are only observed the action goes on.
    Enforced,
}

/// Why an action is refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Reason {
    /// Stable code, kebab-case.
    pub code: String,
    /// For a person: what is wrong and what to do.
    pub detail: String,
    /// HTTP status that answers it.
    pub status: u16,
    /// Approval that would turn it: the action's input hash.
    pub approval: Option<[u8; 32]>,
    /// Where it holds.
    pub holds: Holds,
}

impl Reason {
    pub(super) fn new(code: &str, detail: impl Into<String>) -> Self {
        Self::with_status(code, detail, 403)
    }

    pub(super) fn unavailable(code: &str, detail: impl Into<String>) -> Self {
        Self::with_status(code, detail, 503)
    }

    pub(super) fn with_status(code: &str, detail: impl Into<String>, status: u16) -> Self {
        Self {
            code: code.to_owned(),
            detail: detail.into(),
            status,
            approval: None,
            holds: Holds::Always,
        }
    }

    /// The same, for a denial that may be only observed.
    pub(super) fn observable(self) -> Self {
        Self {
            holds: Holds::Enforced,
            ..self
        }
    }

    /// The policy contract's own answer. Its text is data: only a plain code is taken as one.
    pub(super) fn policy(reason: &str) -> Self {
        let plain = !reason.is_empty()
            && reason.len() <= 32
            && reason
                .bytes()
                .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
        let code = if plain { reason } else { "denied-by-policy" };
        let reason = Self::new(code, explain(code));
        if STOPS.contains(&code) {
            reason
        } else {
            reason.observable()
        }
    }

    /// The agent was revoked a moment ago, says a relay. Until the chain says so too, or the notice's time is over.
    pub(super) fn revoked_by_notice() -> Self {
        Self::new(
            "revocation-pushed",
            "this agent was revoked a moment ago and may not act; the chain confirms it shortly",
        )
    }

    /// Proved state was not to be had.
    pub(super) fn of_chain(error: ChainError) -> Self {
        match &error {
            ChainError::Evaluation(_) => Self::new("evaluation-refused", error.to_string()),
            ChainError::TooOld(_) => Self::unavailable("state-too-old", error.to_string()),
            _ => Self::unavailable("state-unavailable", error.to_string()),
        }
        .observable()
    }

    pub(super) fn approval(decision: &Decision) -> Self {
        Self {
            approval: Some(decision.input),
            ..Self::policy("approval-required")
        }
    }
}

/// What a reason of the registries or of a `RulePolicy` means to the one who was refused.
fn explain(code: &str) -> &'static str {
    match code {
        "agent-unknown" => "this agent is not registered; the platform team registers it",
        "agent-revoked" => "this agent was revoked on chain and may not act again",
        "agent-paused" => "this agent is paused; the platform team resumes it",
        "policy-paused" => "the policy, or every policy, is paused by the guardian",
        "policy-unknown" => "no policy is registered for this agent",
        "code-mismatch" => "the policy contract's code is not the registered one",
        "model-mismatch" | "model-not-allowed" => {
            "the agent's model is not the one that the policy names"
        }
        "no-rule" => "no rule of the policy allows this capability to this agent",
        "denied-by-rule" => "a rule of the policy denies this capability",
        "amount-over-limit" => "the amount is over the rule's limit; ask for less",
        "class-over-ceiling" => {
            "the data is of a higher class than the rule allows; remove sensitive data"
        }
        "risk-over-ceiling" => "the action's risk is above what the rule allows",
        "outside-time-window" => "the rule does not hold at this time",
        "window-mismatch" => {
            "catalog and rule name different budget windows; the platform team aligns them"
        }
        "budget-spent" => {
            "this amount would exceed the budget of the current window; wait for the next"
        }
        "budget-calls" => "the number of calls in the current window is used up; wait for the next",
        "binding-not-allowed" => {
            "the rule wants the whole body bound; send a smaller body, not a stream"
        }
        "approval-required" => "this action needs a human approval; ask for one and send it again",
        "approval-invalid" => "the approval is unknown, expired, used, or for another action",
        "state-too-old" => "chain state is older than the rule allows; try again shortly",
        _ => "the policy refuses this action",
    }
}

/// A denied action, recorded.
#[derive(Debug)]
pub struct Denied {
    /// Stable code.
    pub code: String,
    /// What the agent is told.
    pub problem: Problem,
    /// Where denials are only observed: the action, to be sent with its denial in place of an
    /// envelope.
    pub observed: Option<Released>,
}

impl Denied {
    pub(super) fn new(
        reason: Reason,
        decision_id: Option<String>,
        asked: Option<&Asked>,
        decision: Option<&Decision>,
        observed: Option<Released>,
    ) -> Self {
        let status = StatusCode::from_u16(reason.status).unwrap_or(StatusCode::FORBIDDEN);
        let mut problem = Problem::new(status, &reason.code, reason.detail);
        problem.decision_id = decision_id;
        problem.capability = asked.map(|asked| asked.intent.capability.clone());
        problem.rule = decision
            .filter(|decision| decision.rule != [0; 32])
            .map(|decision| hex::encode(decision.rule));
        problem.approval = reason.approval.map(hex::encode);
        Self {
            code: reason.code,
            problem,
            observed,
        }
    }
}

/// A denial that is durable.
pub(super) struct RecordedDenial {
    /// Id under which the record holds it.
    pub id: String,
    /// Its place.
    pub seq: u64,
    /// The denial.
    pub denial: Compact,
    /// `SAE-Certificate` of the key that signed it.
    pub certificate: Option<String>,
}

/// Why a denial could not be recorded. The action stays refused.
#[derive(Debug, thiserror::Error)]
pub(super) enum NotRecorded {
    #[error(transparent)]
    Identity(#[from] IdentityError),
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    #[error(transparent)]
    Issue(#[from] IssueError),
    #[error("no randomness from the system")]
    NoRandomness,
}

/// Refusals of nobody known, counted between two records.
#[derive(Default)]
pub(super) struct Counts {
    counted: Mutex<Option<(u64, BTreeMap<String, u64>)>>,
}

impl Counts {
    pub(super) fn count(&self, code: &str) {
        let mut counted = self.counted.lock().unwrap_or_else(PoisonError::into_inner);
        let (_, counts) = counted.get_or_insert_with(|| (0, BTreeMap::new()));
        let code = if counts.len() >= MAX_CODES && !counts.contains_key(code) {
            "other"
        } else {
            code
        };
        let count = counts.entry(code.to_owned()).or_default();
        *count = count.saturating_add(1);
    }

    /// Takes the counts, with the time since which they run.
    pub(super) fn take(&self, now_ms: u64) -> Option<(u64, BTreeMap<String, u64>)> {
        let mut counted = self.counted.lock().unwrap_or_else(PoisonError::into_inner);
        match counted.take() {
            Some((since, counts)) if !counts.is_empty() => {
                *counted = Some((now_ms, BTreeMap::new()));
                Some((since.max(1).min(now_ms), counts))
            }
            _ => {
                *counted = Some((now_ms, BTreeMap::new()));
                None
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_contracts_reason_is_taken_as_a_code_only_when_it_looks_like_one() {
        assert_eq!(
            Reason::policy("amount-over-limit").code,
            "amount-over-limit"
        );
        for odd in ["", "<b>", "UPPER", "a reason with spaces"] {
            assert_eq!(Reason::policy(odd).code, "denied-by-policy");
        }
    }

    #[test]
    fn the_guardians_stop_holds_also_where_denials_are_only_observed() {
        for code in STOPS {
            assert_eq!(Reason::policy(code).holds, Holds::Always, "{code}");
        }
        for code in ["no-rule", "agent-unknown", "amount-over-limit", "<b>"] {
            assert_eq!(Reason::policy(code).holds, Holds::Enforced, "{code}");
        }
        let stale = Reason::of_chain(ChainError::NoHead);
        assert_eq!(stale.holds, Holds::Enforced);
        assert_eq!(
            Reason::unavailable("record-unavailable", "").holds,
            Holds::Always
        );
    }

    #[test]
    fn refusals_of_nobody_are_counted_and_taken_once() {
        let counts = Counts::default();
        assert_eq!(counts.take(5), None);
        counts.count("a");
        counts.count("a");
        let (since, taken) = counts.take(9).unwrap();
        assert_eq!((since, taken["a"]), (5, 2));
        assert_eq!(counts.take(10), None);
    }

    #[test]
    fn made_up_codes_cannot_grow_the_counts() {
        let counts = Counts::default();
        for n in 0..1000 {
            counts.count(&format!("c{n}"));
        }
        assert_eq!(counts.take(1).unwrap().1.len(), MAX_CODES + 1);
    }
}
