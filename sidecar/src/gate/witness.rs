//! The state behind each decision, stored when the decision is made.
//!
//! Decisions on one block that read the same state share one witness, so a busy sidecar cuts a
//! handful a block, not one an action.

use std::sync::{Mutex, PoisonError};

use moka::sync::Cache;
use sha2::{Digest, Sha256};
use writ_ledger::{LedgerError, Log, WitnessId};
use writ_sae::Signer;

use super::Evaluated;

/// Witness ids remembered: some capabilities, over the blocks of the last seconds.
const REMEMBERED: u64 = 512;

/// Remembers which witness holds the state of which block and keys.
pub(super) struct Witnesses {
    known: Cache<[u8; 32], WitnessId>,
    /// `kid` of the newest certificate that the log holds.
    certificate: Mutex<Option<String>>,
}

impl Default for Witnesses {
    fn default() -> Self {
        Self {
            known: Cache::new(REMEMBERED),
            certificate: Mutex::default(),
        }
    }
}

impl Witnesses {
    /// Stores the state that a decision read, once.
    ///
    /// # Errors
    /// When the record cannot take it; the action must be refused.
    pub(super) fn store(&self, log: &Log, evaluated: &Evaluated) -> Result<WitnessId, LedgerError> {
        let key = key(evaluated);
        if let Some(known) = self.known.get(&key) {
            return Ok(known);
        }
        let witness = writ_policy::witness(&evaluated.head.snapshot, &evaluated.decision);
        let id = log.put_witness(&witness.to_bytes())?;
        self.known.insert(key, id);
        Ok(id)
    }

    /// Keeps the certificate that signs, once, so that the log can be checked by itself.
    ///
    /// # Errors
    /// When the record cannot take it; the action must be refused.
    pub(super) fn keep_certificate(
        &self,
        log: &Log,
        signer: &dyn Signer,
    ) -> Result<(), LedgerError> {
        let mut kept = self
            .certificate
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if kept.as_deref() == Some(signer.kid()) {
            return Ok(());
        }
        if let Some(leaf) = signer.certificate_chain().first() {
            log.put_witness(leaf)?;
        }
        *kept = Some(signer.kid().to_owned());
        Ok(())
    }
}

fn key(evaluated: &Evaluated) -> [u8; 32] {
    let mut hash = Sha256::new();
    hash.update(evaluated.decision.block_hash);
    for key in &evaluated.decision.touched {
        hash.update(format!("{key:?}\n"));
    }
    hash.finalize().into()
}
