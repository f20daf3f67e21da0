//! Batches: what is ready becomes records, and durable, or is told why not.

use std::sync::PoisonError;
use std::sync::atomic::Ordering;
use std::time::Instant;

use super::{MAX_BATCH, Waiting, Writer, answer, outlasts_failure};
use crate::store::Receipt;
use crate::store::db::Batch;
use crate::tree::{Frontier, leaf_index};
use crate::{Entry, FormatError, Hash, LedgerError, Record, VERSION, VoidCause, record_hash};

/// Room that a commit needs beside its records: pages of the trees that are copied on write.
const COMMIT_ROOM: u64 = 256 * 1024;

/// What a batch makes of the tail.
struct Built {
    batch: Batch,
    prev: Hash,
    tree: Frontier,
    opened: Vec<u64>,
    closed: Vec<u64>,
    receipts: Vec<Receipt>,
}

impl Writer {
    /// Commits everything that is ready.
    pub(super) fn write(&mut self) {
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
}
