//! The current head with its state, and how old it is.

use std::sync::Arc;
use std::time::Duration;

use alloy_primitives::B256;
use writ_policy::Snapshot;

use crate::{ChainConfig, ChainError, Clock, HeadRefusal};

/// Proved state at one agreed head. Swapped as a whole.
#[derive(Debug, Clone)]
pub struct HeadState {
    /// The state.
    pub snapshot: Arc<Snapshot>,
    /// Monotonic time at which the endpoints were asked for this head.
    pub received: Duration,
    /// Seconds between the block's timestamp and the wall clock at that time.
    pub age_when_received: u64,
    /// True if everything in the warm set is in the snapshot.
    pub warm: bool,
}

impl HeadState {
    /// Height.
    pub fn number(&self) -> u64 {
        self.snapshot.header().number
    }

    /// Block hash.
    pub fn hash(&self) -> B256 {
        self.snapshot.header().hash
    }
}

/// How old state is, in seconds, and what that means (C-25).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Age {
    /// Within the fresh bound.
    Fresh(u64),
    /// Within the stale bound: usable where the verdict's `maxStateAge` allows it.
    Cached(u64),
    /// Beyond: nothing may be decided on it.
    TooOld(u64),
}

impl Age {
    /// Seconds.
    pub fn seconds(self) -> u64 {
        let (Self::Fresh(seconds) | Self::Cached(seconds) | Self::TooOld(seconds)) = self;
        seconds
    }
}

/// The larger of two ages: by wall clock against the block's timestamp, and by monotonic time since the block was first
/// received, to which its age at that time is added. Setting the wall clock back makes nothing younger; setting it
/// forward makes everything older.
pub(crate) fn age(config: &ChainConfig, clock: &dyn Clock, head: &HeadState) -> Age {
    let by_wall = clock
        .unix_seconds()
        .saturating_sub(head.snapshot.header().timestamp);
    let since = clock.monotonic().saturating_sub(head.received).as_secs();
    let seconds = by_wall.max(since.saturating_add(head.age_when_received));
    if seconds <= config.fresh.as_secs() {
        Age::Fresh(seconds)
    } else if seconds <= config.max_stale.as_secs() {
        Age::Cached(seconds)
    } else {
        Age::TooOld(seconds)
    }
}

/// What whoever watches the chain should know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ChainEvent {
    /// Heads on which decisions may have been made are no longer part of the chain. Those decisions stay valid as made,
    /// and are marked.
    Reorg {
        /// Height and hash of the lost heads, newest first.
        orphaned: Vec<(u64, B256)>,
        /// Height of the head now.
        number: u64,
        /// Its hash.
        hash: B256,
    },
    /// A head that a quorum agrees on was refused.
    HeadRefused(HeadRefusal),
    /// A look at the head failed; the head before stays, and ages.
    Failed(ChainError),
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::TestClock;
    use writ_policy::testing::World;

    /// A block of `age` seconds, received now; bounds of 5 s and 15 s.
    fn received(age: u64) -> (ChainConfig, TestClock, HeadState) {
        let world = World::new();
        let clock = TestClock::at(world.timestamp + age);
        let config = ChainConfig {
            fresh: Duration::from_secs(5),
            max_stale: Duration::from_secs(15),
            ..ChainConfig::new(Vec::new(), world.registries())
        };
        let head = HeadState {
            snapshot: Arc::new(world.snapshot(&[])),
            received: clock.monotonic(),
            age_when_received: age,
            warm: true,
        };
        (config, clock, head)
    }

    #[test]
    fn the_bounds_are_inclusive() {
        for (seconds, expected) in [
            (0, Age::Fresh(0)),
            (5, Age::Fresh(5)),
            (6, Age::Cached(6)),
            (15, Age::Cached(15)),
            (16, Age::TooOld(16)),
        ] {
            let (config, clock, head) = received(0);
            clock.advance(Duration::from_secs(seconds));
            assert_eq!(age(&config, &clock, &head), expected);
        }
    }

    #[test]
    fn a_head_that_came_late_stays_as_old_when_the_clock_is_set_back() {
        let (config, clock, head) = received(10);
        assert_eq!(age(&config, &clock, &head), Age::Cached(10));
        clock.set_wall(head.snapshot.header().timestamp);
        assert_eq!(age(&config, &clock, &head), Age::Cached(10));
        clock.advance(Duration::from_secs(6));
        assert_eq!(age(&config, &clock, &head), Age::TooOld(16));
    }

    #[test]
    fn a_clock_set_forward_makes_everything_too_old() {
        let (config, clock, head) = received(0);
        clock.set_wall(head.snapshot.header().timestamp + 1000);
        assert_eq!(age(&config, &clock, &head), Age::TooOld(1000));
    }
}
