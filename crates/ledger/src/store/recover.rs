//! What happens when a log is opened: everything is read once, and what was open is closed.

use std::collections::{BTreeSet, HashMap};
use std::path::Path;

use super::db::{Batch, Db};
use super::volume::Volume;
use super::writer::Tail;
use super::{LogOptions, WallClock};
use crate::budget::Budgets;
use crate::id::{LogId, WitnessId};
use crate::replay::{Fault, Replay};
use crate::tree::leaf_index;
use crate::{
    Entry, LedgerError, Record, Start, StartSignature, Unknown, UnknownCause, VERSION,
    start_statement,
};

const PAGE: usize = 256;
const PAGE_BYTES: usize = 1 << 20;

/// A log that was read and whose Start record is durable.
pub(super) struct Found {
    pub(super) db: Db,
    pub(super) id: LogId,
    pub(super) tail: Tail,
    pub(super) budgets: Budgets,
    pub(super) witnesses: HashMap<WitnessId, u32>,
}

pub(super) fn recover(
    volume: &dyn Volume,
    path: &Path,
    options: &LogOptions,
    clock: &dyn WallClock,
    vouch: impl FnOnce(&[u8]) -> Option<StartSignature>,
) -> Result<Found, LedgerError> {
    let (db, id) = Db::open(volume, path, options.cache_bytes, &options.new_id)?;
    let now = clock.unix_ms();
    let (mut replay, budgets) = replay(&db, &id, now / 1000)?;
    let view = db.view()?;
    let witnesses = view.witnesses()?.into_iter().collect();
    let kept = view.checkpoints()?.last().map_or(0, |(size, _)| *size);
    drop(view);

    let lost: Vec<u64> = replay.awaiting().collect();
    if !lost.is_empty() {
        tracing::warn!(log = %id, actions = lost.len(), "released actions without an outcome are recorded as unknown");
    }
    let key = options.key.verifier_key(&id);
    let statement = start_statement(&id, replay.next(), &replay.prev(), &key);
    let start = Start {
        key,
        signature: vouch(&statement),
        software: options.software.clone(),
    };
    let mut batch = Batch::default();
    let mut add = |entry: Entry| -> Result<(), LedgerError> {
        let seq = replay.next();
        let record = Record {
            entry,
            log: id.clone(),
            prev: replay.prev(),
            seq,
            time: now,
            v: VERSION,
        };
        let bytes = record.encode()?;
        let step = replay.accept(seq, &bytes);
        if let Some(fault) = step.faults.into_iter().next() {
            return Err(fault.into());
        }
        batch.nodes.extend((leaf_index(seq)..).zip(step.nodes));
        batch.records.push((seq, bytes));
        Ok(())
    };
    add(Entry::Start(Box::new(start)))?;
    for of in lost {
        add(Entry::Unknown(Unknown {
            cause: UnknownCause::Restart,
            of,
        }))?;
    }
    db.commit(&batch)?;
    let tail = Tail {
        next: replay.next(),
        prev: replay.prev(),
        tree: replay.tree().clone(),
        awaiting: BTreeSet::new(),
        kept,
    };
    Ok(Found {
        db,
        id,
        tail,
        budgets,
        witnesses,
    })
}

/// Reads and checks every record, and counts the budgets of the current windows.
fn replay(db: &Db, id: &LogId, now: u64) -> Result<(Replay, Budgets), LedgerError> {
    let mut replay = Replay::new(id.clone());
    let budgets = Budgets::default();
    let view = db.view()?;
    loop {
        let page = view.records(replay.next(), PAGE, PAGE_BYTES)?;
        if page.is_empty() {
            return Ok((replay, budgets));
        }
        for (seq, bytes, leaf) in page {
            let step = replay.accept(seq, &bytes);
            if let Some(fault) = step.faults.into_iter().next() {
                return Err(fault.into());
            }
            if leaf != Some(step.hash) {
                let problem = "is not what was hashed into the tree".to_owned();
                return Err(Fault { seq, problem }.into());
            }
            if let Some(counted) = step.record.as_ref().and_then(|r| r.entry.budget()) {
                budgets.recall(counted, now).map_err(|e| Fault {
                    seq,
                    problem: e.to_string(),
                })?;
            }
        }
    }
}
