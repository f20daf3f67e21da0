//! Tables of the log in redb.

use std::path::Path;

use redb::{
    Database, DatabaseError, ReadOnlyDatabase, ReadTransaction, ReadableDatabase, ReadableTable,
    TableDefinition,
};

use super::open_error;
use super::volume::{Boxed, Volume};
use crate::id::{LogId, WitnessId};
use crate::tree::{Nodes, leaf_index};
use crate::{Hash, LedgerError};

const META: TableDefinition<&str, &str> = TableDefinition::new("meta");
const RECORDS: TableDefinition<u64, &[u8]> = TableDefinition::new("records");
const NODES: TableDefinition<u64, &[u8; 32]> = TableDefinition::new("nodes");
const WITNESSES: TableDefinition<&[u8; 32], &[u8]> = TableDefinition::new("witnesses");
const CHECKPOINTS: TableDefinition<u64, &[u8]> = TableDefinition::new("checkpoints");

/// One stored record: its place, its bytes, and the leaf that the tree holds for it.
pub(super) type Stored = (u64, Vec<u8>, Option<Hash>);

/// What one commit adds.
#[derive(Debug, Default)]
pub(super) struct Batch {
    pub(super) records: Vec<(u64, Vec<u8>)>,
    pub(super) nodes: Vec<(u64, Hash)>,
    pub(super) witnesses: Vec<(WitnessId, Vec<u8>)>,
    pub(super) checkpoint: Option<(u64, Vec<u8>)>,
}

impl Batch {
    pub(super) fn bytes(&self) -> u64 {
        let records = self.records.iter().map(|(_, bytes)| bytes.len() + 16);
        let witnesses = self.witnesses.iter().map(|(_, bytes)| bytes.len() + 48);
        records.chain(witnesses).sum::<usize>() as u64 + 48 * self.nodes.len() as u64
    }
}

/// An open database, for writing or for reading only.
pub(super) enum Db {
    Writer(Database),
    Reader(ReadOnlyDatabase),
}

fn storage(error: impl std::fmt::Display) -> LedgerError {
    LedgerError::Storage(error.to_string())
}

impl Db {
    /// Opens for writing; a new file becomes the log `new_id`. Returns the name of the log.
    pub(super) fn open(
        volume: &dyn Volume,
        path: &Path,
        cache_bytes: usize,
        new_id: &LogId,
    ) -> Result<(Self, LogId), LedgerError> {
        let db = Database::builder()
            .set_cache_size(cache_bytes)
            .create_with_backend(Boxed(volume.open()?))
            .map_err(|error| match error {
                DatabaseError::DatabaseAlreadyOpen => LedgerError::Locked {
                    path: path.to_owned(),
                },
                error => open_error(path, &error),
            })?;
        let id = prepare(&db, new_id).map_err(|error| open_error(path, &error))?;
        Ok((Self::Writer(db), id))
    }

    /// Opens for reading only. Fails while a writer is there, and after one was killed.
    pub(super) fn open_read_only(path: &Path) -> Result<Self, DatabaseError> {
        let mut builder = Database::builder();
        builder.set_cache_size(4 * 1024 * 1024);
        builder.open_read_only(path).map(Self::Reader)
    }

    /// Opens a private copy of a log whose writer was killed, which redb repairs first.
    pub(super) fn open_copy(path: &Path) -> Result<Self, DatabaseError> {
        let mut builder = Database::builder();
        builder.set_cache_size(4 * 1024 * 1024);
        builder.open(path).map(Self::Writer)
    }

    /// Writes a batch; durable when it returns.
    pub(super) fn commit(&self, batch: &Batch) -> Result<(), LedgerError> {
        let Self::Writer(db) = self else {
            return Err(LedgerError::Closed);
        };
        let commit = || -> Result<(), redb::Error> {
            let txn = db.begin_write()?;
            {
                let mut records = txn.open_table(RECORDS)?;
                for (seq, bytes) in &batch.records {
                    records.insert(seq, bytes.as_slice())?;
                }
                let mut nodes = txn.open_table(NODES)?;
                for (index, node) in &batch.nodes {
                    nodes.insert(index, node)?;
                }
                let mut witnesses = txn.open_table(WITNESSES)?;
                for (id, bytes) in &batch.witnesses {
                    witnesses.insert(&id.0, bytes.as_slice())?;
                }
                if let Some((size, note)) = &batch.checkpoint {
                    txn.open_table(CHECKPOINTS)?.insert(size, note.as_slice())?;
                }
            }
            txn.commit()?;
            Ok(())
        };
        commit().map_err(storage)
    }

    /// One state of the log; later commits do not show in it.
    pub(super) fn view(&self) -> Result<View, LedgerError> {
        let txn = match self {
            Self::Writer(db) => db.begin_read(),
            Self::Reader(db) => db.begin_read(),
        };
        txn.map(View).map_err(storage)
    }
}

fn prepare(db: &Database, new_id: &LogId) -> Result<LogId, redb::Error> {
    let txn = db.begin_write()?;
    let id = {
        let mut meta = txn.open_table(META)?;
        let found = meta.get("log")?.map(|id| id.value().to_owned());
        txn.open_table(RECORDS)?;
        txn.open_table(NODES)?;
        txn.open_table(WITNESSES)?;
        txn.open_table(CHECKPOINTS)?;
        match found {
            Some(id) => id,
            None => {
                meta.insert("log", new_id.as_str())?;
                new_id.as_str().to_owned()
            }
        }
    };
    txn.commit()?;
    id.parse()
        .map_err(|_| redb::Error::Corrupted("the log has no valid name".to_owned()))
}

/// One state of the log.
pub(super) struct View(ReadTransaction);

impl View {
    pub(super) fn log(&self) -> Result<LogId, LedgerError> {
        let table = self.0.open_table(META).map_err(storage)?;
        let id = table.get("log").map_err(storage)?;
        let id = id.map(|id| id.value().to_owned()).unwrap_or_default();
        id.parse().map_err(|_| storage("it has no valid name"))
    }

    /// Place after the newest record.
    pub(super) fn size(&self) -> Result<u64, LedgerError> {
        let table = self.0.open_table(RECORDS).map_err(storage)?;
        let last = table.last().map_err(storage)?;
        Ok(last.map_or(0, |(seq, _)| seq.value().saturating_add(1)))
    }

    /// Records from place `from` on: at most `max`, and no more once they fill `max_bytes`.
    pub(super) fn records(
        &self,
        from: u64,
        max: usize,
        max_bytes: usize,
    ) -> Result<Vec<Stored>, LedgerError> {
        let records = self.0.open_table(RECORDS).map_err(storage)?;
        let nodes = self.0.open_table(NODES).map_err(storage)?;
        let (mut found, mut bytes) = (Vec::new(), 0);
        for row in records.range(from..).map_err(storage)?.take(max) {
            let (seq, record) = row.map_err(storage)?;
            let leaf = nodes.get(leaf_index(seq.value())).map_err(storage)?;
            bytes += record.value().len();
            found.push((
                seq.value(),
                record.value().to_vec(),
                leaf.map(|leaf| *leaf.value()),
            ));
            if bytes >= max_bytes {
                break;
            }
        }
        Ok(found)
    }

    pub(super) fn witness(&self, id: &WitnessId) -> Result<Option<Vec<u8>>, LedgerError> {
        let table = self.0.open_table(WITNESSES).map_err(storage)?;
        let bytes = table.get(&id.0).map_err(storage)?;
        Ok(bytes.map(|bytes| bytes.value().to_vec()))
    }

    /// Names and sizes of all witnesses.
    pub(super) fn witnesses(&self) -> Result<Vec<(WitnessId, u32)>, LedgerError> {
        let table = self.0.open_table(WITNESSES).map_err(storage)?;
        table
            .iter()
            .map_err(storage)?
            .map(|row| {
                let (id, bytes) = row.map_err(storage)?;
                let length = u32::try_from(bytes.value().len()).unwrap_or(u32::MAX);
                Ok((WitnessId(*id.value()), length))
            })
            .collect()
    }

    /// Stored checkpoints by size.
    pub(super) fn checkpoints(&self) -> Result<Vec<(u64, Vec<u8>)>, LedgerError> {
        let table = self.0.open_table(CHECKPOINTS).map_err(storage)?;
        table
            .iter()
            .map_err(storage)?
            .map(|row| {
                let (size, note) = row.map_err(storage)?;
                Ok((size.value(), note.value().to_vec()))
            })
            .collect()
    }
}

impl Nodes for View {
    fn nodes(&self, indexes: &[u64]) -> Option<Vec<Hash>> {
        let table = self.0.open_table(NODES).ok()?;
        indexes
            .iter()
            .map(|index| Some(*table.get(index).ok()??.value()))
            .collect()
    }
}
