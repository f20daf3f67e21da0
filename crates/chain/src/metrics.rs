//! Counters as plain numbers; whoever exports them names them.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::EndpointErrorKind;

/// What a [`crate::StateFeed`] has done and where it stands.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FeedMetrics {
    /// Height of the current head, 0 without one.
    pub head_number: u64,
    /// Age of the current head in seconds, as staleness counts it; `None` without one.
    pub head_age: Option<u64>,
    /// Heads taken.
    pub heads: u64,
    /// Reorgs seen.
    pub reorgs: u64,
    /// Agreed heads that were refused.
    pub heads_refused: u64,
    /// Looks at the head that ended without a new or confirmed head.
    pub failed_polls: u64,
    /// Evaluations that waited for state outside the warm set.
    pub cold_waits: u64,
    /// Of these, the ones that got it.
    pub cold_served: u64,
    /// Milliseconds spent in such waits, in all.
    pub cold_wait_ms: u64,
    /// Accounts in the current snapshot.
    pub accounts: u64,
    /// Slots in the current snapshot.
    pub slots: u64,
    /// Heads taken from a relay.
    pub heads_relayed: u64,
    /// Each endpoint's counters.
    pub endpoints: Vec<EndpointMetrics>,
    /// The relay's, where there is one.
    pub relay: Option<EndpointMetrics>,
}

/// One endpoint's counters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EndpointMetrics {
    /// Host and port.
    pub endpoint: String,
    /// Requests sent.
    pub calls: u64,
    /// Account and slot proofs that held.
    pub proofs_checked: u64,
    /// Failures by kind; [`EndpointErrorKind::Lied`] counts headers, proofs and code that did not hold.
    pub errors: Vec<(EndpointErrorKind, u64)>,
}

impl EndpointMetrics {
    /// Failures of one kind.
    pub fn errors_of(&self, kind: EndpointErrorKind) -> u64 {
        self.errors
            .iter()
            .find(|(k, _)| *k == kind)
            .map_or(0, |(_, count)| *count)
    }
}

/// The feed's own counters.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub heads: AtomicU64,
    pub heads_relayed: AtomicU64,
    pub reorgs: AtomicU64,
    pub heads_refused: AtomicU64,
    pub failed_polls: AtomicU64,
    pub cold_waits: AtomicU64,
    pub cold_served: AtomicU64,
    pub cold_wait_ms: AtomicU64,
}

impl Counters {
    pub fn metrics(&self) -> FeedMetrics {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        FeedMetrics {
            heads: read(&self.heads),
            heads_relayed: read(&self.heads_relayed),
            reorgs: read(&self.reorgs),
            heads_refused: read(&self.heads_refused),
            failed_polls: read(&self.failed_polls),
            cold_waits: read(&self.cold_waits),
            cold_served: read(&self.cold_served),
            cold_wait_ms: read(&self.cold_wait_ms),
            ..FeedMetrics::default()
        }
    }
}

/// Adds one.
pub(crate) fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}
