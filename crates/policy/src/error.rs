//! What can be wrong with headers, proofs, code and witnesses.

use alloy_primitives::{Address, B256, U256};

/// Why a header, a proof, code or a witness was not accepted. Nothing of it enters a snapshot.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PolicyError {
    /// The header is not one RLP list with the fields of an Ethereum header.
    #[error("block header is malformed ({0}); check that the endpoint serves Ethereum headers")]
    Header(&'static str),
    /// The header's own hash differs from the one it was served under.
    #[error(
        "block header hashes to {actual}, but was served as {expected}; the endpoint altered it or omits header fields"
    )]
    HeaderHash {
        /// The hash that was claimed.
        expected: B256,
        /// The hash of the header's bytes.
        actual: B256,
    },
    /// A proof has too many or too large nodes.
    #[error(
        "proof for {0} exceeds the bounds on node count, node size or path length; the endpoint is faulty"
    )]
    ProofTooLarge(Address),
    /// An account proof does not lead from the state root to the claimed account, nor proves its absence.
    #[error(
        "account proof for {0} does not match the block's state root; the endpoint answers for another block or lies"
    )]
    AccountProof(Address),
    /// A storage proof does not lead from the account's storage root to the claimed value.
    #[error(
        "storage proof for slot {slot} of {address} does not match the account's storage root; the endpoint answers for another block or lies"
    )]
    StorageProof {
        /// The account.
        address: Address,
        /// The slot.
        slot: U256,
    },
    /// Slots and code can be added only to an account that is proved at this header.
    #[error("account {0} is not proved at this header; add its account proof first")]
    AccountNotProved(Address),
    /// The code does not hash to the account's proved code hash.
    #[error(
        "code of {address} hashes to {actual}, proved is {expected}; the endpoint answers for another block or lies"
    )]
    CodeHash {
        /// The account.
        address: Address,
        /// The proved hash.
        expected: B256,
        /// The hash of the bytes that were served.
        actual: B256,
    },
    /// Contract code above the accepted size.
    #[error("code of {address} has {size} bytes, more than the {limit} accepted")]
    CodeTooLarge {
        /// The account.
        address: Address,
        /// Its size in bytes.
        size: usize,
        /// The limit in bytes.
        limit: usize,
    },
    /// The snapshot is full.
    #[error("snapshot would exceed {limit} {what}; the warm set is too large for one process")]
    SnapshotFull {
        /// "accounts" or "slots".
        what: &'static str,
        /// The limit.
        limit: usize,
    },
    /// The bytes are not a witness.
    #[error("witness is malformed ({0})")]
    Witness(&'static str),
    /// The witness was made under an EVM profile that this build does not know.
    #[error("witness names EVM profile {0:?}, this build evaluates under writ-evm/1")]
    Profile(String),
}
