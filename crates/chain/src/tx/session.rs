//! A connection to one endpoint, with or without a wallet.

use std::sync::Arc;
use std::time::Duration;

use alloy::network::{EthereumWallet, TransactionBuilder};
use alloy::primitives::{Address, B256, Bytes};
use alloy::providers::{DynProvider, Provider, ProviderBuilder};
use alloy::rpc::types::{TransactionReceipt, TransactionRequest};
use alloy::signers::local::PrivateKeySigner;
use url::Url;

use super::TxError;

const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
const POLL: Duration = Duration::from_millis(100);
const INCLUSION_TIMEOUT: Duration = Duration::from_secs(60);

/// One endpoint of one chain, and the wallet that pays.
#[derive(Debug, Clone)]
pub struct Session {
    provider: DynProvider,
    chain_id: u64,
    from: Option<Address>,
}

impl Session {
    /// Connects for reading only.
    ///
    /// # Errors
    /// The endpoint does not answer or is of another chain than `expected`.
    pub async fn connect(url: &Url, expected: Option<u64>) -> Result<Self, TxError> {
        let provider = ProviderBuilder::new()
            .connect_reqwest(client()?, url.clone())
            .erased();
        Self::checked(provider, expected, None).await
    }

    /// Connects with a wallet that signs and pays.
    ///
    /// # Errors
    /// As [`Session::connect`].
    pub async fn with_wallet(
        url: &Url,
        expected: Option<u64>,
        signer: PrivateKeySigner,
    ) -> Result<Self, TxError> {
        let from = signer.address();
        let wallet = EthereumWallet::from(signer);
        // The nonce is asked for each time: a counted one is used up by a call that is refused before it is sent, and
        // every later transaction would wait for it.
        let provider = ProviderBuilder::new()
            .disable_recommended_fillers()
            .with_gas_estimation()
            .with_simple_nonce_management()
            .fetch_chain_id()
            .wallet(wallet)
            .connect_reqwest(client()?, url.clone())
            .erased();
        Self::checked(provider, expected, Some(from)).await
    }

    async fn checked(
        provider: DynProvider,
        expected: Option<u64>,
        from: Option<Address>,
    ) -> Result<Self, TxError> {
        provider.client().set_poll_interval(POLL);
        let actual = provider
            .get_chain_id()
            .await
            .map_err(|e| TxError::rpc("reading the chain id", e))?;
        match expected {
            Some(expected) if expected != actual => Err(TxError::WrongChain { expected, actual }),
            _ => Ok(Self {
                provider,
                chain_id: actual,
                from,
            }),
        }
    }

    /// For calls that this module does not cover.
    pub fn provider(&self) -> &DynProvider {
        &self.provider
    }

    /// EIP-155 chain id, as the endpoint says.
    pub fn chain_id(&self) -> u64 {
        self.chain_id
    }

    /// The wallet's address.
    ///
    /// # Errors
    /// [`TxError::NoKey`] when connected for reading only.
    pub fn sender(&self) -> Result<Address, TxError> {
        self.from.ok_or(TxError::NoKey)
    }

    /// Number of the newest block.
    ///
    /// # Errors
    /// The endpoint does not answer.
    pub async fn block_number(&self) -> Result<u64, TxError> {
        self.provider
            .get_block_number()
            .await
            .map_err(|e| TxError::rpc("reading the block number", e))
    }

    /// Code at an address, empty if there is none.
    ///
    /// # Errors
    /// The endpoint does not answer.
    pub async fn code(&self, address: Address) -> Result<Bytes, TxError> {
        self.provider
            .get_code_at(address)
            .await
            .map_err(|e| TxError::rpc("reading contract code", e))
    }

    /// Sends a call and waits until a block holds it. A call that would revert is not sent.
    ///
    /// # Errors
    /// No wallet, a refusal by the contract, a failing endpoint, or no block in time.
    pub async fn send(
        &self,
        what: &'static str,
        to: Address,
        data: Bytes,
    ) -> Result<TransactionReceipt, TxError> {
        let request = TransactionRequest::default()
            .with_from(self.sender()?)
            .with_to(to)
            .with_input(data);
        let pending = self
            .provider
            .send_transaction(request)
            .await
            .map_err(|e| TxError::rpc(what, e))?;
        let hash: B256 = *pending.tx_hash();
        let receipt = pending
            .with_timeout(Some(INCLUSION_TIMEOUT))
            .get_receipt()
            .await
            .map_err(|e| TxError::pending(what, hash, e))?;
        tracing::info!(%hash, what, "transaction included");
        if receipt.status() {
            Ok(receipt)
        } else {
            Err(TxError::Failed { what, hash })
        }
    }
}

/// TLS by ring and the system's roots; no proxy from the environment, no redirects.
fn client() -> Result<reqwest::Client, TxError> {
    let error = |e: &dyn std::fmt::Display| TxError::Client(e.to_string());
    let tls = rustls::ClientConfig::builder_with_provider(Arc::new(
        rustls::crypto::ring::default_provider(),
    ))
    .with_safe_default_protocol_versions()
    .map_err(|e| error(&e))?
    .with_root_certificates(crate::roots::system_roots())
    .with_no_client_auth();
    reqwest::Client::builder()
        .tls_backend_preconfigured(tls)
        .timeout(REQUEST_TIMEOUT)
        .redirect(reqwest::redirect::Policy::none())
        .no_proxy()
        .build()
        .map_err(|e| error(&e))
}
