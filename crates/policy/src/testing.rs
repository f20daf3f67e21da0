//! Invented chain state with real tries and real proofs, for tests here and in crates that need a [`Snapshot`].
//!
//! Behind the feature `testing`; never part of a program. Panics on misuse.

#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "test support fails loudly"
)]

use std::collections::BTreeMap;
use std::sync::Arc;

use alloy_primitives::{Address, B256, Bytes, KECCAK256_EMPTY, U256, keccak256};
use alloy_sol_types::SolValue;
use alloy_trie::proof::ProofRetainer;
use alloy_trie::{EMPTY_ROOT_HASH, HashBuilder, Nibbles, TrieAccount};
use revm::bytecode::opcode as op;

use crate::abi::{Action, Agent, Binding, Verdict};
use crate::proof::{AccountProof, StorageProof};
use crate::{ProvedHeader, Registries, Snapshot, SnapshotBuilder, StateKey, warm_keys};

/// Chain id of the invented chain.
pub const CHAIN_ID: u64 = 31337;

/// An account of the invented chain.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TestAccount {
    /// Nonce.
    pub nonce: u64,
    /// Balance in wei.
    pub balance: U256,
    /// Code, empty for none.
    pub code: Bytes,
    /// Slots; zeros are as good as absent.
    pub storage: BTreeMap<U256, U256>,
}

/// The whole state of an invented chain at one block.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct World {
    /// All accounts.
    pub accounts: BTreeMap<Address, TestAccount>,
    /// Block number.
    pub number: u64,
    /// Unix seconds of the block.
    pub timestamp: u64,
}

impl World {
    /// A chain with nothing on it but two registries that know nobody. See [`World::registries`].
    pub fn new() -> Self {
        let mut world = Self {
            accounts: BTreeMap::new(),
            number: 100,
            timestamp: 1_800_000_000,
        };
        let registries = world.registries();
        world.set_code(registries.agents, table_contract(5));
        // Unlike the other registry's, so that every account has code of its own.
        world.set_code(
            registries.policies,
            [table_contract(5), vec![op::STOP]].concat(),
        );
        world
    }

    /// Where this chain's registries stand.
    pub fn registries(&self) -> Registries {
        Registries {
            chain_id: CHAIN_ID,
            agents: Address::repeat_byte(0xa1),
            policies: Address::repeat_byte(0xb2),
        }
    }

    /// Puts code at an address.
    pub fn set_code(&mut self, address: Address, code: impl Into<Bytes>) {
        self.accounts.entry(address).or_default().code = code.into();
    }

    /// Sets one storage slot.
    pub fn set_slot(&mut self, address: Address, slot: U256, value: U256) {
        self.accounts
            .entry(address)
            .or_default()
            .storage
            .insert(slot, value);
    }

    /// Sets the agent registry's entry for this key.
    pub fn set_agent(&mut self, key: B256, agent: &Agent) {
        self.set_row(self.registries().agents, key, &agent.abi_encode());
    }

    /// Sets the policy registry's entry for this policy id.
    pub fn set_binding(&mut self, policy_id: B256, binding: &Binding) {
        self.set_row(self.registries().policies, policy_id, &binding.abi_encode());
    }

    /// Puts a policy contract at an address and makes it the policy of one active agent. Answers the policy id.
    pub fn install_policy(&mut self, agent: B256, policy: Address, code: impl Into<Bytes>) -> B256 {
        let code = code.into();
        let policy_id = keccak256(policy);
        let binding = Binding {
            policy,
            codeHash: keccak256(&code),
            catalogHash: B256::repeat_byte(0xca),
            version: 1,
            paused: false,
        };
        self.set_code(policy, code);
        self.set_binding(policy_id, &binding);
        self.set_agent(
            agent,
            &Agent {
                status: 1,
                policyId: policy_id,
                ..Agent::default()
            },
        );
        policy_id
    }

    fn set_row(&mut self, registry: Address, key: B256, words: &[u8]) {
        let first = U256::from_be_bytes(key.0);
        for (index, word) in words.chunks_exact(32).enumerate() {
            let slot = first.wrapping_add(U256::from(index));
            self.set_slot(registry, slot, U256::from_be_slice(word));
        }
    }

    /// The header of this block.
    pub fn header(&self) -> ProvedHeader {
        let header = alloy_consensus::Header {
            number: self.number,
            timestamp: self.timestamp,
            state_root: self.state_root(),
            parent_hash: keccak256(self.number.to_be_bytes()),
            gas_limit: 30_000_000,
            base_fee_per_gas: Some(7),
            withdrawals_root: Some(EMPTY_ROOT_HASH),
            blob_gas_used: Some(0),
            excess_blob_gas: Some(0),
            parent_beacon_block_root: Some(B256::ZERO),
            requests_hash: Some(B256::repeat_byte(9)),
            ..Default::default()
        };
        ProvedHeader::from_consensus(&header).expect("an invented header is well formed")
    }

    /// The state root.
    pub fn state_root(&self) -> B256 {
        trie(self.account_leaves(), None).0
    }

    /// What `eth_getProof` answers for an account.
    pub fn account_proof(&self, address: Address) -> AccountProof {
        let (_, proof) = trie(self.account_leaves(), Some(keccak256(address)));
        let account = self.trie_account(&address);
        AccountProof {
            nonce: account.nonce,
            balance: account.balance,
            storage_hash: account.storage_root,
            code_hash: account.code_hash,
            proof,
        }
    }

    /// What `eth_getProof` answers for a slot.
    pub fn storage_proof(&self, address: Address, slot: U256) -> StorageProof {
        let storage = self
            .accounts
            .get(&address)
            .map(|account| account.storage.clone())
            .unwrap_or_default();
        let value = storage.get(&slot).copied().unwrap_or_default();
        let (_, proof) = trie(
            storage_leaves(&storage),
            Some(keccak256(slot.to_be_bytes::<32>())),
        );
        StorageProof { value, proof }
    }

    /// Proves these keys into a builder.
    pub fn prove<'k>(
        &self,
        builder: &mut SnapshotBuilder,
        keys: impl IntoIterator<Item = &'k StateKey>,
    ) {
        let mut keys: Vec<StateKey> = keys.into_iter().copied().collect();
        keys.sort_unstable_by_key(|key| !matches!(key, StateKey::Account(_)));
        for key in keys {
            match key {
                StateKey::Account(address) => {
                    builder.add_account_proof(address, &self.account_proof(address))
                }
                StateKey::Slot(address, slot) => {
                    builder.add_storage_proof(address, slot, &self.storage_proof(address, slot))
                }
                StateKey::Code(address) => {
                    let code = self
                        .accounts
                        .get(&address)
                        .map(|account| account.code.clone());
                    builder.add_code(address, code.unwrap_or_default())
                }
            }
            .expect("an invented proof holds");
        }
    }

    /// A snapshot of exactly these keys.
    pub fn snapshot(&self, keys: &[StateKey]) -> Snapshot {
        let mut builder = SnapshotBuilder::new(self.header(), CHAIN_ID);
        self.prove(&mut builder, keys);
        builder.build()
    }

    /// A snapshot of everything that these actions need.
    pub fn snapshot_for(&self, actions: &[Action]) -> Snapshot {
        let fetch = |current: &Snapshot, missing: &std::collections::BTreeSet<StateKey>| {
            let mut builder = SnapshotBuilder::extending(current);
            self.prove(&mut builder, missing);
            Ok::<_, std::convert::Infallible>(Arc::new(builder.build()))
        };
        let empty = Arc::new(self.snapshot(&[]));
        let (snapshot, _) = warm_keys(empty, &self.registries(), actions, 64, fetch)
            .expect("state can be completed");
        Arc::unwrap_or_clone(snapshot)
    }

    fn trie_account(&self, address: &Address) -> TrieAccount {
        let account = self.accounts.get(address).cloned().unwrap_or_default();
        let code_hash = if account.code.is_empty() {
            KECCAK256_EMPTY
        } else {
            keccak256(&account.code)
        };
        TrieAccount {
            nonce: account.nonce,
            balance: account.balance,
            storage_root: trie(storage_leaves(&account.storage), None).0,
            code_hash,
        }
    }

    fn account_leaves(&self) -> BTreeMap<B256, Vec<u8>> {
        let leaf = |address: &Address| {
            (
                keccak256(address),
                alloy_rlp::encode(self.trie_account(address)),
            )
        };
        self.accounts.keys().map(leaf).collect()
    }
}

impl Default for World {
    fn default() -> Self {
        Self::new()
    }
}

fn storage_leaves(storage: &BTreeMap<U256, U256>) -> BTreeMap<B256, Vec<u8>> {
    let set = storage.iter().filter(|(_, value)| !value.is_zero());
    set.map(|(slot, value)| {
        (
            keccak256(slot.to_be_bytes::<32>()),
            alloy_rlp::encode(value),
        )
    })
    .collect()
}

/// Root, and the proof for one key.
fn trie(leaves: BTreeMap<B256, Vec<u8>>, target: Option<B256>) -> (B256, Vec<Bytes>) {
    let target = target.map(Nibbles::unpack);
    let retainer = ProofRetainer::new(target.into_iter().collect());
    let mut builder = HashBuilder::default().with_proof_retainer(retainer);
    for (key, value) in leaves {
        builder.add_leaf(Nibbles::unpack(key), &value);
    }
    let root = builder.root();
    let nodes = builder.take_proof_nodes();
    let proof = target
        .map(|target| nodes.matching_nodes_sorted(&target))
        .unwrap_or_default();
    (root, proof.into_iter().map(|(_, node)| node).collect())
}

/// Code that answers the `words` storage words starting at the slot that its first argument names.
pub fn table_contract(words: u8) -> Vec<u8> {
    let mut code = Vec::new();
    for word in 0..words {
        code.extend([
            op::PUSH1,
            4,
            op::CALLDATALOAD,
            op::PUSH1,
            word,
            op::ADD,
            op::SLOAD,
        ]);
        code.extend([op::PUSH2, 0, 0, op::MSTORE]);
        let offset = code.len() - 3;
        code[offset..offset + 2].copy_from_slice(&(u16::from(word) * 32).to_be_bytes());
    }
    code.extend(return_memory(u16::from(words) * 32));
    code
}

/// Code that answers this verdict to every question.
pub fn verdict_contract(verdict: &Verdict) -> Vec<u8> {
    answer_contract(&verdict.abi_encode())
}

/// Code that answers these bytes, a multiple of 32, to every question.
pub fn answer_contract(answer: &[u8]) -> Vec<u8> {
    let mut code = Vec::new();
    let mut offset = 0u16;
    for word in answer.chunks_exact(32) {
        code.push(op::PUSH32);
        code.extend(word);
        code.push(op::PUSH2);
        code.extend(offset.to_be_bytes());
        code.push(op::MSTORE);
        offset += 32;
    }
    code.extend(return_memory(offset));
    code
}

/// Code that returns the first bytes of memory.
pub fn return_memory(bytes: u16) -> Vec<u8> {
    let [high, low] = bytes.to_be_bytes();
    vec![op::PUSH2, high, low, op::PUSH0, op::RETURN]
}

/// A verdict that allows.
pub fn allowing() -> Verdict {
    Verdict {
        effect: crate::abi::Effect::Allow,
        rule: B256::repeat_byte(0x77),
        reason: reason("allowed-by-test"),
        ttl: 60,
        maxStateAge: 300,
        tier: 1,
        obligations: 0,
    }
}

/// A reason as contracts write it: ASCII, padded with zero bytes.
pub fn reason(text: &str) -> B256 {
    let mut word = [0; 32];
    word[..text.len()].copy_from_slice(text.as_bytes());
    B256::from(word)
}
