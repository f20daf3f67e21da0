//! What goes wrong, for the one who must put it right.

use std::path::PathBuf;

use crate::replay::Fault;

/// A failure of the log. Every one of them means: do not release the action.
#[derive(Debug, Clone, thiserror::Error)]
pub enum LedgerError {
    /// The log file could not be opened or created.
    #[error(
        "cannot open the log {path}: {reason}. Check that the folder exists and belongs to this user"
    )]
    Open {
        /// The file.
        path: PathBuf,
        /// What the system said.
        reason: String,
    },
    /// Another process writes this log.
    #[error(
        "the log {path} is open in another process; one sidecar writes one log. Stop the other one, or read through its socket"
    )]
    Locked {
        /// The file.
        path: PathBuf,
    },
    /// The log on disk is not one that this program wrote.
    #[error(
        "the log does not verify: {0}. Keep the file as evidence, move it aside, and start with a new one"
    )]
    Corrupt(#[from] Fault),
    /// The size that was set for the log is used up.
    #[error(
        "the log uses {used} of {max} bytes: archive it and start a new one, or raise its size; actions are refused until then"
    )]
    Full {
        /// Bytes on disk.
        used: u64,
        /// Bytes allowed.
        max: u64,
    },
    /// The volume has no room left.
    #[error(
        "the volume of the log has {free} bytes free, {needed} are needed: free some space; actions are refused until then"
    )]
    NoSpace {
        /// Bytes free.
        free: u64,
        /// Bytes needed.
        needed: u64,
    },
    /// A write failed.
    #[error(
        "the log could not be written: {0}. Check the volume; actions are refused until a write succeeds"
    )]
    Storage(String),
    /// Too many appends are under way.
    #[error("{limit} appends are under way already; the disk does not keep up")]
    Busy {
        /// Most appends under way at once.
        limit: usize,
    },
    /// The place in the log was given up because its record came too late.
    #[error("record {seq} came too late and its place was voided; decide the action anew")]
    Expired {
        /// The place.
        seq: u64,
    },
    /// An entry breaks a bound of the format.
    #[error("the entry does not fit the format: {0}")]
    Format(#[from] FormatError),
    /// A record names a witness that was not stored before it.
    #[error("witness {0} is not stored; put it before the record that names it")]
    UnknownWitness(String),
    /// A witness is too large, or the witnesses have used up their room.
    #[error("the witness of {bytes} bytes does not fit: {limit} bytes are left for witnesses")]
    WitnessRoom {
        /// Bytes of the witness.
        bytes: usize,
        /// Bytes left.
        limit: u64,
    },
    /// The log was closed.
    #[error("the log is closed")]
    Closed,
}

/// Bytes that are no record, or a record out of bounds.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FormatError {
    /// Longer than any record may be.
    #[error("{0} bytes are more than a record may have")]
    TooLarge(usize),
    /// A version that this program does not know.
    #[error("version {0} of the format is unknown to this program; use a newer one")]
    Version(u64),
    /// Not a record at all.
    #[error("not a record: {0}")]
    Malformed(String),
    /// A record in another form than the one that is hashed.
    #[error("not in canonical form")]
    NotCanonical,
    /// A member out of bounds.
    #[error("{0} is out of bounds")]
    Bound(&'static str),
    /// A checkpoint that is no signed note, or not of this log.
    #[error("checkpoint: {0}")]
    Checkpoint(String),
}
