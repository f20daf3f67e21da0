//! What a request is: destination, capability, data class, resource and amount.
//!
//! The catalog is written by the platform team and pinned on chain by its hash. It never decides
//! whether a request may run; it names the request so that the policy contract can. What it cannot
//! name is capability [`UNLISTED`] and denied. How to write one: `docs/catalog.md`.
//!
//! The crate is pure: no I/O and no clock.
#![forbid(unsafe_code)]

mod amount;
mod body;
mod classify;
mod classify_custom;
mod classify_mcp;
mod destination;
pub mod detect;
mod error;
mod index;
mod intent;
mod load;
pub mod model;
mod refusal;
mod routes;
mod template;
mod validate;

use std::collections::BTreeSet;

pub use amount::Amount;
pub use body::BodyView;
pub use destination::{Destination, Peer};
pub use error::CatalogError;
pub use intent::{Intent, Kind};
pub use model::{AgentTls, Class, Envelope, Pep, Protocol, Upstream, UpstreamMode};
pub use refusal::{Reason, Refusal};

use detect::Detectors;
use index::Index;
use model::{Document, EntrySpec};

/// Capability of whatever the catalog does not name. Always denied.
pub const UNLISTED: &str = "unlisted";

/// What stands for the method of an action that the agent described to the local API, where what agents did is
/// told. No method of HTTP has a space.
pub const CUSTOM_ACTION: &str = "custom action";

/// A validated catalog. Immutable; share it in an `Arc`.
#[derive(Debug)]
pub struct Catalog {
    document: Document,
    hash: [u8; 32],
    destinations: Vec<Destination>,
    entries: Vec<EntrySpec>,
    index: Index,
    detectors: Detectors,
}

impl Catalog {
    /// SHA-256 of the RFC 8785 form of the document as written (YAML is read as JSON first). This is
    /// what `PolicyRegistry` pins.
    #[must_use]
    pub fn hash(&self) -> [u8; 32] {
        self.hash
    }

    /// The document that was loaded.
    #[must_use]
    pub fn document(&self) -> &Document {
        &self.document
    }

    /// The destination that serves `host` (canonical form, as in
    /// [`writ_canonical::CanonicalRequest`]) at `port`: an exact name first, then the longest
    /// `*.suffix`. `None`: nothing may go there.
    #[must_use]
    pub fn destination(&self, host: &str, port: u16) -> Option<&Destination> {
        self.index
            .destination(host, port)
            .and_then(|at| self.destinations.get(at))
    }

    /// All destinations, in the order written.
    pub fn destinations(&self) -> impl Iterator<Item = &Destination> {
        self.destinations.iter()
    }

    /// Host patterns that DNS may resolve: exact names and `*.suffix`; no IP literals.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.destinations
            .iter()
            .map(|d| d.host.as_str())
            .filter(|host| !destination::is_ip_literal(host))
    }

    /// True when some destination can be reached under this name, at whatever port. Lower-case
    /// A-labels without a trailing dot.
    #[must_use]
    pub fn resolvable(&self, name: &str) -> bool {
        self.names()
            .any(|pattern| destination::host_matches(pattern, name))
    }

    /// All capabilities that a request can get, sorted, without [`UNLISTED`].
    pub fn capabilities(&self) -> impl Iterator<Item = &str> {
        self.entries
            .iter()
            .map(|e| e.capability.as_str())
            .collect::<BTreeSet<_>>()
            .into_iter()
    }

    /// Every (capability, budget window in seconds) pair that a request can get; what the warm set is
    /// built from.
    pub fn windows(&self) -> impl Iterator<Item = (&str, u32)> {
        self.entries
            .iter()
            .map(|e| (e.capability.as_str(), e.window))
            .collect::<BTreeSet<_>>()
            .into_iter()
    }
}
