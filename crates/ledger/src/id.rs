//! Names of logs, decisions and witnesses.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::FormatError;
use crate::encoding::{MAX_INTEGER, b64};

/// RFC 4648 base32 in lower case: no digit looks like a letter.
const BASE32: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";

/// Name of one log: 80 random bits as 16 characters of lower-case base32.
///
/// A new file gets a new name, so that a position is never used twice in the world.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct LogId(String);

impl LogId {
    /// The name made of 80 random bits.
    pub fn from_random(bytes: [u8; 10]) -> Self {
        let mut wide = [0_u8; 16];
        for (to, from) in wide.iter_mut().skip(6).zip(bytes) {
            *to = from;
        }
        let bits = u128::from_be_bytes(wide);
        let text = (0..16)
            .rev()
            .filter_map(|i| BASE32.get(((bits >> (5 * i)) & 31) as usize))
            .map(|b| char::from(*b))
            .collect();
        Self(text)
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Origin line of this log's checkpoints (C2SP tlog-checkpoint).
    pub fn origin(&self) -> String {
        format!("writ.dev/log/{}", self.0)
    }
}

impl fmt::Display for LogId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for LogId {
    type Err = FormatError;

    fn from_str(text: &str) -> Result<Self, FormatError> {
        if text.len() == 16 && text.bytes().all(|b| BASE32.contains(&b)) {
            Ok(Self(text.to_owned()))
        } else {
            Err(FormatError::Bound("log id"))
        }
    }
}

impl TryFrom<String> for LogId {
    type Error = FormatError;
    fn try_from(text: String) -> Result<Self, FormatError> {
        text.parse()
    }
}

impl From<LogId> for String {
    fn from(id: LogId) -> Self {
        id.0
    }
}

/// Name of one decision: its place in its log, `<log>-<seq>`, as in `mfrggzdfmztwq2lk-42`.
///
/// It is known before the record is written, since the envelope names it, and shown to nobody
/// before that record is durable.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct DecisionId {
    /// The log.
    pub log: LogId,
    /// The place in it.
    pub seq: u64,
}

impl fmt::Display for DecisionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.log, self.seq)
    }
}

impl FromStr for DecisionId {
    type Err = FormatError;

    fn from_str(text: &str) -> Result<Self, FormatError> {
        let bad = FormatError::Bound("decision id");
        let (log, seq) = text.split_once('-').ok_or_else(|| bad.clone())?;
        let number: u64 = seq.parse().map_err(|_| bad.clone())?;
        if number > MAX_INTEGER || number.to_string() != seq {
            return Err(bad);
        }
        Ok(Self {
            log: log.parse()?,
            seq: number,
        })
    }
}

/// Name of a stored witness: SHA-256 of its bytes.
///
/// A certificate is stored the same way, so its name is the `kid` of what it signed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct WitnessId(#[serde(with = "b64")] pub [u8; 32]);

impl WitnessId {
    /// The name of these bytes.
    pub fn of(bytes: &[u8]) -> Self {
        Self(Sha256::digest(bytes).into())
    }
}

impl fmt::Display for WitnessId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_log_id_spells_its_random_bits_in_base32() {
        assert_eq!(LogId::from_random([0; 10]).as_str(), "aaaaaaaaaaaaaaaa");
        assert_eq!(LogId::from_random([255; 10]).as_str(), "7777777777777777");
        // RFC 4648: base32("foobarfoob") begins with that of "foobar".
        let id = LogId::from_random(*b"foobarfoob");
        assert_eq!(id.as_str(), "mzxw6ytbojtg633c");
    }

    #[test]
    fn a_decision_id_reads_back_and_no_other_spelling_does() {
        let id: DecisionId = "mzxw6ytboztg633c-42".parse().unwrap();
        assert_eq!(
            (id.seq, id.to_string().as_str()),
            (42, "mzxw6ytboztg633c-42")
        );
        for wrong in [
            "",
            "mzxw6ytboztg633c",
            "mzxw6ytboztg633c-042",
            "mzxw6ytboztg633c-+1",
            "MZXW6YTBOZTG633C-1",
            "mzxw-1",
            "mzxw6ytboztg633c-9007199254740992",
        ] {
            assert!(wrong.parse::<DecisionId>().is_err(), "{wrong}");
        }
    }
}
