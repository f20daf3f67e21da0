//! Denials: signed, recorded, and enforced or only observed.

use std::sync::Arc;

use tracing::Instrument;
use writ_ledger::{Entry, Hold, Mode, Refused};
use writ_policy::names::agent_key;
use writ_policy::{AgentStatus, registration};
use writ_sae::{IssueError, SaeCertificate, issue_denial};

use super::claims::{self, Asked, Stamp, Stamping};
use super::denied::{self, Denied, RecordedDenial};
use super::{Evaluated, Gate, Released};
use crate::parents::Lineage;
use crate::traces::{self, stage};

/// What is denied.
#[derive(Clone, Copy)]
pub(super) enum Denying<'a> {
    /// An action that the catalog names.
    Named(&'a Asked),
    /// A target, and whether it would take an envelope.
    Unnamed(&'a str, Stamping),
}

impl<'a> Denying<'a> {
    pub(super) fn asked(self) -> Option<&'a Asked> {
        match self {
            Self::Named(asked) => Some(asked),
            Self::Unnamed(..) => None,
        }
    }

    fn target(self) -> &'a str {
        match self {
            Self::Named(asked) => &asked.target,
            Self::Unnamed(target, _) => target,
        }
    }

    fn stamping(self) -> Stamping {
        match self {
            Self::Named(asked) => asked.stamping,
            Self::Unnamed(_, stamping) => stamping,
        }
    }
}

impl Gate {
    /// Signs and records a denial, and says what the agent is to be told. Where denials are only
    /// observed, and this one may be, the action goes on with it.
    pub(super) async fn deny(
        self: &Arc<Self>,
        denied: Denying<'_>,
        reason: denied::Reason,
        evaluated: Option<&Evaluated>,
        lineage: &Lineage,
    ) -> Denied {
        let asked = denied.asked();
        // What the agent carries out itself does not pass here: nothing could be let go on.
        let (reason, mode) = match asked {
            Some(asked) if asked.intent.kind == writ_catalog::Kind::Custom => {
                (reason, Mode::Enforce)
            }
            _ => self.mode_of(reason),
        };
        let kind = asked.map_or("unclassified", |asked| asked.intent.kind.as_str());
        let effect = match mode {
            Mode::Enforce => "deny",
            Mode::Observe => "observe",
        };
        self.metrics.decided(kind, effect, &reason.code);
        let recorded = self
            .record_denial(denied, &reason, mode, evaluated, lineage)
            .await
            .inspect_err(|error| tracing::error!(%error, code = reason.code, "denial not recorded"))
            .ok();
        let decision_id = recorded.as_ref().map(|recorded| recorded.id.clone());
        traces::decided(decision_id.as_deref().unwrap_or("-"), effect, &reason.code);
        tracing::info!(
            decision = decision_id.as_deref().unwrap_or("-"),
            capability = asked.map_or("-", |asked| asked.intent.capability.as_str()),
            code = reason.code,
            "action denied{}",
            if mode == Mode::Observe {
                ", and let go on: denials are only observed"
            } else {
                ""
            }
        );
        // What is not in the record does not leave, whatever the mode.
        let observed = recorded
            .filter(|_| mode == Mode::Observe)
            .map(|recorded| Released::observed(self, recorded, denied.stamping()));
        Denied::new(
            reason,
            decision_id,
            asked,
            evaluated.map(|e| &e.decision),
            observed,
        )
    }

    /// Whether a denial is enforced. What the guardian stopped does not go on under another reason.
    fn mode_of(&self, reason: denied::Reason) -> (denied::Reason, Mode) {
        if !self.observing() || reason.holds == denied::Holds::Always {
            return (reason, Mode::Enforce);
        }
        match self.stopped() {
            Some(stop) => (stop, Mode::Enforce),
            None => (reason, Mode::Observe),
        }
    }

    /// The guardian's stop of this agent, as far as the newest proved state says.
    fn stopped(&self) -> Option<denied::Reason> {
        if self.holds.refuses(self.identity.svid().spiffe_id()) {
            return Some(denied::Reason::revoked_by_notice());
        }
        let head = self.feed.current()?;
        let key = agent_key(&self.profile.salt, self.identity.svid().spiffe_id());
        let entry = registration(&head.snapshot, &self.registries, &key).ok()?;
        let code = match entry.status {
            AgentStatus::Revoked => "agent-revoked",
            AgentStatus::Paused => "agent-paused",
            _ if entry.paused => "policy-paused",
            _ => return None,
        };
        Some(denied::Reason::policy(code))
    }

    async fn record_denial(
        &self,
        denied: Denying<'_>,
        reason: &denied::Reason,
        mode: Mode,
        evaluated: Option<&Evaluated>,
        lineage: &Lineage,
    ) -> Result<RecordedDenial, denied::NotRecorded> {
        let now = self.now();
        let asked = denied.asked();
        let current = self.keys.current(now)?;
        self.witnesses
            .keep_certificate(&self.log, current.signer.as_ref())?;
        let witness = match evaluated {
            Some(evaluated) => Some(self.witnesses.store(&self.log, evaluated)?),
            None => None,
        };
        let reservation = self.log.reserve()?;
        let seq = reservation.seq();
        let circumstances = self.circumstances(lineage, seq, None);
        let stamp = Stamp {
            jti: self.jti().map_err(|_| denied::NotRecorded::NoRandomness)?,
            now,
            lifetime: 0,
        };
        let target = writ_sae_target(denied.target());
        let claims = claims::denial(
            &self.actor(&current.svid),
            asked,
            &target,
            &reason.code,
            evaluated.map(|evaluated| (&evaluated.decision, evaluated.state)),
            &circumstances,
            stamp,
        );
        let denial = stage!("sign").in_scope(|| issue_denial(&claims, current.signer.as_ref()))?;
        let certificate = match mode {
            Mode::Enforce => None,
            Mode::Observe => Some(
                SaeCertificate::of(current.signer.as_ref())
                    .encode()
                    .map_err(IssueError::Claims)?,
            ),
        };
        let entry = Entry::Denial(Box::new(writ_ledger::Decision {
            action: evaluated.map(|evaluated| evaluated.action.to_abi()),
            // Counted, though it was given up before it left: nothing is given back.
            budget: evaluated
                .and_then(|evaluated| evaluated.hold.clone())
                .map(Hold::into_use),
            jws: Some(denial.as_str().to_owned()),
            mode,
            names: self.names(current.svid.spiffe_id(), asked, &target, lineage),
            reason: reason.code.clone(),
            salt: Some(self.profile.policy_salt),
            witness,
        }));
        let id = reservation.id().to_string();
        let appended = self.log.append(reservation, entry);
        appended.instrument(stage!("append")).await?;
        Ok(RecordedDenial {
            id,
            seq,
            denial,
            certificate,
        })
    }

    /// Refuses a request that the catalog could not name, in every mode: recorded, signed, told.
    pub async fn refuse(
        self: &Arc<Self>,
        target: &str,
        code: &str,
        why: impl Into<String>,
        status: u16,
    ) -> Denied {
        let lineage = self.open.lineage();
        let reason = denied::Reason::with_status(code, why, status);
        let denied = Denying::Unnamed(target, Stamping::Withhold);
        self.deny(denied, reason, None, &lineage).await
    }

    /// Denies a request that the catalog could not name: refused like [`Gate::refuse`] where
    /// denials are enforced, [`Denied::observed`] where they are not.
    pub async fn object(
        self: &Arc<Self>,
        target: &str,
        stamping: Stamping,
        code: &str,
        why: impl Into<String>,
        status: u16,
    ) -> Denied {
        let lineage = self.open.lineage();
        let reason = denied::Reason::with_status(code, why, status).observable();
        let denied = Denying::Unnamed(target, stamping);
        self.deny(denied, reason, None, &lineage).await
    }

    /// Refuses a whole connection, before there is a request.
    pub async fn refuse_connection(self: &Arc<Self>, target: &str, code: &str, why: &str) {
        self.refuse(target, code, why, 403).await;
    }

    /// Counts a refused request of nobody known: they are not recorded one by one.
    pub fn count_refused(&self, code: &str) {
        self.unauthenticated.count(code);
    }

    /// Records what [`Gate::count_refused`] counted, if anything.
    pub async fn flush_counts(&self) {
        let now = self.now().saturating_mul(1000);
        let Some((since, counts)) = self.unauthenticated.take(now) else {
            return;
        };
        let recorded = self.log.record(Entry::Refused(Refused { counts, since }));
        if let Err(error) = recorded.await {
            tracing::error!(%error, "refused requests not recorded");
        }
    }
}

/// A target as a denial can carry it: visible ASCII, bounded.
fn writ_sae_target(target: &str) -> String {
    target
        .chars()
        .filter(char::is_ascii_graphic)
        .take(1024)
        .collect()
}
