//! A place in the log that is taken and not filled yet.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::Sender;

use tokio::sync::oneshot;

use super::Receipt;
use super::writer::Message;
use crate::id::{DecisionId, LogId};
use crate::{Entry, LedgerError};

/// Counts an append under way until it is dropped.
#[derive(Debug)]
pub(super) struct Permit(Arc<AtomicUsize>);

impl Permit {
    pub(super) fn take(count: &Arc<AtomicUsize>, limit: usize) -> Result<Self, LedgerError> {
        let permit = Self(count.clone());
        if count.fetch_add(1, Ordering::AcqRel) >= limit {
            return Err(LedgerError::Busy { limit });
        }
        Ok(permit)
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

/// A place in the log, to be named in the envelope and filled by [`super::Log::append`].
///
/// Dropped unused it becomes a Void record. Do not hold it while waiting for others: the places
/// after it wait for this one, and it is voided after [`super::LogOptions::reservation_timeout`].
#[derive(Debug)]
#[must_use = "an unused place becomes a Void record"]
pub struct Reservation {
    seq: u64,
    log: LogId,
    unused: Option<(Sender<Message>, Permit)>,
}

impl Reservation {
    pub(super) fn new(seq: u64, log: LogId, tx: Sender<Message>, permit: Permit) -> Self {
        Self {
            seq,
            log,
            unused: Some((tx, permit)),
        }
    }

    /// The place.
    pub fn seq(&self) -> u64 {
        self.seq
    }

    /// Name of the decision that will stand there.
    pub fn id(&self) -> DecisionId {
        DecisionId {
            log: self.log.clone(),
            seq: self.seq,
        }
    }

    pub(super) fn send(
        mut self,
        entry: Entry,
        time: u64,
    ) -> oneshot::Receiver<Result<Receipt, LedgerError>> {
        let (reply, answer) = oneshot::channel();
        if let Some((tx, permit)) = self.unused.take() {
            let seq = self.seq;
            // A failed send drops `reply`, which the caller reads as closed.
            let _ = tx.send(Message::Append {
                seq,
                entry,
                time,
                permit,
                reply,
            });
        }
        answer
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        if let Some((tx, permit)) = self.unused.take() {
            let _ = tx.send(Message::Void {
                seq: self.seq,
                permit,
            });
        }
    }
}
