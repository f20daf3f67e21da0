//! Which envelopes were used: a bounded store in one file, durable before anything is accepted.
//!
//! One writer thread commits what has queued up in one transaction (group commit), so of any
//! number of concurrent uses exactly one is first. Entries are swept after they expire; the
//! greatest expiry swept is kept, so a clock that goes back finds an answer other than "fresh".

use std::path::Path;
use std::thread::JoinHandle;

use redb::{Database, ReadableDatabase, ReadableTable, ReadableTableMetadata, TableDefinition};
use tokio::sync::{mpsc, oneshot};
use writ_sae::{Jti, ReplayError, ReplayFuture, ReplayStore, Use, lifetime::MAX_SKEW, replay_key};

const USED: TableDefinition<'_, [u8; 32], u64> = TableDefinition::new("used");
const BY_EXPIRY: TableDefinition<'_, (u64, [u8; 32]), ()> = TableDefinition::new("by-expiry");
const META: TableDefinition<'_, &str, u64> = TableDefinition::new("meta");
const CREATED: &str = "created";
const SWEPT: &str = "swept";

/// Most uses committed in one transaction, and most entries swept by it.
const BATCH: usize = 256;
const SWEEP: usize = 1024;

/// Limits of a [`RedbReplayStore`].
#[derive(Debug, Clone, Copy)]
pub struct ReplayLimits {
    /// Most envelopes remembered at once; one takes some 200 bytes on disk. At 1,000 requests/s
    /// and 60 s lifetime 120,000 are alive.
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
            cache_bytes: 2 * 1024 * 1024,
            queue: 1024,
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
    queue: Option<mpsc::Sender<Command>>,
    writer: Option<JoinHandle<()>>,
    created: u64,
}

struct Command {
    key: [u8; 32],
    expires: u64,
    now: u64,
    answer: oneshot::Sender<Result<Use, ReplayError>>,
}

impl RedbReplayStore {
    /// Opens or creates the store at `path`; `now` in unix seconds.
    ///
    /// # Errors
    /// [`ReplayOpenError`].
    pub fn open(path: &Path, limits: ReplayLimits, now: u64) -> Result<Self, ReplayOpenError> {
        let database = Database::builder()
            .set_cache_size(limits.cache_bytes)
            .create(path)
            .map_err(redb::Error::from)?;
        let created = creation_time(&database, now)?;
        let (queue, commands) = mpsc::channel(limits.queue.max(1));
        let writer = std::thread::Builder::new()
            .name("writ-replay".into())
            .spawn(move || write_until_closed(&database, commands, limits.entries))?;
        Ok(Self {
            queue: Some(queue),
            writer: Some(writer),
            created,
        })
    }
}

impl Drop for RedbReplayStore {
    fn drop(&mut self) {
        // Closing the queue ends the writer; the file is free once it has ended.
        self.queue = None;
        if let Some(writer) = self.writer.take() {
            let _ended = writer.join();
        }
    }
}

impl ReplayStore for RedbReplayStore {
    fn use_once(&self, iss: &str, jti: Jti, expires: u64, now: u64) -> ReplayFuture<'_> {
        let key = replay_key(iss, jti);
        Box::pin(async move {
            let stopped = || ReplayError("its writer has stopped".into());
            let (answer, answered) = oneshot::channel();
            let command = Command {
                key,
                expires,
                now,
                answer,
            };
            let queue = self.queue.as_ref().ok_or_else(stopped)?;
            queue.send(command).await.map_err(|_| stopped())?;
            answered.await.map_err(|_| stopped())?
        })
    }

    fn complete_since(&self) -> Option<u64> {
        Some(self.created)
    }
}

/// When the file was created, which a file without that date is now.
fn creation_time(database: &Database, now: u64) -> Result<u64, redb::Error> {
    let transaction = database.begin_write()?;
    let created = {
        let mut meta = transaction.open_table(META)?;
        transaction.open_table(USED)?;
        transaction.open_table(BY_EXPIRY)?;
        let stored = meta.get(CREATED)?.map(|value| value.value());
        match stored {
            // A creation far in the future was a wrong clock's; what came before is unknown
            // then, and from now on nothing is.
            Some(created) if created <= now.saturating_add(MAX_SKEW) => created,
            _ => {
                meta.insert(CREATED, now)?;
                now
            }
        }
    };
    transaction.commit()?;
    // Read back: the date must be there before anything relies on it.
    let read = database.begin_read()?;
    let meta = read.open_table(META)?;
    Ok(meta.get(CREATED)?.map_or(created, |value| value.value()))
}

fn write_until_closed(database: &Database, mut commands: mpsc::Receiver<Command>, capacity: u64) {
    let mut batch = Vec::with_capacity(BATCH);
    while commands.blocking_recv_many(&mut batch, BATCH) > 0 {
        match commit(database, &batch, capacity) {
            Ok(uses) => {
                for (command, outcome) in batch.drain(..).zip(uses) {
                    let _gone = command.answer.send(Ok(outcome));
                }
            }
            Err(error) => {
                tracing::error!(%error, "the replay store cannot be written: every envelope is refused");
                for command in batch.drain(..) {
                    let _gone = command.answer.send(Err(ReplayError(error.to_string())));
                }
            }
        }
    }
}

fn commit(database: &Database, batch: &[Command], capacity: u64) -> Result<Vec<Use>, redb::Error> {
    let transaction = database.begin_write()?;
    let mut uses = Vec::with_capacity(batch.len());
    {
        let mut used = transaction.open_table(USED)?;
        let mut by_expiry = transaction.open_table(BY_EXPIRY)?;
        let mut meta = transaction.open_table(META)?;
        let before = meta.get(SWEPT)?.map_or(0, |value| value.value());
        let now = batch.iter().map(|command| command.now).max().unwrap_or(0);
        let swept = before.max(sweep(&mut used, &mut by_expiry, now)?);
        if swept != before {
            meta.insert(SWEPT, swept)?;
        }
        let mut count = used.len()?;
        for command in batch {
            let outcome = if used.get(command.key)?.is_some() {
                Use::Replayed
            } else if command.expires <= swept {
                Use::Forgotten
            } else if count >= capacity {
                Use::Full
            } else {
                used.insert(command.key, command.expires)?;
                by_expiry.insert((command.expires, command.key), ())?;
                count += 1;
                Use::Fresh
            };
            uses.push(outcome);
        }
    }
    transaction.commit()?;
    Ok(uses)
}

/// Removes what expired before `now`, and says the greatest expiry removed (0 for none).
fn sweep(
    used: &mut redb::Table<'_, [u8; 32], u64>,
    by_expiry: &mut redb::Table<'_, (u64, [u8; 32]), ()>,
    now: u64,
) -> Result<u64, redb::Error> {
    let mut expired = Vec::new();
    for entry in by_expiry.range(..(now, [0; 32]))?.take(SWEEP) {
        expired.push(entry?.0.value());
    }
    for (expires, key) in &expired {
        used.remove(key)?;
        by_expiry.remove((*expires, *key))?;
    }
    Ok(expired.last().map_or(0, |(expires, _)| *expires))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    const ISS: &str = "spiffe://td/agent";
    const NOW: u64 = 1_800_000_000;

    fn open(dir: &tempfile::TempDir, entries: u64, now: u64) -> RedbReplayStore {
        let limits = ReplayLimits {
            entries,
            ..ReplayLimits::default()
        };
        RedbReplayStore::open(&dir.path().join("replay.redb"), limits, now).unwrap()
    }

    fn jti(n: u8) -> Jti {
        Jti([n; 16])
    }

    #[tokio::test]
    async fn the_second_use_is_a_replay_and_another_issuer_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let store = open(&dir, 10, NOW);
        let expires = NOW + 120;
        assert_eq!(
            store.use_once(ISS, jti(1), expires, NOW).await,
            Ok(Use::Fresh)
        );
        assert_eq!(
            store.use_once(ISS, jti(1), expires, NOW).await,
            Ok(Use::Replayed)
        );
        let other = store
            .use_once("spiffe://td/other", jti(1), expires, NOW)
            .await;
        assert_eq!(other, Ok(Use::Fresh));
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn of_a_hundred_parallel_uses_exactly_one_is_first() {
        let dir = tempfile::tempdir().unwrap();
        let store = Arc::new(open(&dir, 1000, NOW));
        let mut tasks = tokio::task::JoinSet::new();
        for _ in 0..100 {
            let store = store.clone();
            tasks.spawn(async move { store.use_once(ISS, jti(1), NOW + 120, NOW).await });
        }
        let uses = tasks.join_all().await;
        assert_eq!(uses.iter().filter(|u| **u == Ok(Use::Fresh)).count(), 1);
        assert_eq!(uses.iter().filter(|u| **u == Ok(Use::Replayed)).count(), 99);
    }

    #[tokio::test]
    async fn a_use_is_remembered_over_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let store = open(&dir, 10, NOW);
        assert_eq!(
            store.use_once(ISS, jti(1), NOW + 120, NOW).await,
            Ok(Use::Fresh)
        );
        drop(store);
        let store = open(&dir, 10, NOW + 30);
        assert_eq!(store.complete_since(), Some(NOW), "the store was not lost");
        let again = store.use_once(ISS, jti(1), NOW + 120, NOW + 30).await;
        assert_eq!(again, Ok(Use::Replayed));
    }

    #[tokio::test]
    async fn a_lost_store_knows_nothing_from_before_its_creation() {
        let dir = tempfile::tempdir().unwrap();
        drop(open(&dir, 10, NOW));
        std::fs::remove_file(dir.path().join("replay.redb")).unwrap();
        assert_eq!(open(&dir, 10, NOW + 30).complete_since(), Some(NOW + 30));
    }

    #[tokio::test]
    async fn a_store_created_by_a_clock_in_the_future_dates_from_its_next_opening() {
        let dir = tempfile::tempdir().unwrap();
        drop(open(&dir, 10, NOW + 1_000_000));
        assert_eq!(open(&dir, 10, NOW).complete_since(), Some(NOW));
    }

    #[tokio::test]
    async fn a_full_store_refuses_until_entries_expire() {
        let dir = tempfile::tempdir().unwrap();
        let store = open(&dir, 2, NOW);
        for n in 0..2 {
            assert_eq!(
                store.use_once(ISS, jti(n), NOW + 60, NOW).await,
                Ok(Use::Fresh)
            );
        }
        assert_eq!(
            store.use_once(ISS, jti(9), NOW + 60, NOW).await,
            Ok(Use::Full)
        );
        assert_eq!(
            store.use_once(ISS, jti(0), NOW + 60, NOW).await,
            Ok(Use::Replayed)
        );
        let later = NOW + 61;
        assert_eq!(
            store.use_once(ISS, jti(9), later + 60, later).await,
            Ok(Use::Fresh)
        );
    }

    #[tokio::test]
    async fn a_clock_that_jumps_ahead_and_back_lets_nothing_in_twice() {
        let dir = tempfile::tempdir().unwrap();
        let store = open(&dir, 10, NOW);
        assert_eq!(
            store.use_once(ISS, jti(1), NOW + 120, NOW).await,
            Ok(Use::Fresh)
        );
        // Ahead by a year: the entry is swept.
        let ahead = NOW + 31_536_000;
        assert_eq!(
            store.use_once(ISS, jti(2), ahead + 120, ahead).await,
            Ok(Use::Fresh)
        );
        // Back again: its envelope looks alive and is refused, also after a restart.
        assert_eq!(
            store.use_once(ISS, jti(1), NOW + 120, NOW).await,
            Ok(Use::Forgotten)
        );
        drop(store);
        let store = open(&dir, 10, NOW);
        assert_eq!(
            store.use_once(ISS, jti(1), NOW + 120, NOW).await,
            Ok(Use::Forgotten)
        );
        // One decided after the swept ones is served at once: the jump does no lasting harm.
        assert_eq!(
            store.use_once(ISS, jti(3), NOW + 121, NOW).await,
            Ok(Use::Fresh)
        );
    }
}
