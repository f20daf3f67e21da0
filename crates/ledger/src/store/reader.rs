//! Reading a log: from inside its process, from beside it, or when nobody writes it.

use std::collections::BTreeMap;
use std::fs::{File, TryLockError};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::db::{Db, Stored};
use super::live::{Ask, ask, reply, to_hash, to_number};
use super::{Shared, checkpoint_path, open_error, socket_path};
use crate::checkpoint::MAX_CHECKPOINT_BYTES;
use crate::id::{LogId, WitnessId};
use crate::tree::{self, Nodes};
use crate::verify::{Authority, Kept, Report, Verifier};
use crate::{Hash, LedgerError, Record};

/// How a log is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// In the process that writes it.
    Inside,
    /// Through the socket of the process that writes it.
    Live,
    /// From the file, which nobody writes.
    File,
    /// From a repaired private copy, since the process that wrote it was killed.
    Copy,
}

enum Source {
    Shared(Arc<Shared>),
    Db(Db),
    Socket(Mutex<UnixStream>),
}

/// Reads one log. It never writes to it.
pub struct LogReader {
    source: Source,
    access: Access,
    path: Option<PathBuf>,
    id: LogId,
}

impl std::fmt::Debug for LogReader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LogReader")
            .field("id", &self.id)
            .field("access", &self.access)
            .finish()
    }
}

impl LogReader {
    /// Opens the log at `path` for reading, whether a sidecar writes it or not.
    ///
    /// # Errors
    /// When there is no log, or it is locked by a process whose socket does not answer.
    pub fn open(path: &Path) -> Result<Self, LedgerError> {
        let (source, access) = Self::source(path)?;
        let mut reader = Self {
            source,
            access,
            path: Some(path.to_owned()),
            // Read in the next line; any name stands in until then.
            id: LogId::from_random([0; 10]),
        };
        reader.id = reader.head()?.0;
        Ok(reader)
    }

    pub(super) fn inside(shared: Arc<Shared>) -> Self {
        Self {
            id: shared.id.clone(),
            source: Source::Shared(shared),
            access: Access::Inside,
            path: None,
        }
    }

    fn source(path: &Path) -> Result<(Source, Access), LedgerError> {
        if let Ok(stream) = UnixStream::connect(socket_path(path)) {
            let timeout = Some(Duration::from_secs(30));
            stream
                .set_read_timeout(timeout)
                .and_then(|()| stream.set_write_timeout(timeout))
                .map_err(|e| open_error(path, &e))?;
            return Ok((Source::Socket(Mutex::new(stream)), Access::Live));
        }
        match Db::open_read_only(path) {
            Ok(db) => Ok((Source::Db(db), Access::File)),
            Err(redb::DatabaseError::DatabaseAlreadyOpen) => Err(LedgerError::Locked {
                path: path.to_owned(),
            }),
            Err(redb::DatabaseError::RepairAborted) => Ok((Source::Db(copy(path)?), Access::Copy)),
            Err(error) => Err(open_error(path, &error)),
        }
    }

    /// Name of the log.
    pub fn id(&self) -> &LogId {
        &self.id
    }

    /// How it is read.
    pub fn access(&self) -> Access {
        self.access
    }

    /// Number of records.
    ///
    /// # Errors
    /// When the log cannot be read.
    pub fn size(&self) -> Result<u64, LedgerError> {
        Ok(self.head()?.1)
    }

    fn head(&self) -> Result<(LogId, u64), LedgerError> {
        let items = self.ask(Ask::Head)?;
        match items.as_slice() {
            [id, size] => {
                let id = std::str::from_utf8(id).ok().and_then(|id| id.parse().ok());
                id.zip(to_number(size)).ok_or_else(garbled)
            }
            _ => Err(garbled()),
        }
    }

    /// Encoded records from place `from` on, with the leaf that the tree holds for each. Empty at
    /// the end; as many as fit a page.
    ///
    /// # Errors
    /// When the log cannot be read.
    pub fn page(&self, from: u64, max: usize) -> Result<Vec<Stored>, LedgerError> {
        let items = self.ask(Ask::Page { from, max })?;
        let (rows, rest) = items.as_chunks::<3>();
        if !rest.is_empty() {
            return Err(garbled());
        }
        rows.iter()
            .map(|[seq, bytes, leaf]| {
                let seq = to_number(seq).ok_or_else(garbled)?;
                Ok((seq, bytes.clone(), to_hash(leaf)))
            })
            .collect()
    }

    /// The record at place `seq`.
    ///
    /// # Errors
    /// When the log cannot be read, or the bytes there are no record.
    pub fn record(&self, seq: u64) -> Result<Option<Record>, LedgerError> {
        match self.page(seq, 1)?.into_iter().next() {
            Some((found, bytes, _)) if found == seq => Ok(Some(Record::decode(&bytes)?)),
            _ => Ok(None),
        }
    }

    /// A stored witness or certificate.
    ///
    /// # Errors
    /// When the log cannot be read.
    pub fn witness(&self, id: &WitnessId) -> Result<Option<Vec<u8>>, LedgerError> {
        Ok(self.ask(Ask::Witness { id: *id })?.into_iter().next())
    }

    /// Checkpoints stored with the log, by size, and the newest one beside it.
    ///
    /// # Errors
    /// When the log cannot be read.
    pub fn checkpoints(&self) -> Result<BTreeMap<u64, Vec<u8>>, LedgerError> {
        let items = self.ask(Ask::Checkpoints)?;
        let (rows, _) = items.as_chunks::<2>();
        let mut found: BTreeMap<u64, Vec<u8>> = rows
            .iter()
            .map(|[size, note]| Ok((to_number(size).ok_or_else(garbled)?, note.clone())))
            .collect::<Result<_, LedgerError>>()?;
        if let Some(note) = self.newest_checkpoint()
            && let Ok(head) = crate::SignedHead::parse(note.as_bytes())
        {
            found.insert(head.unverified().size, note.into_bytes());
        }
        Ok(found)
    }

    /// The newest checkpoint: a C2SP signed note.
    pub fn newest_checkpoint(&self) -> Option<String> {
        match (&self.source, &self.path) {
            (Source::Shared(shared), _) => shared.checkpoint.borrow().as_deref().map(str::to_owned),
            (_, Some(path)) => {
                let mut text = String::new();
                let file = File::open(checkpoint_path(path)).ok()?;
                let mut bounded = std::io::Read::take(file, MAX_CHECKPOINT_BYTES as u64 + 1);
                std::io::Read::read_to_string(&mut bounded, &mut text).ok()?;
                Some(text)
            }
            (_, None) => None,
        }
    }

    /// Audit path of record `seq` among the first `size` records.
    ///
    /// # Errors
    /// When there is no such record or size.
    pub fn prove_inclusion(&self, seq: u64, size: u64) -> Result<Vec<Hash>, LedgerError> {
        tree::prove_inclusion(self, seq, size).map_err(storage)
    }

    /// Proof that the first `old` of `size` records are the ones of an earlier head.
    ///
    /// # Errors
    /// When there are no such sizes.
    pub fn prove_consistency(&self, old: u64, size: u64) -> Result<Vec<Hash>, LedgerError> {
        tree::prove_consistency(self, old, size).map_err(storage)
    }

    /// Root over the first `size` records.
    ///
    /// # Errors
    /// When there are not so many.
    pub fn root(&self, size: u64) -> Result<Hash, LedgerError> {
        tree::root(self, size).map_err(storage)
    }

    /// Reads and checks the whole log. `progress` is told how many of how many records are read.
    ///
    /// # Errors
    /// When the log cannot be read; what does not verify is a finding, not an error.
    pub fn verify(
        &self,
        authority: Option<&dyn Authority>,
        kept: Kept,
        mut progress: impl FnMut(u64, u64),
    ) -> Result<Report, LedgerError> {
        // Checkpoints first: the log may grow meanwhile, and none may be ahead of what is read.
        let own = self.checkpoints()?;
        let size = self.size()?;
        let witness = |id: &WitnessId| self.witness(id).ok().flatten();
        let mut verifier = Verifier::new(self.id.clone(), own, &witness, authority, kept);
        let mut next = 0;
        while next < size {
            let page = self.page(next, usize::MAX)?;
            if page.is_empty() {
                break;
            }
            for (seq, bytes, leaf) in page {
                if seq < size {
                    verifier.record(seq, &bytes, leaf);
                }
                next = seq.saturating_add(1);
            }
            progress(next.min(size), size);
        }
        Ok(verifier.finish())
    }

    fn ask(&self, question: Ask) -> Result<Vec<Vec<u8>>, LedgerError> {
        match &self.source {
            Source::Shared(shared) => reply(&shared.db()?.view()?, question),
            Source::Db(db) => reply(&db.view()?, question),
            Source::Socket(stream) => {
                let mut stream = stream.lock().unwrap_or_else(PoisonError::into_inner);
                ask(&mut stream, &question)
                    .map_err(|e| storage(format!("the sidecar's socket: {e}")))?
                    .map_err(storage)
            }
        }
    }
}

impl Nodes for LogReader {
    fn nodes(&self, indexes: &[u64]) -> Option<Vec<Hash>> {
        let indexes = indexes.to_vec();
        let items = self.ask(Ask::Nodes { indexes }).ok()?;
        items.iter().map(|node| to_hash(node)).collect()
    }
}

fn storage(error: impl std::fmt::Display) -> LedgerError {
    LedgerError::Storage(error.to_string())
}

fn garbled() -> LedgerError {
    storage("an answer of the log makes no sense; are both programs of one version?")
}

/// Copies a log that nobody writes and opens the copy, which redb repairs. The copy has no name
/// once it is open, so nothing is left behind.
fn copy(path: &Path) -> Result<Db, LedgerError> {
    let bad = |e: &dyn std::fmt::Display| open_error(path, e);
    let mut from = File::open(path).map_err(|e| bad(&e))?;
    match from.try_lock_shared() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            return Err(LedgerError::Locked {
                path: path.to_owned(),
            });
        }
        Err(TryLockError::Error(e)) => return Err(bad(&e)),
    }
    let mut n = 0_u32;
    let (name, mut to) = loop {
        let name = std::env::temp_dir().join(format!("writ-log-{}-{n}", std::process::id()));
        let mut options = std::fs::OpenOptions::new();
        match options.write(true).create_new(true).mode(0o600).open(&name) {
            Ok(file) => break (name, file),
            Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists && n < 1000 => n += 1,
            Err(e) => return Err(bad(&e)),
        }
    };
    let opened = std::io::copy(&mut from, &mut to)
        .map_err(|e| bad(&e))
        .and_then(|_| Db::open_copy(&name).map_err(|e| bad(&e)));
    let _ = std::fs::remove_file(&name);
    opened
}
