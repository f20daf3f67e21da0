//! A receipt: the target's signed word on what became of an envelope.

use serde::{Deserialize, Serialize};

use crate::bounds::{self, TEXT_MAX, check};
use crate::encoding::b64;
use crate::json::MAX_INTEGER;
use crate::{BodyDigest, Jti, LogRef, Refusal};

/// Claims of a receipt.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReceiptClaims {
    /// SPIFFE ID of the agent that it is for.
    pub aud: String,
    /// End of the execution, unix milliseconds; absent while `accepted`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub completed: Option<u64>,
    /// Time of signing, unix seconds.
    pub iat: u64,
    /// SPIFFE ID of the target.
    pub iss: String,
    /// RFC 4514 subject of the target's certificate; may be empty.
    pub iss_dn: String,
    /// `jti` of the envelope.
    pub jti: Jti,
    /// Position in the target's log, where it keeps one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub log: Option<LogRef>,
    /// What happened.
    pub outcome: Outcome,
    /// When the envelope was accepted, unix milliseconds.
    pub received: u64,
    /// Digest of the response body; present exactly when `completed`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub response: Option<BodyDigest>,
    /// SHA-256 of the envelope's compact form.
    #[serde(with = "b64")]
    pub sae: [u8; 32],
    /// HTTP status of the response; present when `completed`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<u16>,
}

/// What became of an accepted action.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// The envelope was accepted and the action handed over; not an end.
    Accepted,
    /// The response went out to its end.
    Completed,
    /// The target could not be reached, or the response broke off.
    Failed,
}

impl ReceiptClaims {
    pub(crate) fn check(&self) -> Result<(), Refusal> {
        bounds::spiffe_id(&self.iss, "iss")?;
        bounds::text(&self.iss_dn, TEXT_MAX, "iss_dn")?;
        bounds::spiffe_id(&self.aud, "aud")?;
        check(self.iat <= MAX_INTEGER, "iat")?;
        check(self.received <= MAX_INTEGER, "received")?;
        if let Some(log) = &self.log {
            log.check("log")?;
        }
        if let Some(completed) = self.completed {
            check(
                (self.received..=MAX_INTEGER).contains(&completed),
                "completed",
            )?;
        }
        if let Some(status) = self.status {
            check((100..=999).contains(&status), "status")?;
        }
        let has = (
            self.completed.is_some(),
            self.status.is_some(),
            self.response.is_some(),
        );
        let ok = match self.outcome {
            Outcome::Accepted => has == (false, false, false),
            Outcome::Completed => has == (true, true, true),
            Outcome::Failed => has.0 && !has.2,
        };
        check(ok, "outcome")
    }
}
