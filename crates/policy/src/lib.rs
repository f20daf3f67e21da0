//! Policy decisions on proved chain state, with no I/O: snapshots of Ethereum state, the EVM profile `writ-evm/1`, and
//! witnesses from which anyone can decide again.
//!
//! ```text
//! header + EIP-1186 proofs + code ─▶ SnapshotBuilder ─▶ Snapshot ─▶ decide(action) ─▶ Decision ─▶ witness()
//! ```
//!
//! Nothing here trusts the endpoint that served the state, and nothing that was not proved can be read.

#![forbid(unsafe_code)]

pub mod abi;
mod builder;
mod database;
mod decide;
mod error;
mod evm;
mod header;
pub mod names;
mod profile;
mod proof;
mod registry;
pub mod rules;
mod snapshot;
#[cfg(feature = "testing")]
pub mod testing;
mod warm;
mod witness;

pub use abi::Action;
pub use alloy_primitives::{Address, B256, Bytes, U256, keccak256};
pub use builder::{MAX_ACCOUNTS, MAX_CODE_BYTES, MAX_SLOTS, SnapshotBuilder};
pub use decide::{Decision, Effect, decide};
pub use error::PolicyError;
pub use header::{MAX_HEADER_BYTES, ProvedHeader};
pub use profile::{CALLER, EvalError, GAS_LIMIT, MAX_DEPTH, MAX_READS, PROFILE, ProfileRefusal};
pub use proof::{
    AccountProof, MAX_NODE_BYTES, MAX_PROOF_NODES, StorageProof, check_account, check_slot,
};
pub use registry::{AgentStatus, Registration, Registries, registration};
pub use snapshot::{Snapshot, StateKey};
pub use warm::{Warm, WarmError, dry_run, warm_keys};
pub use witness::{MAX_WITNESS_BYTES, ReplayError, Witness, witness};
