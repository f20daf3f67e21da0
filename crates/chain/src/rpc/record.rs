//! What one source of state did so far, in counters.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use super::{EndpointError, EndpointErrorKind as Kind};
use crate::metrics::EndpointMetrics;

/// Bad answers weigh at most this much.
const MAX_PENALTY: u32 = 64;
/// What a lie weighs.
const LIE: u32 = 16;

/// Calls, proofs and failures of one source, and how little it is worth asking first.
#[derive(Debug)]
pub(crate) struct Record {
    /// Host and port.
    pub label: String,
    penalty: AtomicU32,
    calls: AtomicU64,
    proofs_checked: AtomicU64,
    errors: [AtomicU64; Kind::ALL.len()],
}

impl Record {
    pub fn new(label: String) -> Self {
        Self {
            label,
            penalty: AtomicU32::new(0),
            calls: AtomicU64::new(0),
            proofs_checked: AtomicU64::new(0),
            errors: Default::default(),
        }
    }

    /// One more request was sent.
    pub fn called(&self) {
        self.calls.fetch_add(1, Ordering::Relaxed);
    }

    /// An account's proof and this many slots' held.
    pub fn proved(&self, slots: usize) {
        let checked = u64::try_from(slots).unwrap_or(u64::MAX).saturating_add(1);
        self.proofs_checked.fetch_add(checked, Ordering::Relaxed);
    }

    /// How little its answers are worth trying first. 0 is best.
    pub fn penalty(&self) -> u32 {
        self.penalty.load(Ordering::Relaxed)
    }

    /// Whether it lied a short while ago.
    pub fn lied(&self) -> bool {
        self.penalty() >= LIE
    }

    /// Time passed.
    pub fn forgive(&self) {
        self.weigh(|penalty| penalty / 2);
    }

    /// Weighs and counts an answer.
    pub fn judge<T>(&self, answer: Result<T, EndpointError>) -> Result<T, EndpointError> {
        match &answer {
            Ok(_) => self.weigh(|penalty| penalty / 2),
            Err(error) if matches!(error.kind, Kind::Lied | Kind::Disagreed | Kind::WrongChain) => {
                self.weigh(|penalty| penalty + LIE);
            }
            Err(_) => self.weigh(|penalty| penalty + 2),
        }
        self.count(answer)
    }

    /// Counts an answer that weighs nothing.
    pub fn count<T>(&self, answer: Result<T, EndpointError>) -> Result<T, EndpointError> {
        if let Err(error) = &answer {
            if let Some(counter) = self.errors.get(error.kind as usize) {
                counter.fetch_add(1, Ordering::Relaxed);
            }
            tracing::debug!(source = %self.label, %error, "chain source failed");
        }
        answer
    }

    pub fn metrics(&self) -> EndpointMetrics {
        let errors = Kind::ALL.iter().zip(&self.errors);
        EndpointMetrics {
            endpoint: self.label.clone(),
            calls: self.calls.load(Ordering::Relaxed),
            proofs_checked: self.proofs_checked.load(Ordering::Relaxed),
            errors: errors
                .map(|(kind, count)| (*kind, count.load(Ordering::Relaxed)))
                .collect(),
        }
    }

    fn weigh(&self, weight: fn(u32) -> u32) {
        let update = |penalty| Some(weight(penalty).min(MAX_PENALTY));
        let _ = self
            .penalty
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, update);
    }
}
