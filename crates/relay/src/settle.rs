//! What becomes of agents that are refused by notice: the chain's proved state confirms it, or the time ends.

use std::sync::Arc;
use std::time::Duration;

use writ_chain::StateFeed;
use writ_policy::{AgentStatus, registration};

use crate::{Enforcement, Holds, Notice, RelayClient};

/// How often the time of holds is looked at.
const EVERY: Duration = Duration::from_secs(1);
/// Notices that refuse nobody are looked up so many at a time: a relay can send many.
const AT_A_TIME: usize = 8;
/// How long proved state is waited for.
const WITHIN: Duration = Duration::from_millis(250);

/// Looks at the chain with every head and every notice, and tells the relay what came of them. Runs until it is dropped.
pub async fn settle(holds: Arc<Holds>, feed: Arc<StateFeed>, relay: Arc<RelayClient>) {
    let mut heads = feed.watch();
    let mut notices = holds.watch();
    let mut last = String::new();
    loop {
        tokio::select! {
            // Both senders live as long as what is held here.
            _ = heads.changed() => {}
            _ = notices.changed() => {}
            () = tokio::time::sleep(EVERY) => {}
        }
        for notice in holds.ended() {
            relay.acknowledge(&notice.id, Enforcement::Ended);
        }
        for notice in holds.open() {
            if proved(&feed, &notice).await {
                holds.confirmed(&notice.id);
                relay.acknowledge(&notice.id, Enforcement::Proved);
            }
        }
        // Too old to be held, for one: the agent is refused by the chain alone, and the relay is to know.
        for notice in holds.left(AT_A_TIME, &last) {
            if proved(&feed, &notice).await {
                holds.settled(&notice.id);
                relay.acknowledge(&notice.id, Enforcement::Proved);
            }
            last = notice.id;
        }
    }
}

/// Whether the chain's newest proved state says that the agent is revoked.
async fn proved(feed: &StateFeed, notice: &Notice) -> bool {
    let Some(key) = &notice.agent_key else {
        return false;
    };
    let registries = feed.config().registries;
    let read = |head: &writ_chain::HeadState| registration(&head.snapshot, &registries, key);
    match feed.evaluate(WITHIN, read).await {
        Ok((registration, _)) => registration.status == AgentStatus::Revoked,
        Err(error) => {
            tracing::debug!(%error, id = notice.id, "a revocation by notice was not looked up");
            false
        }
    }
}
