//! The PEP's verdicts in this sidecar's record, and the identity that signs its receipts.

use std::sync::Arc;

use writ_identity::{EnvelopeKeys, SvidSource};
use writ_ledger::{Entry, Log, Verdict};
use writ_pep::{
    Admitted, BoxFuture, Completed, ReceiptIdentity, ReceiptSource, RecordError, Recorder, Refused,
};
use writ_sae::{LogRef, SignError, Signer};

use crate::gate::Gate;
use crate::metrics::Metrics;

/// Records verdicts in the sidecar's log.
pub struct GateRecorder {
    /// The record.
    pub log: Log,
    /// Counts refusals of nobody known.
    pub gate: Arc<Gate>,
    /// What is counted.
    pub metrics: Arc<Metrics>,
}

impl Recorder for GateRecorder {
    fn admitted<'a>(
        &'a self,
        admitted: &'a Admitted,
        decision_id: &'a str,
    ) -> BoxFuture<'a, Result<Option<LogRef>, RecordError>> {
        Box::pin(async move {
            self.metrics.arrived("admitted", "admitted");
            let claims = admitted.claims();
            let entry = Entry::Verdict(Box::new(Verdict {
                admitted: true,
                observed: false,
                capability: Some(admitted.action.capability.clone()),
                peer: Some(claims.iss.clone()),
                reason: "admitted".into(),
                receipt: None,
                sae: Some(admitted.envelope.compact().as_str().to_owned()),
                target: claims.sub.clone(),
                witness: None,
            }));
            let recorded = self.log.record(entry).await;
            let receipt = recorded.map_err(|error| RecordError(error.to_string()))?;
            tracing::info!(
                decision = decision_id,
                capability = admitted.action.capability,
                "admitted"
            );
            Ok(Some(LogRef {
                id: self.log.id().to_string(),
                seq: receipt.seq,
            }))
        })
    }

    fn refused<'a>(&'a self, refused: Refused<'a>) -> BoxFuture<'a, ()> {
        Box::pin(async move {
            let code = refused.refusal.code();
            let verdict = match refused.observed {
                true => "observed",
                false => "refused",
            };
            self.metrics.arrived(verdict, code);
            tracing::info!(
                decision = refused.decision_id,
                peer = refused.peer.unwrap_or("-"),
                code,
                event = refused.refusal.event().as_str(),
                "{verdict}"
            );
            let Some(peer) = refused.peer else {
                return self.gate.count_refused(code);
            };
            let entry = Entry::Verdict(Box::new(Verdict {
                admitted: false,
                observed: refused.observed,
                capability: None,
                peer: Some(peer.to_owned()),
                reason: code.to_owned(),
                receipt: None,
                sae: None,
                target: String::new(),
                witness: None,
            }));
            if let Err(error) = self.log.record(entry).await {
                tracing::error!(%error, decision = refused.decision_id, "refusal not recorded");
            }
        })
    }

    fn completed(&self, completed: Completed<'_>) {
        tracing::debug!(
            decision = completed.decision_id,
            status = completed.claims.status,
            "completed"
        );
    }
}

/// Signs receipts with the SVID's own key.
pub struct Receipts {
    source: Arc<dyn SvidSource>,
    keys: EnvelopeKeys,
    now: Arc<dyn Fn() -> u64 + Send + Sync>,
}

impl Receipts {
    /// Receipts in the name of `source`; `now` tells unix seconds.
    pub fn new(source: Arc<dyn SvidSource>, now: Arc<dyn Fn() -> u64 + Send + Sync>) -> Self {
        let keys = EnvelopeKeys::new(Arc::clone(&source), writ_identity::KeyKind::Svid);
        Self { source, keys, now }
    }
}

impl ReceiptSource for Receipts {
    fn current(&self) -> ReceiptIdentity {
        let svid = self.source.svid();
        let signer: Arc<dyn Signer> = match self.keys.current((self.now)()) {
            Ok(current) => current.signer,
            Err(error) => Arc::new(Expired(error.to_string())),
        };
        ReceiptIdentity {
            signer,
            spiffe_id: svid.spiffe_id().to_owned(),
            subject_dn: svid.subject_dn().to_owned(),
        }
    }
}

/// Stands for an SVID that can sign no more: every receipt fails, and with it every request.
struct Expired(String);

impl Signer for Expired {
    fn algorithm(&self) -> writ_sae::Algorithm {
        writ_sae::Algorithm::Es256
    }
    fn kid(&self) -> &str {
        ""
    }
    fn sign(&self, _: &[u8]) -> Result<[u8; 64], SignError> {
        Err(SignError(self.0.clone()))
    }
    fn certificate_chain(&self) -> &[Vec<u8>] {
        &[]
    }
    fn key_statement(&self) -> Option<&str> {
        None
    }
}
