//! The Signed Action Envelope (SAE): one decided action, signed, for one target, once.
//!
//! Four kinds of token share one strict form, JWS compact (RFC 7515) over RFC 8785 JSON:
//!
//! | kind | `typ` | type |
//! |---|---|---|
//! | envelope | `application/sae+jwt` | [`Envelope`] |
//! | denial | `application/sae-denial+jwt` | [`Denial`] |
//! | receipt | `application/sae-receipt+jwt` | [`ReceiptClaims`] |
//! | key statement | `application/sae-key+jwt` | [`KeyStatement`] |
//!
//! What was parsed is [`Unverified`]; only verification with a [`VerifyKey`], which itself
//! comes only from a verified certificate chain, makes it [`Verified`]. One token has one form:
//! canonical base64url, RFC 8785 JSON, low-S ECDSA, so its SHA-256 ([`sae_hash`]) names it.
//!
//! The crate does no I/O and has no clock: times are parameters, in unix seconds.
#![forbid(unsafe_code)]

mod act;
mod bounds;
mod certificate;
mod claims;
mod crypto;
mod denial;
pub mod encoding;
mod issue;
mod json;
mod jws;
mod key;
mod receipt;
mod refusal;
mod replay;
mod signers;
mod statement;
mod verify;

pub use act::{Act, BodyDigest, HttpBinding, Kind, Params, Scalar};
pub use certificate::{CERTIFICATE_HEADER_MAX_BYTES, SaeCertificate};
pub use claims::{
    Claims, Context, Envelope, Jti, LogRef, Model, PolicyBinding, Settlement, StateAge,
};
#[cfg(feature = "ring")]
pub use crypto::RingVerifier;
pub use crypto::{
    Algorithm, DefaultVerifier, PureVerifier, SignError, SignatureCheck, SignatureVerifier, Signer,
    low_s,
};
pub use denial::{Decision, Denial, Effect};
pub use issue::{
    IssueError, issue_denial, issue_envelope, issue_key_statement, issue_receipt,
    issue_stapled_envelope,
};
pub use jws::{COMPACT_MAX_BYTES, Compact, Token, Unverified, Verified, sae_hash};
pub use key::{ChainError, ChainVerifier, VerifiedSvid, VerifyKey, leaf_kid};
pub use receipt::{Outcome, ReceiptClaims};
pub use refusal::Refusal;
pub use replay::{Durability, ReplayError, ReplayFuture, ReplayStore, Use, replay_key};
pub use signers::{EdDsaSigner, Es256Signer};
pub use statement::{Confirmation, KeyStatement, OkpJwk};
pub use verify::Expectations;

/// An envelope whose signature, issuer, audience and times were verified.
pub type VerifiedEnvelope = Verified<Envelope>;

/// Names of the fields on the wire.
pub mod fields {
    /// The envelope, compact form.
    pub const SAE: &str = "sae";
    /// In place of the envelope, where denials are only observed: the denial, compact form. No PEP
    /// that enforces takes it for anything.
    pub const SAE_DENIAL: &str = "sae-denial";
    /// Certificate chain and key statement ([`crate::SaeCertificate`]).
    pub const SAE_CERTIFICATE: &str = "sae-certificate";
    /// Stapled status response, bound by the `ocsp#S256` header parameter.
    pub const SAE_STATUS: &str = "sae-status";
    /// Receipt of the target: `accepted` as a header, the final one as a trailer.
    pub const SAE_RECEIPT: &str = "sae-receipt";
}

/// Lifetime of an envelope, `exp - iat`, in seconds.
pub mod lifetime {
    /// Shortest lifetime issued or accepted.
    pub const MIN: u64 = 30;
    /// Longest lifetime issued or accepted.
    pub const MAX: u64 = 300;
    /// Lifetime where policy names none.
    pub const DEFAULT: u64 = 60;
    /// Greatest clock skew that a verifier may be configured to tolerate.
    pub const MAX_SKEW: u64 = 60;
}
