//! Checkpoints: the head of the tree as a C2SP signed note (tlog-checkpoint, Ed25519).

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use ed25519_dalek::Signer;
use signed_note::{Note, Signature, StandardVerifier, VerifierList, key_id};
use tlog_tiles::{Checkpoint, Hash as Node};
use zeroize::Zeroizing;

use crate::encoding::MAX_INTEGER;
use crate::id::LogId;
use crate::{FormatError, Hash};

/// Most bytes of a checkpoint that is read.
pub const MAX_CHECKPOINT_BYTES: usize = 8 * 1024;

/// Signature algorithm byte of a verifier key (C2SP signed-note).
const ED25519: u8 = 1;

const EXTENSION_TIME: &str = "writ-time ";

/// The head of a log at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Head {
    /// Origin line: the log.
    pub origin: String,
    /// Number of records.
    pub size: u64,
    /// RFC 6962 root over them.
    pub root: Hash,
    /// When it was signed, unix milliseconds (extension line `writ-time`).
    pub time: u64,
}

/// The key that signs checkpoints: made for one start of one program, only in memory.
///
/// A Start record carries its public half under the SVID's signature, so no private key need
/// outlive the process.
pub struct CheckpointKey {
    key: ed25519_dalek::SigningKey,
}

impl std::fmt::Debug for CheckpointKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CheckpointKey").finish_non_exhaustive()
    }
}

impl CheckpointKey {
    /// The key made of 32 random bytes.
    pub fn from_seed(seed: &Zeroizing<[u8; 32]>) -> Self {
        Self {
            key: ed25519_dalek::SigningKey::from_bytes(seed),
        }
    }

    fn public(&self) -> Vec<u8> {
        let mut bytes = vec![ED25519];
        bytes.extend(self.key.verifying_key().to_bytes());
        bytes
    }

    /// The public half for checkpoints of `log`, as a C2SP verifier key: `name+id+base64`.
    pub fn verifier_key(&self, log: &LogId) -> String {
        let (name, public) = (log.origin(), self.public());
        format!(
            "{name}+{:08x}+{}",
            key_id(&name, &public),
            STANDARD.encode(&public)
        )
    }

    /// Signs the head of `log`.
    ///
    /// # Errors
    /// Never for a head within the bounds of the format.
    pub fn sign(&self, log: &LogId, head: &Head) -> Result<Vec<u8>, FormatError> {
        let text = Checkpoint::new(
            &head.origin,
            head.size,
            Node(head.root),
            &format!("{EXTENSION_TIME}{}\n", head.time),
        )
        .map_err(|e| FormatError::Checkpoint(e.to_string()))?
        .to_bytes();
        let name = log.origin();
        let id = key_id(&name, &self.public());
        let value = self.key.sign(&text).to_bytes().to_vec();
        let bad = |e: signed_note::NoteError| FormatError::Checkpoint(e.to_string());
        let signature = Signature::new(name, id, value).map_err(bad)?;
        Ok(Note::new(&text, &[signature]).map_err(bad)?.to_bytes())
    }
}

/// A signed note with a head in it, whose signature is not verified yet.
#[derive(Debug, PartialEq)]
pub struct SignedHead {
    head: Head,
    note: Note,
}

impl SignedHead {
    /// Reads a checkpoint. Nothing is verified.
    ///
    /// # Errors
    /// When it is too long, no signed note, or its text no checkpoint of a log of ours.
    pub fn parse(bytes: &[u8]) -> Result<Self, FormatError> {
        let bad = |what: &str| FormatError::Checkpoint(what.to_owned());
        if bytes.len() > MAX_CHECKPOINT_BYTES {
            return Err(bad("too long"));
        }
        let note = Note::from_bytes(bytes).map_err(|e| FormatError::Checkpoint(e.to_string()))?;
        let text = Checkpoint::from_bytes(note.text()).map_err(|_| bad("malformed text"))?;
        let time = text
            .extension()
            .strip_prefix(EXTENSION_TIME)
            .and_then(|rest| rest.strip_suffix('\n'))
            .and_then(|digits| {
                let time: u64 = digits.parse().ok()?;
                (time <= MAX_INTEGER && time.to_string() == digits).then_some(time)
            })
            .ok_or_else(|| bad("no writ-time line"))?;
        let head = Head {
            origin: text.origin().to_owned(),
            size: text.size(),
            root: text.hash().0,
            time,
        };
        // One checkpoint has one text: what was signed is what is shown.
        if text.to_bytes() != note.text() || head.size > MAX_INTEGER {
            return Err(bad("not canonical"));
        }
        Ok(Self { head, note })
    }

    /// The head as claimed.
    pub fn unverified(&self) -> &Head {
        &self.head
    }

    /// The head, once `verifier_key` (C2SP, `name+id+base64`) is found to have signed it.
    ///
    /// # Errors
    /// When the key is malformed, names another log, or did not sign.
    pub fn verify(&self, verifier_key: &str) -> Result<&Head, FormatError> {
        let bad = |e: String| FormatError::Checkpoint(e);
        let (name, _) = verifier_key
            .split_once('+')
            .ok_or_else(|| bad("malformed verifier key".into()))?;
        if name != self.head.origin {
            return Err(bad(format!(
                "it is of {}, the key of {name}",
                self.head.origin
            )));
        }
        let verifier = StandardVerifier::new(verifier_key).map_err(|e| bad(e.to_string()))?;
        let known = VerifierList::new(vec![Box::new(verifier)]);
        self.note.verify(&known).map_err(|e| bad(e.to_string()))?;
        Ok(&self.head)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::prelude::*;

    use super::*;

    fn signed() -> (CheckpointKey, LogId, Head, Vec<u8>) {
        let key = CheckpointKey::from_seed(&Zeroizing::new([7; 32]));
        let log = LogId::from_random([1; 10]);
        let head = Head {
            origin: log.origin(),
            size: 42,
            root: [9; 32],
            time: 1_700_000_000_123,
        };
        let note = key.sign(&log, &head).unwrap();
        (key, log, head, note)
    }

    #[test]
    fn a_checkpoint_is_a_signed_note_that_only_its_key_verifies() {
        let (key, log, head, note) = signed();
        let text = String::from_utf8(note.clone()).unwrap();
        assert!(
            text.starts_with(&format!("writ.dev/log/{log}\n42\n")),
            "{text}"
        );
        let parsed = SignedHead::parse(&note).unwrap();
        assert_eq!(parsed.verify(&key.verifier_key(&log)).unwrap(), &head);

        let other = CheckpointKey::from_seed(&Zeroizing::new([8; 32]));
        assert!(parsed.verify(&other.verifier_key(&log)).is_err());
        let other_log = LogId::from_random([2; 10]);
        assert!(parsed.verify(&key.verifier_key(&other_log)).is_err());
        assert!(parsed.verify("nonsense").is_err());
    }

    proptest! {
        #[test]
        fn a_changed_byte_never_verifies(at in 0_usize..200, change in 1_u8..) {
            let (key, log, _, mut note) = signed();
            let at = at % note.len();
            if let Some(byte) = note.get_mut(at) { *byte ^= change; }
            let verified = SignedHead::parse(&note)
                .and_then(|parsed| parsed.verify(&key.verifier_key(&log)).cloned());
            prop_assert!(verified.is_err());
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
            let _ = SignedHead::parse(&bytes);
        }
    }
}
