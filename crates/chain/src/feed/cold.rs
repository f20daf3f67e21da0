//! State outside the warm set, fetched while a request waits: bounded in time, in number and in size.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::time::Instant;
use writ_policy::{SnapshotBuilder, StateKey};

use super::{HeadState, Inner, lock};
use crate::ChainError;
use crate::metrics::count;

/// Most keys that one request may lack at a time. A registry entry and a rule together have about thirty.
const MAX_COLD_KEYS: usize = 256;

impl Inner {
    /// Extends `at`, or the current head.
    pub(super) async fn fetch_missing(
        &self,
        at: Option<Arc<HeadState>>,
        keys: &[StateKey],
        within: Duration,
    ) -> Result<Arc<HeadState>, ChainError> {
        if keys.len() > MAX_COLD_KEYS {
            return Err(ChainError::TooManyKeys(keys.len(), MAX_COLD_KEYS));
        }
        let within = within.min(self.config.max_cold_wait);
        count(&self.counters.cold_waits);
        let start = Instant::now();
        let answer = tokio::time::timeout(within, self.fetch(at, keys)).await;
        let waited = u64::try_from(start.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.counters
            .cold_wait_ms
            .fetch_add(waited, Ordering::Relaxed);
        let millis = u64::try_from(self.config.max_cold_wait.as_millis()).unwrap_or(u64::MAX);
        let head = answer.unwrap_or(Err(ChainError::ColdTimeout(millis)))?;
        count(&self.counters.cold_served);
        Ok(head)
    }

    async fn fetch(
        &self,
        at: Option<Arc<HeadState>>,
        keys: &[StateKey],
    ) -> Result<Arc<HeadState>, ChainError> {
        let base = at
            .or_else(|| self.head.load_full())
            .ok_or(ChainError::NoHead)?;
        // Learned first: if it comes too late for this request, it is there for the next.
        lock(&self.warm).learn(keys);
        // Never closed; the wait is bounded by the caller.
        let _permit = self.cold.acquire().await.ok();
        // Somebody else may have fetched it meanwhile.
        let base = self
            .head
            .load_full()
            .filter(|now| now.hash() == base.hash())
            .unwrap_or(base);
        let missing: BTreeSet<StateKey> = keys
            .iter()
            .filter(|key| !base.snapshot.contains(key))
            .copied()
            .collect();
        if missing.is_empty() {
            return Ok(base);
        }
        if base.snapshot.size().1 + missing.len() > self.config.max_slots {
            return Err(ChainError::SnapshotFull(self.config.max_slots));
        }
        let mut builder = SnapshotBuilder::extending(&base.snapshot);
        self.prover(self.config.hedge)
            .prove_all(&mut builder, &missing)
            .await?;
        let hash = base.hash();
        let head = Arc::new(HeadState {
            snapshot: Arc::new(builder.build()),
            ..HeadState::clone(&base)
        });
        self.publish(Arc::clone(&head), Some(hash));
        Ok(head)
    }
}
