//! Time as a value that can be injected: wall time, which an operator can set, and monotonic time, which nobody can.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Two clocks. Freshness needs both: wall time may be set back, monotonic time may stand still while suspended.
pub trait Clock: Send + Sync {
    /// Wall time.
    fn wall(&self) -> SystemTime;
    /// Time since a fixed, arbitrary point. Never goes back.
    fn monotonic(&self) -> Duration;
    /// Wall time in unix seconds, 0 before 1970.
    fn unix_seconds(&self) -> u64 {
        self.wall()
            .duration_since(UNIX_EPOCH)
            .map_or(0, |since| since.as_secs())
    }
}

/// The system's clocks.
#[derive(Debug, Clone, Copy)]
pub struct SystemClock {
    start: Instant,
}

impl SystemClock {
    /// Monotonic time counts from here.
    pub fn new() -> Self {
        Self {
            start: Instant::now(),
        }
    }
}

impl Default for SystemClock {
    fn default() -> Self {
        Self::new()
    }
}

impl Clock for SystemClock {
    fn wall(&self) -> SystemTime {
        SystemTime::now()
    }

    fn monotonic(&self) -> Duration {
        self.start.elapsed()
    }
}

/// Clocks that move only when told to, for tests.
#[derive(Debug)]
pub struct TestClock {
    wall_ms: AtomicU64,
    monotonic_ms: AtomicU64,
}

impl TestClock {
    /// Starts at this wall time, in unix seconds.
    pub fn at(unix_seconds: u64) -> Self {
        Self {
            wall_ms: AtomicU64::new(unix_seconds.saturating_mul(1000)),
            monotonic_ms: AtomicU64::new(0),
        }
    }

    /// Lets both clocks run on, as time does.
    pub fn advance(&self, by: Duration) {
        let by = u64::try_from(by.as_millis()).unwrap_or(u64::MAX);
        self.wall_ms.fetch_add(by, Ordering::SeqCst);
        self.monotonic_ms.fetch_add(by, Ordering::SeqCst);
    }

    /// Sets the wall clock alone, as an operator or an attacker does.
    pub fn set_wall(&self, unix_seconds: u64) {
        self.wall_ms
            .store(unix_seconds.saturating_mul(1000), Ordering::SeqCst);
    }
}

impl Clock for TestClock {
    fn wall(&self) -> SystemTime {
        UNIX_EPOCH + Duration::from_millis(self.wall_ms.load(Ordering::SeqCst))
    }

    fn monotonic(&self) -> Duration {
        Duration::from_millis(self.monotonic_ms.load(Ordering::SeqCst))
    }
}
