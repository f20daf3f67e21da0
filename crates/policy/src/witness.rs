//! Witnesses: the part of a snapshot that one decision read, with its proofs, so that a stranger can decide again.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use alloy_primitives::{Address, B256, Bytes, KECCAK256_EMPTY, U256};
use alloy_rlp::{RlpDecodable, RlpEncodable};
use alloy_trie::{EMPTY_ROOT_HASH, TrieAccount};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::proof::{AccountProof, StorageProof};
use crate::snapshot::ProvedAccount;
use crate::{
    Action, Decision, EvalError, PROFILE, PolicyError, ProvedHeader, Registries, Snapshot,
    SnapshotBuilder, StateKey, decide,
};

/// Largest encoded witness accepted, in bytes.
pub const MAX_WITNESS_BYTES: usize = 8 * 1024 * 1024;

/// All chain state behind one decision: header, account and slot proofs, code. Self-contained: [`Witness::replay`]
/// needs no network.
///
/// What it cannot prove by itself is that the header is part of the chain: compare [`Witness::header`]'s hash with the
/// decision's, and that with any source trusted for the chain.
///
/// The binary form is RLP and canonical: equal witnesses have equal bytes, and [`Witness::id`] is their SHA-256.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, RlpEncodable, RlpDecodable)]
#[serde(deny_unknown_fields)]
pub struct Witness {
    /// EVM profile of the evaluation.
    profile: String,
    /// EIP-155 chain id.
    chain_id: u64,
    /// RLP of the block header.
    header: Bytes,
    /// Trie nodes, each once; proofs refer to them by index.
    nodes: Vec<Bytes>,
    /// Accounts in ascending order of address.
    accounts: Vec<WitnessAccount>,
    /// Contract code, each once, in ascending order of the first account that has it.
    codes: Vec<WitnessCode>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, RlpEncodable, RlpDecodable)]
#[serde(deny_unknown_fields)]
struct WitnessAccount {
    address: Address,
    nonce: u64,
    balance: U256,
    storage_hash: B256,
    code_hash: B256,
    proof: Vec<u32>,
    slots: Vec<WitnessSlot>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, RlpEncodable, RlpDecodable)]
#[serde(deny_unknown_fields)]
struct WitnessSlot {
    slot: U256,
    value: U256,
    proof: Vec<u32>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, RlpEncodable, RlpDecodable)]
#[serde(deny_unknown_fields)]
struct WitnessCode {
    address: Address,
    code: Bytes,
}

/// Cuts out of a snapshot what a decision read. `decision` must have been made on `snapshot`; keys that the snapshot
/// does not hold are left out, and a replay then reports them missing.
pub fn witness(snapshot: &Snapshot, decision: &Decision) -> Witness {
    Witness::of(snapshot, &decision.touched)
}

impl Witness {
    /// Cuts the given keys out of a snapshot.
    pub fn of(snapshot: &Snapshot, keys: &[StateKey]) -> Self {
        let mut wanted: BTreeMap<Address, BTreeSet<U256>> = BTreeMap::new();
        for key in keys {
            let (StateKey::Account(address) | StateKey::Code(address) | StateKey::Slot(address, _)) =
                key;
            let slots = wanted.entry(*address).or_default();
            if let StateKey::Slot(_, slot) = key {
                slots.insert(*slot);
            }
        }
        let mut pool = NodePool::default();
        let mut codes: Vec<WitnessCode> = Vec::new();
        let mut seen: BTreeSet<B256> = BTreeSet::new();
        let mut accounts = Vec::with_capacity(wanted.len());
        for (address, slots) in wanted {
            let Some(account) = snapshot.accounts.get(&address) else {
                continue;
            };
            accounts.push(witness_account(address, account, &slots, &mut pool));
            let hash = account.code_hash();
            if let Some(code) = snapshot.codes.get(&hash)
                && seen.insert(hash)
            {
                codes.push(WitnessCode {
                    address,
                    code: code.original_bytes(),
                });
            }
        }
        Self {
            profile: PROFILE.to_owned(),
            chain_id: snapshot.chain_id,
            header: snapshot.header.rlp().clone(),
            nodes: pool.nodes,
            accounts,
            codes,
        }
    }

    /// The canonical binary form.
    pub fn to_bytes(&self) -> Vec<u8> {
        alloy_rlp::encode(self)
    }

    /// Reads a witness from its binary form. Nothing in it is checked yet but its form and size.
    ///
    /// # Errors
    /// [`PolicyError::Witness`] if it is too large or not exactly one canonical encoding.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, PolicyError> {
        if bytes.len() > MAX_WITNESS_BYTES {
            return Err(PolicyError::Witness("too large"));
        }
        let witness: Self = alloy_rlp::decode_exact(bytes)
            .map_err(|_| PolicyError::Witness("not canonical RLP"))?;
        Ok(witness)
    }

    /// SHA-256 of the binary form.
    pub fn id(&self) -> [u8; 32] {
        Sha256::digest(self.to_bytes()).into()
    }

    /// The block header, with its hash recomputed.
    ///
    /// # Errors
    /// [`PolicyError::Header`].
    pub fn header(&self) -> Result<ProvedHeader, PolicyError> {
        ProvedHeader::from_rlp(self.header.clone())
    }

    /// Checks every proof and all code, and makes a snapshot of exactly this state.
    ///
    /// # Errors
    /// [`PolicyError`] naming the first thing that does not hold.
    pub fn snapshot(&self) -> Result<Snapshot, PolicyError> {
        if self.profile != PROFILE {
            let shown: String = self.profile.chars().take(32).collect();
            return Err(PolicyError::Profile(shown));
        }
        let mut builder = SnapshotBuilder::new(self.header()?, self.chain_id);
        for account in &self.accounts {
            let claim = AccountProof {
                nonce: account.nonce,
                balance: account.balance,
                storage_hash: account.storage_hash,
                code_hash: account.code_hash,
                proof: self.proof(&account.proof)?,
            };
            builder.add_account_proof(account.address, &claim)?;
            for slot in &account.slots {
                let claim = StorageProof {
                    value: slot.value,
                    proof: self.proof(&slot.proof)?,
                };
                builder.add_storage_proof(account.address, slot.slot, &claim)?;
            }
        }
        for code in &self.codes {
            builder.add_code(code.address, code.code.clone())?;
        }
        Ok(builder.build())
    }

    /// Decides again, offline, from nothing but this witness.
    ///
    /// # Errors
    /// [`ReplayError::State`] if a proof or code does not hold, [`ReplayError::Evaluation`] if the witness does not
    /// suffice or the EVM profile refuses.
    pub fn replay(
        &self,
        registries: &Registries,
        action: &Action,
    ) -> Result<Decision, ReplayError> {
        Ok(decide(&self.snapshot()?, registries, action)?)
    }

    fn proof(&self, indices: &[u32]) -> Result<Vec<Bytes>, PolicyError> {
        if indices.len() > crate::proof::MAX_PROOF_NODES {
            return Err(PolicyError::Witness("proof too long"));
        }
        indices
            .iter()
            .map(|index| self.nodes.get(*index as usize).cloned())
            .collect::<Option<_>>()
            .ok_or(PolicyError::Witness("proof names a node that is not there"))
    }
}

/// Why a witness could not be replayed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReplayError {
    /// Header, proof or code does not hold.
    #[error(transparent)]
    State(#[from] PolicyError),
    /// The evaluation on the witnessed state gave no decision.
    #[error(transparent)]
    Evaluation(#[from] EvalError),
}

fn witness_account(
    address: Address,
    account: &ProvedAccount,
    slots: &BTreeSet<U256>,
    pool: &mut NodePool,
) -> WitnessAccount {
    let state = account.state.unwrap_or(TrieAccount {
        nonce: 0,
        balance: U256::ZERO,
        storage_root: EMPTY_ROOT_HASH,
        code_hash: KECCAK256_EMPTY,
    });
    let proof = pool.indices(&account.nodes);
    // Slots of an account without storage are proved by the account alone, and are not listed.
    let slots = slots.iter().filter_map(|slot| {
        let proved = account.storage.slots.get(slot)?;
        Some(WitnessSlot {
            slot: *slot,
            value: proved.value,
            proof: pool.indices(&proved.nodes),
        })
    });
    WitnessAccount {
        address,
        nonce: state.nonce,
        balance: state.balance,
        storage_hash: state.storage_root,
        code_hash: state.code_hash,
        slots: slots.collect(),
        proof,
    }
}

/// Nodes in order of first use.
#[derive(Default)]
struct NodePool {
    nodes: Vec<Bytes>,
    index: HashMap<Bytes, u32>,
}

impl NodePool {
    fn indices(&mut self, nodes: &[Bytes]) -> Vec<u32> {
        nodes
            .iter()
            .map(|node| {
                *self.index.entry(node.clone()).or_insert_with(|| {
                    self.nodes.push(node.clone());
                    u32::try_from(self.nodes.len() - 1).unwrap_or(u32::MAX)
                })
            })
            .collect()
    }
}
