//! The PEP's own record: a verdict is durable before the request is forwarded.

use writ_sae::{Compact, LogRef, ReceiptClaims};

use crate::{Admitted, BoxFuture, Refusal};

/// Keeps what the PEP decided.
pub trait Recorder: Send + Sync {
    /// Records an admitted request and answers when that is durable; where it stands goes into
    /// the receipt.
    fn admitted<'a>(
        &'a self,
        admitted: &'a Admitted,
        decision_id: &'a str,
    ) -> BoxFuture<'a, Result<Option<LogRef>, RecordError>>;

    /// Notes a refused request. One whose peer is unknown is counted, not recorded.
    fn refused<'a>(&'a self, refused: Refused<'a>) -> BoxFuture<'a, ()>;

    /// Notes what became of an admitted request; must not block.
    fn completed(&self, completed: Completed<'_>);
}

/// A refused request.
#[derive(Debug, Clone, Copy)]
pub struct Refused<'a> {
    /// Why.
    pub refusal: &'a Refusal,
    /// The peer's SPIFFE ID, where it is known.
    pub peer: Option<&'a str>,
    /// SHA-256 of the envelope, where there was one.
    pub sae: Option<[u8; 32]>,
    /// Id of this decision.
    pub decision_id: &'a str,
    /// Whether the request goes on all the same, since refusals are only observed.
    pub observed: bool,
}

/// The end of an admitted request.
#[derive(Debug, Clone, Copy)]
pub struct Completed<'a> {
    /// The final receipt's claims.
    pub claims: &'a ReceiptClaims,
    /// The final receipt, where it could be signed.
    pub receipt: Option<&'a Compact>,
    /// Id of the decision.
    pub decision_id: &'a str,
}

/// The record could not be written.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct RecordError(pub String);
