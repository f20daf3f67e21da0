//! The uses on disk, and the thread that puts them there.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use redb::{Database, ReadableDatabase, ReadableTable, TableDefinition};
use tokio::sync::oneshot;
use writ_sae::{ReplayError, lifetime::MAX_SKEW};

use super::memory::Recent;

const USED: TableDefinition<'_, (u64, [u8; 32]), ()> = TableDefinition::new("used-by-expiry");
const META: TableDefinition<'_, &str, u64> = TableDefinition::new("meta");
const CREATED: &str = "created";
const SWEPT: &str = "swept";

/// How long a use that nobody waits for may stay in memory only, and how long the writer waits
/// before it tries a failing disk again.
const SOON: Duration = Duration::from_secs(1);

/// Opens the file; again after a failed write, since redb refuses everything then.
pub(super) type Open = Box<dyn FnMut() -> Result<Database, redb::Error> + Send>;

/// One use on its way to the disk.
pub(super) struct Command {
    pub(super) key: [u8; 32],
    pub(super) expires: u64,
    pub(super) now: u64,
    /// Who waits for it to be durable.
    pub(super) answer: Option<oneshot::Sender<Result<(), ReplayError>>>,
}

/// What is on its way to the disk.
pub(super) struct Queue {
    waiting: Mutex<Waiting>,
    more: Condvar,
    capacity: usize,
}

struct Waiting {
    commands: Vec<Command>,
    /// Whether somebody waits for one of them.
    urgent: bool,
    closed: bool,
}

impl Queue {
    pub(super) fn new(capacity: usize) -> Self {
        Self {
            waiting: Mutex::new(Waiting {
                commands: Vec::new(),
                urgent: false,
                closed: false,
            }),
            more: Condvar::new(),
            capacity,
        }
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Hands a use over; the writer is woken only where it has to act.
    pub(super) fn send(&self, command: Command) -> Result<(), ReplayError> {
        let mut waiting = self.lock();
        if waiting.closed || waiting.commands.len() >= self.capacity {
            return Err(ReplayError("its disk does not keep up".into()));
        }
        waiting.urgent |= command.answer.is_some();
        waiting.commands.push(command);
        let first = waiting.commands.len() == 1;
        let wake = first || waiting.urgent || waiting.commands.len() >= self.capacity / 2;
        drop(waiting);
        if wake {
            self.more.notify_one();
        }
        Ok(())
    }

    pub(super) fn close(&self) {
        self.lock().closed = true;
        self.more.notify_one();
    }

    /// Waits for work, and for company where nobody waits for it; `false` at the end. A failing
    /// disk is tried again even if nobody asks, since nothing is accepted before.
    fn next(&self, failing: bool, into: &mut Vec<Command>) -> bool {
        let mut waiting = self.lock();
        if !failing {
            let idle = |waiting: &mut Waiting| waiting.commands.is_empty() && !waiting.closed;
            let woken = self.more.wait_while(waiting, idle);
            waiting = woken.unwrap_or_else(PoisonError::into_inner);
        }
        let may_wait = |waiting: &mut Waiting| {
            !waiting.urgent && !waiting.closed && waiting.commands.len() < self.capacity / 2
        };
        let woken = self.more.wait_timeout_while(waiting, SOON, may_wait);
        waiting = woken.unwrap_or_else(PoisonError::into_inner).0;
        into.append(&mut waiting.commands);
        waiting.urgent = false;
        !waiting.closed
    }
}

/// Prepares the file: its creation time, and all that it remembers.
pub(super) fn load(
    database: &Database,
    capacity: u64,
    now: u64,
) -> Result<(u64, Recent), redb::Error> {
    let transaction = database.begin_write()?;
    {
        let mut meta = transaction.open_table(META)?;
        transaction.open_table(USED)?;
        let stored = meta.get(CREATED)?.map(|value| value.value());
        // A creation far in the future was a wrong clock's; what came before is unknown then, and
        // from now on nothing is.
        if stored.is_none_or(|created| created > now.saturating_add(MAX_SKEW)) {
            meta.insert(CREATED, now)?;
        }
    }
    transaction.commit()?;
    // Read back: the date must be there before anything relies on it.
    let read = database.begin_read()?;
    let meta = read.open_table(META)?;
    let number =
        |key| -> Result<Option<u64>, redb::Error> { Ok(meta.get(key)?.map(|value| value.value())) };
    let mut recent = Recent::new(capacity, number(SWEPT)?.unwrap_or(0));
    for entry in read.open_table(USED)?.iter()? {
        let (expires, key) = entry?.0.value();
        recent.restore(&key, expires);
    }
    Ok((number(CREATED)?.unwrap_or(now), recent))
}

/// Writes until the queue is closed; then what is left.
pub(super) struct Writer {
    pub(super) database: Option<Database>,
    pub(super) open: Open,
    pub(super) queue: Arc<Queue>,
    /// Whether the last write failed; nothing is accepted then.
    pub(super) failing: Arc<AtomicBool>,
    pub(super) pending: Vec<Command>,
}

impl Writer {
    pub(super) fn run(mut self) {
        let mut open = true;
        while open {
            let failing = self.failing.load(Ordering::Acquire);
            open = self.queue.next(failing, &mut self.pending);
            self.write();
        }
    }

    fn write(&mut self) {
        let result = self.commit();
        let failed = result.is_err();
        if let Err(error) = &result {
            tracing::error!(%error, "the replay store cannot be written: every envelope is refused until it can");
            self.database = None;
        } else if self.failing.load(Ordering::Acquire) {
            tracing::info!("the replay store can be written again");
        }
        self.failing.store(failed, Ordering::Release);
        for command in &mut self.pending {
            if let Some(answer) = command.answer.take() {
                let answered = match &result {
                    Ok(()) => Ok(()),
                    Err(error) => Err(ReplayError(error.to_string())),
                };
                let _gone = answer.send(answered);
            }
        }
        if !failed {
            self.pending.clear();
        }
    }

    fn commit(&mut self) -> Result<(), redb::Error> {
        let database = match self.database.take() {
            Some(database) => database,
            None => (self.open)()?,
        };
        let database = self.database.insert(database);
        let transaction = database.begin_write()?;
        {
            let mut used = transaction.open_table(USED)?;
            let mut meta = transaction.open_table(META)?;
            for command in &self.pending {
                used.insert((command.expires, command.key), ())?;
            }
            let now = self.pending.iter().map(|command| command.now).max();
            let swept = sweep(&mut used, now.unwrap_or(0))?;
            let before = meta.get(SWEPT)?.map_or(0, |value| value.value());
            if swept > before {
                meta.insert(SWEPT, swept)?;
            }
        }
        transaction.commit()?;
        Ok(())
    }
}

/// Removes what expired before `now`, and says the greatest expiry removed (0 for none).
fn sweep(used: &mut redb::Table<'_, (u64, [u8; 32]), ()>, now: u64) -> Result<u64, redb::Error> {
    let last = match used.range(..(now, [0; 32]))?.next_back() {
        Some(entry) => entry?.0.value().0,
        None => return Ok(0),
    };
    used.retain_in(..(now, [0; 32]), |_, ()| false)?;
    Ok(last)
}
