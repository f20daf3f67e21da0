//! The PEP's own view of its callers: proved chain state, read by itself.

use std::sync::Arc;
use std::time::Duration;

use writ_chain::{ChainError, HeadState, StateFeed};
use writ_pep::{BoxFuture, CallerState, CallerView, StateError};
use writ_policy::{AgentStatus, Registries, registration};
use writ_relay::Holds;

/// How long a caller never seen before may take to be proved (design, section 5).
const COLD_WAIT: Duration = Duration::from_millis(250);

/// Callers as the registries of one chain know them.
pub struct ProvedCallers {
    feed: Arc<StateFeed>,
    registries: Registries,
    holds: Arc<Holds>,
}

impl ProvedCallers {
    /// Callers that these registries know, but those that are refused by notice.
    pub fn new(feed: Arc<StateFeed>, registries: Registries, holds: Arc<Holds>) -> Self {
        Self {
            feed,
            registries,
            holds,
        }
    }

    async fn read(&self, agent_key: [u8; 32]) -> Result<CallerView, StateError> {
        let read = |head: &HeadState| registration(&head.snapshot, &self.registries, &agent_key);
        let (mut registration, head) =
            self.feed
                .evaluate(COLD_WAIT, read)
                .await
                .map_err(|error| match error {
                    ChainError::TooOld(_) | ChainError::NoHead => StateError::Stale,
                    other => StateError::Unavailable(other.to_string()),
                })?;
        if self.holds.refuses_key(&agent_key) {
            registration.status = AgentStatus::Revoked;
        }
        Ok(CallerView {
            registration,
            block: head.number(),
        })
    }
}

impl CallerState for ProvedCallers {
    fn chain_id(&self) -> u64 {
        self.registries.chain_id
    }

    fn head(&self) -> Option<u64> {
        let head = self.feed.current()?;
        Some(head.number())
    }

    fn wait_for_block(&self, block: u64, within: Duration) -> BoxFuture<'_, Option<u64>> {
        Box::pin(async move {
            let mut heads = self.feed.watch();
            self.feed.look_now();
            let reached = async {
                while self.head().is_none_or(|head| head < block) {
                    if heads.changed().await.is_err() {
                        break;
                    }
                }
            };
            // Late is answered by the head that is there.
            let _ = tokio::time::timeout(within, reached).await;
            self.head()
        })
    }

    fn registration(&self, agent_key: [u8; 32]) -> BoxFuture<'_, Result<CallerView, StateError>> {
        Box::pin(self.read(agent_key))
    }
}
