#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

use super::*;
use std::sync::atomic::AtomicU32;

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
        store
            .use_once(ISS, jti(1), expires, NOW, Durability::Now)
            .await,
        Ok(Use::Fresh)
    );
    assert_eq!(
        store
            .use_once(ISS, jti(1), expires, NOW, Durability::Now)
            .await,
        Ok(Use::Replayed)
    );
    let other = store
        .use_once("spiffe://td/other", jti(1), expires, NOW, Durability::Now)
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
        tasks.spawn(async move {
            store
                .use_once(ISS, jti(1), NOW + 120, NOW, Durability::Now)
                .await
        });
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
        store
            .use_once(ISS, jti(1), NOW + 120, NOW, Durability::Now)
            .await,
        Ok(Use::Fresh)
    );
    drop(store);
    let store = open(&dir, 10, NOW + 30);
    assert_eq!(store.complete_since(), Some(NOW), "the store was not lost");
    let again = store
        .use_once(ISS, jti(1), NOW + 120, NOW + 30, Durability::Now)
        .await;
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
            store
                .use_once(ISS, jti(n), NOW + 60, NOW, Durability::Now)
                .await,
            Ok(Use::Fresh)
        );
    }
    assert_eq!(
        store
            .use_once(ISS, jti(9), NOW + 60, NOW, Durability::Now)
            .await,
        Ok(Use::Full)
    );
    assert_eq!(
        store
            .use_once(ISS, jti(0), NOW + 60, NOW, Durability::Now)
            .await,
        Ok(Use::Replayed)
    );
    let later = NOW + 61;
    assert_eq!(
        store
            .use_once(ISS, jti(9), later + 60, later, Durability::Now)
            .await,
        Ok(Use::Fresh)
    );
}

#[tokio::test]
async fn a_clock_that_jumps_ahead_and_back_lets_nothing_in_twice() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(&dir, 10, NOW);
    assert_eq!(
        store
            .use_once(ISS, jti(1), NOW + 120, NOW, Durability::Now)
            .await,
        Ok(Use::Fresh)
    );
    // Ahead by a year: the entry is swept.
    let ahead = NOW + 31_536_000;
    assert_eq!(
        store
            .use_once(ISS, jti(2), ahead + 120, ahead, Durability::Now)
            .await,
        Ok(Use::Fresh)
    );
    // Back again: its envelope looks alive and is refused, also after a restart.
    assert_eq!(
        store
            .use_once(ISS, jti(1), NOW + 120, NOW, Durability::Now)
            .await,
        Ok(Use::Forgotten)
    );
    drop(store);
    let store = open(&dir, 10, NOW);
    assert_eq!(
        store
            .use_once(ISS, jti(1), NOW + 120, NOW, Durability::Now)
            .await,
        Ok(Use::Forgotten)
    );
    // One decided after the swept ones is served at once: the jump does no lasting harm.
    assert_eq!(
        store
            .use_once(ISS, jti(3), NOW + 121, NOW, Durability::Now)
            .await,
        Ok(Use::Fresh)
    );
}

#[tokio::test]
async fn a_use_that_nobody_waited_for_is_remembered_over_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(&dir, 10, NOW);
    let first = store.use_once(ISS, jti(1), NOW + 120, NOW, Durability::Soon);
    assert_eq!(first.await, Ok(Use::Fresh));
    let second = store.use_once(ISS, jti(1), NOW + 120, NOW, Durability::Soon);
    assert_eq!(second.await, Ok(Use::Replayed));
    drop(store);
    let store = open(&dir, 10, NOW + 30);
    let again = store.use_once(ISS, jti(1), NOW + 120, NOW + 30, Durability::Soon);
    assert_eq!(again.await, Ok(Use::Replayed));
}

/// A file whose writes fail as long as `broken` is not zero; then it counts down with every try.
#[derive(Debug)]
struct Fragile {
    file: redb::backends::FileBackend,
    broken: Arc<AtomicU32>,
}

impl Fragile {
    fn whole(&self) -> std::io::Result<()> {
        match self.broken.load(Ordering::SeqCst) {
            0 => Ok(()),
            _ => Err(std::io::Error::other("the disk is gone")),
        }
    }
}

impl redb::StorageBackend for Fragile {
    fn len(&self) -> std::io::Result<u64> {
        self.file.len()
    }
    fn read(&self, offset: u64, out: &mut [u8]) -> std::io::Result<()> {
        self.file.read(offset, out)
    }
    fn set_len(&self, len: u64) -> std::io::Result<()> {
        self.file.set_len(len)
    }
    fn sync_data(&self) -> std::io::Result<()> {
        self.whole()?;
        self.file.sync_data()
    }
    fn write(&self, offset: u64, data: &[u8]) -> std::io::Result<()> {
        self.whole()?;
        self.file.write(offset, data)
    }
}

fn on_fragile_disk(dir: &tempfile::TempDir) -> (RedbReplayStore, Arc<AtomicU32>) {
    let broken = Arc::new(AtomicU32::new(0));
    let (path, state) = (dir.path().join("replay.redb"), Arc::clone(&broken));
    let open = move || {
        let file = std::fs::OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)?;
        let file = redb::backends::FileBackend::new(file).map_err(redb::Error::from)?;
        let broken = Arc::clone(&state);
        Ok(Database::builder().create_with_backend(Fragile { file, broken })?)
    };
    let store = RedbReplayStore::with(Box::new(open), ReplayLimits::default(), NOW).unwrap();
    (store, broken)
}

#[tokio::test]
async fn nothing_is_accepted_while_the_disk_fails_and_all_of_it_is_known_once_it_is_back() {
    let dir = tempfile::tempdir().unwrap();
    let (store, broken) = on_fragile_disk(&dir);
    let soon = store.use_once(ISS, jti(1), NOW + 120, NOW, Durability::Soon);
    assert_eq!(soon.await, Ok(Use::Fresh));
    broken.store(1, Ordering::SeqCst);
    let failed = store.use_once(ISS, jti(2), NOW + 120, NOW, Durability::Now);
    assert!(failed.await.is_err(), "what is not durable is not accepted");
    let while_failing = store.use_once(ISS, jti(3), NOW + 120, NOW, Durability::Soon);
    assert!(while_failing.await.is_err());

    broken.store(0, Ordering::SeqCst);
    tokio::task::spawn_blocking({
        let failing = Arc::clone(&store.failing);
        move || {
            while failing.load(Ordering::Acquire) {
                std::thread::yield_now();
            }
        }
    })
    .await
    .unwrap();
    let refused_then = store.use_once(ISS, jti(3), NOW + 120, NOW, Durability::Now);
    assert_eq!(refused_then.await, Ok(Use::Fresh));
    drop(store);
    let store = open(&dir, 10, NOW);
    for n in [1, 2, 3] {
        let again = store.use_once(ISS, jti(n), NOW + 120, NOW, Durability::Now);
        assert_eq!(again.await, Ok(Use::Replayed), "use {n}");
    }
}
