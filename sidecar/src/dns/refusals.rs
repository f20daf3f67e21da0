//! Reports refused queries without letting an agent fill the record with them.

use std::time::Duration;

use super::message::Refused;
use super::{Limits, TokenBucket};

/// One report.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RefusedQuery {
    /// What was refused, and why.
    pub query: Refused,
    /// How many refusals went unreported since the last report.
    pub suppressed: u64,
}

/// Where refused queries are recorded. Called on the DNS path: it hands over and returns.
pub trait RefusalSink: Send + Sync {
    /// A query was refused.
    fn refused(&self, query: RefusedQuery);
}

/// Lets so many reports through, and counts the rest.
#[derive(Debug)]
pub(super) struct Reports {
    bucket: TokenBucket,
    suppressed: u64,
}

impl Reports {
    pub(super) fn new(limits: &Limits, now: Duration) -> Self {
        let bucket = TokenBucket::new(limits.reports_per_second, limits.report_burst, now);
        Self {
            bucket,
            suppressed: 0,
        }
    }

    pub(super) fn admit(&mut self, query: Refused, now: Duration) -> Option<RefusedQuery> {
        if !self.bucket.take(now) {
            self.suppressed = self.suppressed.saturating_add(1);
            return None;
        }
        Some(RefusedQuery {
            query,
            suppressed: std::mem::take(&mut self.suppressed),
        })
    }
}

#[cfg(test)]
mod tests {
    #![allow(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::panic,
        clippy::indexing_slicing
    )]
    use super::super::Reason;
    use super::*;

    #[test]
    fn refusals_beyond_the_limit_are_counted_in_the_next_report() {
        let limits = Limits {
            reports_per_second: 1,
            report_burst: 1,
            ..Limits::default()
        };
        let mut reports = Reports::new(&limits, Duration::ZERO);
        let query = Refused {
            name: "x".into(),
            record_type: "A".into(),
            reason: Reason::NotInCatalog,
        };
        let mut at = |seconds| {
            reports
                .admit(query.clone(), Duration::from_secs(seconds))
                .map(|r| r.suppressed)
        };
        assert_eq!(
            [at(0), at(0), at(0), at(1), at(2)],
            [Some(0), None, None, Some(2), Some(0)]
        );
    }
}
