//! One endpoint: bounded calls, and the checks of what it answers.

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

use alloy::rpc::types::{AccessListResult, EIP1186AccountProofResponse};
use alloy_primitives::{Address, B256, Bytes, U64, U256, keccak256};
use reqwest::StatusCode;
use reqwest::header::{ACCEPT, CONTENT_TYPE};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::json;
use url::Url;
use writ_policy::{AccountProof, ProvedHeader, StorageProof, check_account, check_slot};

use super::{EndpointError, EndpointErrorKind as Kind, answer};
use crate::ChainConfig;
use crate::metrics::EndpointMetrics;

/// Bad answers weigh at most this much.
const MAX_PENALTY: u32 = 64;

/// An account and slots of it, as one endpoint served them and a state root proves them.
#[derive(Debug, Clone)]
pub(crate) struct ProvedAccount {
    pub address: Address,
    pub account: AccountProof,
    pub slots: Vec<(U256, StorageProof)>,
    pub code_hash: B256,
}

/// One endpoint.
#[derive(Debug)]
pub(crate) struct Endpoint {
    /// Host and port.
    pub label: String,
    url: Url,
    client: reqwest::Client,
    chain_id: u64,
    max_bytes: usize,
    next_id: AtomicU64,
    /// The chain id was checked since the last failure.
    on_chain: AtomicBool,
    penalty: AtomicU32,
    calls: AtomicU64,
    proofs_checked: AtomicU64,
    errors: [AtomicU64; Kind::ALL.len()],
}

impl Endpoint {
    pub fn new(url: Url, client: reqwest::Client, config: &ChainConfig) -> Self {
        Self {
            label: crate::config::label(&url),
            url,
            client,
            chain_id: config.chain_id,
            max_bytes: config.max_response_bytes,
            next_id: AtomicU64::new(1),
            on_chain: AtomicBool::new(false),
            penalty: AtomicU32::new(0),
            calls: AtomicU64::new(0),
            proofs_checked: AtomicU64::new(0),
            errors: Default::default(),
        }
    }

    /// The header of the block that `tag` names ("latest", "safe"), its hash recomputed.
    pub async fn head(&self, tag: &'static str) -> Result<ProvedHeader, EndpointError> {
        self.judge(self.block(json!(tag)).await)
    }

    /// The header at this height.
    pub async fn header_at(&self, number: u64) -> Result<ProvedHeader, EndpointError> {
        let header = self
            .block(json!(U64::from(number)))
            .await
            .and_then(|header| {
                if header.number == number {
                    return Ok(header);
                }
                Err(EndpointError::new(
                    Kind::Lied,
                    "header is of another height",
                ))
            });
        self.judge(header)
    }

    async fn block(&self, which: serde_json::Value) -> Result<ProvedHeader, EndpointError> {
        self.check_chain().await?;
        let (id, body) = self
            .post("eth_getBlockByNumber", json!([which, false]))
            .await?;
        answer::parse_header(id, &body)
    }

    /// An account and slots of it, checked against the header's state root.
    pub async fn account(
        &self,
        header: &ProvedHeader,
        address: Address,
        slots: &[U256],
    ) -> Result<ProvedAccount, EndpointError> {
        self.judge(self.proved_account(header, address, slots).await)
    }

    async fn proved_account(
        &self,
        header: &ProvedHeader,
        address: Address,
        slots: &[U256],
    ) -> Result<ProvedAccount, EndpointError> {
        let keys: Vec<B256> = slots.iter().map(|slot| B256::from(*slot)).collect();
        let params = json!([address, keys, U64::from(header.number)]);
        let answer: EIP1186AccountProofResponse = self.call("eth_getProof", params).await?;
        let (account, slots) = answer::claims(answer, address, slots)?;
        let lied = |e: writ_policy::PolicyError| EndpointError::new(Kind::Lied, e.to_string());
        let state = check_account(header.state_root, address, &account).map_err(lied)?;
        let root = state.map_or(alloy::consensus::constants::EMPTY_ROOT_HASH, |s| {
            s.storage_root
        });
        for (slot, claim) in &slots {
            let no_storage = root == alloy::consensus::constants::EMPTY_ROOT_HASH;
            if no_storage && claim.value.is_zero() {
                continue;
            }
            check_slot(root, address, *slot, claim).map_err(lied)?;
        }
        let checked = u64::try_from(slots.len())
            .unwrap_or(u64::MAX)
            .saturating_add(1);
        self.proofs_checked.fetch_add(checked, Ordering::Relaxed);
        let code_hash = state.map_or(alloy_primitives::KECCAK256_EMPTY, |s| s.code_hash);
        Ok(ProvedAccount {
            address,
            account,
            slots,
            code_hash,
        })
    }

    /// The code with this hash.
    pub async fn code(
        &self,
        header: &ProvedHeader,
        address: Address,
        code_hash: B256,
    ) -> Result<Bytes, EndpointError> {
        let answer: Result<Bytes, _> = self
            .call("eth_getCode", json!([address, U64::from(header.number)]))
            .await;
        let code = answer.and_then(|code| {
            if keccak256(&code) == code_hash {
                return Ok(code);
            }
            Err(EndpointError::new(
                Kind::Lied,
                "code does not hash to the proved code hash",
            ))
        });
        self.judge(code)
    }

    /// Accounts and slots that a call would touch, as the endpoint thinks. A hint: nothing is proved by it.
    pub async fn access_list(
        &self,
        header: &ProvedHeader,
        from: Address,
        to: Address,
        input: Bytes,
    ) -> Result<Vec<(Address, Vec<U256>)>, EndpointError> {
        let call = json!({ "from": from, "to": to, "data": input, "gasPrice": "0x0" });
        let answer: Result<AccessListResult, _> = self
            .call(
                "eth_createAccessList",
                json!([call, U64::from(header.number)]),
            )
            .await;
        let list = answer.map(|answer| answer.access_list.0);
        let slots = |keys: Vec<B256>| keys.into_iter().map(Into::into).collect();
        // Not every node has this method: a failure is counted but weighs nothing.
        self.count(list.map(|l| {
            l.into_iter()
                .map(|i| (i.address, slots(i.storage_keys)))
                .collect()
        }))
    }

    /// How little its answers are worth trying first. 0 is best.
    pub fn penalty(&self) -> u32 {
        self.penalty.load(Ordering::Relaxed)
    }

    /// The quorum has another block at a height where this endpoint served one.
    pub fn disagreed(&self) {
        let other = EndpointError::new(Kind::Disagreed, "another block than the quorum");
        let _ = self.judge::<()>(Err(other));
    }

    pub fn metrics(&self) -> EndpointMetrics {
        let errors = Kind::ALL.iter().zip(&self.errors);
        EndpointMetrics {
            endpoint: self.label.clone(),
            calls: self.calls.load(Ordering::Relaxed),
            proofs_checked: self.proofs_checked.load(Ordering::Relaxed),
            errors: errors
                .map(|(kind, count)| (*kind, count.load(Ordering::Relaxed)))
                .collect(),
        }
    }

    /// Headers do not name their chain, so an endpoint is asked before its first answer and after every failure.
    async fn check_chain(&self) -> Result<(), EndpointError> {
        if self.on_chain.load(Ordering::Relaxed) {
            return Ok(());
        }
        let chain_id: U64 = self.call("eth_chainId", json!([])).await?;
        if chain_id.to::<u64>() != self.chain_id {
            let detail = format!("chain {chain_id} instead of {}", self.chain_id);
            return Err(EndpointError::new(Kind::WrongChain, detail));
        }
        self.on_chain.store(true, Ordering::Relaxed);
        Ok(())
    }

    async fn call<T: DeserializeOwned>(
        &self,
        method: &'static str,
        params: impl Serialize,
    ) -> Result<T, EndpointError> {
        let (id, body) = self.post(method, params).await?;
        answer::parse(id, &body)
    }

    async fn post(
        &self,
        method: &'static str,
        params: impl Serialize,
    ) -> Result<(u64, Vec<u8>), EndpointError> {
        self.calls.fetch_add(1, Ordering::Relaxed);
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        let request = json!({ "jsonrpc": "2.0", "id": id, "method": method, "params": params });
        let mut response = self
            .client
            .post(self.url.clone())
            .header(CONTENT_TYPE, "application/json")
            .header(ACCEPT, "application/json")
            .body(request.to_string())
            .send()
            .await
            .map_err(transport)?;
        match response.status() {
            StatusCode::OK => {}
            status @ (StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE) => {
                return Err(EndpointError::new(Kind::Throttled, status.as_str()));
            }
            status => return Err(EndpointError::new(Kind::Status, status.as_str())),
        }
        let too_large = || {
            EndpointError::new(
                Kind::TooLarge,
                format!("more than {} bytes", self.max_bytes),
            )
        };
        let announced = response.content_length().unwrap_or(0);
        if usize::try_from(announced).map_or(true, |announced| announced > self.max_bytes) {
            return Err(too_large());
        }
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(transport)? {
            if body.len() + chunk.len() > self.max_bytes {
                return Err(too_large());
            }
            body.extend_from_slice(&chunk);
        }
        Ok((id, body))
    }

    fn judge<T>(&self, answer: Result<T, EndpointError>) -> Result<T, EndpointError> {
        let weigh = |weight: fn(u32) -> u32| {
            let update = |penalty| Some(weight(penalty).min(MAX_PENALTY));
            let _ = self
                .penalty
                .fetch_update(Ordering::Relaxed, Ordering::Relaxed, update);
        };
        match &answer {
            Ok(_) => weigh(|penalty| penalty / 2),
            Err(error) => {
                self.on_chain.store(false, Ordering::Relaxed);
                if matches!(error.kind, Kind::Lied | Kind::Disagreed | Kind::WrongChain) {
                    weigh(|penalty| penalty + 16);
                } else {
                    weigh(|penalty| penalty + 2);
                }
            }
        }
        self.count(answer)
    }

    fn count<T>(&self, answer: Result<T, EndpointError>) -> Result<T, EndpointError> {
        if let Err(error) = &answer {
            if let Some(counter) = self.errors.get(error.kind as usize) {
                counter.fetch_add(1, Ordering::Relaxed);
            }
            tracing::debug!(endpoint = %self.label, %error, "chain endpoint failed");
        }
        answer
    }
}

fn transport(error: reqwest::Error) -> EndpointError {
    let kind = if error.is_timeout() {
        Kind::Timeout
    } else {
        Kind::Connect
    };
    // The URL may hold a key.
    EndpointError::new(kind, error.without_url().to_string())
}
