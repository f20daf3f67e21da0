//! The uses that are remembered, by when they end.

use std::collections::{BTreeMap, HashSet};
use std::hash::{BuildHasher, RandomState};

use writ_sae::Use;

/// What is remembered: one envelope takes some 20 bytes.
///
/// An envelope's expiry is signed, so a second use of it looks into the same set. The sets hold
/// 64-bit fingerprints under a key of this process: two envelopes of one second share one with a
/// chance of 2^-64 per pair, nobody can choose them to, and then the second is refused.
pub(super) struct Recent {
    by_expiry: BTreeMap<u64, HashSet<u64>>,
    fingerprint: RandomState,
    count: u64,
    capacity: u64,
    /// Greatest expiry swept: what ends no later may have been forgotten.
    swept: u64,
}

impl Recent {
    pub(super) fn new(capacity: u64, swept: u64) -> Self {
        Self {
            by_expiry: BTreeMap::new(),
            fingerprint: RandomState::new(),
            count: 0,
            capacity,
            swept,
        }
    }

    /// Takes over what an earlier process remembered.
    pub(super) fn restore(&mut self, key: &[u8; 32], expires: u64) {
        self.insert(self.fingerprint.hash_one(key), expires);
    }

    pub(super) fn use_once(&mut self, key: &[u8; 32], expires: u64, now: u64) -> Use {
        self.sweep(now);
        let fingerprint = self.fingerprint.hash_one(key);
        let used = self.by_expiry.get(&expires);
        if used.is_some_and(|used| used.contains(&fingerprint)) {
            Use::Replayed
        } else if expires <= self.swept {
            Use::Forgotten
        } else if self.count >= self.capacity {
            Use::Full
        } else {
            self.insert(fingerprint, expires);
            Use::Fresh
        }
    }

    fn insert(&mut self, fingerprint: u64, expires: u64) {
        if self
            .by_expiry
            .entry(expires)
            .or_default()
            .insert(fingerprint)
        {
            self.count += 1;
        }
    }

    fn sweep(&mut self, now: u64) {
        while let Some(oldest) = self.by_expiry.first_entry() {
            if *oldest.key() >= now {
                break;
            }
            let (expires, used) = oldest.remove_entry();
            self.count -= used.len() as u64;
            self.swept = self.swept.max(expires);
        }
    }
}
