//! Puts what arrives in any order back into the order of its places.

use std::collections::BTreeMap;
use std::ops::Range;

/// A reorder buffer: items come for places in any order, and leave in order without a gap.
///
/// Its size is bounded by whoever hands out places.
#[derive(Debug)]
pub struct Sequencer<T> {
    next: u64,
    waiting: BTreeMap<u64, T>,
}

impl<T> Sequencer<T> {
    /// A buffer whose first item to leave is that of place `next`.
    pub fn new(next: u64) -> Self {
        Self {
            next,
            waiting: BTreeMap::new(),
        }
    }

    /// The place whose item leaves next.
    pub fn next(&self) -> u64 {
        self.next
    }

    /// Takes an item for a place.
    ///
    /// # Errors
    /// The item, when its place was filled before.
    pub fn offer(&mut self, seq: u64, item: T) -> Result<(), T> {
        if seq < self.next || self.waiting.contains_key(&seq) {
            return Err(item);
        }
        self.waiting.insert(seq, item);
        Ok(())
    }

    /// The empty places that keep the first waiting item from leaving.
    pub fn gap(&self) -> Option<Range<u64>> {
        let (first, _) = self.waiting.first_key_value()?;
        (*first > self.next).then_some(self.next..*first)
    }

    /// All empty places before the last waiting item.
    pub fn gaps(&self) -> Vec<u64> {
        let last = self
            .waiting
            .last_key_value()
            .map_or(self.next, |(last, _)| *last);
        (self.next..last)
            .filter(|seq| !self.waiting.contains_key(seq))
            .collect()
    }

    /// Takes out up to `max` items in order, stopping at the first empty place.
    pub fn take_ready(&mut self, max: usize) -> Vec<(u64, T)> {
        let mut ready = Vec::new();
        while ready.len() < max {
            let Some(item) = self.waiting.remove(&self.next) else {
                break;
            };
            ready.push((self.next, item));
            self.next += 1;
        }
        ready
    }

    /// Puts back items that were just taken out, so that they leave first the next time.
    pub fn put_back(&mut self, items: Vec<(u64, T)>) {
        for (seq, item) in items {
            self.next = self.next.min(seq);
            self.waiting.insert(seq, item);
        }
    }

    /// Whether an item can leave.
    pub fn is_ready(&self) -> bool {
        self.waiting.contains_key(&self.next)
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Whatever the order of arrival and the sizes of batches, and whether batches fail and
        /// are put back: items leave once, in order.
        #[test]
        fn items_leave_once_and_in_order(
            arrival in Just((0_u64..40).collect::<Vec<_>>()).prop_shuffle(),
            batches in prop::collection::vec((1_usize..9, any::<bool>()), 40..80),
        ) {
            let mut sequencer = Sequencer::new(0);
            let mut left = Vec::new();
            let mut batches = batches.into_iter().cycle();
            for seq in arrival {
                sequencer.offer(seq, seq).unwrap();
                prop_assert_eq!(sequencer.offer(seq, seq), Err(seq));
                let (max, fails) = batches.next().unwrap();
                let taken = sequencer.take_ready(max);
                if fails { sequencer.put_back(taken) } else { left.extend(taken) }
            }
            left.extend(sequencer.take_ready(usize::MAX));
            prop_assert!(sequencer.is_empty());
            prop_assert_eq!(left, (0..40).map(|seq| (seq, seq)).collect::<Vec<_>>());
        }
    }

    #[test]
    fn a_gap_names_the_places_that_are_missing() {
        let mut sequencer = Sequencer::new(3);
        assert_eq!(sequencer.gap(), None);
        sequencer.offer(6, ()).unwrap();
        assert_eq!(sequencer.gap(), Some(3..6));
        assert!(!sequencer.is_ready());
        for seq in 3..6 {
            sequencer.offer(seq, ()).unwrap();
        }
        assert_eq!((sequencer.gap(), sequencer.take_ready(9).len()), (None, 4));
        assert_eq!(sequencer.offer(4, ()), Err(()), "a place is filled once");
    }
}
