//! Receipts: the target's signed word that it accepted an envelope, and what came of it.

use std::sync::Arc;

use moka::sync::Cache;
use writ_sae::{
    BodyDigest, Compact, IssueError, LogRef, Outcome, ReceiptClaims, Signer, issue_receipt,
};

use crate::Admitted;

/// The identity that signs receipts at this moment; SVIDs rotate.
pub trait ReceiptSource: Send + Sync {
    /// The current identity.
    fn current(&self) -> ReceiptIdentity;
}

/// An identity and its key.
#[derive(Clone)]
pub struct ReceiptIdentity {
    /// The SVID's key, or its delegate.
    pub signer: Arc<dyn Signer>,
    /// SPIFFE ID of the SVID.
    pub spiffe_id: String,
    /// RFC 4514 subject of the SVID.
    pub subject_dn: String,
}

/// Final receipts by SAE hash, for senders that cannot read trailers; the oldest go first.
#[derive(Clone)]
pub struct ReceiptBook {
    receipts: Cache<[u8; 32], Compact>,
}

impl ReceiptBook {
    /// Holds at most `receipts`; one takes some 2 KiB.
    pub fn new(receipts: u64) -> Self {
        Self {
            receipts: Cache::new(receipts),
        }
    }

    /// The final receipt for the envelope with this hash, if it ended and is still held.
    pub fn get(&self, sae: &[u8; 32]) -> Option<Compact> {
        self.receipts.get(sae)
    }

    pub(crate) fn put(&self, sae: [u8; 32], receipt: Compact) {
        self.receipts.insert(sae, receipt);
    }
}

/// What all receipts for one request have in common.
#[derive(Clone)]
pub(crate) struct Draft {
    identity: ReceiptIdentity,
    claims: ReceiptClaims,
}

impl Draft {
    pub(crate) fn new(
        identity: ReceiptIdentity,
        admitted: &Admitted,
        log: Option<LogRef>,
        received_ms: u64,
    ) -> Self {
        let claims = ReceiptClaims {
            aud: admitted.claims().iss.clone(),
            completed: None,
            iat: received_ms / 1000,
            iss: identity.spiffe_id.clone(),
            iss_dn: identity.subject_dn.clone(),
            jti: admitted.claims().jti,
            log,
            outcome: Outcome::Accepted,
            received: received_ms,
            response: None,
            sae: admitted.envelope.hash(),
            status: None,
        };
        Self { identity, claims }
    }

    /// The receipt that says accepted.
    pub(crate) fn accepted(&self) -> Result<Compact, IssueError> {
        issue_receipt(&self.claims, self.identity.signer.as_ref())
    }

    /// The final receipt: completed with this response digest, or failed.
    pub(crate) fn finish(
        self,
        status: Option<u16>,
        response: Option<[u8; 32]>,
        now_ms: u64,
    ) -> (ReceiptClaims, Result<Compact, IssueError>) {
        // A clock that went back in between must not make the receipt invalid.
        let completed = now_ms.max(self.claims.received);
        let claims = ReceiptClaims {
            completed: Some(completed),
            iat: completed / 1000,
            outcome: match response {
                Some(_) => Outcome::Completed,
                None => Outcome::Failed,
            },
            response: response.map(BodyDigest::Sha256),
            status,
            ..self.claims
        };
        let compact = issue_receipt(&claims, self.identity.signer.as_ref());
        (claims, compact)
    }
}
