//! The RFC 6962 tree over the records.
//!
//! Node hashes are numbered as in C2SP tlog-tiles ("stored hash index"), so that any stored node
//! is found by one look-up and tiles can be served from the same table.

use std::collections::BTreeMap;

use tlog_tiles::{
    Error as TlogError, Hash as Node, HashReader, check_record, check_tree, prove_record,
    prove_tree, stored_hash_index, stored_hashes_for_record_hash, sub_tree_index, tree_hash,
};

use crate::Hash;

/// A proof does not hold, or the nodes for it are missing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("tree: {0}")]
pub struct TreeError(String);

impl From<TlogError> for TreeError {
    fn from(error: TlogError) -> Self {
        Self(error.to_string())
    }
}

/// Where stored node hashes are read from.
pub trait Nodes {
    /// The node of each stored hash index, in the order asked; `None` if one is missing.
    fn nodes(&self, indexes: &[u64]) -> Option<Vec<Hash>>;
}

struct Reader<'a, N: Nodes + ?Sized>(&'a N);

impl<N: Nodes + ?Sized> HashReader for Reader<'_, N> {
    fn read_hashes(&self, indexes: &[u64]) -> Result<Vec<Node>, TlogError> {
        match self.0.nodes(indexes) {
            // tlog_tiles asserts the length: a short answer must not reach it.
            Some(found) if found.len() == indexes.len() => {
                Ok(found.into_iter().map(Node).collect())
            }
            _ => Err(TlogError::IndexesNotInTree),
        }
    }
}

/// Index of the node that is the leaf of record `seq`.
pub fn leaf_index(seq: u64) -> u64 {
    stored_hash_index(0, seq)
}

/// Number of the nodes that every root of `size` records is made of.
pub fn root_indexes(size: u64) -> Vec<u64> {
    if size == 0 {
        return Vec::new();
    }
    sub_tree_index(0, size, Vec::new())
}

/// The right edge of the tree: enough to add records and to know the root, in O(log n) memory.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Frontier {
    size: u64,
    edge: BTreeMap<u64, Hash>,
}

impl Nodes for Frontier {
    fn nodes(&self, indexes: &[u64]) -> Option<Vec<Hash>> {
        indexes.iter().map(|i| self.edge.get(i).copied()).collect()
    }
}

impl Frontier {
    /// Number of records.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Adds the next leaf and returns the new nodes, to be stored from [`leaf_index`] of it on.
    ///
    /// # Errors
    /// Never, unless the edge was damaged in memory.
    pub fn push(&mut self, leaf: Hash) -> Result<Vec<Hash>, TreeError> {
        let new = stored_hashes_for_record_hash(self.size, Node(leaf), &Reader(self))?;
        let start = leaf_index(self.size);
        self.size += 1;
        for (index, node) in (start..).zip(&new) {
            self.edge.insert(index, node.0);
        }
        let keep = root_indexes(self.size);
        self.edge.retain(|index, _| keep.contains(index));
        Ok(new.into_iter().map(|node| node.0).collect())
    }

    /// The root, RFC 6962 section 2.1.
    ///
    /// # Errors
    /// Never, unless the edge was damaged in memory.
    pub fn root(&self) -> Result<Hash, TreeError> {
        Ok(tree_hash(self.size, &Reader(self))?.0)
    }
}

/// The root of the first `size` records, from stored nodes.
///
/// # Errors
/// When a node is missing.
pub fn root(nodes: &(impl Nodes + ?Sized), size: u64) -> Result<Hash, TreeError> {
    Ok(tree_hash(size, &Reader(nodes))?.0)
}

/// Audit path of record `seq` in the tree of `size` records (RFC 6962 section 2.1.1).
///
/// # Errors
/// When `seq` is not below `size`, or a node is missing.
pub fn prove_inclusion(
    nodes: &(impl Nodes + ?Sized),
    seq: u64,
    size: u64,
) -> Result<Vec<Hash>, TreeError> {
    let proof = prove_record(size, seq, &Reader(nodes))?;
    Ok(proof.into_iter().map(|node| node.0).collect())
}

/// Checks that the record with hash `leaf` is number `seq` of the `size` records under `root`.
///
/// # Errors
/// When it is not.
pub fn check_inclusion(
    proof: &[Hash],
    seq: u64,
    leaf: Hash,
    size: u64,
    root: Hash,
) -> Result<(), TreeError> {
    let proof = proof.iter().copied().map(Node).collect();
    Ok(check_record(&proof, size, Node(root), seq, Node(leaf))?)
}

/// Proof that the first `old` of `size` records are those of an earlier head (section 2.1.2).
///
/// # Errors
/// When `old` is 0 or above `size`, or a node is missing.
pub fn prove_consistency(
    nodes: &(impl Nodes + ?Sized),
    old: u64,
    size: u64,
) -> Result<Vec<Hash>, TreeError> {
    let proof = prove_tree(size, old, &Reader(nodes))?;
    Ok(proof.into_iter().map(|node| node.0).collect())
}

/// Checks that the tree (`size`, `root`) begins with the tree (`old`, `old_root`).
///
/// # Errors
/// When it does not.
pub fn check_consistency(
    proof: &[Hash],
    old: u64,
    old_root: Hash,
    size: u64,
    root: Hash,
) -> Result<(), TreeError> {
    let proof = proof.iter().copied().map(Node).collect();
    Ok(check_tree(&proof, size, Node(root), old, Node(old_root))?)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]
    use sha2::{Digest, Sha256};

    use super::*;

    struct All(Vec<Hash>);
    impl Nodes for All {
        fn nodes(&self, indexes: &[u64]) -> Option<Vec<Hash>> {
            indexes
                .iter()
                .map(|i| self.0.get(usize::try_from(*i).ok()?).copied())
                .collect()
        }
    }

    /// RFC 6962 section 2.1, word by word.
    fn mth(leaves: &[Hash]) -> Hash {
        match leaves.len() {
            0 => Sha256::digest(b"").into(),
            1 => leaves[0],
            n => {
                let k = n.next_power_of_two() / 2;
                let (left, right) = (mth(&leaves[..k]), mth(&leaves[k..]));
                Sha256::digest([&[1], left.as_slice(), right.as_slice()].concat()).into()
            }
        }
    }

    fn leaves(n: u8) -> Vec<Hash> {
        (0..n).map(|i| crate::record_hash(&[i])).collect()
    }

    #[test]
    fn the_root_is_that_of_rfc_6962_at_every_size() {
        let leaves = leaves(70);
        let (mut frontier, mut nodes) = (Frontier::default(), All(Vec::new()));
        assert_eq!(frontier.root().unwrap(), mth(&[]));
        for (n, leaf) in leaves.iter().enumerate() {
            nodes.0.extend(frontier.push(*leaf).unwrap());
            assert_eq!(
                frontier.root().unwrap(),
                mth(&leaves[..=n]),
                "size {}",
                n + 1
            );
            assert_eq!(root(&nodes, n as u64 + 1).unwrap(), mth(&leaves[..=n]));
        }
        assert!(frontier.edge.len() <= 7, "the edge stays logarithmic");
    }

    #[test]
    fn every_proof_holds_for_its_own_place_only() {
        let leaves = leaves(33);
        let (mut frontier, mut nodes) = (Frontier::default(), All(Vec::new()));
        for leaf in &leaves {
            nodes.0.extend(frontier.push(*leaf).unwrap());
        }
        let root_33 = frontier.root().unwrap();
        for seq in 0..33 {
            let leaf = leaves[seq as usize];
            let proof = prove_inclusion(&nodes, seq, 33).unwrap();
            check_inclusion(&proof, seq, leaf, 33, root_33).unwrap();
            assert!(check_inclusion(&proof, seq ^ 1, leaf, 33, root_33).is_err());
            assert!(check_inclusion(&proof, seq, root_33, 33, root_33).is_err());
        }
        for old in 1..=33 {
            let old_root = mth(&leaves[..old as usize]);
            let proof = prove_consistency(&nodes, old, 33).unwrap();
            check_consistency(&proof, old, old_root, 33, root_33).unwrap();
            assert!(check_consistency(&proof, old, leaves[0], 33, root_33).is_err() || old == 1);
        }
        assert!(prove_inclusion(&nodes, 33, 33).is_err());
        assert!(
            prove_inclusion(&nodes, 3, 99).is_err(),
            "missing nodes are an error, no panic"
        );
    }
}
