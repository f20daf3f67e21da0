//! Reading for others: what a relay passes on and what a head witness signs.

use std::sync::Arc;
use std::time::Duration;

use alloy_primitives::{Address, B256, Bytes, U256};
use writ_policy::ProvedHeader;

use crate::head::{Patience, agree};
use crate::metrics::EndpointMetrics;
use crate::prover::{Prover, SLOTS_PER_CALL, Source};
use crate::rpc::{AccountClaims, Endpoint, http_client};
use crate::{ChainConfig, ChainError, HeadTag};

/// Reads heads and proved state from endpoints, and keeps nothing.
#[derive(Debug)]
pub struct Reader {
    endpoints: Vec<Arc<Endpoint>>,
    quorum: usize,
    head: HeadTag,
    hedge: Duration,
    patience: Duration,
}

impl Reader {
    /// Most slots that [`Reader::account`] reads at a time.
    pub const MAX_SLOTS: usize = SLOTS_PER_CALL;

    /// A reader of these endpoints. Registries and staleness play no part.
    ///
    /// # Errors
    /// [`ChainError::Config`], [`ChainError::Client`].
    pub fn new(config: &ChainConfig) -> Result<Self, ChainError> {
        config.validate()?;
        let client = http_client(config)?;
        let endpoint =
            |url: &url::Url| Arc::new(Endpoint::new(url.clone(), client.clone(), config));
        Ok(Self {
            endpoints: config.endpoints.iter().map(endpoint).collect(),
            quorum: config.quorum,
            head: config.head,
            hedge: config.hedge,
            patience: config.request_timeout / 4,
        })
    }

    /// The newest head that a quorum agrees on; where endpoints differ, not below `floor` as long as one is waited for.
    ///
    /// # Errors
    /// [`ChainError::NoQuorum`].
    pub async fn head(&self, floor: u64) -> Result<ProvedHeader, ChainError> {
        let patience = Patience {
            grace: self.hedge * 4,
            floor,
        };
        let agreed = agree(&self.endpoints, self.quorum, self.head, patience).await?;
        Ok(agreed.header)
    }

    /// An account and slots of it, with proofs that hold against the header's state root.
    ///
    /// # Errors
    /// [`ChainError::Unproved`]; [`ChainError::TooManyKeys`] beyond [`Reader::MAX_SLOTS`].
    pub async fn account(
        &self,
        header: &ProvedHeader,
        address: Address,
        slots: &[U256],
    ) -> Result<AccountClaims, ChainError> {
        if slots.len() > Self::MAX_SLOTS {
            return Err(ChainError::TooManyKeys(slots.len(), Self::MAX_SLOTS));
        }
        let proved = self.prover().account(header, address, slots).await?;
        Ok(proved.claims)
    }

    /// The code with this hash, of an account that has it at this head.
    ///
    /// # Errors
    /// [`ChainError::Unproved`].
    pub async fn code(
        &self,
        header: &ProvedHeader,
        address: Address,
        code_hash: B256,
    ) -> Result<Bytes, ChainError> {
        self.prover().code(header, address, code_hash).await
    }

    /// Each endpoint's counters.
    pub fn metrics(&self) -> Vec<EndpointMetrics> {
        let endpoints = self.endpoints.iter();
        endpoints
            .map(|endpoint| endpoint.record.metrics())
            .collect()
    }

    fn prover(&self) -> Prover {
        Prover::new(Source::all(None, &self.endpoints), self.patience)
    }
}
