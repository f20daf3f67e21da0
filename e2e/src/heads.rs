//! When the chain's blocks came.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use alloy::providers::Provider as _;
use tokio::task::JoinHandle;
use tokio::time::sleep;

use crate::Chain;

const PAUSE: Duration = Duration::from_millis(20);

/// Watches a chain's head while it lives.
pub struct Heads {
    /// Number, and when it was first seen, in seconds since the epoch.
    seen: Arc<Mutex<Vec<(u64, f64)>>>,
    watch: JoinHandle<()>,
}

impl Heads {
    /// Watches from now on.
    pub fn watch(chain: &Chain) -> Self {
        let seen = Arc::new(Mutex::new(Vec::new()));
        let provider = chain.provider();
        let watch = {
            let seen = Arc::clone(&seen);
            tokio::spawn(async move {
                let mut last = None;
                loop {
                    if let Ok(number) = provider.get_block_number().await
                        && last != Some(number)
                    {
                        seen.lock().expect("no panic").push((number, now()));
                        last = Some(number);
                    }
                    sleep(PAUSE).await;
                }
            })
        };
        Self { seen, watch }
    }

    /// The newest block at a time since this watches, in seconds since the epoch.
    pub fn at(&self, time: f64) -> u64 {
        let seen = self.seen.lock().expect("no panic");
        let before = seen.iter().rev().find(|(_, since)| *since <= time);
        before.or(seen.first()).expect("a head").0
    }
}

impl Drop for Heads {
    fn drop(&mut self) {
        self.watch.abort();
    }
}

/// Seconds since the epoch, as the peers tell their times.
pub fn now() -> f64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.expect("a clock after 1970").as_secs_f64()
}
