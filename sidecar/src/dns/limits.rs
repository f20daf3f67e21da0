//! How much DNS a pod may do.

use std::time::Duration;

/// The bounds of the DNS server. Beyond them queries are answered REFUSED without being resolved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Queries a second, on average, that are resolved.
    pub queries_per_second: u32,
    /// Queries that may come at once.
    pub query_burst: u32,
    /// Queries that wait for a name server at once.
    pub in_flight: usize,
    /// TCP connections at once.
    pub tcp_connections: usize,
    /// A TCP connection without a complete query for this long is closed.
    pub tcp_idle: Duration,
    /// Refused queries a second that are reported one by one; the rest is counted.
    pub reports_per_second: u32,
    /// Refused queries that may be reported at once.
    pub report_burst: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            queries_per_second: 200,
            query_burst: 400,
            in_flight: 128,
            tcp_connections: 32,
            tcp_idle: Duration::from_secs(10),
            reports_per_second: 1,
            report_burst: 50,
        }
    }
}

/// A token bucket. Pure: the caller says what time it is.
#[derive(Clone, Copy, Debug)]
pub struct TokenBucket {
    per_second: u32,
    burst: u32,
    /// In billionths of a token, so that nothing is lost to rounding.
    level: u128,
    /// When it was filled, since the same origin as `now`.
    filled: Duration,
}

const TOKEN: u128 = 1_000_000_000;

impl TokenBucket {
    /// A full bucket.
    #[must_use]
    pub fn new(per_second: u32, burst: u32, now: Duration) -> Self {
        Self {
            per_second,
            burst,
            level: u128::from(burst) * TOKEN,
            filled: now,
        }
    }

    /// Takes one token, if there is one. `now` that goes back fills nothing.
    pub fn take(&mut self, now: Duration) -> bool {
        let passed = now.saturating_sub(self.filled).as_nanos();
        self.filled = self.filled.max(now);
        let full = u128::from(self.burst) * TOKEN;
        self.level = self
            .level
            .saturating_add(passed.saturating_mul(u128::from(self.per_second)))
            .min(full);
        let Some(rest) = self.level.checked_sub(TOKEN) else {
            return false;
        };
        self.level = rest;
        true
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
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_burst_is_followed_by_the_rate() {
        let mut bucket = TokenBucket::new(10, 3, Duration::ZERO);
        let at = |millis| Duration::from_millis(millis);
        assert_eq!(
            [0, 0, 0, 0].map(|t| bucket.take(at(t))),
            [true, true, true, false]
        );
        assert_eq!(
            [99, 100, 100, 200].map(|t| bucket.take(at(t))),
            [false, true, false, true]
        );
    }

    proptest! {
        #[test]
        fn no_interval_gives_more_than_burst_and_rate(rate in 1u32..50, burst in 1u32..50, steps in prop::collection::vec(0u64..400, 1..300)) {
            let mut bucket = TokenBucket::new(rate, burst, Duration::ZERO);
            let mut now = Duration::ZERO;
            let mut taken = 0u128;
            for step in steps {
                now += Duration::from_millis(step);
                taken += u128::from(bucket.take(now));
            }
            prop_assert!(taken <= u128::from(burst) + u128::from(rate) * now.as_millis() / 1000);
        }
    }
}
