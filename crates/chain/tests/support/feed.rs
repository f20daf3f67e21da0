//! A real node behind endpoints that can be made to lie, and a feed that reads them.

#![allow(dead_code, reason = "not every test uses all of it")]

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use alloy::providers::Provider;
use alloy_primitives::{Address, B256, U256};
use writ_chain::{ChainConfig, ChainError, ChainEvent, HeadState, StateFeed, TestClock, WarmSet};
use writ_policy::testing::{allowing, verdict_contract};
use writ_policy::{Action, Decision, Effect, decide};

use crate::evaluation::Chain;
use crate::liar::Liar;

pub const AGENT: B256 = B256::repeat_byte(0x11);
pub const POLICY: Address = Address::repeat_byte(0xc3);
/// Longer than anything that is waited for takes, however busy the machine.
const PATIENCE: Duration = Duration::from_secs(60);

pub struct Net {
    pub chain: Chain,
    pub liars: Vec<Liar>,
    pub clock: Arc<TestClock>,
}

impl Net {
    /// This many honest endpoints before one node, with one active agent whose policy allows everything.
    pub async fn start(endpoints: usize) -> Self {
        let chain = Chain::start().await;
        chain.set_code(POLICY, &verdict_contract(&allowing())).await;
        chain.install(AGENT, POLICY).await;
        let mut liars = Vec::new();
        for _ in 0..endpoints {
            liars.push(Liar::start(chain.url(), Arc::clone(&chain.quiet)).await);
        }
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap()
            .as_secs();
        Self {
            chain,
            liars,
            clock: Arc::new(TestClock::at(now)),
        }
    }

    /// Bounds of 5 s and 15 s; everything that a busy machine may delay is generous.
    pub fn config(&self) -> ChainConfig {
        let endpoints = self.liars.iter().map(Liar::url).collect();
        ChainConfig {
            poll: Duration::from_millis(50),
            fresh: Duration::from_secs(5),
            max_stale: Duration::from_secs(15),
            request_timeout: Duration::from_secs(20),
            max_cold_wait: Duration::from_secs(20),
            ..ChainConfig::new(endpoints, self.chain.registries)
        }
    }

    pub async fn feed(&self) -> Arc<StateFeed> {
        self.feed_with(self.config()).await
    }

    pub async fn feed_with(&self, config: ChainConfig) -> Arc<StateFeed> {
        StateFeed::start(config, self.clock.clone(), warm())
            .await
            .unwrap()
    }

    pub async fn feed_empty(&self) -> Arc<StateFeed> {
        StateFeed::start(self.config(), self.clock.clone(), WarmSet::default())
            .await
            .unwrap()
    }

    pub async fn rpc(&self, method: &'static str, params: serde_json::Value) -> serde_json::Value {
        self.chain
            .provider
            .raw_request(method.into(), params)
            .await
            .unwrap()
    }

    /// Mines a block and waits until the feed has it, warm.
    pub async fn mine_and_follow(&self, feed: &StateFeed) -> Arc<HeadState> {
        self.chain.mine().await;
        let head = self.chain.head().await;
        until(feed, |state| state.hash() == head.hash && state.warm).await
    }
}

pub fn action() -> Action {
    Action {
        version: 1,
        agent: AGENT,
        capability: B256::repeat_byte(2),
        amount: U256::from(5),
        ..Action::default()
    }
}

pub fn warm() -> WarmSet {
    WarmSet {
        actions: vec![action()],
        agents: vec![AGENT.0],
        keys: Vec::new(),
    }
}

/// As the request path does it.
pub async fn decided(feed: &StateFeed) -> Result<Decision, ChainError> {
    let registries = feed.config().registries;
    let within = Duration::from_secs(20);
    Ok(feed
        .evaluate(within, |head| {
            decide(&head.snapshot, &registries, &action())
        })
        .await?
        .0)
}

pub async fn allowed(feed: &StateFeed) -> bool {
    decided(feed)
        .await
        .is_ok_and(|decision| decision.effect == Effect::Allow)
}

/// Waits until the current head is as wanted.
pub async fn until(feed: &StateFeed, wanted: impl Fn(&HeadState) -> bool) -> Arc<HeadState> {
    let mut heads = feed.watch();
    let wait = async {
        loop {
            heads.borrow_and_update();
            if let Some(head) = feed.current().filter(|head| wanted(head)) {
                return head;
            }
            heads.changed().await.unwrap();
        }
    };
    let found = tokio::time::timeout(PATIENCE, wait).await;
    found.unwrap_or_else(|_| panic!("never came about; metrics: {:#?}", feed.metrics()))
}

/// Waits for an event that fits.
pub async fn event<T>(
    events: &mut tokio::sync::broadcast::Receiver<ChainEvent>,
    wanted: impl Fn(&ChainEvent) -> Option<T>,
) -> T {
    let wait = async {
        loop {
            match events.recv().await {
                Ok(event) => {
                    if let Some(found) = wanted(&event) {
                        return found;
                    }
                }
                Err(tokio::sync::broadcast::error::RecvError::Lagged(_)) => {}
                Err(closed) => panic!("{closed}"),
            }
        }
    };
    tokio::time::timeout(PATIENCE, wait)
        .await
        .expect("the event never came")
}
