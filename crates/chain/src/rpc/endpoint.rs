//! One endpoint: bounded calls, and the checks of what it answers.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use alloy::rpc::types::{AccessListResult, EIP1186AccountProofResponse};
use alloy_primitives::{Address, B256, Bytes, U64, U256};
use reqwest::StatusCode;
use reqwest::header::{ACCEPT, CONTENT_TYPE};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::json;
use url::Url;
use writ_policy::ProvedHeader;

use super::proved::{ProvedAccount, check, check_code};
use super::{EndpointError, EndpointErrorKind as Kind, Record, answer};
use crate::ChainConfig;

/// One endpoint.
#[derive(Debug)]
pub(crate) struct Endpoint {
    pub record: Record,
    url: Url,
    client: reqwest::Client,
    chain_id: u64,
    max_bytes: usize,
    next_id: AtomicU64,
    /// The chain id was checked since the last failure.
    on_chain: AtomicBool,
}

impl Endpoint {
    pub fn new(url: Url, client: reqwest::Client, config: &ChainConfig) -> Self {
        Self {
            record: Record::new(crate::config::label(&url)),
            url,
            client,
            chain_id: config.chain_id,
            max_bytes: config.max_response_bytes,
            next_id: AtomicU64::new(1),
            on_chain: AtomicBool::new(false),
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
        let claims = answer::claims(answer, address, slots)?;
        let proved = check(header, address, slots, claims)?;
        self.record.proved(slots.len());
        Ok(proved)
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
        self.judge(answer.and_then(|code| check_code(code, code_hash)))
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
        self.record.count(list.map(|l| {
            l.into_iter()
                .map(|i| (i.address, slots(i.storage_keys)))
                .collect()
        }))
    }

    /// The quorum has another block at a height where this endpoint served one.
    pub fn disagreed(&self) {
        let other = EndpointError::new(Kind::Disagreed, "another block than the quorum");
        let _ = self.judge::<()>(Err(other));
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
        self.record.called();
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
        if answer.is_err() {
            self.on_chain.store(false, Ordering::Relaxed);
        }
        self.record.judge(answer)
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
