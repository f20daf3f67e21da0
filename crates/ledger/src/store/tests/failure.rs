//! Disks that are full, fail, and recover.

use std::io;
use std::sync::atomic::AtomicU64;

use redb::StorageBackend;
use redb::backends::FileBackend;

use super::*;
use crate::{EntryKind, UnknownCause, VoidCause};

/// What the disk does from now on.
#[derive(Debug, Default)]
struct Fault {
    /// Writes that still succeed; after them every write fails for want of room.
    writes: AtomicU64,
    /// The write arrives, and the answer to the fsync after it is an error.
    lie: AtomicBool,
}

struct Failing {
    disk: Disk,
    path: PathBuf,
    fault: Arc<Fault>,
}

#[derive(Debug)]
struct Backend {
    file: FileBackend,
    fault: Arc<Fault>,
}

impl Volume for Failing {
    fn open(&self) -> Result<Box<dyn StorageBackend>, LedgerError> {
        drop(self.disk.open()?);
        let file = std::fs::OpenOptions::new()
            .read(true)
            .write(true)
            .open(&self.path)
            .unwrap();
        let file = FileBackend::new(file).unwrap();
        Ok(Box::new(Backend {
            file,
            fault: self.fault.clone(),
        }))
    }
    fn used(&self) -> io::Result<u64> {
        self.disk.used()
    }
    fn free(&self) -> io::Result<u64> {
        self.disk.free()
    }
}

impl Backend {
    fn spend(&self) -> io::Result<()> {
        let less = |n: u64| n.checked_sub(1);
        match self
            .fault
            .writes
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, less)
        {
            Ok(_) => Ok(()),
            Err(_) => Err(io::Error::from(io::ErrorKind::StorageFull)),
        }
    }
}

impl StorageBackend for Backend {
    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }
    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.file.read(offset, out)
    }
    fn set_len(&self, len: u64) -> io::Result<()> {
        self.spend()?;
        self.file.set_len(len)
    }
    fn sync_data(&self) -> io::Result<()> {
        self.file.sync_data()?;
        if self.fault.lie.swap(false, Ordering::SeqCst) {
            return Err(io::Error::other("the disk did not answer"));
        }
        Ok(())
    }
    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.spend()?;
        self.file.write(offset, data)
    }
    fn close(&self) -> io::Result<()> {
        self.file.close()
    }
    fn try_lock_range(
        &self,
        start: std::ops::Bound<u64>,
        end: std::ops::Bound<u64>,
    ) -> Result<bool, redb::BackendError> {
        self.file.try_lock_range(start, end)
    }
    fn unlock_range(
        &self,
        start: std::ops::Bound<u64>,
        end: std::ops::Bound<u64>,
    ) -> Result<(), redb::BackendError> {
        self.file.unlock_range(start, end)
    }
}

fn open_failing(path: &Path) -> (Log, Arc<Fault>) {
    let fault = Arc::new(Fault::default());
    fault.writes.store(u64::MAX, Ordering::SeqCst);
    let volume = Failing {
        disk: Disk::new(path),
        path: path.to_owned(),
        fault: fault.clone(),
    };
    let log = Log::open_on(Box::new(volume), path, options(), Arc::new(|| NOW), |_| {
        None
    })
    .unwrap();
    (log, fault)
}

async fn until_healthy(log: &Log) {
    let mut health = log.health();
    let healthy = health.wait_for(Option::is_none);
    tokio::time::timeout(Duration::from_secs(20), healthy)
        .await
        .unwrap()
        .unwrap();
}

#[tokio::test]
async fn a_write_that_fails_at_any_point_refuses_the_action_and_loses_nothing() {
    for writes in 0..12 {
        let place = place();
        let (log, fault) = open_failing(&place.path);
        let before = add(&log, allow()).await;
        fault.writes.store(writes, Ordering::SeqCst);
        let mut acknowledged = vec![before.seq];
        while let Ok(reservation) = log.reserve() {
            match log.append(reservation, allow()).await {
                Ok(receipt) => acknowledged.push(receipt.seq),
                Err(error) => assert!(matches!(error, LedgerError::Storage(_)), "{error}"),
            }
        }
        // An outcome is not refused: it waits for the disk.
        let waits = log.record(outcome(before.seq));
        fault.writes.store(u64::MAX, Ordering::SeqCst);
        until_healthy(&log).await;
        waits.await.unwrap();
        acknowledged.push(add(&log, allow()).await.seq);
        log.close();
        let report = assert_good(&place.path);
        for seq in acknowledged {
            assert!(seq == before.seq || report.awaiting.contains(&seq), "{seq}");
        }
    }
}

#[tokio::test]
async fn an_action_refused_for_want_of_room_is_never_recorded_as_allowed() {
    let place = place();
    let (log, fault) = open_failing(&place.path);
    fault.writes.store(0, Ordering::SeqCst);
    let refused = log.record(allow()).await;
    assert!(
        matches!(refused, Err(LedgerError::Storage(_))),
        "{refused:?}"
    );
    assert!(log.reserve().is_err(), "the next one is refused at once");
    fault.writes.store(u64::MAX, Ordering::SeqCst);
    until_healthy(&log).await;
    let void = Entry::Void(Box::new(crate::Void {
        budget: None,
        cause: VoidCause::Storage,
    }));
    assert_eq!(entries(&log.reader())[1..], [void]);
}

#[tokio::test]
async fn a_failed_write_that_reached_the_disk_after_all_is_marked_as_not_released() {
    let place = place();
    let (log, fault) = open_failing(&place.path);
    fault.lie.store(true, Ordering::SeqCst);
    let refused = log.record(allow()).await;
    assert!(
        matches!(refused, Err(LedgerError::Storage(_))),
        "{refused:?}"
    );
    until_healthy(&log).await;
    add(&log, denial()).await;
    log.close();
    let report = assert_good(&place.path);
    assert!(report.awaiting.is_empty());
    let found = entries(&LogReader::open(&place.path).unwrap());
    if report.kinds.contains_key(&EntryKind::Allow) {
        let unknown = crate::Unknown {
            cause: UnknownCause::NotReleased,
            of: 1,
        };
        assert!(found.contains(&Entry::Unknown(unknown)), "{found:?}");
    } else {
        assert_eq!(report.kinds[&EntryKind::Void], 1);
    }
}

#[tokio::test]
async fn a_log_at_its_size_refuses_decisions_and_still_takes_outcomes() {
    let place = place();
    let mut options = options();
    options.max_bytes = 4 * 1024 * 1024;
    let log = open_with(&place.path, options).unwrap();
    let bulky = || {
        let action = Some(vec![7; 4000]);
        Entry::Denial(Box::new(Decision {
            action,
            mode: Mode::Enforce,
            ..*decision()
        }))
    };
    let released = add(&log, allow()).await;
    let error = loop {
        match log.reserve() {
            Ok(reservation) => drop(log.append(reservation, bulky()).await.unwrap()),
            Err(error) => break error,
        }
    };
    assert!(
        matches!(error, LedgerError::Full { max: 4_194_304, .. }),
        "{error}"
    );
    assert!(error.to_string().contains("archive it"), "{error}");
    log.record(outcome(released.seq)).await.unwrap();
    log.close();
    assert!(assert_good(&place.path).awaiting.is_empty());
    assert!(
        std::os::unix::fs::MetadataExt::blocks(&std::fs::metadata(&place.path).unwrap()) * 512
            <= 4 << 20
    );
}
