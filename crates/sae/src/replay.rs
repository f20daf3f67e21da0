//! One use per `(iss, jti)`: the store behind it.

use std::future::Future;
use std::pin::Pin;

use crate::Jti;
use crate::encoding::sha256;

/// Answer of a [`ReplayStore`], once the use is as durable as asked.
pub type ReplayFuture<'a> = Pin<Box<dyn Future<Output = Result<Use, ReplayError>> + Send + 'a>>;

/// Remembers which envelopes were used.
///
/// Of any number of concurrent calls for one `(iss, jti)` exactly one gets [`Use::Fresh`], with
/// [`Durability::Now`] also across a restart.
pub trait ReplayStore: Send + Sync {
    /// Records the use. `expires` is when the envelope can no longer be accepted by anyone (`exp`
    /// plus the greatest skew), `now` the caller's clock, both in unix seconds.
    fn use_once(
        &self,
        iss: &str,
        jti: Jti,
        expires: u64,
        now: u64,
        durability: Durability,
    ) -> ReplayFuture<'_>;

    /// Since when the store knows every use (unix seconds), where it does not reach back further
    /// than any envelope lives.
    fn complete_since(&self) -> Option<u64>;
}

/// When a use has to outlive the process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Durability {
    /// Before the store answers.
    Now,
    /// Within about a second. Enough where nothing that was used can be presented again after a
    /// restart: an envelope that must be bound to its connection ends with that connection.
    Soon,
}

/// What the store says of an envelope.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Use {
    /// First use, now recorded.
    Fresh,
    /// Used before.
    Replayed,
    /// The envelope's entry may already have been swept: the clock went back.
    Forgotten,
    /// No room: nothing was recorded.
    Full,
}

/// The store cannot say; nothing may be accepted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the replay store does not answer: {0}; check its volume")]
pub struct ReplayError(pub String);

/// The 32-byte key of `(iss, jti)`: SHA-256 of the issuer, a zero byte and the id.
pub fn replay_key(iss: &str, jti: Jti) -> [u8; 32] {
    let mut input = Vec::with_capacity(iss.len() + 17);
    input.extend_from_slice(iss.as_bytes());
    input.push(0);
    input.extend_from_slice(&jti.0);
    sha256(&input)
}
