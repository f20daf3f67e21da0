//! What witnesses signed, and which head enough of them vouch for.

use std::collections::{BTreeMap, VecDeque};

use alloy_primitives::B256;
use writ_policy::ProvedHeader;

use crate::{BadSignature, Certificates, Signature, Witnesses};

/// Heads kept of each witness: they may be a few blocks apart.
const KEPT: usize = 8;

/// A head that enough witnesses vouch for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Agreed {
    pub header: ProvedHeader,
    /// Newest first.
    pub signatures: Vec<Signature>,
    /// Since when enough of them are no older, unix seconds.
    pub signed_at: u64,
}

/// Votes by witness.
#[derive(Debug)]
pub(super) struct Votes {
    chain_id: u64,
    witnesses: Witnesses,
    certificates: Certificates,
    chains: BTreeMap<[u8; 32], Vec<Vec<u8>>>,
    by_witness: BTreeMap<String, VecDeque<(ProvedHeader, Signature)>>,
}

impl Votes {
    pub fn new(chain_id: u64, witnesses: Witnesses) -> Self {
        Self {
            chain_id,
            witnesses,
            certificates: Certificates::default(),
            chains: BTreeMap::new(),
            by_witness: BTreeMap::new(),
        }
    }

    /// Keeps a certificate that a connected witness sent.
    pub fn certificate(&mut self, chain: Vec<Vec<u8>>) {
        self.certificates.add(chain);
    }

    /// Takes the vote of the witness at the other end, with its own signature only.
    pub fn add(
        &mut self,
        from: &str,
        header: ProvedHeader,
        signature: Signature,
        now: u64,
    ) -> Result<(), BadSignature> {
        let (id, certificates) = (self.chain_id, &self.certificates);
        let signer = self
            .witnesses
            .check(id, &header, &signature, certificates, now)?;
        if signer != from {
            return Err(BadSignature::Stranger(signer));
        }
        if let Some(chain) = self.certificates.get(&signature.leaf) {
            self.chains.insert(signature.leaf, chain.to_vec());
        }
        let votes = self.by_witness.entry(signer).or_default();
        votes.retain(|(voted, _)| voted.hash != header.hash);
        votes.push_front((header, signature));
        votes.truncate(KEPT);
        // Those of replaced SVIDs go with the last vote by them.
        let used: Vec<[u8; 32]> = self
            .by_witness
            .values()
            .flatten()
            .map(|(_, signature)| signature.leaf)
            .collect();
        self.chains.retain(|leaf, _| used.contains(leaf));
        Ok(())
    }

    /// Certificates of the votes, by leaf.
    pub fn chains(&self) -> &BTreeMap<[u8; 32], Vec<Vec<u8>>> {
        &self.chains
    }

    /// The highest head that enough witnesses signed a moment before `now`; of two at one height the one that was signed
    /// last.
    pub fn agreed(&self, now: u64, within: u64) -> Option<Agreed> {
        let mut heads: BTreeMap<B256, Agreed> = BTreeMap::new();
        for (header, signature) in self.by_witness.values().flatten() {
            if now.abs_diff(signature.signed_at) > within {
                continue;
            }
            let head = heads.entry(header.hash).or_insert_with(|| Agreed {
                header: header.clone(),
                signatures: Vec::new(),
                signed_at: 0,
            });
            head.signatures.push(signature.clone());
        }
        let needed = self.witnesses.needed();
        let mut agreed: Vec<Agreed> = heads
            .into_values()
            .filter(|head| head.signatures.len() >= needed)
            .collect();
        for head in &mut agreed {
            head.signatures
                .sort_by_key(|signature| std::cmp::Reverse(signature.signed_at));
            head.signatures.truncate(crate::limits::MAX_SIGNATURES);
            let last = head.signatures.get(needed.saturating_sub(1));
            head.signed_at = last.map_or(0, |signature| signature.signed_at);
        }
        agreed
            .into_iter()
            .max_by_key(|head| (head.header.number, head.signed_at, head.header.hash))
    }
}
