//! Fetching state with proofs: from a relay or any endpoint, the next when one fails or lies.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use alloy_primitives::{Address, B256, Bytes, U256};
use futures::StreamExt;
use futures::stream::{self, FuturesUnordered};
use writ_policy::{ProvedHeader, SnapshotBuilder, StateKey};

use crate::ChainError;
use crate::relay::Relayed;
use crate::rpc::{Endpoint, EndpointError, ProvedAccount, Record};

/// Slots asked for in one call: some 8 KB of proof each at worst, so that an answer stays within its limit.
pub(crate) const SLOTS_PER_CALL: usize = 192;
/// Calls under way at once.
const CONCURRENT_CALLS: usize = 8;

/// Where state is asked for.
#[derive(Debug, Clone)]
pub(crate) enum Source {
    /// At a relay.
    Relay(Arc<Relayed>),
    /// At an endpoint.
    Endpoint(Arc<Endpoint>),
}

impl Source {
    /// The relay first, unless it lied a short while ago, then the endpoints with the best record first.
    pub fn all(relay: Option<&Arc<Relayed>>, endpoints: &[Arc<Endpoint>]) -> Vec<Self> {
        let relay = relay.map(|relay| Self::Relay(Arc::clone(relay)));
        let endpoints = endpoints.iter().map(|e| Self::Endpoint(Arc::clone(e)));
        let mut all: Vec<Self> = relay.into_iter().chain(endpoints).collect();
        all.sort_by_key(|source| match source {
            Self::Relay(relay) if !relay.record.lied() => (0, 0),
            Self::Relay(_) => (2, 0),
            Self::Endpoint(endpoint) => (1, endpoint.record.penalty()),
        });
        all
    }

    fn record(&self) -> &Record {
        match self {
            Self::Relay(relay) => &relay.record,
            Self::Endpoint(endpoint) => &endpoint.record,
        }
    }

    async fn account(
        &self,
        header: &ProvedHeader,
        address: Address,
        slots: &[U256],
    ) -> Result<ProvedAccount, EndpointError> {
        match self {
            Self::Relay(relay) => relay.account(header, address, slots).await,
            Self::Endpoint(endpoint) => endpoint.account(header, address, slots).await,
        }
    }

    async fn code(
        &self,
        header: &ProvedHeader,
        address: Address,
        code_hash: B256,
    ) -> Result<Bytes, EndpointError> {
        match self {
            Self::Relay(relay) => relay.code(header, address, code_hash).await,
            Self::Endpoint(endpoint) => endpoint.code(header, address, code_hash).await,
        }
    }
}

/// Fetches state at one agreed header.
pub(crate) struct Prover {
    sources: Vec<Source>,
    hedge: Duration,
}

impl Prover {
    /// Asks the sources in this order.
    pub fn new(sources: Vec<Source>, hedge: Duration) -> Self {
        Self { sources, hedge }
    }

    /// Proves all keys into the builder: account proofs for every address that occurs, then slots, then code. Keys that
    /// no endpoint could prove are answered; they are missing from the builder, nothing else is.
    pub async fn prove(
        &self,
        builder: &mut SnapshotBuilder,
        keys: &BTreeSet<StateKey>,
    ) -> Result<Vec<(Address, ChainError)>, ChainError> {
        let header = builder.header().clone();
        let mut slots: BTreeMap<Address, Vec<U256>> = BTreeMap::new();
        let mut with_code: BTreeSet<Address> = BTreeSet::new();
        for key in keys {
            let (StateKey::Account(address) | StateKey::Code(address) | StateKey::Slot(address, _)) =
                *key;
            let slots = slots.entry(address).or_default();
            match key {
                StateKey::Slot(_, slot) => slots.push(*slot),
                StateKey::Code(_) => drop(with_code.insert(address)),
                StateKey::Account(_) => {}
            }
        }
        let mut failed = Vec::new();
        let asked: Vec<(Address, Vec<U256>)> = slots.into_iter().flat_map(calls).collect();
        let mut answers = stream::iter(asked)
            .map(|(address, slots)| {
                let header = &header;
                async move { (address, self.account(header, address, &slots).await) }
            })
            .buffer_unordered(CONCURRENT_CALLS);
        let mut codes = BTreeMap::new();
        while let Some((address, answer)) = answers.next().await {
            match answer {
                Ok(proved) => {
                    codes.insert(address, proved.code_hash);
                    add(builder, &proved)?;
                }
                Err(error) => failed.push((address, error)),
            }
        }
        drop(answers);
        codes.retain(|address, hash| {
            with_code.contains(address) && *hash != alloy_primitives::KECCAK256_EMPTY
        });
        let mut answers = stream::iter(codes)
            .map(|(address, hash)| {
                let header = &header;
                async move { (address, self.code(header, address, hash).await) }
            })
            .buffer_unordered(CONCURRENT_CALLS);
        while let Some((address, answer)) = answers.next().await {
            match answer.and_then(|code| Ok(builder.add_code(address, code)?)) {
                Ok(()) => {}
                Err(error) => failed.push((address, error)),
            }
        }
        Ok(failed)
    }

    /// As [`Prover::prove`], but all or nothing.
    pub async fn prove_all(
        &self,
        builder: &mut SnapshotBuilder,
        keys: &BTreeSet<StateKey>,
    ) -> Result<(), ChainError> {
        match self.prove(builder, keys).await?.into_iter().next() {
            Some((_, error)) => Err(error),
            None => Ok(()),
        }
    }

    /// What a call would touch, as the endpoint with the best record thinks. A relay is not asked.
    pub async fn hint(
        &self,
        header: &ProvedHeader,
        from: Address,
        to: Address,
        input: alloy_primitives::Bytes,
    ) -> Option<Vec<(Address, Vec<U256>)>> {
        let endpoint = self.sources.iter().find_map(|source| match source {
            Source::Relay(_) => None,
            Source::Endpoint(endpoint) => Some(endpoint),
        })?;
        endpoint.access_list(header, from, to, input).await.ok()
    }

    /// An account and slots of it, proved.
    pub async fn account(
        &self,
        header: &ProvedHeader,
        address: Address,
        slots: &[U256],
    ) -> Result<ProvedAccount, ChainError> {
        let ask = |source: Source| async move { source.account(header, address, slots).await };
        self.first_good(&format!("state of {address}"), ask).await
    }

    /// The code with this hash.
    pub async fn code(
        &self,
        header: &ProvedHeader,
        address: Address,
        code_hash: B256,
    ) -> Result<Bytes, ChainError> {
        let ask = |source: Source| async move { source.code(header, address, code_hash).await };
        self.first_good(&format!("code of {address}"), ask).await
    }

    /// The first answer that holds. Another source is asked whenever one fails, or all under way are slow.
    async fn first_good<T, F: Future<Output = Result<T, EndpointError>>>(
        &self,
        what: &str,
        ask: impl Fn(Source) -> F,
    ) -> Result<T, ChainError> {
        let ask = &ask;
        let start = |source: &Source| {
            let source = source.clone();
            async move { (source.record().label.clone(), ask(source).await) }
        };
        let mut waiting = self.sources.iter();
        let mut running = FuturesUnordered::new();
        running.extend(waiting.next().map(start));
        let mut last = None;
        loop {
            let next = if waiting.len() == 0 {
                running.next().await
            } else {
                // Out of patience counts as no answer: the slow one stays under way beside the next.
                tokio::time::timeout(self.hedge, running.next())
                    .await
                    .unwrap_or(None)
            };
            match next {
                Some((_, Ok(answer))) => return Ok(answer),
                Some((endpoint, Err(error))) => last = Some((endpoint, error)),
                None => {}
            }
            running.extend(waiting.next().map(start));
            if running.is_empty() {
                let what = what.to_owned();
                return Err(last.map_or(ChainError::NoHead, |(endpoint, error)| {
                    ChainError::Unproved {
                        what,
                        endpoint,
                        error,
                    }
                }));
            }
        }
    }
}

/// Splits an account's slots into calls; without slots the account alone.
fn calls((address, slots): (Address, Vec<U256>)) -> Vec<(Address, Vec<U256>)> {
    if slots.is_empty() {
        return vec![(address, slots)];
    }
    slots
        .chunks(SLOTS_PER_CALL)
        .map(|slots| (address, slots.to_vec()))
        .collect()
}

fn add(builder: &mut SnapshotBuilder, proved: &ProvedAccount) -> Result<(), ChainError> {
    builder.add_account_proof(proved.address, &proved.claims.account)?;
    for (slot, claim) in &proved.claims.slots {
        builder.add_storage_proof(proved.address, *slot, claim)?;
    }
    Ok(())
}
