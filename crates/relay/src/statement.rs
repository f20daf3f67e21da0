//! Head witnesses: what exactly they sign, and when a head counts as vouched for.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use writ_identity::EnvelopeKeys;
use writ_policy::ProvedHeader;
use writ_sae::{Algorithm, ChainVerifier, RingVerifier, SignatureCheck, SignatureVerifier};

use crate::RelayError;
use crate::limits::MAX_CERTIFICATES;

/// First line of what a witness signs. Nothing else that an SVID key signs begins so.
const DOMAIN: &str = "writ-head-witness/1";

/// The bytes that a witness signs, as ASCII lines:
///
/// ```text
/// writ-head-witness/1
/// <chain id, decimal>
/// <block number, decimal>
/// <block hash, 64 lower-case hex digits>
/// <state root, 64 lower-case hex digits>
/// <block timestamp, unix seconds, decimal>
/// <time of signing, unix seconds, decimal>
/// ```
///
/// Every line ends in a line feed.
pub fn statement(chain_id: u64, header: &ProvedHeader, signed_at: u64) -> Vec<u8> {
    let number = header.number;
    let hash = hex::encode(header.hash);
    let root = hex::encode(header.state_root);
    let timestamp = header.timestamp;
    format!("{DOMAIN}\n{chain_id}\n{number}\n{hash}\n{root}\n{timestamp}\n{signed_at}\n")
        .into_bytes()
}

/// A witness's signature under a head: a claim until [`Witnesses`] has checked it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Signature {
    /// SHA-256 of the leaf certificate in DER.
    pub leaf: [u8; 32],
    /// Unix seconds.
    pub signed_at: u64,
    /// ES256, `r || s`.
    pub value: [u8; 64],
}

/// Signs a head with the SVID's key. The chain (DER, leaf first) proves whose it is.
///
/// # Errors
/// [`RelayError::Identity`] when the SVID has expired, [`RelayError::Signing`].
pub fn sign(
    keys: &EnvelopeKeys,
    chain_id: u64,
    header: &ProvedHeader,
    now: u64,
) -> Result<(Signature, Vec<Vec<u8>>), RelayError> {
    let current = keys.current(now)?;
    let value = current.signer.sign(&statement(chain_id, header, now))?;
    let chain = current.signer.certificate_chain().to_vec();
    let leaf = leaf_of(&chain);
    let signature = Signature {
        leaf,
        signed_at: now,
        value,
    };
    Ok((signature, chain))
}

/// SHA-256 of the leaf.
pub(crate) fn leaf_of(chain: &[Vec<u8>]) -> [u8; 32] {
    let leaf = chain.first().map_or(&[][..], Vec::as_slice);
    let mut hash = [0; 32];
    hash.copy_from_slice(ring::digest::digest(&ring::digest::SHA256, leaf).as_ref());
    hash
}

/// Certificates that signatures refer to by their leaf, unverified: a bounded number, the oldest goes first.
#[derive(Debug, Default)]
pub struct Certificates {
    chains: BTreeMap<[u8; 32], Vec<Vec<u8>>>,
    order: std::collections::VecDeque<[u8; 32]>,
}

impl Certificates {
    /// Keeps a chain. True if it was not known.
    pub fn add(&mut self, chain: Vec<Vec<u8>>) -> bool {
        let leaf = leaf_of(&chain);
        if self.chains.insert(leaf, chain).is_some() {
            return false;
        }
        self.order.push_back(leaf);
        if self.order.len() > MAX_CERTIFICATES
            && let Some(oldest) = self.order.pop_front()
        {
            self.chains.remove(&oldest);
        }
        true
    }

    /// The chain with this leaf.
    pub fn get(&self, leaf: &[u8; 32]) -> Option<&[Vec<u8>]> {
        self.chains.get(leaf).map(Vec::as_slice)
    }
}

/// Why a signature does not count.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadSignature {
    /// Its certificate was not sent.
    #[error("its certificate was not sent")]
    NoCertificate,
    /// The certificate leads to no trust bundle.
    #[error("{0}")]
    Untrusted(String),
    /// Who signed is no configured witness.
    #[error("{0} is no configured witness")]
    Stranger(String),
    /// It was signed too long ago, or in the future.
    #[error("it was signed {0} s from now; check the clocks")]
    Untimely(u64),
    /// It does not verify.
    #[error("it does not verify under the certificate")]
    Forged,
}

/// Too few witnesses vouch for a head.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{got} of {needed} witnesses vouch for block {number}{}", reason.as_ref().map(|r| format!("; of a signature that does not count: {r}")).unwrap_or_default())]
pub struct Unwitnessed {
    /// The block.
    pub number: u64,
    /// Distinct configured witnesses whose signatures hold.
    pub got: usize,
    /// How many must.
    pub needed: usize,
    /// Why one of the others does not count.
    pub reason: Option<BadSignature>,
}

/// The head witnesses of a chain, and how many of them must agree.
pub struct Witnesses {
    ids: BTreeSet<String>,
    needed: usize,
    skew: u64,
    chains: Arc<dyn ChainVerifier>,
}

impl std::fmt::Debug for Witnesses {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Witnesses")
            .field("ids", &self.ids)
            .field("needed", &self.needed)
            .finish_non_exhaustive()
    }
}

/// The witnesses, if so many of them can decide together: with half of them or fewer, two groups could each vouch for
/// another chain.
pub(crate) fn distinct(ids: &[String], needed: usize) -> Result<BTreeSet<String>, RelayError> {
    let distinct: BTreeSet<String> = ids.iter().cloned().collect();
    if distinct.len() != ids.len() {
        return Err(RelayError::Settings(
            "a witness is listed twice; each needs an identity of its own".to_owned(),
        ));
    }
    for id in &distinct {
        writ_identity::check_spiffe_id(id)?;
    }
    let all = distinct.len();
    if needed > all || needed.saturating_mul(2) <= all {
        return Err(RelayError::Settings(format!(
            "{needed} of {all} witnesses must agree; give more than half of them, at most all"
        )));
    }
    Ok(distinct)
}

impl Witnesses {
    /// `needed` of these SPIFFE IDs must sign, no more than `skew` seconds from now.
    ///
    /// # Errors
    /// [`RelayError::Settings`]: no more than half of them, more than there are, or an ID twice.
    pub fn new(
        ids: &[String],
        needed: usize,
        skew: u64,
        chains: Arc<dyn ChainVerifier>,
    ) -> Result<Self, RelayError> {
        Ok(Self {
            ids: distinct(ids, needed)?,
            needed,
            skew,
            chains,
        })
    }

    /// How many must agree.
    pub fn needed(&self) -> usize {
        self.needed
    }

    /// Who signed, if it is a configured witness and the signature holds at `now` (unix seconds).
    ///
    /// # Errors
    /// [`BadSignature`].
    pub fn check(
        &self,
        chain_id: u64,
        header: &ProvedHeader,
        signature: &Signature,
        certificates: &Certificates,
        now: u64,
    ) -> Result<String, BadSignature> {
        let away = now.abs_diff(signature.signed_at);
        if away > self.skew {
            return Err(BadSignature::Untimely(away));
        }
        let chain = certificates
            .get(&signature.leaf)
            .ok_or(BadSignature::NoCertificate)?;
        let svid = self
            .chains
            .verify_chain(chain, now)
            .map_err(|e| BadSignature::Untrusted(e.to_string()))?;
        if !self.ids.contains(&svid.spiffe_id) {
            return Err(BadSignature::Stranger(svid.spiffe_id));
        }
        let message = statement(chain_id, header, signature.signed_at);
        let key = &svid.public_key;
        match RingVerifier.verify(Algorithm::Es256, key, &message, &signature.value) {
            SignatureCheck::Good => Ok(svid.spiffe_id),
            SignatureCheck::Bad => Err(BadSignature::Forged),
        }
    }

    /// Whether enough distinct witnesses signed this head.
    ///
    /// # Errors
    /// [`Unwitnessed`].
    pub fn vouched(
        &self,
        chain_id: u64,
        header: &ProvedHeader,
        signatures: &[Signature],
        certificates: &Certificates,
        now: u64,
    ) -> Result<(), Unwitnessed> {
        let mut signed = BTreeSet::new();
        let mut reason = None;
        for signature in signatures {
            match self.check(chain_id, header, signature, certificates, now) {
                Ok(id) => drop(signed.insert(id)),
                Err(bad) => reason = Some(bad),
            }
            if signed.len() >= self.needed {
                return Ok(());
            }
        }
        Err(Unwitnessed {
            number: header.number,
            got: signed.len(),
            needed: self.needed,
            reason,
        })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn no_two_groups_of_witnesses_can_each_vouch_for_another_chain() {
        let ids = |count: usize| -> Vec<String> {
            let id = |n| format!("spiffe://example.org/ns/writ-system/sa/writ-witness-{n}");
            (0..count).map(id).collect()
        };
        for count in 1..=8 {
            for needed in 0..=9 {
                let good = needed <= count && needed * 2 > count;
                assert_eq!(
                    distinct(&ids(count), needed).is_ok(),
                    good,
                    "{needed} of {count}"
                );
            }
        }
        assert!(distinct(&[], 0).is_err());
        assert!(distinct(&ids(1), usize::MAX).is_err());
        let twice = [ids(1), ids(1)].concat();
        let error = distinct(&twice, 2).unwrap_err().to_string();
        assert!(error.contains("listed twice"), "{error}");
    }
}
