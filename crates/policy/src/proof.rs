//! EIP-1186 proofs: what an endpoint claims about an account or a slot, and the check against a root.

use alloy_primitives::{Address, B256, Bytes, KECCAK256_EMPTY, U256, keccak256};
use alloy_trie::nodes::TrieNode;
use alloy_trie::proof::verify_proof;
use alloy_trie::{EMPTY_ROOT_HASH, Nibbles, TrieAccount};
use serde::{Deserialize, Serialize};

use crate::PolicyError;

/// Most nodes in one proof: a path has 64 nibbles, and the root is a node of its own.
pub const MAX_PROOF_NODES: usize = 65;
/// Largest trie node accepted, in bytes. A full branch has 532.
pub const MAX_NODE_BYTES: usize = 1024;
/// Nibbles in a path of a secure trie.
const PATH_NIBBLES: usize = 64;

/// An account as `eth_getProof` answers. The values are claims until checked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AccountProof {
    /// Nonce.
    pub nonce: u64,
    /// Balance in wei.
    pub balance: U256,
    /// Root of the account's storage trie.
    pub storage_hash: B256,
    /// keccak256 of the code.
    pub code_hash: B256,
    /// Trie nodes from the state root down.
    pub proof: Vec<Bytes>,
}

/// A storage slot as `eth_getProof` answers. The value is a claim until checked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StorageProof {
    /// Value, 0 if the slot is not set.
    pub value: U256,
    /// Trie nodes from the account's storage root down.
    pub proof: Vec<Bytes>,
}

/// Checks an account proof against a state root. None means that the proof shows the account to be absent.
///
/// # Errors
/// [`PolicyError::AccountProof`] if neither the claimed account nor its absence follows from the proof,
/// [`PolicyError::ProofTooLarge`] beyond the bounds.
pub fn check_account(
    state_root: B256,
    address: Address,
    claim: &AccountProof,
) -> Result<Option<TrieAccount>, PolicyError> {
    bounded(&claim.proof).ok_or(PolicyError::ProofTooLarge(address))?;
    let path = Nibbles::unpack(keccak256(address));
    let account = TrieAccount::new(
        claim.nonce,
        claim.balance,
        claim.storage_hash,
        claim.code_hash,
    );
    if verify_proof(
        state_root,
        path,
        Some(alloy_rlp::encode(account)),
        &claim.proof,
    )
    .is_ok()
    {
        return Ok(Some(account));
    }
    // Clients disagree on how they spell an absent account (zero hashes, or the hashes of nothing): what counts is the
    // exclusion proof, and that the claim does not contradict it.
    let claims_nothing = claim.nonce == 0
        && claim.balance.is_zero()
        && (claim.code_hash == KECCAK256_EMPTY || claim.code_hash.is_zero())
        && (claim.storage_hash == EMPTY_ROOT_HASH || claim.storage_hash.is_zero());
    if claims_nothing && verify_proof(state_root, path, None, &claim.proof).is_ok() {
        return Ok(None);
    }
    Err(PolicyError::AccountProof(address))
}

/// Checks a storage proof against the storage root of a proved account.
///
/// # Errors
/// [`PolicyError::StorageProof`] if the claimed value does not follow from the proof, [`PolicyError::ProofTooLarge`]
/// beyond the bounds.
pub fn check_slot(
    storage_root: B256,
    address: Address,
    slot: U256,
    claim: &StorageProof,
) -> Result<(), PolicyError> {
    bounded(&claim.proof).ok_or(PolicyError::ProofTooLarge(address))?;
    let path = Nibbles::unpack(keccak256(slot.to_be_bytes::<32>()));
    let proves = |expected| verify_proof(storage_root, path, expected, &claim.proof).is_ok();
    // An unset slot is an absent key. Development nodes also keep explicit zeros, to which the root commits as well.
    let proved = if claim.value.is_zero() {
        proves(None) || proves(Some(alloy_rlp::encode(U256::ZERO)))
    } else {
        proves(Some(alloy_rlp::encode(claim.value)))
    };
    if proved {
        Ok(())
    } else {
        Err(PolicyError::StorageProof { address, slot })
    }
}

/// Some if the nodes are few, small, well-formed, and spell no path longer than a key. The verifier asserts the last.
fn bounded(nodes: &[Bytes]) -> Option<()> {
    if nodes.len() > MAX_PROOF_NODES || nodes.iter().any(|node| node.len() > MAX_NODE_BYTES) {
        return None;
    }
    let mut nibbles = 0;
    for node in nodes {
        nibbles += longest_path(node)?;
    }
    (nibbles <= PATH_NIBBLES).then_some(())
}

/// The longest path that one node spells, nodes encoded in place included. None if it does not decode.
fn longest_path(node: &[u8]) -> Option<usize> {
    let in_place = |child: &[u8]| {
        if child.len() < 32 {
            longest_path(child)
        } else {
            Some(0)
        }
    };
    match alloy_rlp::decode_exact(node).ok()? {
        TrieNode::EmptyRoot => Some(0),
        TrieNode::Leaf(leaf) => Some(leaf.key.len()),
        TrieNode::Extension(extension) => Some(extension.key.len() + in_place(&extension.child)?),
        TrieNode::Branch(branch) => {
            let mut longest = 0;
            for child in &branch.stack {
                longest = longest.max(in_place(child)?);
            }
            Some(1 + longest)
        }
    }
}
