//! The file, opened again after a failed write.

use std::sync::{Arc, PoisonError};

use super::{MAX_BATCH, Writer, answer};
use crate::replay::Fault;
use crate::store::Receipt;
use crate::store::db::Db;
use crate::{Entry, LedgerError, Record, record_hash};

impl Writer {
    /// Opens the file again after a failed write. If the write reached the disk after all, its
    /// records are taken over.
    pub(super) fn ensure_open(&mut self) -> Result<(), LedgerError> {
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

    pub(super) fn set_db(&self, db: Option<Arc<Db>>) {
        *self
            .shared
            .db
            .write()
            .unwrap_or_else(PoisonError::into_inner) = db;
    }
}
