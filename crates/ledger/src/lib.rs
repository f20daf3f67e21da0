//! The record: an append-only log of decisions and outcomes on one machine.
//!
//! - [`Record`] is one link of the hash chain, [`Entry`] is what it says; one record has one encoding.
//! - [`tree`] is the RFC 6962 tree over the records, [`checkpoint`] signs its head as a C2SP note.
//! - [`Budgets`] counts what was allowed per agent, capability and window, and [`Replay`] counts it
//!   again from the records alone.
//! - [`Verifier`] reads a log as a stranger would and names the record that does not fit.
//! - `store` (feature, default) is the log on a disk: group commit, recovery, and a socket for readers.
//!
//! Without the feature `store` the crate does no I/O and has no clock. The format is written down in
//! `docs/record.md`.
#![forbid(unsafe_code)]

pub mod budget;
pub mod checkpoint;
pub mod encoding;
mod entry;
mod error;
mod id;
mod record;
mod replay;
mod sequence;
#[cfg(feature = "store")]
pub mod store;
pub mod tree;
mod verify;

pub use budget::{BudgetError, BudgetKey, BudgetSource, BudgetUse, Budgets, Hold, Totals};
pub use checkpoint::{CheckpointKey, Head, SignedHead};
pub use entry::{
    Config, Decision, Dns, Enforced, Entry, EntryKind, Heartbeat, Mode, Names, Outcome,
    OutcomeResult, Refused, Start, StartSignature, Unknown, UnknownCause, Verdict, Void, VoidCause,
    start_statement,
};
pub use error::{FormatError, LedgerError};
pub use id::{DecisionId, LogId, WitnessId};
pub use record::{MAX_RECORD_BYTES, Record, VERSION, record_hash};
pub use replay::{Fault, Replay, Step};
pub use sequence::Sequencer;
#[cfg(feature = "store")]
pub use store::{Log, LogOptions, LogReader, Receipt, Reservation, SystemClock, WallClock};
pub use verify::{Authority, Finding, Kept, Report, Signed, StartSeen, Verifier, Whose};

/// A SHA-256 digest.
pub type Hash = [u8; 32];
