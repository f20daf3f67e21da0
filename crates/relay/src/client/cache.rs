//! What a relay has sent of the newest heads: claims, each under the block and the storage root that it was sent for.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use alloy_primitives::{Address, B256, U256};
use bytes::Bytes;
use writ_chain::AccountClaims;
use writ_policy::{AccountProof, StateKey, StorageProof};
use writ_proto::relay::v1;

use crate::limits::{MAX_WARM_ACCOUNTS, MAX_WARM_SLOTS};
use crate::wire;

/// What is wanted at every head, by account.
pub(super) type Wants = BTreeMap<Address, BTreeSet<U256>>;

/// Groups keys by account, within the bounds of a warm set. What is beyond them is asked for when needed.
pub(super) fn wants(keys: &BTreeSet<StateKey>) -> Wants {
    let mut wants = Wants::new();
    let mut room = MAX_WARM_SLOTS;
    for key in keys {
        let (StateKey::Account(address) | StateKey::Code(address) | StateKey::Slot(address, _)) =
            *key;
        if !wants.contains_key(&address) && wants.len() >= MAX_WARM_ACCOUNTS {
            continue;
        }
        let slots = wants.entry(address).or_default();
        if let StateKey::Slot(_, slot) = key
            && room > 0
            && slots.insert(*slot)
        {
            room -= 1;
        }
    }
    wants
}

pub(super) fn warm_set(wants: &Wants) -> v1::WarmSet {
    let account = |(address, slots): (&Address, &BTreeSet<U256>)| v1::WarmAccount {
        address: Bytes::copy_from_slice(address.as_slice()),
        slots: slots.iter().map(wire::from_number).collect(),
    };
    v1::WarmSet {
        accounts: wants.iter().map(account).collect(),
    }
}

#[derive(Debug)]
struct Cached {
    block: B256,
    account: AccountProof,
    /// Under the account's storage root.
    slots: HashMap<U256, StorageProof>,
}

/// Claims by account. It holds no more than what is wanted.
#[derive(Debug, Default)]
pub(super) struct Cache {
    accounts: HashMap<Address, Cached>,
}

impl Cache {
    /// Takes what came with a head. What is not wanted is dropped.
    pub fn take(&mut self, block: B256, accounts: Vec<(Address, AccountClaims)>, wants: &Wants) {
        self.accounts
            .retain(|address, _| wants.contains_key(address));
        for (address, claims) in accounts {
            let Some(wanted) = wants.get(&address) else {
                continue;
            };
            let root = claims.account.storage_hash;
            let before = self.accounts.remove(&address);
            let mut slots = before
                .filter(|cached| cached.account.storage_hash == root)
                .map_or_else(HashMap::new, |cached| cached.slots);
            slots.extend(claims.slots);
            slots.retain(|slot, _| wanted.contains(slot));
            let account = claims.account;
            let cached = Cached {
                block,
                account,
                slots,
            };
            self.accounts.insert(address, cached);
        }
    }

    /// The account and exactly these slots at this block, if all of them are here.
    pub fn find(&self, block: B256, address: Address, slots: &[U256]) -> Option<AccountClaims> {
        let cached = self.accounts.get(&address).filter(|c| c.block == block)?;
        let slot = |slot: &U256| Some((*slot, cached.slots.get(slot)?.clone()));
        Some(AccountClaims {
            account: cached.account.clone(),
            slots: slots.iter().map(slot).collect::<Option<_>>()?,
        })
    }

    /// Forgets everything: another relay does not know what this one sent.
    pub fn clear(&mut self) {
        self.accounts.clear();
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const A: Address = Address::repeat_byte(1);

    fn claims(root: u8, slots: &[u64]) -> AccountClaims {
        let slot = |n: &u64| {
            let claim = StorageProof {
                value: U256::from(*n),
                proof: Vec::new(),
            };
            (U256::from(*n), claim)
        };
        AccountClaims {
            account: AccountProof {
                nonce: 1,
                balance: U256::ZERO,
                storage_hash: B256::repeat_byte(root),
                code_hash: B256::ZERO,
                proof: Vec::new(),
            },
            slots: slots.iter().map(slot).collect(),
        }
    }

    fn wanted(slots: &[u64]) -> Wants {
        [(A, slots.iter().map(|n| U256::from(*n)).collect())].into()
    }

    fn block(n: u8) -> B256 {
        B256::repeat_byte(n)
    }

    #[test]
    fn slots_are_kept_under_an_unchanged_storage_root_only() {
        let mut cache = Cache::default();
        let wants = wanted(&[1, 2]);
        let both = [U256::from(1), U256::from(2)];
        cache.take(block(1), vec![(A, claims(9, &[1]))], &wants);
        cache.take(block(2), vec![(A, claims(9, &[2]))], &wants);
        assert_eq!(cache.find(block(2), A, &both), Some(claims(9, &[1, 2])));
        assert_eq!(cache.find(block(1), A, &[]), None, "another block");
        cache.take(block(3), vec![(A, claims(8, &[2]))], &wants);
        assert_eq!(cache.find(block(3), A, &both), None);
        assert!(cache.find(block(3), A, &both[1..]).is_some());
    }

    #[test]
    fn what_nobody_wants_is_not_kept() {
        let mut cache = Cache::default();
        let other = Address::repeat_byte(2);
        let sent = vec![(A, claims(9, &[1, 2, 3])), (other, claims(9, &[1]))];
        cache.take(block(1), sent, &wanted(&[2]));
        assert!(cache.find(block(1), other, &[]).is_none());
        assert!(cache.find(block(1), A, &[U256::from(1)]).is_none());
        assert!(cache.find(block(1), A, &[U256::from(2)]).is_some());
        cache.take(block(2), Vec::new(), &Wants::new());
        assert!(cache.accounts.is_empty());
    }

    #[test]
    fn a_warm_set_is_cut_at_its_bounds() {
        let many = (0..u64::try_from(MAX_WARM_SLOTS).unwrap() + 5)
            .map(|n| StateKey::Slot(A, U256::from(n)))
            .collect();
        let set = warm_set(&wants(&many));
        assert!(wire::wanted(&set).is_ok());
        let many = (0..600_u64)
            .map(|n| StateKey::Account(Address::from_word(B256::from(U256::from(n)))))
            .collect();
        assert_eq!(wants(&many).len(), MAX_WARM_ACCOUNTS);
    }
}
