//! The state feed: a background task that follows the head and keeps the warm set proved; reads are from memory.

mod advance;
mod cold;
mod head;

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use alloy_primitives::B256;
use arc_swap::ArcSwapOption;
use backon::{BackoffBuilder, ExponentialBuilder};
use tokio::sync::{Notify, Semaphore, broadcast, watch};
use tokio::task::AbortHandle;
use writ_policy::{EvalError, StateKey};

pub use head::{Age, ChainEvent, HeadState};

use crate::metrics::{Counters, count};
use crate::prover::{Prover, Source};
use crate::relay::Relayed;
use crate::rpc::{Endpoint, http_client};
use crate::warm::{Warm, WarmSet};
use crate::{ChainConfig, ChainError, Clock, FeedMetrics, Relay};

/// How often within a poll's time others may make the feed look for a new head.
const LOOKS_PER_POLL: u32 = 50;
/// Longest that one who makes it look waits for that.
const MAX_LOOK_GAP: Duration = Duration::from_millis(50);

/// Heads remembered, to tell which of them a reorg orphaned.
const HISTORY: usize = 64;
/// Rounds of evaluating and fetching.
const MAX_ROUNDS: usize = 16;
/// Events kept for a slow reader.
const EVENTS: usize = 64;
/// Fetches of cold state under way at one time; more wait their turn.
const COLD_FETCHES: usize = 32;
/// A failing chain is looked at this often at least.
const MAX_BACKOFF: Duration = Duration::from_secs(15);

/// Follows the chain's head and keeps proved state in memory. Dropping it ends the background task.
#[derive(Debug)]
pub struct StateFeed {
    inner: Arc<Inner>,
    task: AbortHandle,
}

pub(crate) struct Inner {
    config: ChainConfig,
    clock: Arc<dyn Clock>,
    endpoints: Vec<Arc<Endpoint>>,
    relay: ArcSwapOption<Relayed>,
    /// Since when the relay's head is behind the current one, in monotonic time.
    behind: Mutex<Option<Duration>>,
    head: ArcSwapOption<HeadState>,
    /// Held while a head is compared and stored, never across an await.
    publishing: Mutex<()>,
    warm: Mutex<Warm>,
    history: Mutex<VecDeque<(u64, B256)>>,
    heads: watch::Sender<u64>,
    events: broadcast::Sender<ChainEvent>,
    /// The feed's own wish to look again.
    nudge: Notify,
    /// That of others.
    looks: Notify,
    cold: Semaphore,
    counters: Counters,
}

impl std::fmt::Debug for Inner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Inner")
            .field("chain_id", &self.config.chain_id)
            .finish_non_exhaustive()
    }
}

impl StateFeed {
    /// Checks the configuration and starts to follow the chain. It does not wait for a head: see [`StateFeed::ready`].
    ///
    /// # Errors
    /// [`ChainError::Config`], [`ChainError::Client`].
    pub async fn start(
        config: ChainConfig,
        clock: Arc<dyn Clock>,
        initial: WarmSet,
    ) -> Result<Arc<Self>, ChainError> {
        Self::start_with(config, clock, initial, None).await
    }

    /// As [`StateFeed::start`], with a relay that is asked instead of the endpoints as long as it has a head. What it
    /// serves is checked like everything else.
    ///
    /// # Errors
    /// As [`StateFeed::start`].
    pub async fn start_with(
        config: ChainConfig,
        clock: Arc<dyn Clock>,
        initial: WarmSet,
        relay: Option<Arc<dyn Relay>>,
    ) -> Result<Arc<Self>, ChainError> {
        config.validate()?;
        let client = http_client(&config)?;
        let endpoint =
            |url: &url::Url| Arc::new(Endpoint::new(url.clone(), client.clone(), &config));
        let inner = Arc::new(Inner {
            endpoints: config.endpoints.iter().map(endpoint).collect(),
            relay: ArcSwapOption::new(relayed(relay)),
            behind: Mutex::new(None),
            clock,
            head: ArcSwapOption::empty(),
            publishing: Mutex::new(()),
            warm: Mutex::new(Warm::new(initial, config.max_slots)),
            history: Mutex::new(VecDeque::new()),
            heads: watch::Sender::new(0),
            events: broadcast::Sender::new(EVENTS),
            nudge: Notify::new(),
            looks: Notify::new(),
            cold: Semaphore::new(COLD_FETCHES),
            counters: Counters::default(),
            config,
        });
        let task = tokio::spawn(Arc::clone(&inner).run()).abort_handle();
        Ok(Arc::new(Self { inner, task }))
    }

    /// The newest head with its state. Reads memory only. Ask for its age before deciding on it.
    pub fn current(&self) -> Option<Arc<HeadState>> {
        self.inner.head.load_full()
    }

    /// How old this state is now.
    pub fn state_age(&self, head: &HeadState) -> Age {
        head::age(&self.inner.config, self.inner.clock.as_ref(), head)
    }

    /// Waits until there is a head that is not too old and holds the whole warm set.
    pub async fn ready(&self) -> Arc<HeadState> {
        let mut heads = self.inner.heads.subscribe();
        loop {
            heads.borrow_and_update();
            if let Some(head) = self.current()
                && head.warm
                && !matches!(self.state_age(&head), Age::TooOld(_))
            {
                return head;
            }
            // The sender lives as long as this does.
            let _ = heads.changed().await;
        }
    }

    /// Evaluates on the current head. What the evaluation lacks is fetched and proved at the same head, within the
    /// configured wait and `within`, and the evaluation repeats. Answers the head that it was made on.
    ///
    /// # Errors
    /// [`ChainError::NoHead`], [`ChainError::TooOld`], [`ChainError::Evaluation`], and those of
    /// [`StateFeed::fetch_missing`]. All are refusals.
    pub async fn evaluate<T>(
        &self,
        within: Duration,
        mut evaluate: impl FnMut(&HeadState) -> Result<T, EvalError>,
    ) -> Result<(T, Arc<HeadState>), ChainError> {
        let mut head = self.current().ok_or(ChainError::NoHead)?;
        let deadline = tokio::time::Instant::now() + within.min(self.inner.config.max_cold_wait);
        for _ in 0..MAX_ROUNDS {
            if let Age::TooOld(seconds) = self.state_age(&head) {
                return Err(ChainError::TooOld(seconds));
            }
            match evaluate(&head) {
                Ok(value) => return Ok((value, head)),
                Err(EvalError::Missing(keys)) => {
                    let left = deadline.saturating_duration_since(tokio::time::Instant::now());
                    head = self.inner.fetch_missing(Some(head), &keys, left).await?;
                }
                Err(error) => return Err(error.into()),
            }
        }
        Err(ChainError::Endless(MAX_ROUNDS))
    }

    /// Fetches and proves state outside the warm set at the current head, and adds it to the warm set. Waits no longer
    /// than `within` and the configured wait (250 ms). Evaluate on the head that it answers.
    ///
    /// # Errors
    /// [`ChainError::NoHead`], [`ChainError::ColdTimeout`], [`ChainError::TooManyKeys`],
    /// [`ChainError::SnapshotFull`], [`ChainError::Unproved`].
    pub async fn fetch_missing(
        &self,
        keys: &[StateKey],
        within: Duration,
    ) -> Result<Arc<HeadState>, ChainError> {
        self.inner.fetch_missing(None, keys, within).await
    }

    /// Replaces the warm set. It is proved at once.
    pub fn set_warm(&self, set: WarmSet) {
        lock(&self.inner.warm).replace(set);
        self.inner.nudge.notify_one();
    }

    /// Another relay, or none any more.
    pub fn set_relay(&self, relay: Option<Arc<dyn Relay>>) {
        self.inner.relay.store(relayed(relay));
        self.inner.nudge.notify_one();
    }

    /// Looks for a new head now rather than at the next poll: somebody has seen a newer one.
    pub fn look_now(&self) {
        self.inner.looks.notify_one();
    }

    /// The head's height, each time a head or more of its state is published.
    pub fn watch(&self) -> watch::Receiver<u64> {
        self.inner.heads.subscribe()
    }

    /// Reorgs, refused heads and failures from now on.
    pub fn events(&self) -> broadcast::Receiver<ChainEvent> {
        self.inner.events.subscribe()
    }

    /// The configuration.
    pub fn config(&self) -> &ChainConfig {
        &self.inner.config
    }

    /// Counters and gauges.
    pub fn metrics(&self) -> FeedMetrics {
        let mut metrics = self.inner.counters.metrics();
        if let Some(head) = self.current() {
            let (accounts, slots) = head.snapshot.size();
            metrics.head_number = head.number();
            metrics.head_age = Some(self.state_age(&head).seconds());
            metrics.accounts = u64::try_from(accounts).unwrap_or(u64::MAX);
            metrics.slots = u64::try_from(slots).unwrap_or(u64::MAX);
        }
        metrics.endpoints = self
            .inner
            .endpoints
            .iter()
            .map(|endpoint| endpoint.record.metrics())
            .collect();
        let relay = self.inner.relay.load();
        metrics.relay = relay.as_ref().map(|relay| relay.record.metrics());
        metrics
    }
}

impl Drop for StateFeed {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Inner {
    async fn run(self: Arc<Self>) {
        let poll = self.config.poll;
        let delays = ExponentialBuilder::new()
            .with_min_delay(poll)
            .with_max_delay(MAX_BACKOFF.max(poll))
            .with_jitter()
            .without_max_times();
        let mut backoff = delays.build();
        loop {
            // What comes after this makes it look again.
            let relayed = self.relay.load().as_ref().map(|relay| relay.changes());
            let (wait, spared) = match self.advance().await {
                Ok(()) => {
                    backoff = delays.build();
                    (poll, (poll / LOOKS_PER_POLL).min(MAX_LOOK_GAP))
                }
                Err(error) => {
                    self.failed(error);
                    // Callers do not make a chain that fails be asked more often than usual.
                    (backoff.next().unwrap_or(MAX_BACKOFF), poll)
                }
            };
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                () = self.nudge.notified() => {}
                () = changed(relayed) => {}
                () = async {
                    // Whoever asks, and however often: the endpoints are spared.
                    tokio::time::sleep(spared).await;
                    self.looks.notified().await;
                } => {}
            }
        }
    }

    /// Asks the relay first, as long as it serves this head's chain, then the endpoints.
    fn prover(&self, patience: Duration) -> Prover {
        let relay = self.relay.load_full();
        let relay = relay.filter(|relay| relay.head().is_some());
        Prover::new(Source::all(relay.as_ref(), &self.endpoints), patience)
    }

    fn failed(&self, error: ChainError) {
        count(&self.counters.failed_polls);
        tracing::warn!(code = error.code(), %error, "the chain's head was not advanced");
        let event = match error {
            ChainError::Head(refusal) => {
                count(&self.counters.heads_refused);
                ChainEvent::HeadRefused(refusal)
            }
            error => ChainEvent::Failed(error),
        };
        // Nobody may be listening.
        let _ = self.events.send(event);
    }

    /// Publishes a head, unless `instead_of` names a block that is no longer the current one.
    fn publish(&self, head: Arc<HeadState>, instead_of: Option<B256>) {
        let number = head.number();
        let guard = lock(&self.publishing);
        let now = self.head.load().as_ref().map(|now| now.hash());
        if may_replace(now, instead_of) {
            self.head.store(Some(head));
        }
        drop(guard);
        self.heads.send_replace(number);
    }
}

/// Whether a head may take the place of `now`: a new one always, one that only adds state to the
/// block `instead_of` while that is still the current one. Asked under the publishing lock.
fn may_replace<T: PartialEq>(now: Option<T>, instead_of: Option<T>) -> bool {
    instead_of.is_none() || now == instead_of
}

fn relayed(relay: Option<Arc<dyn Relay>>) -> Option<Arc<Relayed>> {
    relay.map(|relay| Arc::new(Relayed::new(relay)))
}

/// Waits for the relay's next head; without a relay, or when it is gone, for ever.
async fn changed(relayed: Option<watch::Receiver<u64>>) {
    if let Some(mut relayed) = relayed
        && relayed.changed().await.is_ok()
    {
        return;
    }
    std::future::pending().await
}

/// A poisoned lock guards plain data that is valid after every statement.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod swap_tests {
    #![allow(clippy::unwrap_used)]

    use loom::sync::{Arc, Mutex, RwLock};
    use loom::thread;

    use super::may_replace;

    /// A head of the model: its block, and whether state was added to it.
    type Head = (u64, bool);

    /// Publishing as the feed does it, over loom's primitives.
    struct Model {
        head: RwLock<Arc<Head>>,
        publishing: Mutex<()>,
    }

    impl Model {
        fn publish(&self, head: Head, instead_of: Option<u64>) {
            let _guard = self.publishing.lock().unwrap();
            let now = self.head.read().unwrap().0;
            if may_replace(Some(now), instead_of) {
                *self.head.write().unwrap() = Arc::new(head);
            }
        }

        fn current(&self) -> Arc<Head> {
            Arc::clone(&self.head.read().unwrap())
        }
    }

    #[test]
    fn added_state_never_brings_an_older_head_back() {
        loom::model(|| {
            let model = Arc::new(Model {
                head: RwLock::new(Arc::new((1, false))),
                publishing: Mutex::new(()),
            });
            let adding = {
                let model = model.clone();
                thread::spawn(move || {
                    let seen = model.current().0;
                    model.publish((seen, true), Some(seen));
                })
            };
            let advancing = {
                let model = model.clone();
                thread::spawn(move || model.publish((2, false), None))
            };
            let (first, second) = (model.current(), model.current());
            assert!(first.0 <= second.0, "a reader saw the head go back");
            adding.join().unwrap();
            advancing.join().unwrap();
            assert_eq!(model.current().0, 2);
        });
    }
}
