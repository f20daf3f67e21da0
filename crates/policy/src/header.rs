//! Block headers, read from RLP with their hash recomputed.

use alloy_primitives::{Address, B256, Bytes, U256, keccak256};
use alloy_rlp::{Decodable, Header as RlpHeader, PayloadView};

use crate::PolicyError;

/// Largest header accepted, in bytes. A header of today has about 640; L2s add little.
pub const MAX_HEADER_BYTES: usize = 16 * 1024;
/// Most header fields accepted. Ethereum has 21 since Prague; newer forks and L2s append.
const MAX_FIELDS: usize = 64;
/// Fields every header has had since the first block.
const MIN_FIELDS: usize = 15;

/// A block header whose hash was computed here, from its own bytes.
///
/// "Proved" means: the fields are the ones this hash commits to. That the hash is part of the chain is for the
/// agreement of several sources to say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProvedHeader {
    /// keccak256 of the header's RLP.
    pub hash: B256,
    /// Hash of the parent.
    pub parent_hash: B256,
    /// Root of the state trie after this block.
    pub state_root: B256,
    /// Block number.
    pub number: u64,
    /// Unix seconds.
    pub timestamp: u64,
    /// COINBASE.
    pub beneficiary: Address,
    /// Gas limit of the block.
    pub gas_limit: u64,
    /// Base fee per gas (EIP-1559), 0 before London.
    pub base_fee: u64,
    /// PREVRANDAO (EIP-4399).
    pub mix_hash: B256,
    /// Difficulty, 0 since the merge.
    pub difficulty: U256,
    /// Excess blob gas (EIP-4844), 0 before Cancun.
    pub excess_blob_gas: u64,
    rlp: Bytes,
}

impl ProvedHeader {
    /// Reads a header from its RLP. Fields beyond those known here (later forks, L2 extensions) are kept in the hash
    /// and otherwise ignored.
    ///
    /// # Errors
    /// [`PolicyError::Header`] if the bytes are not exactly one RLP list with at least the fifteen original fields.
    pub fn from_rlp(rlp: impl Into<Bytes>) -> Result<Self, PolicyError> {
        let rlp: Bytes = rlp.into();
        if rlp.len() > MAX_HEADER_BYTES {
            return Err(PolicyError::Header("too large"));
        }
        let mut rest: &[u8] = &rlp;
        let view = RlpHeader::decode_raw(&mut rest).map_err(|_| PolicyError::Header("not RLP"))?;
        let PayloadView::List(fields) = view else {
            return Err(PolicyError::Header("not an RLP list"));
        };
        if !rest.is_empty() {
            return Err(PolicyError::Header("trailing bytes"));
        }
        if fields.len() < MIN_FIELDS || fields.len() > MAX_FIELDS {
            return Err(PolicyError::Header("field count"));
        }
        Ok(Self {
            hash: keccak256(&rlp),
            parent_hash: field(&fields, 0, "parent hash")?,
            beneficiary: field(&fields, 2, "beneficiary")?,
            state_root: field(&fields, 3, "state root")?,
            difficulty: field(&fields, 7, "difficulty")?,
            number: field(&fields, 8, "number")?,
            gas_limit: field(&fields, 9, "gas limit")?,
            timestamp: field(&fields, 11, "timestamp")?,
            mix_hash: field(&fields, 13, "mix hash")?,
            base_fee: optional(&fields, 15, "base fee")?,
            excess_blob_gas: optional(&fields, 18, "excess blob gas")?,
            rlp,
        })
    }

    /// Takes a decoded header over. The hash is computed from its RLP.
    ///
    /// # Errors
    /// [`PolicyError::Header`] as for [`ProvedHeader::from_rlp`].
    pub fn from_consensus(header: &alloy_consensus::Header) -> Result<Self, PolicyError> {
        Self::from_rlp(alloy_rlp::encode(header))
    }

    /// Insists that this is the header that was asked for.
    ///
    /// # Errors
    /// [`PolicyError::HeaderHash`] if the computed hash is another.
    pub fn expect_hash(self, expected: B256) -> Result<Self, PolicyError> {
        if self.hash == expected {
            return Ok(self);
        }
        Err(PolicyError::HeaderHash {
            expected,
            actual: self.hash,
        })
    }

    /// The header's RLP, as hashed.
    pub fn rlp(&self) -> &Bytes {
        &self.rlp
    }
}

fn field<T: Decodable>(
    fields: &[&[u8]],
    index: usize,
    what: &'static str,
) -> Result<T, PolicyError> {
    let bytes = fields.get(index).ok_or(PolicyError::Header(what))?;
    alloy_rlp::decode_exact(bytes).map_err(|_| PolicyError::Header(what))
}

fn optional<T: Decodable + Default>(
    fields: &[&[u8]],
    index: usize,
    what: &'static str,
) -> Result<T, PolicyError> {
    if index < fields.len() {
        field(fields, index, what)
    } else {
        Ok(T::default())
    }
}
