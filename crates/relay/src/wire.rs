//! Between messages and values. What comes from the other side is bounded and well-formed after this, and still a claim.

use std::collections::HashMap;

use alloy_primitives::{Address, B256, Bytes as Node, U256};
use bytes::Bytes;
use writ_chain::AccountClaims;
use writ_policy::{AccountProof, MAX_NODE_BYTES, MAX_PROOF_NODES, StorageProof};
use writ_proto::relay::v1;

use crate::limits::{MAX_SIGNATURES, MAX_WARM_ACCOUNTS, MAX_WARM_SLOTS};
use crate::{RelayError, Signature};

const LENGTH: RelayError = RelayError::Protocol("a field has another length than it must");

pub(crate) fn hash(bytes: &[u8]) -> Result<B256, RelayError> {
    B256::try_from(bytes).map_err(|_| LENGTH)
}

pub(crate) fn address(bytes: &[u8]) -> Result<Address, RelayError> {
    Address::try_from(bytes).map_err(|_| LENGTH)
}

pub(crate) fn number(bytes: &[u8]) -> Result<U256, RelayError> {
    hash(bytes).map(|word| U256::from_be_bytes(word.0))
}

pub(crate) fn from_hash(hash: &B256) -> Bytes {
    Bytes::copy_from_slice(hash.as_slice())
}

pub(crate) fn from_number(number: &U256) -> Bytes {
    Bytes::copy_from_slice(&number.to_be_bytes::<32>())
}

pub(crate) fn from_signature(signature: &Signature) -> v1::WitnessSignature {
    v1::WitnessSignature {
        leaf: Bytes::copy_from_slice(&signature.leaf),
        signed_at: signature.signed_at,
        signature: Bytes::copy_from_slice(&signature.value),
    }
}

pub(crate) fn signature(message: &v1::WitnessSignature) -> Result<Signature, RelayError> {
    Ok(Signature {
        leaf: hash(&message.leaf)?.0,
        signed_at: message.signed_at,
        value: message.signature.as_ref().try_into().map_err(|_| LENGTH)?,
    })
}

pub(crate) fn signatures(messages: &[v1::WitnessSignature]) -> Result<Vec<Signature>, RelayError> {
    if messages.len() > MAX_SIGNATURES {
        return Err(RelayError::Protocol("too many signatures"));
    }
    messages.iter().map(signature).collect()
}

pub(crate) fn from_chain(chain: &[Vec<u8>]) -> v1::WitnessCertificate {
    let chain = chain.iter().map(|der| Bytes::copy_from_slice(der));
    v1::WitnessCertificate {
        chain: chain.collect(),
    }
}

pub(crate) fn chain(message: &v1::WitnessCertificate) -> Result<Vec<Vec<u8>>, RelayError> {
    let count = message.chain.len();
    let large = |der: &Bytes| der.len() > writ_identity::MAX_CERTIFICATE_BYTES;
    if count == 0
        || count > writ_identity::MAX_CHAIN_CERTIFICATES
        || message.chain.iter().any(large)
    {
        return Err(RelayError::Protocol("a certificate chain is too long"));
    }
    Ok(message.chain.iter().map(|der| der.to_vec()).collect())
}

/// What a sidecar wants, by account.
pub(crate) type Wanted = HashMap<Address, Vec<U256>>;

pub(crate) fn wanted(message: &v1::WarmSet) -> Result<Wanted, RelayError> {
    if message.accounts.len() > MAX_WARM_ACCOUNTS {
        return Err(RelayError::Protocol("too many accounts in a warm set"));
    }
    let mut wanted = Wanted::with_capacity(message.accounts.len());
    let mut total = 0;
    for account in &message.accounts {
        total += account.slots.len();
        if total > MAX_WARM_SLOTS {
            return Err(RelayError::Protocol("too many slots in a warm set"));
        }
        let mut slots: Vec<U256> = numbers(&account.slots)?;
        slots.sort_unstable();
        slots.dedup();
        wanted.insert(address(&account.address)?, slots);
    }
    Ok(wanted)
}

pub(crate) fn numbers(bytes: &[Bytes]) -> Result<Vec<U256>, RelayError> {
    bytes.iter().map(|bytes| number(bytes)).collect()
}

/// Puts state into a message. Nodes that occur in several proofs are sent once.
#[derive(Default)]
pub(crate) struct StateWriter {
    state: v1::State,
    index: HashMap<Node, u32>,
    bytes: usize,
}

impl StateWriter {
    /// Bytes of what was added so far, about.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    pub fn account<'a>(
        &mut self,
        address: Address,
        account: &AccountProof,
        slots: impl Iterator<Item = (&'a U256, &'a StorageProof)>,
    ) {
        let proof = self.proof(&account.proof);
        let slots = slots
            .map(|(slot, claim)| v1::SlotState {
                slot: from_number(slot),
                value: from_number(&claim.value),
                proof: self.proof(&claim.proof),
            })
            .collect::<Vec<_>>();
        self.bytes += 140 + 70 * slots.len();
        self.state.accounts.push(v1::AccountState {
            address: Bytes::copy_from_slice(address.as_slice()),
            nonce: account.nonce,
            balance: from_number(&account.balance),
            storage_hash: from_hash(&account.storage_hash),
            code_hash: from_hash(&account.code_hash),
            proof,
            slots,
        });
    }

    pub fn finish(self) -> v1::State {
        self.state
    }

    fn proof(&mut self, nodes: &[Node]) -> Vec<u32> {
        let Self {
            state,
            index,
            bytes,
        } = self;
        let mut indices = Vec::with_capacity(nodes.len());
        for node in nodes {
            *bytes += 4;
            let place = index.entry(node.clone()).or_insert_with(|| {
                *bytes += node.len() + 4;
                state.nodes.push(node.0.clone());
                u32::try_from(state.nodes.len() - 1).unwrap_or(u32::MAX)
            });
            indices.push(*place);
        }
        indices
    }
}

/// Reads the accounts out of a message, each with its slots.
pub(crate) fn accounts(state: &v1::State) -> Result<Vec<(Address, AccountClaims)>, RelayError> {
    if state.accounts.len() > MAX_WARM_ACCOUNTS {
        return Err(RelayError::Protocol("too many accounts"));
    }
    if state.nodes.iter().any(|node| node.len() > MAX_NODE_BYTES) {
        return Err(RelayError::Protocol("a trie node is too large"));
    }
    let mut total = 0;
    let mut accounts = Vec::with_capacity(state.accounts.len());
    for account in &state.accounts {
        total += account.slots.len();
        if total > MAX_WARM_SLOTS {
            return Err(RelayError::Protocol("too many slots"));
        }
        let slot = |slot: &v1::SlotState| {
            let claim = StorageProof {
                value: number(&slot.value)?,
                proof: nodes(state, &slot.proof)?,
            };
            Ok::<_, RelayError>((number(&slot.slot)?, claim))
        };
        let claims = AccountClaims {
            account: AccountProof {
                nonce: account.nonce,
                balance: number(&account.balance)?,
                storage_hash: hash(&account.storage_hash)?,
                code_hash: hash(&account.code_hash)?,
                proof: nodes(state, &account.proof)?,
            },
            slots: account.slots.iter().map(slot).collect::<Result<_, _>>()?,
        };
        accounts.push((address(&account.address)?, claims));
    }
    Ok(accounts)
}

fn nodes(state: &v1::State, indices: &[u32]) -> Result<Vec<Node>, RelayError> {
    if indices.len() > MAX_PROOF_NODES {
        return Err(RelayError::Protocol("a proof is too long"));
    }
    let node = |index: &u32| {
        let node = usize::try_from(*index)
            .ok()
            .and_then(|i| state.nodes.get(i));
        node.map(|node| Node(node.clone()))
    };
    indices
        .iter()
        .map(node)
        .collect::<Option<_>>()
        .ok_or(RelayError::Protocol(
            "a proof names a node that is not there",
        ))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]
    use super::*;

    fn claims(n: u8) -> AccountClaims {
        let shared = Node::from(vec![7; 40]);
        AccountClaims {
            account: AccountProof {
                nonce: n.into(),
                balance: U256::from(n),
                storage_hash: B256::repeat_byte(n),
                code_hash: B256::repeat_byte(n + 1),
                proof: vec![shared.clone(), Node::from(vec![n; 33])],
            },
            slots: vec![(
                U256::from(n),
                StorageProof {
                    value: U256::MAX,
                    proof: vec![shared],
                },
            )],
        }
    }

    fn written() -> v1::State {
        let mut writer = StateWriter::default();
        for n in [1, 2] {
            let claims = claims(n);
            let slots = claims.slots.iter().map(|(slot, claim)| (slot, claim));
            writer.account(Address::repeat_byte(n), &claims.account, slots);
        }
        writer.finish()
    }

    #[test]
    fn state_survives_the_wire_and_shared_nodes_are_sent_once() {
        let state = written();
        assert_eq!(state.nodes.len(), 3);
        let read = accounts(&state).unwrap();
        assert_eq!(read, [1, 2].map(|n| (Address::repeat_byte(n), claims(n))));
    }

    #[test]
    fn what_does_not_fit_together_is_refused() {
        let spoilt: [fn(&mut v1::State); 8] = [
            |s| s.accounts[0].proof.push(3),
            |s| s.accounts[0].proof = vec![0; 66],
            |s| s.accounts[0].address = Bytes::from_static(&[1; 19]),
            |s| s.accounts[0].balance = Bytes::new(),
            |s| s.accounts[0].slots[0].value = Bytes::from_static(&[1; 33]),
            |s| s.nodes[0] = Bytes::from(vec![0; 1025]),
            |s| s.accounts = vec![s.accounts[0].clone(); MAX_WARM_ACCOUNTS + 1],
            |s| {
                let slot = s.accounts[0].slots[0].clone();
                s.accounts[0].slots = vec![slot; MAX_WARM_SLOTS + 1];
            },
        ];
        for spoil in spoilt {
            let mut state = written();
            spoil(&mut state);
            assert!(accounts(&state).is_err());
        }
    }

    #[test]
    fn warm_sets_are_bounded_and_slots_are_wanted_once() {
        let account = v1::WarmAccount {
            address: Bytes::from_static(&[1; 20]),
            slots: vec![from_number(&U256::from(1)); 2],
        };
        let read = wanted(&v1::WarmSet {
            accounts: vec![account.clone()],
        });
        assert_eq!(read.unwrap()[&Address::repeat_byte(1)], [U256::from(1)]);
        let many = vec![account.clone(); MAX_WARM_ACCOUNTS + 1];
        assert!(wanted(&v1::WarmSet { accounts: many }).is_err());
        let slots = vec![from_number(&U256::ZERO); MAX_WARM_SLOTS + 1];
        let accounts = vec![v1::WarmAccount { slots, ..account }];
        assert!(wanted(&v1::WarmSet { accounts }).is_err());
    }
}
