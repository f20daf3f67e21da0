//! One canonical form of a request, for the decision, the envelope and the target (M-11).
//!
//! A request is either exactly representable in the canonical form, and then that form is what is
//! decided, signed and forwarded, or it is refused. Whatever two HTTP implementations are known to
//! read differently (dot segments, encoded separators, repeated singleton fields, conflicting
//! framing, method overrides) is refused, never repaired. The form itself is specified in
//! `docs/canonical.md`.
//!
//! The crate is pure: no I/O and no clock.
#![forbid(unsafe_code)]

mod authority;
mod digest;
mod fields;
pub mod json;
mod limits;
pub mod mcp;
mod path;
mod query;
mod refusal;
mod request;

pub use authority::Authority;
pub use digest::{BodyBinding, content_digest, sha256, verify_content_digest};
pub use fields::{EXCLUDED_FIELDS, EXCLUDED_PREFIXES, is_excluded, remove_excluded};
pub use limits::{Limits, PathParameters};
pub use path::decoded_segments;
pub use refusal::Refusal;
pub use request::{CanonicalRequest, RawHead, Scheme, canonicalize};
