//! Pushed revocations, on the sidecar's side: they take an agent's rights away at once and for a bounded time; what
//! lasts is what the chain's proved state says.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use writ_chain::Clock;

use crate::limits::MAX_NOTICES;

/// How many times as long as a hold that the chain did not confirm further notices about its agent are ignored: a relay
/// that lies can deny a small part of the time only.
const IGNORED: u32 = 10;

/// An agent was revoked, says a relay.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Notice {
    /// Names it.
    pub id: String,
    /// The agent.
    pub spiffe_id: String,
    /// The agent's key in the registry.
    pub agent_key: Option<[u8; 32]>,
    /// Unix seconds.
    pub issued_at: u64,
}

/// What became of a notice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Taken {
    /// The agent's actions are refused from now on.
    Held,
    /// They are refused, or were, by this notice or another.
    Known,
    /// It is older than a hold lasts: the chain decides.
    Old,
    /// The chain did not confirm an earlier notice about this agent.
    Ignored,
    /// There are as many as are kept.
    Full,
}

#[derive(Debug)]
struct Hold {
    notice: Notice,
    /// Monotonic time.
    until: Duration,
    state: State,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Refused by the notice.
    Open,
    /// Refused by the chain.
    Confirmed,
    /// Not refused: the time is over.
    Ended,
}

/// Agents that are refused by notice.
pub struct Holds {
    hold: Duration,
    clock: Arc<dyn Clock>,
    by_agent: Mutex<BTreeMap<String, Hold>>,
    /// Notices that refuse nobody here, by id: the chain may say the same all the same.
    left: Mutex<BTreeMap<String, Notice>>,
    /// How many there are, so that actions need no lock while there is none.
    count: AtomicUsize,
    changed: watch::Sender<u64>,
}

impl std::fmt::Debug for Holds {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Holds")
            .field("count", &self.count.load(Ordering::Relaxed))
            .finish_non_exhaustive()
    }
}

impl Holds {
    /// None yet. Each lasts for `hold` unless the chain confirms it before.
    pub fn new(hold: Duration, clock: Arc<dyn Clock>) -> Self {
        Self {
            hold,
            clock,
            by_agent: Mutex::default(),
            left: Mutex::default(),
            count: AtomicUsize::new(0),
            changed: watch::Sender::new(0),
        }
    }

    /// Takes a notice.
    pub fn push(&self, notice: Notice) -> Taken {
        let taken = self.take(notice.clone());
        if matches!(taken, Taken::Old | Taken::Ignored) {
            self.leave(notice);
        }
        taken
    }

    fn take(&self, notice: Notice) -> Taken {
        if notice.issued_at.saturating_add(self.hold.as_secs()) < self.clock.unix_seconds() {
            return Taken::Old;
        }
        let now = self.clock.monotonic();
        let mut holds = self.lock();
        holds.retain(|_, hold| now < self.forgotten(hold));
        if let Some(hold) = holds.get_mut(&notice.spiffe_id) {
            let ended = now >= hold.until && hold.state != State::Confirmed;
            // Pushed before anybody had looked its key up: without one the chain cannot confirm it.
            if hold.notice.agent_key.is_none() {
                hold.notice.agent_key = notice.agent_key;
                self.changed.send_modify(|n| *n += 1);
            }
            return if ended { Taken::Ignored } else { Taken::Known };
        }
        if holds.len() >= MAX_NOTICES {
            return Taken::Full;
        }
        let until = now.saturating_add(self.hold);
        tracing::warn!(
            agent = notice.spiffe_id,
            id = notice.id,
            "revoked by notice"
        );
        let hold = Hold {
            until,
            state: State::Open,
            notice,
        };
        holds.insert(hold.notice.spiffe_id.clone(), hold);
        self.count.store(holds.len(), Ordering::Release);
        drop(holds);
        self.changed.send_modify(|n| *n += 1);
        Taken::Held
    }

    /// Whether this agent is refused by notice now.
    pub fn refuses(&self, spiffe_id: &str) -> bool {
        self.any(|hold| hold.notice.spiffe_id == spiffe_id)
    }

    /// Whether the agent with this key is refused by notice now.
    pub fn refuses_key(&self, agent_key: &[u8; 32]) -> bool {
        self.any(|hold| hold.notice.agent_key.as_ref() == Some(agent_key))
    }

    /// The notices that refuse an agent now and that the chain has not confirmed.
    pub fn open(&self) -> Vec<Notice> {
        let now = self.clock.monotonic();
        let holds = self.lock();
        let open = holds
            .values()
            .filter(|hold| hold.state == State::Open && now < hold.until);
        open.map(|hold| hold.notice.clone()).collect()
    }

    /// The chain's proved state says the same: from here on it decides, if it changes its mind, too.
    pub fn confirmed(&self, id: &str) {
        for hold in self.lock().values_mut() {
            if hold.notice.id == id && hold.state == State::Open {
                hold.state = State::Confirmed;
            }
        }
    }

    /// The next few notices that refuse nobody, but whose agent the chain may have revoked; one after the other, as this is
    /// asked again and again.
    pub fn left(&self, most: usize, after: &str) -> Vec<Notice> {
        let left = lock(&self.left);
        let beyond = (Bound::Excluded(after), Bound::Unbounded);
        let (beyond, first) = (left.range::<str, _>(beyond), left.values());
        let beyond = beyond.map(|(_, notice)| notice);
        beyond
            .chain(first)
            .take(most.min(left.len()))
            .cloned()
            .collect()
    }

    /// The chain's proved state says what this notice says, or nobody asks about it any longer.
    pub fn settled(&self, id: &str) {
        lock(&self.left).remove(id);
    }

    /// Whoever sent notices sends all that are in force anew: what was left of them is of no more use.
    pub fn begin(&self) {
        lock(&self.left).clear();
    }

    fn leave(&self, notice: Notice) {
        let mut left = lock(&self.left);
        if left.len() < MAX_NOTICES || left.contains_key(&notice.id) {
            left.insert(notice.id.clone(), notice);
            drop(left);
            self.changed.send_modify(|n| *n += 1);
        }
    }

    /// The notices whose time is over, each answered once. The chain may still confirm them.
    pub fn ended(&self) -> Vec<Notice> {
        let now = self.clock.monotonic();
        let mut ended = Vec::new();
        for hold in self.lock().values_mut() {
            if hold.state == State::Open && now >= hold.until {
                hold.state = State::Ended;
                tracing::warn!(
                    agent = hold.notice.spiffe_id,
                    id = hold.notice.id,
                    "the chain did not confirm a revocation by notice; its time is over"
                );
                ended.push(hold.notice.clone());
            }
        }
        for notice in &ended {
            self.leave(notice.clone());
        }
        ended
    }

    /// Changes with every notice that is held.
    pub fn watch(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    fn any(&self, wanted: impl Fn(&Hold) -> bool) -> bool {
        if self.count.load(Ordering::Acquire) == 0 {
            return false;
        }
        let now = self.clock.monotonic();
        let holds = self.lock();
        holds
            .values()
            .any(|hold| hold.state == State::Open && now < hold.until && wanted(hold))
    }

    /// When a hold is of no more use.
    fn forgotten(&self, hold: &Hold) -> Duration {
        match hold.state {
            State::Confirmed => hold.until,
            State::Open | State::Ended => hold.until.saturating_add(self.hold * IGNORED),
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Hold>> {
        lock(&self.by_agent)
    }
}

/// A poisoned lock guards plain data that is valid after every statement.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use writ_chain::TestClock;

    const HOLD: Duration = Duration::from_secs(60);
    const AGENT: &str = "spiffe://example.org/ns/shop/sa/buyer";

    fn holds() -> (Holds, Arc<TestClock>) {
        let clock = Arc::new(TestClock::at(1_000_000));
        (Holds::new(HOLD, clock.clone()), clock)
    }

    fn notice(id: &str, issued_at: u64) -> Notice {
        Notice {
            id: id.to_owned(),
            spiffe_id: AGENT.to_owned(),
            agent_key: Some([7; 32]),
            issued_at,
        }
    }

    #[test]
    fn a_notice_refuses_its_agent_and_nobody_else() {
        let (holds, _) = holds();
        assert!(!holds.refuses(AGENT));
        assert_eq!(holds.push(notice("a", 1_000_000)), Taken::Held);
        assert!(holds.refuses(AGENT) && holds.refuses_key(&[7; 32]));
        assert!(!holds.refuses("spiffe://example.org/ns/shop/sa/other"));
        assert!(!holds.refuses_key(&[8; 32]));
    }

    #[test]
    fn it_ends_by_itself_and_saying_it_again_does_not_prolong_it() {
        let (holds, clock) = holds();
        holds.push(notice("a", 1_000_000));
        clock.advance(HOLD - Duration::from_secs(1));
        assert_eq!(holds.push(notice("a", 1_000_059)), Taken::Known);
        assert_eq!(holds.push(notice("b", 1_000_059)), Taken::Known);
        assert!(holds.refuses(AGENT));
        clock.advance(Duration::from_secs(1));
        assert!(!holds.refuses(AGENT));
        assert_eq!(holds.ended().len(), 1);
        assert!(holds.ended().is_empty(), "told once");
    }

    #[test]
    fn after_a_notice_that_the_chain_did_not_confirm_others_are_ignored_for_long() {
        let (holds, clock) = holds();
        holds.push(notice("a", 1_000_000));
        clock.advance(HOLD);
        assert_eq!(holds.push(notice("b", 1_000_060)), Taken::Ignored);
        assert!(!holds.refuses(AGENT));
        clock.advance(HOLD * IGNORED);
        assert_eq!(holds.push(notice("c", 1_000_660)), Taken::Held);
    }

    #[test]
    fn what_the_chain_confirmed_is_the_chains_to_decide() {
        let (holds, _) = holds();
        holds.push(notice("a", 1_000_000));
        assert_eq!(holds.open().len(), 1);
        holds.confirmed("a");
        assert!(holds.open().is_empty() && !holds.refuses(AGENT));
    }

    #[test]
    fn a_key_that_comes_later_is_taken_and_told() {
        let (holds, _) = holds();
        let watch = holds.watch();
        holds.push(Notice {
            agent_key: None,
            ..notice("a", 1_000_000)
        });
        assert!(holds.refuses(AGENT) && !holds.refuses_key(&[7; 32]));
        let before = *watch.borrow();
        assert_eq!(holds.push(notice("a", 1_000_000)), Taken::Known);
        assert!(holds.refuses_key(&[7; 32]));
        assert!(*watch.borrow() > before);
        // It stays, whatever is said of it after.
        holds.push(Notice {
            agent_key: Some([8; 32]),
            ..notice("a", 1_000_000)
        });
        assert!(holds.refuses_key(&[7; 32]) && !holds.refuses_key(&[8; 32]));
    }

    #[test]
    fn an_old_notice_is_left_to_the_chain() {
        let (holds, clock) = holds();
        clock.advance(HOLD + Duration::from_secs(1));
        assert_eq!(holds.push(notice("a", 1_000_000)), Taken::Old);
        assert!(!holds.refuses(AGENT));
    }

    #[test]
    fn a_notice_that_holds_nothing_is_kept_for_the_chain_to_confirm() {
        let (holds, clock) = holds();
        let watch = holds.watch();
        clock.advance(HOLD + Duration::from_secs(1));
        holds.push(notice("old", 1_000_000));
        assert!(*watch.borrow() > 0 && holds.open().is_empty());
        let other = Notice {
            spiffe_id: "spiffe://example.org/ns/shop/sa/other".to_owned(),
            ..notice("new", 1_000_061)
        };
        assert_eq!(holds.push(other), Taken::Held);
        let ids = |most, after: &str| -> Vec<String> {
            holds.left(most, after).into_iter().map(|n| n.id).collect()
        };
        assert_eq!(ids(9, ""), ["old"]);
        // One whose time ended unconfirmed, and what is ignored after it.
        clock.advance(HOLD);
        assert_eq!(holds.ended().len(), 1);
        let again = Notice {
            spiffe_id: "spiffe://example.org/ns/shop/sa/other".to_owned(),
            ..notice("newer", 1_000_121)
        };
        assert_eq!(holds.push(again), Taken::Ignored);
        assert_eq!(ids(9, ""), ["new", "newer", "old"]);
        // One after the other, and from the first again.
        assert_eq!(ids(2, ""), ["new", "newer"]);
        assert_eq!(ids(2, "newer"), ["old", "new"]);
        holds.settled("newer");
        assert_eq!(ids(9, "newer"), ["old", "new"]);
        holds.begin();
        assert!(ids(9, "").is_empty());
    }

    #[test]
    fn no_more_of_what_holds_nothing_is_kept_than_of_what_does() {
        let (holds, clock) = holds();
        clock.advance(HOLD * 2);
        for n in 0..MAX_NOTICES + 9 {
            assert_eq!(holds.push(notice(&n.to_string(), 1_000_000)), Taken::Old);
        }
        assert_eq!(holds.left(usize::MAX, "").len(), MAX_NOTICES);
    }

    #[test]
    fn more_notices_than_are_kept_are_not_taken() {
        let (holds, _) = holds();
        for n in 0..=MAX_NOTICES {
            let spiffe_id = format!("spiffe://example.org/ns/x/sa/{n}");
            let taken = holds.push(Notice {
                spiffe_id,
                ..notice("a", 1_000_000)
            });
            let expected = if n < MAX_NOTICES {
                Taken::Held
            } else {
                Taken::Full
            };
            assert_eq!(taken, expected);
        }
    }
}
