//! The one writer: takes what comes, puts it in order, commits it in batches, answers.

mod commit;
mod reopen;
mod sign;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use super::reservation::Permit;
use super::volume::Volume;
use super::{LogOptions, Receipt, Shared};
use crate::budget::BudgetUse;
use crate::id::WitnessId;
use crate::tree::Frontier;
use crate::{
    Entry, Hash, Heartbeat, LedgerError, Sequencer, Unknown, UnknownCause, Void, VoidCause,
};

/// Most records of one commit.
const MAX_BATCH: usize = 512;

/// How long a record that nothing waits for, such as an outcome, waits for company: one commit
/// then serves it and the next decision.
const LINGER: Duration = Duration::from_millis(5);

type Answer = Result<Receipt, LedgerError>;

/// What the writer is asked to do.
pub(super) enum Message {
    Append {
        seq: u64,
        entry: Entry,
        time: u64,
        permit: Permit,
        reply: oneshot::Sender<Answer>,
    },
    Void {
        seq: u64,
        permit: Permit,
    },
    Witness {
        id: WitnessId,
        bytes: Vec<u8>,
    },
    Checkpoint(oneshot::Sender<Result<Arc<str>, LedgerError>>),
    Close,
}

/// What waits for its place.
struct Waiting {
    entry: Entry,
    time: u64,
    reply: Option<oneshot::Sender<Answer>>,
    _permit: Option<Permit>,
}

/// The end of the log as it is on disk.
#[derive(Debug, Clone)]
pub(super) struct Tail {
    pub(super) next: u64,
    pub(super) prev: Hash,
    pub(super) tree: Frontier,
    /// Released actions without an outcome.
    pub(super) awaiting: BTreeSet<u64>,
    /// Size of the newest checkpoint stored with the log.
    pub(super) kept: u64,
}

pub(super) struct Writer {
    shared: Arc<Shared>,
    volume: Box<dyn Volume>,
    path: PathBuf,
    options: LogOptions,
    tail: Tail,
    order: Sequencer<Waiting>,
    witnesses: BTreeMap<WitnessId, Vec<u8>>,
    note: Option<(u64, Vec<u8>)>,
    signed: u64,
    signed_at: Instant,
    wrote_at: Instant,
    blocked: Option<(u64, Instant)>,
    failed_at: Option<Instant>,
    /// Whether something that came since the last write cannot wait.
    urgent: bool,
    /// Since when something waits for company.
    lingers: Option<Instant>,
}

/// Whether an entry waits out a failing volume instead of failing with it: what already happened
/// must be recorded; a decision can be refused.
pub(super) fn outlasts_failure(entry: &Entry) -> bool {
    matches!(
        entry,
        Entry::Outcome(_) | Entry::Unknown(_) | Entry::Void(_) | Entry::Config(_)
    )
}

impl Writer {
    pub(super) fn new(
        shared: Arc<Shared>,
        volume: Box<dyn Volume>,
        path: &Path,
        options: LogOptions,
        tail: Tail,
    ) -> Self {
        Self {
            order: Sequencer::new(tail.next),
            shared,
            volume,
            path: path.to_owned(),
            options,
            tail,
            witnesses: BTreeMap::new(),
            note: None,
            signed: 0,
            signed_at: Instant::now(),
            wrote_at: Instant::now(),
            blocked: None,
            failed_at: None,
            urgent: false,
            lingers: None,
        }
    }

    pub(super) fn run(mut self, rx: &Receiver<Message>) {
        let _ = self.sign_checkpoint();
        loop {
            let open = match rx.recv_timeout(self.patience()) {
                Ok(message) => self.take(message) && self.drain(rx),
                Err(RecvTimeoutError::Timeout) => true,
                Err(RecvTimeoutError::Disconnected) => false,
            };
            self.expire();
            self.beat();
            if self.is_due() {
                self.write();
                self.urgent = false;
                self.lingers = None;
            }
            if self.signed < self.tail.next
                && self.signed_at.elapsed() >= self.options.checkpoint_every
            {
                let _ = self.sign_checkpoint();
            }
            if !open {
                return self.close(rx);
            }
        }
    }

    /// Whether to write now, rather than to wait for more.
    fn is_due(&self) -> bool {
        self.urgent || self.lingers.is_none_or(|since| since.elapsed() >= LINGER)
    }

    /// How long nothing needs to be done.
    fn patience(&self) -> Duration {
        let left = |since: Instant, every: Duration| every.saturating_sub(since.elapsed());
        let mut patience = self.options.heartbeat_every;
        if self.failed_at.is_none() && self.order.is_empty() {
            patience = left(self.wrote_at, self.options.heartbeat_every);
        }
        if self.failed_at.is_none() && self.order.is_ready() {
            patience = self
                .lingers
                .map_or(Duration::ZERO, |since| left(since, LINGER));
        }
        if self.signed < self.tail.next {
            patience = patience.min(left(self.signed_at, self.options.checkpoint_every));
        }
        if let Some((_, since)) = self.blocked {
            patience = patience.min(left(since, self.options.reservation_timeout));
        }
        if let Some(since) = self.failed_at {
            patience = patience.min(left(since, self.options.retry_every));
        }
        patience
    }

    /// Takes what has come meanwhile: it goes into the same batch.
    fn drain(&mut self, rx: &Receiver<Message>) -> bool {
        for _ in 0..2 * MAX_BATCH {
            match rx.try_recv() {
                Ok(message) => {
                    if !self.take(message) {
                        return false;
                    }
                }
                Err(_) => break,
            }
        }
        true
    }

    /// Takes one message; `false` when it ends the log.
    fn take(&mut self, message: Message) -> bool {
        match message {
            Message::Append {
                seq,
                entry,
                time,
                permit,
                reply,
            } => {
                if outlasts_failure(&entry) {
                    self.lingers.get_or_insert_with(Instant::now);
                } else {
                    self.urgent = true;
                }
                let waiting = Waiting {
                    entry,
                    time,
                    reply: Some(reply),
                    _permit: Some(permit),
                };
                if let Err(late) = self.order.offer(seq, waiting) {
                    self.late(seq, late);
                }
            }
            Message::Void { seq, permit } => {
                let waiting = self.void(VoidCause::Dropped, None, Some(permit));
                // A place that has expired is void already.
                let _ = self.order.offer(seq, waiting);
            }
            Message::Witness { id, bytes } => {
                self.witnesses.insert(id, bytes);
            }
            Message::Checkpoint(reply) => {
                self.write();
                let _ = reply.send(self.sign_checkpoint());
            }
            Message::Close => return false,
        }
        true
    }

    fn void(&self, cause: VoidCause, budget: Option<BudgetUse>, permit: Option<Permit>) -> Waiting {
        Waiting {
            entry: Entry::Void(Box::new(Void { budget, cause })),
            time: self.shared.clock.unix_ms(),
            reply: None,
            _permit: permit,
        }
    }

    /// Adds an entry of the log's own at the next free place.
    fn add(&mut self, waiting: Waiting) {
        let seq = self.shared.next.fetch_add(1, Ordering::AcqRel);
        let _ = self.order.offer(seq, waiting);
    }

    fn not_released(&mut self, of: u64) {
        let cause = UnknownCause::NotReleased;
        let entry = Entry::Unknown(Unknown { cause, of });
        let time = self.shared.clock.unix_ms();
        self.add(Waiting {
            entry,
            time,
            reply: None,
            _permit: None,
        });
    }

    fn late(&mut self, seq: u64, late: Waiting) {
        // The place is gone, but what was counted for it stays counted, and is recorded.
        if let Some(budget) = late.entry.budget().cloned() {
            let void = self.void(VoidCause::Expired, Some(budget), None);
            self.add(void);
        }
        answer(late.reply, Err(LedgerError::Expired { seq }));
    }

    /// Voids the places that have held up the ones after them for too long.
    fn expire(&mut self) {
        let Some(gap) = self.order.gap() else {
            self.blocked = None;
            return;
        };
        let since = match self.blocked {
            Some((next, since)) if next == gap.start => since,
            _ => Instant::now(),
        };
        self.blocked = Some((gap.start, since));
        if since.elapsed() >= self.options.reservation_timeout {
            tracing::warn!(log = %self.shared.id, first = gap.start, last = gap.end - 1, "reserved places were not filled in time and are void");
            for seq in gap {
                let void = self.void(VoidCause::Expired, None, None);
                let _ = self.order.offer(seq, void);
            }
            self.blocked = None;
        }
    }

    fn beat(&mut self) {
        if self.wrote_at.elapsed() >= self.options.heartbeat_every
            && self.order.is_empty()
            && self.failed_at.is_none()
        {
            let time = self.shared.clock.unix_ms();
            let entry = Entry::Heartbeat(Heartbeat {});
            self.add(Waiting {
                entry,
                time,
                reply: None,
                _permit: None,
            });
        }
    }

    fn close(mut self, rx: &Receiver<Message>) {
        self.drain(rx);
        // Nobody will fill the places that are still empty.
        for seq in self.order.gaps() {
            let void = self.void(VoidCause::Dropped, None, None);
            let _ = self.order.offer(seq, void);
        }
        self.write();
        let _ = self.sign_checkpoint();
        // What is left is answered by dropping it: closed.
        self.set_db(None);
    }
}

fn answer(reply: Option<oneshot::Sender<Answer>>, answer: Answer) -> bool {
    reply.is_some_and(|reply| reply.send(answer).is_ok())
}
