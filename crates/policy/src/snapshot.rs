//! Proved chain state at one block: immutable, cheap to share, and silent about everything that was not proved.

use std::sync::Arc;

use alloy_primitives::map::HashMap;
use alloy_primitives::{Address, B256, Bytes, KECCAK256_EMPTY, U256};
use alloy_trie::{EMPTY_ROOT_HASH, TrieAccount};
use revm::bytecode::Bytecode;
use serde::{Deserialize, Serialize};

use crate::ProvedHeader;
use crate::registry::Memory;

/// One piece of chain state: what an evaluation read, or what it lacked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum StateKey {
    /// The account's nonce, balance, storage root and code hash.
    Account(Address),
    /// A storage slot.
    Slot(Address, U256),
    /// The account's code.
    Code(Address),
}

/// A proved storage slot with the trie nodes that prove it.
#[derive(Debug, Clone)]
pub(crate) struct ProvedSlot {
    pub value: U256,
    pub nodes: Arc<[Bytes]>,
}

/// Proved slots under one storage root. They hold at every block whose account has this root.
#[derive(Debug, Clone)]
pub(crate) struct Storage {
    pub root: B256,
    pub slots: HashMap<U256, ProvedSlot>,
}

/// A proved account with the trie nodes that prove it.
#[derive(Debug, Clone)]
pub(crate) struct ProvedAccount {
    /// None: proved to be absent.
    pub state: Option<TrieAccount>,
    pub nodes: Arc<[Bytes]>,
    pub storage: Arc<Storage>,
}

impl ProvedAccount {
    pub fn code_hash(&self) -> B256 {
        self.state.map_or(KECCAK256_EMPTY, |state| state.code_hash)
    }

    /// The slot's value; without any storage it is 0 by the account's proof alone.
    pub fn slot(&self, slot: &U256) -> Option<U256> {
        if self.storage.root == EMPTY_ROOT_HASH {
            return Some(U256::ZERO);
        }
        self.storage.slots.get(slot).map(|slot| slot.value)
    }
}

/// Proved chain state at one block. Reads of anything unproved answer `None`.
///
/// Made by [`crate::SnapshotBuilder`] only. Share it in an `Arc` and swap it as a whole.
#[derive(Debug, Clone)]
pub struct Snapshot {
    pub(crate) header: ProvedHeader,
    pub(crate) chain_id: u64,
    pub(crate) accounts: HashMap<Address, ProvedAccount>,
    /// Analysed code by its keccak256.
    pub(crate) codes: HashMap<B256, Bytecode>,
    /// Registry entries already read.
    pub(crate) memory: Memory,
}

impl Snapshot {
    /// The block this state belongs to.
    pub fn header(&self) -> &ProvedHeader {
        &self.header
    }

    /// The chain, as configured by whoever built the snapshot (headers do not name it).
    pub fn chain_id(&self) -> u64 {
        self.chain_id
    }

    /// The account: None if unproved, `Some(None)` if proved absent.
    pub fn account(&self, address: &Address) -> Option<Option<TrieAccount>> {
        self.accounts.get(address).map(|account| account.state)
    }

    /// The slot's value, if proved.
    pub fn slot(&self, address: &Address, slot: U256) -> Option<U256> {
        self.accounts.get(address)?.slot(&slot)
    }

    /// The code, if the account is proved and its code was supplied. Empty for an account without code.
    pub fn code(&self, address: &Address) -> Option<Bytes> {
        let hash = self.accounts.get(address)?.code_hash();
        if hash == KECCAK256_EMPTY {
            return Some(Bytes::new());
        }
        self.codes.get(&hash).map(Bytecode::original_bytes)
    }

    /// True if this key can be read.
    pub fn contains(&self, key: &StateKey) -> bool {
        match key {
            StateKey::Account(address) => self.accounts.contains_key(address),
            StateKey::Slot(address, slot) => self.slot(address, *slot).is_some(),
            StateKey::Code(address) => self.accounts.get(address).is_some_and(|account| {
                let hash = account.code_hash();
                hash == KECCAK256_EMPTY || self.codes.contains_key(&hash)
            }),
        }
    }

    /// Everything that was proved, in no particular order.
    pub fn keys(&self) -> impl Iterator<Item = StateKey> + '_ {
        self.accounts.iter().flat_map(|(address, account)| {
            let code = self
                .codes
                .contains_key(&account.code_hash())
                .then_some(StateKey::Code(*address));
            let slots = account
                .storage
                .slots
                .keys()
                .map(|slot| StateKey::Slot(*address, *slot));
            std::iter::once(StateKey::Account(*address))
                .chain(code)
                .chain(slots)
        })
    }

    /// Number of proved accounts and of proved slots.
    pub fn size(&self) -> (usize, usize) {
        (
            self.accounts.len(),
            self.accounts
                .values()
                .map(|account| account.storage.slots.len())
                .sum(),
        )
    }
}
