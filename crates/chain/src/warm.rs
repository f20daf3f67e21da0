//! The warm set: the state that is proved ahead of need at every block.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use alloy_primitives::{Address, U256};
use writ_policy::{Action, EvalError, Registries, Snapshot, StateKey, decide, registration};

/// Contracts for which `eth_createAccessList` is asked for a hint at one time.
const MAX_HINTS: usize = 16;

/// What is to be decidable without waiting.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct WarmSet {
    /// Actions as they may come: one per capability of the agent's catalog is enough where a policy looks up by
    /// capability. A `time` of 0 stands for the block's.
    pub actions: Vec<Action>,
    /// Agent keys whose registration is read: the agent's own, and at a PEP the admitted callers'.
    pub agents: Vec<[u8; 32]>,
    /// Anything else.
    pub keys: Vec<StateKey>,
}

/// The warm set and what was found to belong to it.
#[derive(Debug)]
pub(crate) struct Warm {
    set: WarmSet,
    /// Read by the set's actions and registrations at the last block.
    pinned: BTreeSet<StateKey>,
    /// What the registrations lacked when they were first read; they do not tell what they read.
    registered: BTreeSet<StateKey>,
    hinted: BTreeSet<StateKey>,
    /// Policy contracts that a hint was asked for.
    asked: BTreeSet<Address>,
    learned: VecDeque<StateKey>,
    max_pinned: usize,
    max_learned: usize,
}

/// What a dry run over the warm set found.
#[derive(Debug, Default)]
pub(crate) struct DryRun {
    pub touched: BTreeSet<StateKey>,
    pub missing: BTreeSet<StateKey>,
    /// By policy contract, the first action that it decided.
    pub contracts: BTreeMap<Address, Action>,
}

impl Warm {
    pub fn new(set: WarmSet, max_slots: usize) -> Self {
        Self {
            set,
            pinned: BTreeSet::new(),
            registered: BTreeSet::new(),
            hinted: BTreeSet::new(),
            asked: BTreeSet::new(),
            learned: VecDeque::new(),
            max_pinned: max_slots / 2,
            max_learned: max_slots / 8,
        }
    }

    /// Another set. What was learned stays.
    pub fn replace(&mut self, set: WarmSet) {
        self.set = set;
        self.registered.clear();
        self.hinted.clear();
        self.asked.clear();
    }

    /// A copy of the set, to run it without holding a lock.
    pub fn set(&self) -> WarmSet {
        self.set.clone()
    }

    /// Everything to prove at the next block.
    pub fn wanted(&self, registries: &Registries) -> BTreeSet<StateKey> {
        let fixed = [
            StateKey::Account(registries.agents),
            StateKey::Account(registries.policies),
        ];
        let found = self
            .pinned
            .iter()
            .chain(&self.registered)
            .chain(&self.hinted);
        fixed
            .iter()
            .chain(&self.set.keys)
            .chain(found)
            .chain(&self.learned)
            .copied()
            .collect()
    }

    /// True if the head must not advance without this account.
    pub fn pins(&self, address: Address) -> bool {
        self.pinned
            .iter()
            .chain(&self.registered)
            .chain(&self.set.keys)
            .any(|key| of(key) == address)
    }

    /// Keeps what a dry run read. False if it is more than the cap.
    pub fn pin(&mut self, touched: BTreeSet<StateKey>) -> bool {
        let fits = touched.len() <= self.max_pinned;
        self.pinned = touched.into_iter().take(self.max_pinned).collect();
        fits
    }

    /// Adds what a request lacked; the oldest goes when the cap is reached.
    pub fn learn(&mut self, keys: &[StateKey]) {
        for key in keys {
            if self.learned.contains(key) || self.pinned.contains(key) {
                continue;
            }
            if self.learned.len() >= self.max_learned {
                self.learned.pop_front();
            }
            self.learned.push_back(*key);
        }
    }

    /// Adds what registrations lacked.
    pub fn register(&mut self, keys: BTreeSet<StateKey>) {
        self.registered.extend(keys);
        while self.registered.len() > self.max_pinned {
            self.registered.pop_first();
        }
    }

    /// Drops what nobody can prove, so that it holds nothing up.
    pub fn forget(&mut self, address: Address) {
        self.learned.retain(|key| of(key) != address);
        self.hinted.retain(|key| of(key) != address);
    }

    /// Adds slots that an endpoint says a policy touches; only of accounts that are watched anyway.
    pub fn hint(&mut self, snapshot: &Snapshot, list: Vec<(Address, Vec<U256>)>) {
        for (address, slots) in list {
            if snapshot.account(&address).is_none() {
                continue;
            }
            let room = self.max_learned.saturating_sub(self.hinted.len());
            self.hinted.extend(
                slots
                    .into_iter()
                    .take(room)
                    .map(|slot| StateKey::Slot(address, slot)),
            );
        }
    }

    /// The policy contracts that were not asked about yet, with an action each. Marks them as asked.
    pub fn unasked(&mut self, contracts: BTreeMap<Address, Action>) -> Vec<(Address, Action)> {
        let asked = &mut self.asked;
        asked.retain(|address| contracts.contains_key(address));
        let new = contracts
            .into_iter()
            .filter(|(address, _)| asked.insert(*address));
        new.take(MAX_HINTS).collect()
    }
}

impl WarmSet {
    /// Runs all actions and registrations once on a snapshot. The second set holds what registrations lack.
    pub(crate) fn dry_run(
        &self,
        snapshot: &Snapshot,
        registries: &Registries,
    ) -> Result<(DryRun, BTreeSet<StateKey>), EvalError> {
        let mut run = DryRun::default();
        for action in &self.actions {
            let mut action = action.clone();
            if action.time == 0 {
                action.time = snapshot.header().timestamp;
            }
            match decide(snapshot, registries, &action) {
                Ok(decision) => {
                    run.touched.extend(decision.touched);
                    if !decision.contract.is_zero() {
                        run.contracts.entry(decision.contract).or_insert(action);
                    }
                }
                Err(EvalError::Missing(keys)) => run.missing.extend(keys),
                // It will be refused when it happens, too.
                Err(EvalError::Refused(_)) => {}
                Err(error @ EvalError::WrongChain { .. }) => return Err(error),
            }
        }
        let mut registered = BTreeSet::new();
        for agent in &self.agents {
            match registration(snapshot, registries, agent) {
                Err(EvalError::Missing(keys)) => registered.extend(keys),
                Ok(_) | Err(EvalError::Refused(_)) => {}
                Err(error @ EvalError::WrongChain { .. }) => return Err(error),
            }
        }
        run.missing.extend(registered.iter().copied());
        Ok((run, registered))
    }
}

/// The account that a key belongs to.
pub(crate) fn of(key: &StateKey) -> Address {
    let (StateKey::Account(address) | StateKey::Code(address) | StateKey::Slot(address, _)) = *key;
    address
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slot(i: u64) -> StateKey {
        StateKey::Slot(Address::repeat_byte(9), U256::from(i))
    }

    #[test]
    fn learned_state_is_capped_and_the_oldest_goes_first() {
        let mut warm = Warm::new(WarmSet::default(), 64);
        let keys: Vec<StateKey> = (0..20).map(slot).collect();
        warm.learn(&keys);
        let registries = Registries {
            chain_id: 1,
            agents: Address::ZERO,
            policies: Address::ZERO,
        };
        let wanted = warm.wanted(&registries);
        assert!(wanted.contains(&slot(19)) && !wanted.contains(&slot(0)));
        assert_eq!(wanted.len(), 8 + 1);
    }

    #[test]
    fn pinned_state_beyond_the_cap_is_reported() {
        let mut warm = Warm::new(WarmSet::default(), 64);
        assert!(warm.pin((0..32).map(slot).collect()));
        assert!(!warm.pin((0..33).map(slot).collect()));
    }

    #[test]
    fn what_nobody_can_prove_is_forgotten_unless_it_is_pinned() {
        let mut warm = Warm::new(WarmSet::default(), 64);
        warm.learn(&[slot(1)]);
        assert!(!warm.pins(Address::repeat_byte(9)));
        warm.forget(Address::repeat_byte(9));
        assert!(warm.learned.is_empty());
        warm.pin([slot(1)].into());
        assert!(warm.pins(Address::repeat_byte(9)));
    }
}
