//! An allowed action on its way: signed, durable, released, and closed by its outcome.

use std::sync::Arc;
use std::time::Instant;

use tracing::Instrument;
use writ_catalog::Intent;
use writ_ledger::{Enforced, Entry, Mode, Outcome, OutcomeResult, Unknown, UnknownCause};
use writ_sae::{Compact, ReceiptClaims, SaeCertificate, Unverified, VerifyKey, issue_envelope};

use super::claims::{self, Asked, Stamp, Stamping};
use super::denied::{self, Denied, RecordedDenial};
use super::denying::Denying;
use super::{Evaluated, Gate};
use crate::body::{End, Observed};
use crate::metrics::Stage;
use crate::parents::Lineage;
use crate::traces::{self, stage};

/// An action that the policy allows and that was not released yet.
#[must_use = "an allowed action is issued, or its budget is spent for nothing"]
pub struct Granted {
    gate: Arc<Gate>,
    asked: Asked,
    evaluated: Evaluated,
    lineage: Lineage,
}

/// An action whose allow is durable: it may leave.
pub struct Released {
    gate: Arc<Gate>,
    seq: u64,
    /// Id under which the record holds it.
    pub decision_id: String,
    /// The envelope, where the destination takes one.
    pub envelope: Option<Compact>,
    /// The denial that it carries instead, where denials are only observed and the destination
    /// takes an envelope.
    pub denial: Option<Compact>,
    mode: Mode,
    /// SHA-256 of the envelope or denial that was recorded, whether or not the destination takes it.
    pub sae_hash: [u8; 32],
    /// `SAE-Certificate`, where there is an envelope or a denial.
    pub certificate: Option<String>,
    closed: bool,
}

/// What became of a released action, as far as the sender saw.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sent {
    /// How it ended.
    pub result: OutcomeResult,
    /// HTTP status of the response.
    pub status: Option<u16>,
    /// SHA-256 of the response body.
    pub response: Option<[u8; 32]>,
    /// `SAE-Receipt` of the response: the final one where there is a trailer.
    pub receipt: Option<String>,
    /// What went wrong.
    pub error: Option<String>,
}

impl Granted {
    pub(super) fn new(
        gate: Arc<Gate>,
        asked: Asked,
        evaluated: Evaluated,
        lineage: Lineage,
    ) -> Self {
        Self {
            gate,
            asked,
            evaluated,
            lineage,
        }
    }

    /// What the action is.
    pub fn intent(&self) -> &Intent {
        &self.asked.intent
    }

    /// Gives the action up before it was signed: the target could not be reached.
    ///
    /// # Errors
    /// Never `Ok`: the [`Denied`] that the agent is told.
    pub async fn give_up(self, code: &str, why: &str, status: u16) -> Denied {
        let reason = denied::Reason::with_status(code, why, status);
        let denied = Denying::Named(&self.asked);
        self.gate
            .deny(denied, reason, Some(&self.evaluated), &self.lineage)
            .await
    }

    /// Signs the envelope for one connection and makes its record durable. Only what this returns
    /// may be sent.
    ///
    /// # Errors
    /// [`Denied`] when it cannot be signed or recorded.
    pub async fn issue(mut self, channel_binding: Option<[u8; 32]>) -> Result<Released, Denied> {
        match self.try_issue(channel_binding).await {
            Ok(released) => {
                self.gate
                    .metrics
                    .decided(self.asked.intent.kind.as_str(), "allow", "allowed");
                traces::decided(&released.decision_id, "allow", "allowed");
                tracing::info!(
                    decision = released.decision_id,
                    capability = self.asked.intent.capability,
                    "action allowed"
                );
                Ok(released)
            }
            Err(error) => {
                let code = match &error {
                    denied::NotRecorded::Ledger(_) => {
                        // The log keeps the count of a record that failed, in a void of its own.
                        self.evaluated.hold = None;
                        "record-unavailable"
                    }
                    _ => "signing-unavailable",
                };
                let reason = denied::Reason::unavailable(code, error.to_string());
                let denied = Denying::Named(&self.asked);
                Err(self
                    .gate
                    .deny(denied, reason, Some(&self.evaluated), &self.lineage)
                    .await)
            }
        }
    }

    async fn try_issue(
        &self,
        channel_binding: Option<[u8; 32]>,
    ) -> Result<Released, denied::NotRecorded> {
        let gate = &self.gate;
        let current = gate.keys.current(self.evaluated.now)?;
        gate.witnesses
            .keep_certificate(&gate.log, current.signer.as_ref())?;
        let witness = gate.witnesses.store(&gate.log, &self.evaluated)?;
        let reservation = gate.log.reserve()?;
        let seq = reservation.seq();
        let lifetime = match self.evaluated.decision.ttl {
            0 => gate.profile.envelope_seconds,
            seconds => u64::from(seconds),
        };
        let stamp = Stamp {
            jti: gate.jti().map_err(|_| denied::NotRecorded::NoRandomness)?,
            now: self.evaluated.now,
            lifetime,
        };
        let signing = Instant::now();
        let claims = claims::envelope(
            &gate.actor(&current.svid),
            &self.asked,
            &self.evaluated.decision,
            self.evaluated.state,
            &gate.circumstances(&self.lineage, seq, channel_binding),
            stamp,
        );
        // Every allow is signed for the record, also where the target takes no envelope.
        let envelope =
            stage!("sign").in_scope(|| issue_envelope(&claims, current.signer.as_ref()))?;
        let certificate = SaeCertificate::of(current.signer.as_ref())
            .encode()
            .map_err(writ_sae::IssueError::Claims)?;
        gate.metrics.observe(Stage::Sign, signing.elapsed());

        let appending = Instant::now();
        let entry = Entry::Allow(Box::new(writ_ledger::Decision {
            action: Some(self.evaluated.action.to_abi()),
            budget: self.evaluated.hold.clone().map(writ_ledger::Hold::into_use),
            jws: Some(envelope.as_str().to_owned()),
            mode: Mode::Enforce,
            names: gate.names(
                current.svid.spiffe_id(),
                Some(&self.asked),
                &self.asked.target,
                &self.lineage,
            ),
            reason: "allowed".to_owned(),
            salt: Some(gate.profile.policy_salt),
            witness: Some(witness),
        }));
        let decision_id = reservation.id().to_string();
        gate.log
            .append(reservation, entry)
            .instrument(stage!("append"))
            .await?;
        gate.metrics.observe(Stage::Append, appending.elapsed());
        let stamped = self.asked.stamping == Stamping::Stamp;
        Ok(Released {
            gate: Arc::clone(gate),
            seq,
            decision_id,
            sae_hash: envelope.hash(),
            certificate: stamped.then_some(certificate),
            envelope: stamped.then_some(envelope),
            denial: None,
            mode: Mode::Enforce,
            closed: false,
        })
    }
}

impl std::fmt::Debug for Released {
    /// Tokens are left out.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Released")
            .field("decision_id", &self.decision_id)
            .field("mode", &self.mode)
            .finish_non_exhaustive()
    }
}

impl Released {
    /// An action that goes on although it was denied; its denial is durable.
    pub(super) fn observed(gate: &Arc<Gate>, recorded: RecordedDenial, stamping: Stamping) -> Self {
        let stamped = stamping == Stamping::Stamp;
        Self {
            gate: Arc::clone(gate),
            seq: recorded.seq,
            decision_id: recorded.id,
            envelope: None,
            sae_hash: recorded.denial.hash(),
            certificate: recorded.certificate.filter(|_| stamped),
            denial: stamped.then_some(recorded.denial),
            mode: Mode::Observe,
            closed: false,
        }
    }

    /// Whether it goes on although it was denied.
    pub fn is_observed(&self) -> bool {
        self.mode == Mode::Observe
    }

    /// Records what became of the action. `peer` is the key of the connection's peer, which a
    /// receipt must be signed with. The request's path does not wait for this.
    pub fn close(mut self, sent: Sent, peer: Option<&VerifyKey>) {
        self.closed = true;
        self.append(sent, peer);
    }

    /// Records that the agent carries the action out itself: how it ends stays unknown.
    pub fn hand_over(mut self) {
        self.closed = true;
        let of = self.seq;
        let unknown = Unknown {
            cause: UnknownCause::HandedOver,
            of,
        };
        self.record(Entry::Unknown(unknown));
    }

    fn record(&self, entry: Entry) {
        let gate = Arc::clone(&self.gate);
        let decision = self.decision_id.clone();
        tokio::spawn(async move {
            if let Err(error) = gate.log.record(entry).await {
                tracing::error!(%error, decision, "outcome not recorded");
            }
        });
    }

    fn append(&self, sent: Sent, peer: Option<&VerifyKey>) {
        let enforced = match (&sent.receipt, peer, &self.envelope) {
            (Some(receipt), Some(peer), Some(envelope)) => held_by(receipt, peer, &envelope.hash()),
            _ if self.mode == Mode::Observe => Enforced::None,
            _ => Enforced::Redirect,
        };
        let outcome = Outcome {
            enforced,
            error: sent.error.map(|text| short(&text)),
            of: self.seq,
            receipt: sent.receipt.filter(|_| enforced == Enforced::Pep),
            response: sent.response,
            result: sent.result,
            status: sent.status,
        };
        self.record(Entry::Outcome(Box::new(outcome)));
    }
}

impl Drop for Released {
    fn drop(&mut self) {
        if !self.closed {
            let sent = Sent::failed(OutcomeResult::Failed, "given up while it was under way");
            self.append(sent, None);
        }
    }
}

impl Sent {
    /// A response that was read, or not, to its end.
    pub fn answered(status: u16, seen: &Observed, receipt: Option<String>) -> Self {
        Self {
            result: match seen.end {
                End::Complete => OutcomeResult::Completed,
                End::Aborted => OutcomeResult::Failed,
            },
            status: Some(status),
            response: (seen.end == End::Complete).then_some(seen.digest),
            receipt,
            error: None,
        }
    }

    /// A request that never left, or may have.
    pub fn failed(result: OutcomeResult, why: &str) -> Self {
        Self {
            result,
            status: None,
            response: None,
            receipt: None,
            error: Some(why.to_owned()),
        }
    }
}

/// `pep` only where the receipt is the target's own word on exactly this envelope.
fn held_by(receipt: &str, peer: &VerifyKey, envelope: &[u8; 32]) -> Enforced {
    let verified = Unverified::<ReceiptClaims>::parse(receipt)
        .and_then(|receipt| receipt.verify(peer, envelope));
    match verified {
        Ok(_) => Enforced::Pep,
        Err(refusal) => {
            tracing::warn!(code = refusal.code(), "receipt not taken");
            Enforced::Redirect
        }
    }
}

fn short(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(200).collect()
}
