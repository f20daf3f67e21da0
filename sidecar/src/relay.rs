//! The relay that serves this sidecar's chain state, and the revocation notices that come by it.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::task::AbortHandle;
use writ_chain::{Clock, Relay as _, StateFeed};
use writ_identity::{CurrentBundles, SvidSource};
use writ_relay::limits::MAX_SEEN;
use writ_relay::{
    ClientSettings, Holds, RelayClient, RelayError, SeenAction, SeenAmount, Witnesses, settle,
};

use crate::config::{Config, Relay};
use crate::seen::{Count, Due, Kind, Seen};

/// How long the relay's first head is waited for at start, so that a cluster that starts does not ask the endpoints all
/// at once.
const FIRST_HEAD: Duration = Duration::from_secs(1);

/// The relay in use, if there is one.
pub struct Relays {
    /// Agents that are refused by notice.
    pub holds: Arc<Holds>,
    source: Arc<dyn SvidSource>,
    clock: Arc<dyn Clock>,
    running: Mutex<Option<Running>>,
}

/// What became of a report.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reported {
    /// There is nothing to tell that was not told.
    Told,
    /// The relay does not keep it now.
    Refused,
    /// There is no relay.
    Away,
}

fn action((kind, count): &(Kind, Count)) -> SeenAction {
    let kind = kind.clone();
    SeenAction {
        capability: kind.capability,
        class: kind.class,
        resource: kind.resource,
        destination: kind.destination,
        method: kind.method,
        path: kind.path,
        tool: kind.tool,
        denied: kind.denied,
        rule: kind.rule,
        count: count.count,
        first: count.first,
        last: count.last,
        amount: count.amount.as_ref().map(|amount| SeenAmount {
            value: amount.value,
            scale: amount.scale,
            unit: amount.unit.clone(),
        }),
    }
}

/// A connection, and what looks after its notices.
struct Running {
    config: Relay,
    client: Arc<RelayClient>,
    settling: AbortHandle,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.settling.abort();
    }
}

impl Relays {
    /// None yet.
    pub fn new(config: &Config, source: Arc<dyn SvidSource>, clock: Arc<dyn Clock>) -> Self {
        let holds = Holds::new(config.state.revocation_hold, Arc::clone(&clock));
        Self {
            holds: Arc::new(holds),
            source,
            clock,
            running: Mutex::new(None),
        }
    }

    /// Connects to the configured relay, and waits a moment for its first head.
    ///
    /// # Errors
    /// Settings that cannot work.
    pub async fn first(&self, config: &Config) -> Result<Option<Arc<RelayClient>>, RelayError> {
        let Some(relay) = &config.state.relay else {
            return Ok(None);
        };
        let client = self.connect(config, relay)?;
        let mut changes = client.changes();
        let head = async { while client.head().is_none() && changes.changed().await.is_ok() {} };
        if tokio::time::timeout(FIRST_HEAD, head).await.is_err() {
            tracing::warn!(relay = relay.address, "no head from the relay yet");
        }
        Ok(Some(client))
    }

    /// Looks after what comes by this connection from now on.
    pub fn follow(&self, config: &Config, client: Arc<RelayClient>, feed: &Arc<StateFeed>) {
        let Some(relay) = config.state.relay.clone() else {
            return;
        };
        let settling = tokio::spawn(settle(
            Arc::clone(&self.holds),
            Arc::clone(feed),
            Arc::clone(&client),
        ));
        let running = Running {
            config: relay,
            client,
            settling: settling.abort_handle(),
        };
        self.replace(Some(running));
    }

    /// Connects as a changed configuration says.
    ///
    /// # Errors
    /// Settings that cannot work; nothing is changed then.
    pub fn reload(&self, config: &Config, feed: &Arc<StateFeed>) -> Result<(), RelayError> {
        let before = self.lock().as_ref().map(|running| running.config.clone());
        if before == config.state.relay {
            return Ok(());
        }
        match &config.state.relay {
            None => {
                feed.set_relay(None);
                self.replace(None);
            }
            Some(relay) => {
                let client = self.connect(config, relay)?;
                feed.set_relay(Some(Arc::clone(&client) as Arc<dyn writ_chain::Relay>));
                self.follow(config, client, feed);
            }
        }
        Ok(())
    }

    /// Reports what the agent did, if a relay is there: what it does not keep is reported later.
    pub async fn report(&self, seen: &Seen, due: Due) -> Reported {
        let running = self
            .lock()
            .as_ref()
            .map(|running| Arc::clone(&running.client));
        let Some(client) = running.filter(|client| client.metrics().connected) else {
            return Reported::Away;
        };
        let rows = seen.untold(due, MAX_SEEN);
        if rows.is_empty() {
            return Reported::Told;
        }
        let actions: Vec<SeenAction> = rows.iter().map(action).collect();
        match client.report(&actions).await {
            Ok(()) => {
                seen.told(&rows);
                Reported::Told
            }
            Err(error) => {
                tracing::info!(%error, "what the agent did is not kept yet");
                Reported::Refused
            }
        }
    }

    /// Whether a relay is configured, and a stream to it is open.
    pub fn connected(&self) -> Option<bool> {
        let running = self.lock();
        running
            .as_ref()
            .map(|running| running.client.metrics().connected)
    }

    fn connect(&self, config: &Config, relay: &Relay) -> Result<Arc<RelayClient>, RelayError> {
        let bundles = Arc::new(CurrentBundles::new(Arc::clone(&self.source)));
        let witnesses = Witnesses::new(
            &relay.witnesses,
            relay.needed,
            relay.skew.as_secs(),
            bundles,
        )?;
        let settings = ClientSettings {
            chain_id: config.chain.chain_id,
            address: relay.address.clone(),
            spiffe_id: relay.spiffe_id.clone(),
            witnesses,
            grace: config.chain.poll * 2 + Duration::from_secs(1),
            holds: Arc::clone(&self.holds),
        };
        Ok(RelayClient::start(
            settings,
            Arc::clone(&self.source),
            Arc::clone(&self.clock),
        ))
    }

    fn replace(&self, running: Option<Running>) {
        *self.lock() = running;
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<Running>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
