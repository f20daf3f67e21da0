//! The log on a disk: one writer, group commit with one fsync per batch, readers beside it.

mod db;
mod live;
mod reader;
mod recover;
mod reservation;
mod volume;
mod writer;

#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::future::Future;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::Sender;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::sync::watch;

pub use reader::{Access, LogReader};
pub use reservation::Reservation;

use crate::budget::Budgets;
use crate::checkpoint::CheckpointKey;
use crate::id::{DecisionId, LogId, WitnessId};
use crate::{Entry, Hash, LedgerError, StartSignature};
use db::Db;
use reservation::Permit;
use volume::{Disk, Volume};
use writer::Message;

/// Largest witness that is kept, as large as `writ-policy` makes one.
pub const MAX_WITNESS_BYTES: usize = 8 * 1024 * 1024;

/// Most witness bytes that wait for the disk at once.
const MAX_PENDING_WITNESS_BYTES: u64 = 4 * MAX_WITNESS_BYTES as u64;

/// Most witnesses of one log.
const MAX_WITNESSES: usize = 1 << 18;

/// The time of records.
pub trait WallClock: Send + Sync {
    /// Unix milliseconds.
    fn unix_ms(&self) -> u64;
}

/// The machine's time.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemClock;

impl WallClock for SystemClock {
    fn unix_ms(&self) -> u64 {
        let since = SystemTime::now().duration_since(UNIX_EPOCH);
        since.map_or(0, |d| u64::try_from(d.as_millis()).unwrap_or(u64::MAX))
    }
}

impl<F: Fn() -> u64 + Send + Sync> WallClock for F {
    fn unix_ms(&self) -> u64 {
        self()
    }
}

/// How a log is kept.
#[derive(Debug)]
pub struct LogOptions {
    /// Name for the log if the file is new; an existing log keeps its own.
    pub new_id: LogId,
    /// Key of the checkpoints of this start.
    pub key: CheckpointKey,
    /// Program and version, for the Start record.
    pub software: String,
    /// Most bytes on disk. Decisions are refused from seven eighths on, so that the outcomes of
    /// what was released still find room.
    pub max_bytes: u64,
    /// Most bytes of witnesses, within `max_bytes`.
    pub max_witness_bytes: u64,
    /// Most appends under way at once.
    pub max_in_flight: usize,
    /// How long a reserved place may hold up the ones after it.
    pub reservation_timeout: Duration,
    /// Shortest time between two checkpoints.
    pub checkpoint_every: Duration,
    /// Longest time without a record.
    pub heartbeat_every: Duration,
    /// Time between two tries after a write failed.
    pub retry_every: Duration,
    /// Most memory of the database's cache, bytes.
    pub cache_bytes: usize,
}

impl LogOptions {
    /// Usual settings: 1 GiB, a checkpoint each second, a heartbeat each minute.
    pub fn new(new_id: LogId, key: CheckpointKey, software: &str) -> Self {
        Self {
            new_id,
            key,
            software: software.to_owned(),
            max_bytes: 1 << 30,
            max_witness_bytes: 1 << 29,
            max_in_flight: 4096,
            reservation_timeout: Duration::from_secs(5),
            checkpoint_every: Duration::from_secs(1),
            heartbeat_every: Duration::from_secs(60),
            retry_every: Duration::from_secs(1),
            cache_bytes: 4 * 1024 * 1024,
        }
    }
}

/// Proof that a record is durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Receipt {
    /// Its place.
    pub seq: u64,
    /// Its hash.
    pub hash: Hash,
}

/// The log of one sidecar. Clones share it; the last one closes it.
#[derive(Clone)]
pub struct Log(Arc<Inner>);

struct Inner {
    shared: Arc<Shared>,
    writer: Mutex<Option<JoinHandle<()>>>,
    live: Mutex<Option<live::Server>>,
}

/// What the handles, the writer and the readers share.
struct Shared {
    id: LogId,
    tx: Sender<Message>,
    next: AtomicU64,
    in_flight: Arc<AtomicUsize>,
    max_in_flight: usize,
    full: AtomicBool,
    health: watch::Sender<Option<LedgerError>>,
    checkpoint: watch::Sender<Option<Arc<str>>>,
    budgets: Budgets,
    clock: Arc<dyn WallClock>,
    /// Stored or under way, with their sizes.
    witnesses: Mutex<HashMap<WitnessId, u32>>,
    witness_bytes: AtomicU64,
    max_witness_bytes: u64,
    pending_witness_bytes: AtomicU64,
    max_bytes: u64,
    used: AtomicU64,
    db: RwLock<Option<Arc<Db>>>,
}

impl std::fmt::Debug for Log {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Log")
            .field("id", &self.0.shared.id)
            .finish_non_exhaustive()
    }
}

impl Log {
    /// Opens the log at `path`, or makes a new one.
    ///
    /// Every record is read and checked; budgets are counted again; released actions without an
    /// outcome become `unknown`; a Start record names the key of the checkpoints, and `vouch` signs
    /// for it with the SVID ([`crate::start_statement`]).
    ///
    /// # Errors
    /// When the file cannot be opened, is open elsewhere, or does not verify.
    pub fn open(
        path: &Path,
        options: LogOptions,
        clock: Arc<dyn WallClock>,
        vouch: impl FnOnce(&[u8]) -> Option<StartSignature>,
    ) -> Result<Self, LedgerError> {
        Self::open_on(Box::new(Disk::new(path)), path, options, clock, vouch)
    }

    fn open_on(
        volume: Box<dyn Volume>,
        path: &Path,
        options: LogOptions,
        clock: Arc<dyn WallClock>,
        vouch: impl FnOnce(&[u8]) -> Option<StartSignature>,
    ) -> Result<Self, LedgerError> {
        let (tx, rx) = std::sync::mpsc::channel();
        let found = recover::recover(&*volume, path, &options, &*clock, vouch)?;
        let shared = Arc::new(Shared {
            id: found.id,
            tx,
            next: AtomicU64::new(found.tail.next),
            in_flight: Arc::new(AtomicUsize::new(0)),
            max_in_flight: options.max_in_flight,
            full: AtomicBool::new(false),
            health: watch::Sender::new(None),
            checkpoint: watch::Sender::new(None),
            budgets: found.budgets,
            clock,
            witness_bytes: AtomicU64::new(found.witnesses.values().map(|n| u64::from(*n)).sum()),
            witnesses: Mutex::new(found.witnesses),
            max_witness_bytes: options.max_witness_bytes,
            pending_witness_bytes: AtomicU64::new(0),
            max_bytes: options.max_bytes,
            used: AtomicU64::new(0),
            db: RwLock::new(Some(Arc::new(found.db))),
        });
        let live = live::Server::bind(&socket_path(path), &shared)?;
        let writer = writer::Writer::new(shared.clone(), volume, path, options, found.tail);
        let writer = std::thread::Builder::new()
            .name("writ-log".to_owned())
            .spawn(move || writer.run(&rx))
            .map_err(|e| open_error(path, &e))?;
        Ok(Self(Arc::new(Inner {
            shared,
            writer: Mutex::new(Some(writer)),
            live: Mutex::new(Some(live)),
        })))
    }

    /// Name of this log.
    pub fn id(&self) -> &LogId {
        &self.0.shared.id
    }

    /// What agents were allowed in the current windows.
    pub fn budgets(&self) -> &Budgets {
        &self.0.shared.budgets
    }

    /// Takes the next place, for a decision. Waits for nothing; unused, it becomes a Void record.
    ///
    /// # Errors
    /// When the log is full, its volume is failing, or too many appends are under way.
    pub fn reserve(&self) -> Result<Reservation, LedgerError> {
        let shared = &self.0.shared;
        if let Some(error) = &*shared.health.borrow() {
            return Err(error.clone());
        }
        if shared.full.load(Ordering::Acquire) {
            return Err(shared.full_error());
        }
        self.reserve_anyway()
    }

    /// A place even where decisions are refused: for the outcomes of what was released.
    fn reserve_anyway(&self) -> Result<Reservation, LedgerError> {
        let shared = &self.0.shared;
        let permit = Permit::take(&shared.in_flight, shared.max_in_flight)?;
        let seq = shared.next.fetch_add(1, Ordering::AcqRel);
        Ok(Reservation::new(
            seq,
            shared.id.clone(),
            shared.tx.clone(),
            permit,
        ))
    }

    /// Hands the record over at once; the future resolves when it is durable. Release the action
    /// only then.
    ///
    /// If the future of an allow is dropped before, the log notes that nothing was released.
    ///
    /// # Errors
    /// When the entry is out of bounds, names an unknown witness or an action that awaits no
    /// outcome, came too late, or could not be written.
    pub fn append(
        &self,
        reservation: Reservation,
        entry: Entry,
    ) -> impl Future<Output = Result<Receipt, LedgerError>> + Send + 'static {
        let time = self.0.shared.clock.unix_ms();
        let answer = match entry.check() {
            Ok(()) => Ok(reservation.send(entry, time)),
            Err(error) => Err(error),
        };
        async move { answer?.await.unwrap_or(Err(LedgerError::Closed)) }
    }

    /// Records an entry at the next place: an outcome, a verdict, a configuration.
    ///
    /// Outcomes and configuration wait out a failing volume; everything else fails with it.
    ///
    /// # Errors
    /// As [`Log::append`].
    pub fn record(
        &self,
        entry: Entry,
    ) -> impl Future<Output = Result<Receipt, LedgerError>> + Send + 'static {
        let reservation = if writer::outlasts_failure(&entry) {
            self.reserve_anyway()
        } else {
            self.reserve()
        };
        let answer = reservation.map(|reservation| self.append(reservation, entry));
        async move { answer?.await }
    }

    /// Keeps a witness, or a certificate, under its SHA-256; equal bytes are kept once. It is
    /// durable with the first record that names it.
    ///
    /// # Errors
    /// When it does not fit.
    pub fn put_witness(&self, bytes: &[u8]) -> Result<WitnessId, LedgerError> {
        let id = WitnessId::of(bytes);
        let shared = &self.0.shared;
        let mut known = shared
            .witnesses
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if known.contains_key(&id) {
            return Ok(id);
        }
        let length = bytes.len() as u64;
        let used = shared.witness_bytes.load(Ordering::Acquire);
        let pending = shared.pending_witness_bytes.load(Ordering::Acquire);
        let left = shared
            .max_witness_bytes
            .saturating_sub(used)
            .min(MAX_PENDING_WITNESS_BYTES.saturating_sub(pending))
            .min(MAX_WITNESS_BYTES as u64);
        if length > left || known.len() >= MAX_WITNESSES {
            return Err(LedgerError::WitnessRoom {
                bytes: bytes.len(),
                limit: if known.len() >= MAX_WITNESSES {
                    0
                } else {
                    left
                },
            });
        }
        known.insert(id, u32::try_from(length).unwrap_or(u32::MAX));
        shared.witness_bytes.fetch_add(length, Ordering::AcqRel);
        shared
            .pending_witness_bytes
            .fetch_add(length, Ordering::AcqRel);
        // Sent under the lock: whoever finds the name known is behind it in the queue.
        let message = Message::Witness {
            id,
            bytes: bytes.to_vec(),
        };
        shared.tx.send(message).map_err(|_| LedgerError::Closed)?;
        Ok(id)
    }

    /// Whether a witness is kept, so that it need not be made again.
    pub fn has_witness(&self, id: &WitnessId) -> bool {
        let known = self.0.shared.witnesses.lock();
        known
            .unwrap_or_else(PoisonError::into_inner)
            .contains_key(id)
    }

    /// The newest checkpoint (C2SP signed note) as it changes. Keep copies elsewhere: only they
    /// make a lost end visible.
    pub fn checkpoints(&self) -> watch::Receiver<Option<Arc<str>>> {
        self.0.shared.checkpoint.subscribe()
    }

    /// Signs a checkpoint over everything that is durable.
    ///
    /// # Errors
    /// When the log is closed or could not sign.
    pub async fn checkpoint(&self) -> Result<Arc<str>, LedgerError> {
        let (tx, rx) = tokio::sync::oneshot::channel();
        let shared = &self.0.shared;
        shared
            .tx
            .send(Message::Checkpoint(tx))
            .map_err(|_| LedgerError::Closed)?;
        rx.await.unwrap_or(Err(LedgerError::Closed))
    }

    /// `None` while records can be written, else why not. For readiness.
    pub fn health(&self) -> watch::Receiver<Option<LedgerError>> {
        self.0.shared.health.subscribe()
    }

    /// Reads this log from inside its process.
    pub fn reader(&self) -> LogReader {
        LogReader::inside(self.0.shared.clone())
    }

    /// Name of the decision at a reserved place.
    pub fn decision_id(&self, seq: u64) -> DecisionId {
        DecisionId {
            log: self.0.shared.id.clone(),
            seq,
        }
    }

    /// Writes what is queued, signs a last checkpoint and closes the file. Handles that are left
    /// refuse everything.
    pub fn close(&self) {
        self.0.close();
    }
}

impl Inner {
    fn close(&self) {
        drop(
            self.live
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .take(),
        );
        let writer = self
            .writer
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        if let Some(writer) = writer {
            let _ = self.shared.tx.send(Message::Close);
            if writer.join().is_err() {
                tracing::error!(log = %self.shared.id, "the writer of the log panicked");
            }
        }
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.close();
    }
}

impl Shared {
    fn full_error(&self) -> LedgerError {
        LedgerError::Full {
            used: self.used.load(Ordering::Acquire),
            max: self.max_bytes,
        }
    }

    fn db(&self) -> Result<Arc<Db>, LedgerError> {
        let db = self.db.read().unwrap_or_else(PoisonError::into_inner);
        db.clone().ok_or(LedgerError::Closed)
    }
}

/// Where readers of a running log connect: beside the file, readable by its owner alone.
pub fn socket_path(log: &Path) -> PathBuf {
    with_suffix(log, ".sock")
}

/// Where the newest checkpoint stands: beside the file.
pub fn checkpoint_path(log: &Path) -> PathBuf {
    with_suffix(log, ".checkpoint")
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

fn open_error(path: &Path, error: &dyn std::fmt::Display) -> LedgerError {
    LedgerError::Open {
        path: path.to_owned(),
        reason: error.to_string(),
    }
}
