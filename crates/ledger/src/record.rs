//! One link of the chain and its only encoding.

use serde::{Deserialize, Serialize};

use crate::encoding::{MAX_INTEGER, b64};
use crate::id::{DecisionId, LogId};
use crate::{Entry, FormatError, Hash};

/// Version of the format, member `v` of every record.
pub const VERSION: u64 = 1;

/// Most bytes of an encoded record.
pub const MAX_RECORD_BYTES: usize = 64 * 1024;

/// One record: an entry at its place in the chain.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Record {
    /// What it says.
    pub entry: Entry,
    /// The log that it belongs to.
    pub log: LogId,
    /// [`record_hash`] of the record before it; all zero for the first.
    #[serde(with = "b64")]
    pub prev: Hash,
    /// Its place, from 0.
    pub seq: u64,
    /// When it was handed to the log, unix milliseconds.
    pub time: u64,
    /// [`VERSION`].
    pub v: u64,
}

/// Hash of an encoded record: the RFC 6962 leaf hash, SHA-256 of 0x00 and the bytes.
///
/// The same hash links the chain, so there is one name for one record.
pub fn record_hash(encoded: &[u8]) -> Hash {
    tlog_tiles::record_hash(encoded).0
}

impl Record {
    /// Name of the decision that this record holds.
    pub fn id(&self) -> DecisionId {
        DecisionId {
            log: self.log.clone(),
            seq: self.seq,
        }
    }

    /// The encoding: RFC 8785 JSON.
    ///
    /// # Errors
    /// When a member is out of bounds.
    pub fn encode(&self) -> Result<Vec<u8>, FormatError> {
        self.check()?;
        let bytes = self.to_bytes()?;
        if bytes.len() > MAX_RECORD_BYTES {
            return Err(FormatError::TooLarge(bytes.len()));
        }
        Ok(bytes)
    }

    /// Reads a record. There is exactly one text for one record; any other is refused.
    ///
    /// # Errors
    /// When the bytes are too many, of another version, no record, not canonical, or out of bounds.
    pub fn decode(bytes: &[u8]) -> Result<Self, FormatError> {
        if bytes.len() > MAX_RECORD_BYTES {
            return Err(FormatError::TooLarge(bytes.len()));
        }
        let record: Self = serde_json::from_slice(bytes).map_err(|e| version_or(bytes, &e))?;
        if record.v != VERSION {
            return Err(FormatError::Version(record.v));
        }
        record.check()?;
        if record.to_bytes()? != bytes {
            return Err(FormatError::NotCanonical);
        }
        Ok(record)
    }

    fn to_bytes(&self) -> Result<Vec<u8>, FormatError> {
        serde_json::to_vec(self).map_err(|e| FormatError::Malformed(e.to_string()))
    }

    fn check(&self) -> Result<(), FormatError> {
        if self.seq > MAX_INTEGER {
            return Err(FormatError::Bound("seq"));
        }
        if self.time > MAX_INTEGER {
            return Err(FormatError::Bound("time"));
        }
        self.entry.check()
    }
}

/// A newer version has members that this one does not know: say so rather than "malformed".
fn version_or(bytes: &[u8], error: &serde_json::Error) -> FormatError {
    #[derive(Deserialize)]
    struct OnlyVersion {
        v: u64,
    }
    match serde_json::from_slice::<OnlyVersion>(bytes) {
        Ok(only) if only.v != VERSION => FormatError::Version(only.v),
        _ => FormatError::Malformed(error.to_string()),
    }
}
