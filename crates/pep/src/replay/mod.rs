//! Which envelopes were used: a bounded store in memory, and in one file for the next process.
//!
//! Memory decides, so of any number of concurrent uses exactly one is first. One writer thread
//! commits what has queued up in one transaction: at once where somebody waits for it
//! ([`Durability::Now`]), else about once a second. Entries are swept after they expire; the
//! greatest expiry swept is kept, so a clock that goes back finds an answer other than "fresh".

mod disk;
mod memory;
#[cfg(test)]
mod tests;

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use redb::Database;
use tokio::sync::oneshot;
use writ_sae::{Durability, Jti, ReplayError, ReplayFuture, ReplayStore, Use, replay_key};

use disk::{Command, Open, Queue, Writer};
use memory::Recent;

/// Limits of a [`RedbReplayStore`].
#[derive(Debug, Clone, Copy)]
pub struct ReplayLimits {
    /// Most envelopes remembered at once; one takes some 20 bytes of memory and 100 on disk. At
    /// 1,000 requests/s and 60 s lifetime 120,000 are alive.
    pub entries: u64,
    /// Most bytes of page cache.
    pub cache_bytes: usize,
    /// Most uses waiting for the disk.
    pub queue: usize,
}

impl Default for ReplayLimits {
    fn default() -> Self {
        Self {
            entries: 500_000,
            cache_bytes: 1024 * 1024,
            queue: 4096,
        }
    }
}

/// The store could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum ReplayOpenError {
    /// The file cannot be used.
    #[error(
        "the replay store cannot be opened: {0}; check the volume, or remove the file: envelopes issued before that are then refused"
    )]
    Database(#[from] redb::Error),
    /// No thread for it.
    #[error("the replay store's thread cannot be started: {0}")]
    Thread(#[from] std::io::Error),
}

/// Replay store in one `redb` file on the PEP's own volume.
///
/// A file that is missing is made anew, and its creation time kept in it: whoever asks
/// [`ReplayStore::complete_since`] refuses envelopes from before, which may have been used.
pub struct RedbReplayStore {
    recent: Mutex<Recent>,
    queue: Arc<Queue>,
    writer: Option<JoinHandle<()>>,
    failing: Arc<AtomicBool>,
    created: u64,
}

impl RedbReplayStore {
    /// Opens or creates the store at `path`; `now` in unix seconds.
    ///
    /// # Errors
    /// [`ReplayOpenError`].
    pub fn open(path: &Path, limits: ReplayLimits, now: u64) -> Result<Self, ReplayOpenError> {
        let path = path.to_owned();
        let open = move || {
            let mut builder = Database::builder();
            builder.set_cache_size(limits.cache_bytes);
            Ok(builder.create(&path)?)
        };
        Self::with(Box::new(open), limits, now)
    }

    fn with(mut open: Open, limits: ReplayLimits, now: u64) -> Result<Self, ReplayOpenError> {
        let database = open()?;
        let (created, recent) = disk::load(&database, limits.entries, now)?;
        let queue = Arc::new(Queue::new(limits.queue.max(2)));
        let failing = Arc::new(AtomicBool::new(false));
        let writer = Writer {
            database: Some(database),
            open,
            queue: Arc::clone(&queue),
            failing: Arc::clone(&failing),
            pending: Vec::new(),
        };
        let writer = std::thread::Builder::new()
            .name("writ-replay".into())
            .spawn(move || writer.run())?;
        Ok(Self {
            recent: Mutex::new(recent),
            queue,
            writer: Some(writer),
            failing,
            created,
        })
    }

    fn remember(&self, key: &[u8; 32], expires: u64, now: u64) -> Use {
        let mut recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        recent.use_once(key, expires, now)
    }
}

fn stopped() -> ReplayError {
    ReplayError("its writer has stopped".into())
}

impl Drop for RedbReplayStore {
    fn drop(&mut self) {
        // Closing the queue ends the writer; the file is free once it has ended.
        self.queue.close();
        if let Some(writer) = self.writer.take() {
            let _ended = writer.join();
        }
    }
}

impl ReplayStore for RedbReplayStore {
    fn use_once(
        &self,
        iss: &str,
        jti: Jti,
        expires: u64,
        now: u64,
        durability: Durability,
    ) -> ReplayFuture<'_> {
        let key = replay_key(iss, jti);
        Box::pin(async move {
            if self.failing.load(Ordering::Acquire) {
                return Err(ReplayError("its last write failed".into()));
            }
            // A use that is remembered and then not written stays used: nothing was accepted on
            // it, and nothing will be.
            let outcome = self.remember(&key, expires, now);
            if outcome != Use::Fresh {
                return Ok(outcome);
            }
            let command = |answer| Command {
                key,
                expires,
                now,
                answer,
            };
            match durability {
                Durability::Soon => self.queue.send(command(None))?,
                Durability::Now => {
                    let (answer, answered) = oneshot::channel();
                    self.queue.send(command(Some(answer)))?;
                    answered.await.map_err(|_| stopped())??;
                }
            }
            Ok(Use::Fresh)
        })
    }

    fn complete_since(&self) -> Option<u64> {
        Some(self.created)
    }
}
