//! Reads records one after the other and says which one does not fit.

use std::collections::BTreeMap;

use crate::encoding::MAX_INTEGER;
use crate::id::LogId;
use crate::tree::Frontier;
use crate::{Entry, EntryKind, Hash, Record, record_hash};

/// One record that does not fit.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("record {seq}: {problem}")]
pub struct Fault {
    /// Its place.
    pub seq: u64,
    /// What is wrong with it.
    pub problem: String,
}

/// What reading one record gave.
#[derive(Debug)]
pub struct Step {
    /// The record, where the bytes are one.
    pub record: Option<Record>,
    /// Its hash.
    pub hash: Hash,
    /// New nodes of the tree, from the record's leaf index on.
    pub nodes: Vec<Hash>,
    /// What does not fit.
    pub faults: Vec<Fault>,
}

/// The state of a log after some of its records.
#[derive(Debug, Clone)]
pub struct Replay {
    log: LogId,
    next: u64,
    prev: Hash,
    tree: Frontier,
    awaiting: BTreeMap<u64, EntryKind>,
    key: Option<String>,
    whole: bool,
}

impl Replay {
    /// The state of `log` before its first record.
    pub fn new(log: LogId) -> Self {
        Self {
            log,
            next: 0,
            prev: [0; 32],
            tree: Frontier::default(),
            awaiting: BTreeMap::new(),
            key: None,
            whole: true,
        }
    }

    /// The log.
    pub fn log(&self) -> &LogId {
        &self.log
    }

    /// Place of the next record.
    pub fn next(&self) -> u64 {
        self.next
    }

    /// Hash of the newest record; all zero at the start.
    pub fn prev(&self) -> Hash {
        self.prev
    }

    /// The tree over the records.
    pub fn tree(&self) -> &Frontier {
        &self.tree
    }

    /// Released actions without an outcome, by place.
    pub fn awaiting(&self) -> impl Iterator<Item = u64> + '_ {
        self.awaiting.keys().copied()
    }

    /// Whether the action at this place was released and has no outcome.
    pub fn awaits(&self, seq: u64) -> bool {
        self.awaiting.contains_key(&seq)
    }

    /// Verifier key of the checkpoints from the newest start on.
    pub fn key(&self) -> Option<&str> {
        self.key.as_deref()
    }

    /// Whether no record was missing so far, so that the tree is that of the log.
    pub fn is_whole(&self) -> bool {
        self.whole
    }

    /// Takes the record that stands at place `seq`. It goes on after a fault, so that one changed
    /// record does not hide another.
    pub fn accept(&mut self, seq: u64, bytes: &[u8]) -> Step {
        let hash = record_hash(bytes);
        let mut faults = Vec::new();
        let follows = self.place(seq, &mut faults);
        let record = match Record::decode(bytes) {
            Ok(record) => {
                self.link(&record, seq, follows, &mut faults);
                self.apply(&record, &mut faults);
                Some(record)
            }
            Err(error) => {
                faults.push(fault(seq, error.to_string()));
                None
            }
        };
        let nodes = match self.tree.push(hash) {
            Ok(nodes) => nodes,
            Err(error) => {
                faults.push(fault(seq, error.to_string()));
                Vec::new()
            }
        };
        self.prev = hash;
        self.next = seq.saturating_add(1);
        Step {
            record,
            hash,
            nodes,
            faults,
        }
    }

    /// Whether the record at `seq` comes right after the one before.
    fn place(&mut self, seq: u64, faults: &mut Vec<Fault>) -> bool {
        if seq == self.next {
            return true;
        }
        self.whole = false;
        let problem = if seq > self.next {
            match seq - self.next {
                1 => "is missing".to_owned(),
                n => format!("is missing, and the {} after it", n - 1),
            }
        } else {
            format!("comes again after record {}", self.next.saturating_sub(1))
        };
        faults.push(fault(self.next.min(seq), problem));
        false
    }

    fn link(&self, record: &Record, seq: u64, follows: bool, faults: &mut Vec<Fault>) {
        if record.log != self.log {
            faults.push(fault(seq, format!("belongs to log {}", record.log)));
        }
        if record.seq != seq {
            faults.push(fault(seq, format!("says that it is record {}", record.seq)));
        }
        if follows && record.prev != self.prev {
            let problem = match seq.checked_sub(1) {
                Some(before) => format!("does not follow record {before} as it stands here"),
                None => "is not the first of a log".to_owned(),
            };
            faults.push(fault(seq, problem));
        }
    }

    fn apply(&mut self, record: &Record, faults: &mut Vec<Fault>) {
        let seq = record.seq;
        if seq == 0 && record.entry.kind() != EntryKind::Start {
            faults.push(fault(0, "a log begins with a start".to_owned()));
        }
        let ends = match &record.entry {
            Entry::Start(start) => {
                self.key = Some(start.key.clone());
                None
            }
            Entry::Outcome(outcome) => Some(outcome.of),
            Entry::Unknown(unknown) => Some(unknown.of),
            _ => None,
        };
        if let Some(of) = ends
            && self.awaiting.remove(&of).is_none()
            && self.whole
        {
            faults.push(fault(
                seq,
                format!("is the outcome of record {of}, which awaits none"),
            ));
        }
        if record.entry.awaits_outcome() && seq <= MAX_INTEGER {
            self.awaiting.insert(seq, record.entry.kind());
        }
    }
}

fn fault(seq: u64, problem: String) -> Fault {
    Fault { seq, problem }
}
