//! Identity of a Writ process: its SPIFFE X.509-SVID, whom it trusts, and what it signs with.
//!
//! - [`WorkloadApiSource`] keeps SVID and bundles fresh from any SPIFFE Workload API (SPIRE's, or
//!   `writ-dev-issuer`'s); everything else takes a [`SvidSource`] and follows its rotation.
//! - [`TrustBundles::verify_chain`] is the one place where a certificate chain becomes an identity,
//!   for TLS peers and for envelopes alike. Its clock is a parameter.
//! - [`tls`] makes mTLS settings that authorize by SPIFFE ID; [`ca`] is the per-pod CA of
//!   intercepted connections.
//! - [`EnvelopeKeys`] hands out [`writ_sae::Signer`]s: the SVID's own key (ES256) or an in-memory
//!   Ed25519 key that the SVID delegates to.
//!
//! Private keys stay in memory. The one exception is the interception CA, whose key may be kept in
//! a memory-backed directory that only the sidecar mounts.
#![forbid(unsafe_code)]

mod bundle;
pub mod ca;
mod current;
mod error;
mod leaf;
mod signer;
mod source;
mod svid;
pub mod tls;
mod workload_api;

pub use bundle::{MAX_AUTHORITIES, TrustBundles};
pub use current::CurrentBundles;
pub use error::IdentityError;
pub use signer::{
    CurrentSigner, DELEGATED_KEY_LIFETIME, DelegatedSigner, EnvelopeKeys, KeyKind, SvidSigner,
};
pub use source::{StaticSource, SvidSource};
pub use svid::Svid;
pub use workload_api::{SourceHealth, WorkloadApiSource, WorkloadApiSourceBuilder};
pub use writ_sae::VerifiedSvid;

/// Most certificates in a chain: the leaf, and up to four authorities below the bundle.
pub const MAX_CHAIN_CERTIFICATES: usize = 5;

/// Most bytes of one DER certificate.
pub const MAX_CERTIFICATE_BYTES: usize = 8 * 1024;

/// Checks that `id` is the SPIFFE ID of a workload (`spiffe://trust-domain/path`).
///
/// # Errors
/// [`IdentityError::InvalidSpiffeId`] with what is wrong.
pub fn check_spiffe_id(id: &str) -> Result<(), IdentityError> {
    leaf::workload_id(id).map(|_| ())
}
