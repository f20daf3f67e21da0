//! What all sidecars want together: each slot is read once, however many want it.

use std::collections::HashMap;

use alloy_primitives::{Address, U256};

use crate::RelayError;
use crate::wire::Wanted;

/// Most accounts and most slots that are read for all sidecars of a chain.
const MAX_ACCOUNTS: usize = 4096;
const MAX_SLOTS: usize = 131_072;

/// How many want each account and each slot.
#[derive(Debug, Default)]
pub(super) struct Wants {
    accounts: HashMap<Address, Account>,
    slots: usize,
}

#[derive(Debug, Default)]
struct Account {
    wanted: usize,
    slots: HashMap<U256, usize>,
}

impl Wants {
    /// Takes one sidecar's new set for its old one. Nothing is changed on an error.
    pub fn replace(&mut self, old: &Wanted, new: &Wanted) -> Result<(), RelayError> {
        self.add(new);
        if self.accounts.len() > MAX_ACCOUNTS || self.slots > MAX_SLOTS {
            self.remove(new);
            return Err(RelayError::Protocol(
                "all sidecars together want more state than a relay reads",
            ));
        }
        self.remove(old);
        Ok(())
    }

    /// Everything that somebody wants.
    pub fn merged(&self) -> Vec<(Address, Vec<U256>)> {
        let merged = |(address, account): (&Address, &Account)| {
            (*address, account.slots.keys().copied().collect())
        };
        self.accounts.iter().map(merged).collect()
    }

    /// Accounts and slots.
    pub fn size(&self) -> (usize, usize) {
        (self.accounts.len(), self.slots)
    }

    fn add(&mut self, wanted: &Wanted) {
        for (address, slots) in wanted {
            let account = self.accounts.entry(*address).or_default();
            account.wanted += 1;
            for slot in slots {
                let count = account.slots.entry(*slot).or_default();
                if *count == 0 {
                    self.slots += 1;
                }
                *count += 1;
            }
        }
    }

    fn remove(&mut self, wanted: &Wanted) {
        for (address, slots) in wanted {
            let Some(account) = self.accounts.get_mut(address) else {
                continue;
            };
            for slot in slots {
                if let Some(count) = account.slots.get_mut(slot) {
                    *count = count.saturating_sub(1);
                    if *count == 0 {
                        account.slots.remove(slot);
                        self.slots = self.slots.saturating_sub(1);
                    }
                }
            }
            account.wanted = account.wanted.saturating_sub(1);
            if account.wanted == 0 {
                self.accounts.remove(address);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn wanted(address: u8, slots: std::ops::Range<u64>) -> Wanted {
        let address = Address::repeat_byte(address);
        [(address, slots.map(U256::from).collect())].into()
    }

    #[test]
    fn what_several_want_is_read_once_and_until_the_last_is_gone() {
        let mut wants = Wants::default();
        let (a, b) = (wanted(1, 0..3), wanted(1, 2..5));
        wants.replace(&Wanted::new(), &a).unwrap();
        wants.replace(&Wanted::new(), &b).unwrap();
        assert_eq!(wants.size(), (1, 5));
        wants.replace(&a, &Wanted::new()).unwrap();
        assert_eq!(wants.size(), (1, 3));
        wants.replace(&b, &wanted(2, 0..0)).unwrap();
        assert_eq!(wants.merged(), [(Address::repeat_byte(2), Vec::new())]);
        wants.replace(&wanted(2, 0..0), &Wanted::new()).unwrap();
        assert_eq!(wants.size(), (0, 0));
    }

    #[test]
    fn more_than_a_relay_reads_changes_nothing() {
        let mut wants = Wants::default();
        let most = u64::try_from(MAX_SLOTS).unwrap();
        wants.replace(&Wanted::new(), &wanted(1, 0..most)).unwrap();
        assert!(wants.replace(&Wanted::new(), &wanted(2, 0..1)).is_err());
        assert_eq!(wants.size(), (1, MAX_SLOTS));
        wants.replace(&Wanted::new(), &wanted(1, 5..9)).unwrap();
    }
}
