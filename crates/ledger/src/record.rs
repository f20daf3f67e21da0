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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]
    use alloy_primitives::U256;
    use proptest::prelude::*;

    use super::*;
    use crate::{
        BudgetSource, BudgetUse, Decision, Enforced, Mode, Names, Outcome, OutcomeResult, Refused,
        Start, StartSignature, Verdict, WitnessId,
    };

    fn record(entry: Entry) -> Record {
        Record {
            entry,
            log: LogId::from_random([1; 10]),
            prev: [2; 32],
            seq: 5,
            time: 1_700_000_000_000,
            v: VERSION,
        }
    }

    fn decision() -> Decision {
        Decision {
            action: Some(vec![1, 2, 3]),
            budget: Some(BudgetUse {
                agent: "spiffe://example.org/agent".into(),
                amount: U256::MAX >> 1,
                calls: 3,
                capability: "payments.transfer".into(),
                index: 28_333_333,
                source: BudgetSource::Log,
                spent: U256::from(70),
                window: 60,
            }),
            jws: Some("e30.e30.AA".into()),
            mode: Mode::Enforce,
            names: Names {
                agent: "spiffe://example.org/agent".into(),
                capability: "payments.transfer".into(),
                principal: Some("jürgen \"quoted\" \\ 💶 \u{2028}".into()),
                resource: None,
                session: Some("s".into()),
                target: "https://bank.example/transfers".into(),
            },
            reason: "allowed".into(),
            salt: Some([4; 16]),
            witness: Some(WitnessId([5; 32])),
        }
    }

    fn samples() -> Vec<Record> {
        let entries = vec![
            Entry::Allow(Box::new(decision())),
            Entry::Denial(Box::new(Decision {
                jws: None,
                budget: None,
                ..decision()
            })),
            Entry::Start(Box::new(Start {
                key: "k+1+2".into(),
                signature: Some(StartSignature {
                    alg: "ES256".into(),
                    chain: vec![vec![1], vec![2]],
                    value: vec![3; 64],
                }),
                software: "writ 1".into(),
            })),
            Entry::Outcome(Box::new(Outcome {
                enforced: Enforced::Pep,
                error: None,
                of: 4,
                receipt: Some("a.b.c".into()),
                response: Some([1; 32]),
                result: OutcomeResult::Completed,
                status: Some(200),
            })),
            Entry::Verdict(Box::new(Verdict {
                admitted: true,
                observed: false,
                capability: Some("c".into()),
                peer: Some("spiffe://example.org/peer".into()),
                reason: "admitted".into(),
                receipt: None,
                sae: Some("a.b.c".into()),
                target: "https://bank.example/".into(),
                witness: None,
            })),
            Entry::Refused(Refused {
                counts: [("no-envelope".into(), 3)].into(),
                since: 1,
            }),
            Entry::Heartbeat(crate::Heartbeat {}),
        ];
        entries.into_iter().map(record).collect()
    }

    #[test]
    fn the_encoding_is_rfc_8785_and_reads_back() {
        for record in samples() {
            let bytes = record.encode().unwrap();
            let canonical = serde_json_canonicalizer::to_vec(&record).unwrap();
            assert_eq!(
                String::from_utf8_lossy(&bytes),
                String::from_utf8_lossy(&canonical)
            );
            assert_eq!(Record::decode(&bytes).unwrap(), record);
        }
    }

    #[test]
    fn the_hash_of_a_record_is_the_rfc_6962_leaf_hash_of_its_bytes() {
        use sha2::{Digest, Sha256};
        let bytes = samples()[0].encode().unwrap();
        let leaf: Hash = Sha256::digest([&[0], bytes.as_slice()].concat()).into();
        assert_eq!(record_hash(&bytes), leaf);
    }

    #[test]
    fn any_other_text_of_a_record_is_refused() {
        let bytes = samples()[0].encode().unwrap();
        let text = String::from_utf8(bytes).unwrap();
        for (from, to) in [
            ("\"seq\":5", "\"seq\": 5"),
            ("\"seq\":5", "\"seq\":5.0"),
            ("\"seq\":5", "\"seq\":5,\"seq\":5"),
            ("\"seq\":5", "\"extra\":1,\"seq\":5"),
            ("\"v\":1", "\"v\":1,\"extra\":null"),
            ("\"mode\":\"enforce\"", "\"mode\":\"\\u0065nforce\""),
            ("\"reason\":\"allowed\"", "\"reason\":\"allowed\\n\""),
            ("\"session\":\"s\"", "\"resource\":null,\"session\":\"s\""),
            ("\"salt\":\"BAQE", "\"salt\":\"BAQE="),
            ("\"spent\":\"70\"", "\"spent\":\"070\""),
            ("\"spent\":\"70\"", "\"spent\":\"+70\""),
            ("\"seq\":5", "\"seq\":9007199254740992"),
        ] {
            let other = text.replacen(from, to, 1);
            assert_ne!(other, text, "{from}");
            assert!(Record::decode(other.as_bytes()).is_err(), "{to}");
        }
        assert!(Record::decode(format!("{text} ").as_bytes()).is_err());
        assert_eq!(
            Record::decode(&vec![b' '; MAX_RECORD_BYTES + 1]),
            Err(FormatError::TooLarge(MAX_RECORD_BYTES + 1))
        );
    }

    #[test]
    fn a_newer_version_is_named_and_not_called_malformed() {
        let newer = br#"{"entry":{"teleport":{}},"v":2}"#;
        assert_eq!(Record::decode(newer), Err(FormatError::Version(2)));
    }

    #[test]
    fn enforced_by_a_pep_needs_a_receipt() {
        let mut record = samples().remove(3);
        if let Entry::Outcome(outcome) = &mut record.entry {
            outcome.receipt = None;
        }
        assert!(record.encode().is_err());
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let _ = Record::decode(&bytes);
        }

        /// Whatever one byte is changed to, it is no longer this record.
        #[test]
        fn a_changed_byte_is_another_record_or_none(at in 0_usize..2000, to in any::<u8>()) {
            let record = samples().remove(0);
            let mut bytes = record.encode().unwrap();
            let at = at % bytes.len();
            prop_assume!(bytes[at] != to);
            bytes[at] = to;
            if let Ok(other) = Record::decode(&bytes) {
                prop_assert_ne!(&other, &record);
                prop_assert_eq!(other.encode().unwrap(), bytes);
            }
        }
    }
}
