//! The one writer: takes what comes, puts it in order, commits it in batches, answers.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use super::db::{Batch, Db};
use super::reservation::Permit;
use super::volume::Volume;
use super::{LogOptions, Receipt, Shared, checkpoint_path};
use crate::budget::BudgetUse;
use crate::checkpoint::Head;
use crate::id::WitnessId;
use crate::replay::Fault;
use crate::tree::{Frontier, leaf_index};
use crate::{
    Entry, FormatError, Hash, Heartbeat, LedgerError, Record, Sequencer, Unknown, UnknownCause,
    VERSION, Void, VoidCause, record_hash,
};

/// Most records of one commit.
const MAX_BATCH: usize = 512;

/// Room that a commit needs beside its records: pages of the trees that are copied on write.
const COMMIT_ROOM: u64 = 256 * 1024;

/// How long a record that nothing waits for, such as an outcome, waits for company: one commit
/// then serves it and the next decision.
const LINGER: Duration = Duration::from_millis(5);

/// Records between two checkpoints that are stored with the log.
const KEEP_CHECKPOINT_EVERY: u64 = 256;

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

/// What a batch makes of the tail.
struct Built {
    batch: Batch,
    prev: Hash,
    tree: Frontier,
    opened: Vec<u64>,
    closed: Vec<u64>,
    receipts: Vec<Receipt>,
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

    /// Commits everything that is ready.
    fn write(&mut self) {
        let waits = |at: Instant| at.elapsed() < self.options.retry_every;
        if self.failed_at.is_some_and(waits) {
            // Decisions are refused at once; the rest waits for the next try.
            let ready = self.order.take_ready(usize::MAX);
            if !ready.is_empty() {
                let error = self.shared.health.borrow().clone();
                self.fail(ready, error.unwrap_or(LedgerError::Closed));
            }
            return;
        }
        while self.order.is_ready() {
            let opened = self.ensure_open();
            let ready = self.order.take_ready(MAX_BATCH);
            let (ready, built) = self.build(ready);
            match opened.and_then(|()| self.commit(&built.batch)) {
                Ok(()) => self.succeed(ready, built),
                Err(error) => {
                    self.failed_at = Some(Instant::now());
                    self.witnesses.extend(built.batch.witnesses);
                    self.note = self.note.take().or(built.batch.checkpoint);
                    self.fail(ready, error);
                    return;
                }
            }
        }
    }

    /// Makes records of what is ready. What does not fit becomes void and is told why.
    fn build(&mut self, mut ready: Vec<(u64, Waiting)>) -> (Vec<(u64, Waiting)>, Built) {
        let mut built = Built {
            batch: Batch::default(),
            prev: self.tail.prev,
            tree: self.tail.tree.clone(),
            opened: Vec::new(),
            closed: Vec::new(),
            receipts: Vec::new(),
        };
        for (seq, waiting) in &mut ready {
            if let Err(error) = self.admit(&waiting.entry, &built) {
                self.replace(waiting, error);
            }
            if let Err(error) = self.push(*seq, waiting, &mut built) {
                self.replace(waiting, error);
                if let Err(error) = self.push(*seq, waiting, &mut built) {
                    tracing::error!(log = %self.shared.id, seq, %error, "a void record does not fit");
                }
            }
        }
        built.batch.witnesses = std::mem::take(&mut self.witnesses).into_iter().collect();
        built.batch.checkpoint = self.note.take();
        (ready, built)
    }

    fn replace(&self, waiting: &mut Waiting, error: LedgerError) {
        answer(waiting.reply.take(), Err(error));
        let void = self.void(VoidCause::Dropped, waiting.entry.budget().cloned(), None);
        waiting.entry = void.entry;
    }

    /// Keeps the log free of what would not verify.
    fn admit(&self, entry: &Entry, built: &Built) -> Result<(), LedgerError> {
        if let Some(id) = entry.witness() {
            let known = self.shared.witnesses.lock();
            if !known
                .unwrap_or_else(PoisonError::into_inner)
                .contains_key(&id)
            {
                return Err(LedgerError::UnknownWitness(id.to_string()));
            }
        }
        let (of, what) = match entry {
            Entry::Outcome(outcome) => (outcome.of, "outcome.of"),
            Entry::Unknown(unknown) => (unknown.of, "unknown.of"),
            _ => return Ok(()),
        };
        let awaits = self.tail.awaiting.contains(&of) && !built.closed.contains(&of);
        awaits.then_some(()).ok_or(FormatError::Bound(what).into())
    }

    fn push(&self, seq: u64, waiting: &Waiting, built: &mut Built) -> Result<(), LedgerError> {
        let record = Record {
            entry: waiting.entry.clone(),
            log: self.shared.id.clone(),
            prev: built.prev,
            seq,
            time: waiting.time,
            v: VERSION,
        };
        let bytes = record.encode()?;
        let hash = record_hash(&bytes);
        let nodes = built
            .tree
            .push(hash)
            .map_err(|e| LedgerError::Storage(e.to_string()))?;
        built.batch.nodes.extend((leaf_index(seq)..).zip(nodes));
        built.batch.records.push((seq, bytes));
        built.prev = hash;
        built.receipts.push(Receipt { seq, hash });
        if record.entry.awaits_outcome() {
            built.opened.push(seq);
        }
        match &record.entry {
            Entry::Outcome(outcome) => built.closed.push(outcome.of),
            Entry::Unknown(unknown) => built.closed.push(unknown.of),
            _ => {}
        }
        Ok(())
    }

    fn commit(&self, batch: &Batch) -> Result<(), LedgerError> {
        let bytes = batch.bytes();
        let needed = bytes.saturating_mul(2).saturating_add(COMMIT_ROOM);
        let io = |e: std::io::Error| LedgerError::Storage(e.to_string());
        let used = self.volume.used().map_err(io)?;
        let max = self.options.max_bytes;
        self.shared.used.store(used, Ordering::Release);
        let near = used.saturating_add(bytes) > max - max / 8;
        self.shared.full.store(near, Ordering::Release);
        if used.saturating_add(bytes) > max {
            return Err(LedgerError::Full { used, max });
        }
        let free = self.volume.free().map_err(io)?;
        if free < needed {
            return Err(LedgerError::NoSpace { free, needed });
        }
        let db = self.shared.db()?;
        let result = db.commit(batch);
        if result.is_err() {
            // redb refuses everything after a failed write until the file is opened anew.
            drop(db);
            self.set_db(None);
        }
        result
    }

    /// Opens the file again after a failed write. If the write reached the disk after all, its
    /// records are taken over.
    fn ensure_open(&mut self) -> Result<(), LedgerError> {
        if self.shared.db().is_ok() {
            return Ok(());
        }
        let cache = self.options.cache_bytes;
        let (db, id) = Db::open(&*self.volume, &self.path, cache, &self.shared.id)?;
        let view = db.view()?;
        let size = view.size()?;
        if id != self.shared.id || size < self.tail.next {
            let problem = "was durable and is gone from the volume".to_owned();
            return Err(Fault { seq: size, problem }.into());
        }
        while self.tail.next < size {
            for (seq, bytes, _) in view.records(self.tail.next, MAX_BATCH, usize::MAX)? {
                self.adopt(seq, &bytes)?;
            }
        }
        drop(view);
        self.set_db(Some(Arc::new(db)));
        Ok(())
    }

    /// Takes over a record whose write had failed and is on the disk all the same. Whoever waited
    /// for a decision was told that it failed, so nothing was released on it.
    fn adopt(&mut self, seq: u64, bytes: &[u8]) -> Result<(), LedgerError> {
        let record = Record::decode(bytes)?;
        if seq != self.tail.next || record.seq != seq || record.prev != self.tail.prev {
            let problem = "does not follow what was written before it".to_owned();
            return Err(Fault { seq, problem }.into());
        }
        let hash = record_hash(bytes);
        self.tail
            .tree
            .push(hash)
            .map_err(|e| LedgerError::Storage(e.to_string()))?;
        self.tail.prev = hash;
        self.tail.next = seq + 1;
        for (_, waiting) in self.order.take_ready(1) {
            answer(waiting.reply, Ok(Receipt { seq, hash }));
        }
        match &record.entry {
            Entry::Outcome(outcome) => drop(self.tail.awaiting.remove(&outcome.of)),
            Entry::Unknown(unknown) => drop(self.tail.awaiting.remove(&unknown.of)),
            entry if entry.awaits_outcome() => {
                self.tail.awaiting.insert(seq);
                self.not_released(seq);
            }
            _ => {}
        }
        Ok(())
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

    fn set_db(&self, db: Option<Arc<Db>>) {
        *self
            .shared
            .db
            .write()
            .unwrap_or_else(PoisonError::into_inner) = db;
    }

    fn succeed(&mut self, ready: Vec<(u64, Waiting)>, built: Built) {
        let witnesses = built.batch.witnesses.iter();
        let pending: u64 = witnesses.map(|(_, bytes)| bytes.len() as u64).sum();
        self.shared
            .pending_witness_bytes
            .fetch_sub(pending, Ordering::AcqRel);
        if let Some((size, _)) = built.batch.checkpoint {
            self.tail.kept = size;
        }
        self.tail.next = self.order.next();
        self.tail.prev = built.prev;
        self.tail.tree = built.tree;
        self.tail.awaiting.extend(built.opened);
        for of in built.closed {
            self.tail.awaiting.remove(&of);
        }
        self.wrote_at = Instant::now();
        if self.failed_at.take().is_some() {
            tracing::info!(log = %self.shared.id, "the log can be written again");
        }
        self.shared
            .health
            .send_if_modified(|health| health.take().is_some());
        for ((seq, waiting), receipt) in ready.into_iter().zip(built.receipts) {
            let released = waiting.entry.awaits_outcome();
            let heard = answer(waiting.reply, Ok(receipt));
            if released && !heard {
                // The caller went away before it could release anything.
                self.not_released(seq);
            }
        }
    }

    fn fail(&mut self, ready: Vec<(u64, Waiting)>, error: LedgerError) {
        self.shared.health.send_if_modified(|health| {
            let news = health.is_none();
            if news {
                tracing::error!(log = %self.shared.id, %error, "the log cannot be written; actions are refused");
            }
            *health = Some(error.clone());
            news
        });
        let mut again = Vec::with_capacity(ready.len());
        for (seq, mut waiting) in ready {
            if !outlasts_failure(&waiting.entry) {
                let budget = waiting.entry.budget().cloned();
                answer(waiting.reply.take(), Err(error.clone()));
                waiting = self.void(VoidCause::Storage, budget, None);
            }
            again.push((seq, waiting));
        }
        self.order.put_back(again);
    }

    fn sign_checkpoint(&mut self) -> Result<Arc<str>, LedgerError> {
        let head = Head {
            origin: self.shared.id.origin(),
            size: self.tail.next,
            root: self
                .tail
                .tree
                .root()
                .map_err(|e| LedgerError::Storage(e.to_string()))?,
            time: self.shared.clock.unix_ms(),
        };
        let note = self.options.key.sign(&self.shared.id, &head)?;
        let text: Arc<str> = String::from_utf8_lossy(&note).into();
        if let Err(error) = replace_file(&checkpoint_path(&self.path), &note) {
            tracing::warn!(log = %self.shared.id, %error, "the checkpoint beside the log could not be written");
        }
        if head.size >= self.tail.kept + KEEP_CHECKPOINT_EVERY {
            self.note = Some((head.size, note));
        }
        self.signed = head.size;
        self.signed_at = Instant::now();
        self.shared.checkpoint.send_replace(Some(text.clone()));
        Ok(text)
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

/// Replaces a small file so that readers see the old text or the new one.
fn replace_file(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    use std::io::Write;
    use std::os::unix::fs::OpenOptionsExt;
    let new = super::with_suffix(path, ".new");
    let mut file = std::fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&new)?;
    file.write_all(bytes)?;
    drop(file);
    std::fs::rename(&new, path)
}
