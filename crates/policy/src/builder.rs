//! Building snapshots: every account, slot and code is checked before it enters.

use std::sync::Arc;

use alloy_primitives::map::{HashMap, HashSet};
use alloy_primitives::{Address, B256, Bytes, KECCAK256_EMPTY, U256, keccak256};
use alloy_trie::EMPTY_ROOT_HASH;
use revm::bytecode::Bytecode;

use crate::proof::{AccountProof, StorageProof, check_account, check_slot};
use crate::registry::Memory;
use crate::snapshot::{ProvedAccount, ProvedSlot, Storage};
use crate::{PolicyError, ProvedHeader, Snapshot, StateKey};

/// Most accounts in one snapshot.
pub const MAX_ACCOUNTS: usize = 1024;
/// Most slots in one snapshot.
pub const MAX_SLOTS: usize = 65_536;
/// Largest contract code accepted, in bytes (EIP-170 allows 24 KiB, EIP-7954 32 KiB; some L2s more).
pub const MAX_CODE_BYTES: usize = 64 * 1024;

/// Collects proofs at one header and makes a [`Snapshot`] of them.
///
/// A builder that [follows](SnapshotBuilder::following) an earlier snapshot keeps the slots of an account whose proved
/// storage root did not change, and all code; accounts are always proved anew.
#[derive(Debug)]
pub struct SnapshotBuilder {
    header: ProvedHeader,
    chain_id: u64,
    accounts: HashMap<Address, ProvedAccount>,
    codes: HashMap<B256, Bytecode>,
    previous: HashMap<Address, ProvedAccount>,
    /// Nodes near the root are part of every proof: they are kept once.
    nodes: HashSet<Bytes>,
    slots: usize,
}

impl SnapshotBuilder {
    /// Starts from nothing.
    pub fn new(header: ProvedHeader, chain_id: u64) -> Self {
        Self {
            header,
            chain_id,
            accounts: HashMap::default(),
            codes: HashMap::default(),
            previous: HashMap::default(),
            nodes: HashSet::default(),
            slots: 0,
        }
    }

    /// Starts at another header of the same chain, with what `previous` knows at hand.
    pub fn following(previous: &Snapshot, header: ProvedHeader) -> Self {
        let mut builder = Self::new(header, previous.chain_id);
        builder.codes = previous.codes.clone();
        builder.previous = previous.accounts.clone();
        builder
    }

    /// Goes on at the same header, keeping everything that `snapshot` has proved.
    pub fn extending(snapshot: &Snapshot) -> Self {
        let mut builder = Self::new(snapshot.header.clone(), snapshot.chain_id);
        builder.codes = snapshot.codes.clone();
        builder.accounts = snapshot.accounts.clone();
        builder.slots = snapshot.size().1;
        builder
    }

    /// Adds an account, or its absence, proved against the header's state root. Slots of an earlier snapshot under the
    /// same storage root are kept.
    ///
    /// # Errors
    /// [`PolicyError::AccountProof`], [`PolicyError::ProofTooLarge`] or [`PolicyError::SnapshotFull`].
    pub fn add_account_proof(
        &mut self,
        address: Address,
        claim: &AccountProof,
    ) -> Result<(), PolicyError> {
        let state = check_account(self.header.state_root, address, claim)?;
        let root = state.map_or(EMPTY_ROOT_HASH, |state| state.storage_root);
        let same_root = |account: &&ProvedAccount| account.storage.root == root;
        let storage = match self.accounts.get(&address).filter(same_root) {
            Some(account) => Arc::clone(&account.storage),
            None => {
                if self.accounts.len() >= MAX_ACCOUNTS {
                    return Err(PolicyError::SnapshotFull {
                        what: "accounts",
                        limit: MAX_ACCOUNTS,
                    });
                }
                let storage = match self.previous.get(&address).filter(same_root) {
                    Some(account) => Arc::clone(&account.storage),
                    None => Arc::new(Storage {
                        root,
                        slots: HashMap::default(),
                    }),
                };
                self.slots += storage.slots.len();
                storage
            }
        };
        let nodes = self.intern(&claim.proof);
        self.accounts.insert(
            address,
            ProvedAccount {
                state,
                nodes,
                storage,
            },
        );
        Ok(())
    }

    /// Adds a slot, proved against the storage root of an account that is already proved. A slot of an account without
    /// storage needs no nodes.
    ///
    /// # Errors
    /// [`PolicyError::AccountNotProved`], [`PolicyError::StorageProof`], [`PolicyError::ProofTooLarge`] or
    /// [`PolicyError::SnapshotFull`].
    pub fn add_storage_proof(
        &mut self,
        address: Address,
        slot: U256,
        claim: &StorageProof,
    ) -> Result<(), PolicyError> {
        let root = self
            .accounts
            .get(&address)
            .ok_or(PolicyError::AccountNotProved(address))?
            .storage
            .root;
        if root == EMPTY_ROOT_HASH {
            // Proved by the account alone; only the claim must agree.
            return if claim.value.is_zero() {
                Ok(())
            } else {
                Err(PolicyError::StorageProof { address, slot })
            };
        }
        check_slot(root, address, slot, claim)?;
        if self.slots >= MAX_SLOTS {
            return Err(PolicyError::SnapshotFull {
                what: "slots",
                limit: MAX_SLOTS,
            });
        }
        let nodes = self.intern(&claim.proof);
        let account = self
            .accounts
            .get_mut(&address)
            .ok_or(PolicyError::AccountNotProved(address))?;
        let slots = &mut Arc::make_mut(&mut account.storage).slots;
        if slots
            .insert(
                slot,
                ProvedSlot {
                    value: claim.value,
                    nodes,
                },
            )
            .is_none()
        {
            self.slots += 1;
        }
        Ok(())
    }

    /// Adds the code of an account that is already proved. Empty bytes are accepted for an account without code.
    ///
    /// # Errors
    /// [`PolicyError::AccountNotProved`], [`PolicyError::CodeHash`] or [`PolicyError::CodeTooLarge`].
    pub fn add_code(&mut self, address: Address, code: Bytes) -> Result<(), PolicyError> {
        let expected = self
            .accounts
            .get(&address)
            .ok_or(PolicyError::AccountNotProved(address))?
            .code_hash();
        if code.len() > MAX_CODE_BYTES {
            return Err(PolicyError::CodeTooLarge {
                address,
                size: code.len(),
                limit: MAX_CODE_BYTES,
            });
        }
        let actual = keccak256(&code);
        let mismatch = PolicyError::CodeHash {
            address,
            expected,
            actual,
        };
        if actual != expected {
            return Err(mismatch);
        }
        if expected != KECCAK256_EMPTY && !self.codes.contains_key(&expected) {
            // Code that starts as an EIP-7702 designator but is none cannot exist on chain (EIP-3541).
            let code = Bytecode::new_raw_checked(code).map_err(|_| mismatch)?;
            self.codes.insert(expected, code);
        }
        Ok(())
    }

    /// What the snapshot that this builder follows knew and this one does not yet: accounts still to be proved, and
    /// slots and code of accounts that changed. Slots of an account are listed once its new proof is in.
    pub fn stale(&self) -> Vec<StateKey> {
        let mut keys = Vec::new();
        for (address, before) in &self.previous {
            let Some(now) = self.accounts.get(address) else {
                keys.push(StateKey::Account(*address));
                continue;
            };
            let hash = now.code_hash();
            if hash != KECCAK256_EMPTY && !self.codes.contains_key(&hash) {
                keys.push(StateKey::Code(*address));
            }
            let unknown = before
                .storage
                .slots
                .keys()
                .filter(|slot| now.slot(slot).is_none());
            keys.extend(unknown.map(|slot| StateKey::Slot(*address, *slot)));
        }
        keys
    }

    /// The header the proofs are checked against.
    pub fn header(&self) -> &ProvedHeader {
        &self.header
    }

    /// Makes the snapshot. Code that no proved account has is dropped.
    pub fn build(self) -> Snapshot {
        let Self {
            header,
            chain_id,
            accounts,
            mut codes,
            ..
        } = self;
        let used: HashSet<B256> = accounts.values().map(ProvedAccount::code_hash).collect();
        codes.retain(|hash, _| used.contains(hash));
        Snapshot {
            header,
            chain_id,
            accounts,
            codes,
            memory: Memory::default(),
        }
    }

    fn intern(&mut self, nodes: &[Bytes]) -> Arc<[Bytes]> {
        let mut shared = Vec::with_capacity(nodes.len());
        for node in nodes {
            match self.nodes.get(node) {
                Some(known) => shared.push(known.clone()),
                None => {
                    self.nodes.insert(node.clone());
                    shared.push(node.clone());
                }
            }
        }
        shared.into()
    }
}
