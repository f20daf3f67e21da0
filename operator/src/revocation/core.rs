//! What a revocation's status says, from what was seen. No I/O.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use writ_api::conditions::{self, Said, Truth};
use writ_api::{AgentRevocationStatus, Phase};

/// What was seen of a revocation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Seen {
    /// It cannot be sent: reason and sentence.
    Waiting(&'static str, String),
    /// It is about to be sent.
    Sending,
    /// The registry does not know the agent, so everything of it is refused already.
    Unknown,
    /// The owners reinstated the agent after it was revoked.
    Reinstated,
    /// The registry says revoked.
    Revoked {
        /// The transaction, whoever sent it, where the endpoint could tell.
        transaction: Option<Sent>,
        /// Newest safe and newest final block, where the endpoint could tell.
        safe: Option<u64>,
        /// Newest final block.
        last: Option<u64>,
    },
}

/// A transaction that revoked an agent.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sent {
    /// Its hash.
    pub hash: String,
    /// The block that holds it.
    pub block: u64,
    /// Who sent it.
    pub by: String,
}

/// How far a revocation in `block` has come.
#[must_use]
pub fn phase(block: Option<u64>, safe: Option<u64>, last: Option<u64>) -> Phase {
    let within = |bound: Option<u64>| {
        block
            .zip(bound)
            .is_some_and(|(block, bound)| block <= bound)
    };
    if within(last) {
        Phase::Final
    } else if within(safe) {
        Phase::Safe
    } else {
        Phase::Included
    }
}

/// The status.
#[must_use]
pub fn status(
    before: &AgentRevocationStatus,
    generation: i64,
    key: Option<String>,
    seen: &Seen,
    now: &Time,
) -> AgentRevocationStatus {
    let mut status = AgentRevocationStatus {
        observed_generation: Some(generation),
        agent_key: key.or_else(|| before.agent_key.clone()),
        // The relays' to write, each its own.
        sidecars: Vec::new(),
        ..before.clone()
    };
    let (truth, reason, message) = match seen {
        Seen::Waiting(reason, message) => {
            status.phase = Some(before.phase.unwrap_or(Phase::Pending));
            (Truth::False, *reason, message.clone())
        }
        Seen::Sending => {
            status.phase = Some(Phase::Submitted);
            (
                Truth::False,
                "Submitted",
                "the guardian's transaction is on its way".to_owned(),
            )
        }
        Seen::Unknown => {
            status.phase = Some(Phase::Pending);
            let text = "the registry does not know the agent, so all its actions are refused; it is revoked as soon as \
                        it is registered";
            (Truth::True, "AgentUnknown", text.to_owned())
        }
        Seen::Reinstated => {
            let text = "the owners reinstated the agent; this revocation is not sent again: make a new one to revoke it again";
            (Truth::False, "Reinstated", text.to_owned())
        }
        Seen::Revoked {
            transaction,
            safe,
            last,
        } => {
            if let Some(sent) = transaction {
                status.transaction = Some(sent.hash.clone());
                status.block = i64::try_from(sent.block).ok();
                status.by = Some(sent.by.clone());
            }
            let block = status.block.and_then(|b| u64::try_from(b).ok());
            let phase = phase(block, *safe, *last);
            status.phase = Some(phase);
            let text = format!(
                "all actions of the agent are refused; only the owners can reinstate it ({phase:?})"
            );
            (Truth::True, "Revoked", text)
        }
    };
    let said = [Said::new(conditions::REVOKED, truth, reason, message)];
    status.conditions = conditions::merge(&before.conditions, &said, generation, now);
    status
}

/// Whether the agent was revoked by this object before.
#[must_use]
pub fn was_revoked(status: &AgentRevocationStatus) -> bool {
    matches!(
        status.phase,
        Some(Phase::Included | Phase::Safe | Phase::Final)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn now() -> Time {
        Time(k8s_openapi::jiff::Timestamp::from_second(5).unwrap())
    }

    fn next(before: &AgentRevocationStatus, seen: &Seen) -> AgentRevocationStatus {
        status(before, 1, Some("0x01".to_owned()), seen, &now())
    }

    fn revoked(safe: u64, last: u64) -> Seen {
        Seen::Revoked {
            transaction: Some(Sent {
                hash: "0xaa".to_owned(),
                block: 100,
                by: "0xbb".to_owned(),
            }),
            safe: Some(safe),
            last: Some(last),
        }
    }

    #[test]
    fn a_revocation_goes_from_submitted_to_included_to_safe_to_final() {
        let mut status = AgentRevocationStatus::default();
        for (seen, phase, truth) in [
            (
                Seen::Waiting("EndpointFailed", "x".to_owned()),
                Phase::Pending,
                "False",
            ),
            (Seen::Sending, Phase::Submitted, "False"),
            (revoked(99, 50), Phase::Included, "True"),
            (revoked(100, 99), Phase::Safe, "True"),
            (revoked(140, 100), Phase::Final, "True"),
        ] {
            status = next(&status, &seen);
            assert_eq!(
                (status.phase, status.conditions[0].status.as_str()),
                (Some(phase), truth)
            );
        }
        assert_eq!(
            (status.transaction.as_deref(), status.block),
            (Some("0xaa"), Some(100))
        );
    }

    #[test]
    fn one_that_somebody_else_made_on_chain_is_seen_just_the_same() {
        let status = next(&AgentRevocationStatus::default(), &revoked(100, 0));
        assert_eq!(
            (status.phase, status.by.as_deref()),
            (Some(Phase::Safe), Some("0xbb"))
        );
    }

    #[test]
    fn an_endpoint_that_fails_later_does_not_turn_a_final_revocation_into_a_pending_one() {
        let last = next(&AgentRevocationStatus::default(), &revoked(140, 140));
        let later = next(&last, &Seen::Waiting("EndpointFailed", "x".to_owned()));
        assert_eq!(later.phase, Some(Phase::Final));
        assert!(was_revoked(&later));
    }

    #[test]
    fn without_the_block_it_is_included_and_no_more() {
        assert_eq!(phase(None, Some(9), Some(9)), Phase::Included);
        assert_eq!(phase(Some(5), None, None), Phase::Included);
    }

    #[test]
    fn what_the_owners_reinstated_is_not_revoked_again_by_itself() {
        let before = next(&AgentRevocationStatus::default(), &revoked(140, 140));
        let after = next(&before, &Seen::Reinstated);
        assert_eq!(
            (
                after.conditions[0].status.as_str(),
                after.conditions[0].reason.as_str()
            ),
            ("False", "Reinstated")
        );
        assert!(was_revoked(&after));
    }
}
