//! What can go wrong with a transaction.

use alloy::contract::Error as ContractError;
use alloy::primitives::{Address, B256};
use alloy::providers::PendingTransactionError;
use alloy::sol_types::SolInterface;
use alloy::transports::{RpcError, TransportErrorKind};

use crate::bindings;

/// Why a deployment or a transaction did not happen.
#[derive(Debug, thiserror::Error)]
pub enum TxError {
    /// A key was named in a way that is not supported.
    #[error("a key is named as file:<path>, env:<variable> or stdin, never given as an argument")]
    KeyReference,
    /// The source of a key could not be read.
    #[error("the key in {source_name} cannot be read: {reason}")]
    KeyUnreadable {
        /// The reference.
        source_name: String,
        /// What the system said.
        reason: String,
    },
    /// There is no key where one should be.
    #[error("{source_name} does not hold a secp256k1 private key of 64 hex digits")]
    KeyInvalid {
        /// The reference.
        source_name: String,
    },
    /// The HTTP client could not be made.
    #[error("the HTTP client cannot be set up: {0}")]
    Client(String),
    /// A transaction was asked for without a key.
    #[error("this needs a key that may send it: give one as file:<path>, env:<variable> or stdin")]
    NoKey,
    /// The endpoint is of another chain.
    #[error(
        "the endpoint serves chain {actual}, expected {expected}: check the URL and the chain id"
    )]
    WrongChain {
        /// As configured.
        expected: u64,
        /// As the endpoint says.
        actual: u64,
    },
    /// The endpoint did not answer, or answered with an error.
    #[error("the endpoint failed at {what}: {reason}")]
    Endpoint {
        /// What was asked.
        what: &'static str,
        /// What it said.
        reason: String,
    },
    /// A contract refused.
    #[error("the contract refuses {what}: {reason}")]
    Reverted {
        /// What was tried.
        what: &'static str,
        /// The contract's error by name.
        reason: String,
    },
    /// The transaction was mined and failed.
    #[error("transaction {hash} for {what} failed on chain")]
    Failed {
        /// What was tried.
        what: &'static str,
        /// Its hash.
        hash: B256,
    },
    /// The transaction was not mined in time.
    #[error(
        "transaction {hash} for {what} was sent and not seen in a block in time: look for it before sending again"
    )]
    NotSeen {
        /// What was tried.
        what: &'static str,
        /// Its hash.
        hash: B256,
    },
    /// The chain has no deterministic deployer.
    #[error(
        "the chain has no deterministic deployer at {0}: deploy it first (EIP-2470 describes the method)"
    )]
    NoDeployer(Address),
    /// The code at an address is not what was deployed.
    #[error("{name} at {address} has no code after its deployment")]
    NoCode {
        /// Contract.
        name: String,
        /// Where it should be.
        address: Address,
    },
    /// The plan cannot be deployed.
    #[error("the deployment plan is not usable: {0}")]
    Plan(String),
    /// A committed artifact is damaged.
    #[error("contracts/artifacts: {0}: run scripts/contracts-artifacts")]
    Artifact(String),
    /// The manifest lacks a contract.
    #[error("the manifest names no {0}: use the one that `writ chain deploy` wrote for this chain")]
    Manifest(String),
    /// The key is not of an owner.
    #[error("{0} is not an owner of the multisig: use an owner's key")]
    NotOwner(Address),
    /// The same operation was carried out too often to find a free salt.
    #[error("this operation was repeated {0} times: change something in it")]
    Repeated(u64),
}

impl TxError {
    pub(crate) fn rpc(what: &'static str, error: RpcError<TransportErrorKind>) -> Self {
        let revert = error.as_error_resp().and_then(|payload| {
            payload
                .as_revert_data()
                .map(|data| describe_revert(&data))
                .or_else(|| {
                    payload
                        .message
                        .to_lowercase()
                        .contains("revert")
                        .then(|| payload.message.to_string())
                })
        });
        match revert {
            Some(reason) => Self::Reverted { what, reason },
            None => Self::Endpoint {
                what,
                reason: without_url(&error.to_string()),
            },
        }
    }

    pub(crate) fn contract(what: &'static str, error: ContractError) -> Self {
        match error {
            ContractError::TransportError(error) => Self::rpc(what, error),
            other => Self::Endpoint {
                what,
                reason: without_url(&other.to_string()),
            },
        }
    }

    pub(crate) fn pending(what: &'static str, hash: B256, error: PendingTransactionError) -> Self {
        match error {
            PendingTransactionError::TransportError(error) => Self::rpc(what, error),
            _ => Self::NotSeen { what, hash },
        }
    }
}

/// URLs of endpoints often hold an access key: what follows the host does not reach a message.
fn without_url(message: &str) -> String {
    message
        .split(' ')
        .map(|word| {
            let at = word.find("http://").or_else(|| word.find("https://"));
            if at.is_some() { "(endpoint)" } else { word }
        })
        .collect::<Vec<_>>()
        .join(" ")
}

/// The name and arguments of a contract's error.
fn describe_revert(data: &[u8]) -> String {
    macro_rules! try_each {
        ($($contract:ident :: $errors:ident),*) => {
            $(if let Ok(error) = bindings::$contract::$errors::abi_decode(data) {
                return tidy(&format!("{error:?}"));
            })*
        };
    }
    try_each!(
        AgentRegistry::AgentRegistryErrors,
        PolicyRegistry::PolicyRegistryErrors,
        RulePolicy::RulePolicyErrors,
        ModelRegistry::ModelRegistryErrors,
        SaeAnchor::SaeAnchorErrors,
        ApprovalRegistry::ApprovalRegistryErrors,
        Multisig::MultisigErrors,
        TimelockController::TimelockControllerErrors
    );
    format!("0x{}", alloy::primitives::hex::encode(data))
}

/// `AgentExists(AgentExists { key: 0x.. })` -> `AgentExists { key: 0x.. }`.
fn tidy(debug: &str) -> String {
    let inner = debug.split_once('(').map_or(debug, |(_, inner)| inner);
    inner.strip_suffix(')').unwrap_or(inner).to_owned()
}

#[cfg(test)]
mod tests {
    #![allow(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::panic,
        clippy::indexing_slicing
    )]
    use super::*;
    use alloy::sol_types::SolError;

    #[test]
    fn a_revert_is_named_as_the_contract_names_it() {
        let data = bindings::AgentRegistry::AgentExists {
            key: B256::repeat_byte(7),
        }
        .abi_encode();
        assert!(
            describe_revert(&data).starts_with("AgentExists"),
            "{}",
            describe_revert(&data)
        );
        assert_eq!(describe_revert(&[1, 2, 3, 4]), "0x01020304");
    }

    #[test]
    fn an_endpoints_url_does_not_reach_a_message() {
        let message =
            without_url("error sending request for url (https://rpc.example/v2/secret-key)");
        assert!(!message.contains("secret"), "{message}");
    }
}
