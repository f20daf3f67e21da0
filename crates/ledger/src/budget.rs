//! Budgets: what was allowed in the current window, per agent and capability.
//!
//! Reading the totals, evaluating the policy on them and counting the action is one atomic step per
//! key. Every count gets the next *ticket* of its window, `calls`: tickets order the counts of a
//! key even where their records stand in another order, and let a verifier add them up again.
//! Nothing is given back: an action that fails or is given up stays counted.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::{Arc, Mutex, PoisonError};

use alloy_primitives::U256;
use serde::{Deserialize, Serialize};

use crate::FormatError;
use crate::encoding::{MAX_INTEGER, decimal};

/// Most keys kept at once.
pub const MAX_KEYS: usize = 16 * 1024;

const SHARDS: usize = 16;

/// What a budget is kept for.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BudgetKey {
    /// SPIFFE ID of the agent.
    pub agent: String,
    /// Capability.
    pub capability: String,
    /// Length of the window, seconds, above 0.
    pub window: u32,
}

/// Totals of a window before an action: members `spent` and `calls` of the `Action`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Totals {
    /// Number of actions counted.
    pub calls: u64,
    /// Sum of their amounts.
    pub spent: U256,
}

/// One action counted against a budget, as recorded.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BudgetUse {
    /// SPIFFE ID of the agent.
    pub agent: String,
    /// What this action adds.
    #[serde(with = "decimal")]
    pub amount: U256,
    /// Actions counted before it: its ticket.
    pub calls: u64,
    /// Capability.
    pub capability: String,
    /// Number of the window: unix seconds divided by `window`.
    pub index: u64,
    /// Who counted.
    pub source: BudgetSource,
    /// Sum of the amounts before it.
    #[serde(with = "decimal")]
    pub spent: U256,
    /// Length of the window, seconds.
    pub window: u32,
}

/// Who counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum BudgetSource {
    /// This log: it holds every action of the agent.
    Log,
}

impl BudgetUse {
    /// The key that it counts for.
    pub fn key(&self) -> BudgetKey {
        BudgetKey {
            agent: self.agent.clone(),
            capability: self.capability.clone(),
            window: self.window,
        }
    }

    /// Totals after it; `None` when the sum exceeds 256 bits.
    pub fn after(&self) -> Option<Totals> {
        Some(Totals {
            calls: self.calls.checked_add(1)?,
            spent: self.spent.checked_add(self.amount)?,
        })
    }

    pub(crate) fn check(&self) -> Result<(), FormatError> {
        let fits = self.agent.len() <= 2048
            && self.capability.len() <= 512
            && self.calls < MAX_INTEGER
            && self.index <= MAX_INTEGER
            && self.window > 0
            && self.after().is_some();
        if fits {
            Ok(())
        } else {
            Err(FormatError::Bound("budget"))
        }
    }
}

/// Why a budget cannot be used. The action is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BudgetError {
    /// The window is over and counted no more.
    #[error("the clock went back by more than one budget window; check the machine's time")]
    ClockWentBack,
    /// The window has length 0.
    #[error("a budget needs a window longer than 0 s")]
    NoWindow,
    /// The sum does not fit.
    #[error("the total of the budget would exceed 256 bits")]
    Overflow,
    /// Too many keys are in use.
    #[error("{0} budgets are in use at once; no more are kept")]
    TooManyKeys(usize),
}

/// Windows of one key: the current one and the one before it, since requests near the boundary
/// come with times of both.
#[derive(Debug, Default)]
struct Windows {
    index: u64,
    current: Totals,
    before: Option<Totals>,
}

impl Windows {
    fn totals(&mut self, index: u64) -> Result<&mut Totals, BudgetError> {
        if index > self.index {
            let adjoining = index == self.index.saturating_add(1);
            self.before = Some(if adjoining {
                self.current
            } else {
                Totals::default()
            });
            self.current = Totals::default();
            self.index = index;
        }
        match self.index - index {
            0 => Ok(&mut self.current),
            1 => self.before.as_mut().ok_or(BudgetError::ClockWentBack),
            _ => Err(BudgetError::ClockWentBack),
        }
    }
}

type Shard = Mutex<HashMap<BudgetKey, Arc<Mutex<Windows>>>>;

/// The budgets that one log counts.
///
/// Locks are held for the evaluation of one action of the same key, never across I/O or an await.
#[derive(Debug)]
pub struct Budgets {
    shards: Vec<Shard>,
    hasher: RandomState,
    max_keys: usize,
}

impl Default for Budgets {
    fn default() -> Self {
        Self::new(MAX_KEYS)
    }
}

/// An action that is counted. It stays counted whatever happens to it; put [`Hold::into_use`] in
/// its record, so that the count can be checked.
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use = "put it in the record of the action"]
pub struct Hold(BudgetUse);

impl Hold {
    /// What was counted.
    pub fn usage(&self) -> &BudgetUse {
        &self.0
    }

    /// What was counted, for the record.
    pub fn into_use(self) -> BudgetUse {
        self.0
    }
}

impl Budgets {
    /// Empty budgets for at most `max_keys` keys.
    pub fn new(max_keys: usize) -> Self {
        Self {
            shards: (0..SHARDS).map(|_| Shard::default()).collect(),
            hasher: RandomState::new(),
            max_keys: max_keys.div_ceil(SHARDS).max(1),
        }
    }

    /// Reads the totals of `key` at `now` (unix seconds, the `time` of the Action), evaluates, and
    /// counts the amount that `evaluate` returns; `None` counts nothing. One atomic step per key.
    ///
    /// # Errors
    /// When the budget cannot be used; the action must be refused.
    pub fn with<R>(
        &self,
        key: &BudgetKey,
        now: u64,
        evaluate: impl FnOnce(Totals) -> (Option<U256>, R),
    ) -> Result<(Option<Hold>, R), BudgetError> {
        let index = now
            .checked_div(u64::from(key.window))
            .ok_or(BudgetError::NoWindow)?;
        let windows = self.windows(key, now)?;
        let mut windows = windows.lock().unwrap_or_else(PoisonError::into_inner);
        let totals = windows.totals(index)?;
        let (amount, result) = evaluate(*totals);
        let Some(amount) = amount else {
            return Ok((None, result));
        };
        let counted = BudgetUse {
            agent: key.agent.clone(),
            amount,
            calls: totals.calls,
            capability: key.capability.clone(),
            index,
            source: BudgetSource::Log,
            spent: totals.spent,
            window: key.window,
        };
        *totals = counted.after().ok_or(BudgetError::Overflow)?;
        Ok((Some(Hold(counted)), result))
    }

    /// Totals of `key` at `now`, for a look and not for a decision.
    ///
    /// # Errors
    /// As [`Budgets::with`].
    pub fn totals(&self, key: &BudgetKey, now: u64) -> Result<Totals, BudgetError> {
        self.with(key, now, |totals| (None, totals))
            .map(|(_, totals)| totals)
    }

    /// Takes over what a record counted. Totals only grow: the highest ticket of a window wins.
    pub fn recall(&self, counted: &BudgetUse, now: u64) -> Result<(), BudgetError> {
        let over = counted.index.saturating_add(1) < now / u64::from(counted.window.max(1));
        let Some(after) = counted.after() else {
            return Err(BudgetError::Overflow);
        };
        if over {
            return Ok(());
        }
        let windows = self.windows(&counted.key(), now)?;
        let mut windows = windows.lock().unwrap_or_else(PoisonError::into_inner);
        // Records of the window before may stand after the first ones of the current window.
        match windows.totals(counted.index) {
            Ok(totals) => {
                totals.calls = totals.calls.max(after.calls);
                totals.spent = totals.spent.max(after.spent);
                Ok(())
            }
            Err(BudgetError::ClockWentBack) => Ok(()),
            Err(error) => Err(error),
        }
    }

    fn windows(&self, key: &BudgetKey, now: u64) -> Result<Arc<Mutex<Windows>>, BudgetError> {
        let at = self.hasher.hash_one(key) as usize % SHARDS;
        let Some(shard) = self.shards.get(at) else {
            return Err(BudgetError::TooManyKeys(0));
        };
        let mut shard = shard.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(found) = shard.get(key) {
            return Ok(found.clone());
        }
        if shard.len() >= self.max_keys {
            shard.retain(|key, windows| {
                let index = now / u64::from(key.window.max(1));
                // Whoever holds it is about to count: it must stay the one that others find.
                Arc::strong_count(windows) > 1
                    || windows
                        .try_lock()
                        .map_or(true, |w| w.index.saturating_add(1) >= index)
            });
        }
        if shard.len() >= self.max_keys {
            return Err(BudgetError::TooManyKeys(self.max_keys * SHARDS));
        }
        let new = Arc::new(Mutex::new(Windows::default()));
        shard.insert(key.clone(), new.clone());
        Ok(new)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::prelude::*;

    use super::*;

    fn key(capability: &str) -> BudgetKey {
        BudgetKey {
            agent: "spiffe://example.org/agent".into(),
            capability: capability.into(),
            window: 60,
        }
    }

    fn spend(budgets: &Budgets, now: u64, amount: u64) -> BudgetUse {
        let (hold, ()) = budgets
            .with(&key("pay"), now, |_| (Some(U256::from(amount)), ()))
            .unwrap();
        hold.unwrap().into_use()
    }

    #[test]
    fn a_limit_is_never_exceeded_by_concurrent_actions() {
        let budgets = Budgets::default();
        let limit = U256::from(100);
        let allowed: usize = std::thread::scope(|scope| {
            let racers: Vec<_> = (0..8)
                .map(|_| {
                    scope.spawn(|| {
                        (0..50)
                            .filter(|_| {
                                let (hold, ()) = budgets
                                    .with(&key("pay"), 600, |totals| {
                                        let fits = totals.spent + U256::from(3) <= limit;
                                        (fits.then_some(U256::from(3)), ())
                                    })
                                    .unwrap();
                                hold.is_some()
                            })
                            .count()
                    })
                })
                .collect();
            racers.into_iter().map(|racer| racer.join().unwrap()).sum()
        });
        assert_eq!(allowed, 33);
    }

    #[test]
    fn a_denied_action_counts_nothing_and_a_window_starts_at_zero() {
        let budgets = Budgets::default();
        let (hold, totals) = budgets.with(&key("pay"), 59, |t| (None, t)).unwrap();
        assert_eq!((hold, totals), (None, Totals::default()));
        assert_eq!(spend(&budgets, 59, 5).calls, 0);
        assert_eq!(
            budgets.totals(&key("pay"), 59).unwrap().spent,
            U256::from(5)
        );
        assert_eq!(
            budgets.totals(&key("other"), 59).unwrap(),
            Totals::default()
        );
        let second = spend(&budgets, 60, 7);
        assert_eq!(
            (second.index, second.calls, second.spent),
            (1, 0, U256::ZERO)
        );
    }

    #[test]
    fn a_request_of_the_window_before_still_counts_there_and_an_older_one_is_refused() {
        let budgets = Budgets::default();
        let _ = spend(&budgets, 119, 1);
        let _ = spend(&budgets, 120, 1);
        assert_eq!(spend(&budgets, 119, 1).calls, 1);
        assert_eq!(
            budgets.totals(&key("pay"), 59),
            Err(BudgetError::ClockWentBack)
        );
        assert_eq!(spend(&budgets, 121, 1).calls, 1);
    }

    #[test]
    fn the_number_of_keys_is_bounded_and_old_ones_make_room() {
        let budgets = Budgets::new(SHARDS);
        let refused = (0..200)
            .filter(|i| budgets.totals(&key(&format!("c{i}")), 0).is_err())
            .count();
        assert!(refused >= 200 - SHARDS);
        assert!(budgets.totals(&key("new"), 10_000).is_ok());
    }

    #[test]
    fn an_amount_that_overflows_is_refused_and_counts_nothing() {
        let budgets = Budgets::default();
        let _ = spend(&budgets, 0, 1);
        let huge = budgets.with(&key("pay"), 0, |_| (Some(U256::MAX), ()));
        assert_eq!(huge.err(), Some(BudgetError::Overflow));
        assert_eq!(budgets.totals(&key("pay"), 0).unwrap().calls, 1);
        let zero = BudgetKey {
            window: 0,
            ..key("pay")
        };
        assert_eq!(budgets.totals(&zero, 0), Err(BudgetError::NoWindow));
    }

    proptest! {
        /// However its records are ordered, a log gives back the totals that it was written with.
        #[test]
        fn totals_recalled_from_records_in_any_order_are_the_same(
            amounts in prop::collection::vec(0_u64..1_000, 1..20).prop_shuffle(),
            seed in any::<u64>(),
        ) {
            let budgets = Budgets::default();
            let mut used: Vec<_> = amounts.iter().map(|a| spend(&budgets, 90, *a)).collect();
            let n = used.len();
            used.rotate_left((seed as usize) % n);
            let again = Budgets::default();
            for counted in &used { again.recall(counted, 95).unwrap(); }
            prop_assert_eq!(again.totals(&key("pay"), 95), budgets.totals(&key("pay"), 95));
            let later = Budgets::default();
            for counted in &used { later.recall(counted, 10_000).unwrap(); }
            prop_assert_eq!(later.totals(&key("pay"), 10_000).unwrap(), Totals::default());
        }
    }
}
