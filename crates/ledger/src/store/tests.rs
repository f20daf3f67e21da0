#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

mod budgets;
mod failure;
mod order;
mod tamper;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use zeroize::Zeroizing;

use super::*;
use crate::{Decision, Enforced, Kept, Mode, Names, Outcome, OutcomeResult, Report};

const NOW: u64 = 1_700_000_000_000;

/// A folder for one log.
struct Place {
    _folder: tempfile::TempDir,
    path: PathBuf,
}

fn place() -> Place {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("log.redb");
    Place {
        _folder: folder,
        path,
    }
}

fn options() -> LogOptions {
    let key = CheckpointKey::from_seed(&Zeroizing::new([7; 32]));
    LogOptions {
        retry_every: Duration::from_millis(20),
        ..LogOptions::new(LogId::from_random([3; 10]), key, "test 1")
    }
}

fn open_with(path: &Path, options: LogOptions) -> Result<Log, LedgerError> {
    Log::open(path, options, Arc::new(|| NOW), |_| None)
}

fn open(path: &Path) -> Log {
    open_with(path, options()).unwrap()
}

fn decision() -> Box<Decision> {
    Box::new(Decision {
        action: None,
        budget: None,
        jws: None,
        mode: Mode::Observe,
        names: Names {
            agent: "spiffe://example.org/agent".into(),
            capability: "payments.transfer".into(),
            principal: None,
            resource: None,
            session: None,
            target: "https://bank.example/transfers".into(),
        },
        reason: "allowed".into(),
        salt: None,
        witness: None,
    })
}

fn allow() -> Entry {
    Entry::Allow(decision())
}

fn denial() -> Entry {
    Entry::Denial(Box::new(Decision {
        mode: Mode::Enforce,
        ..*decision()
    }))
}

fn outcome(of: u64) -> Entry {
    Entry::Outcome(Box::new(Outcome {
        enforced: Enforced::Redirect,
        error: None,
        of,
        receipt: None,
        response: None,
        result: OutcomeResult::Completed,
        status: Some(200),
    }))
}

async fn add(log: &Log, entry: Entry) -> Receipt {
    log.append(log.reserve().unwrap(), entry).await.unwrap()
}

fn entries(reader: &LogReader) -> Vec<Entry> {
    let mut found = Vec::new();
    loop {
        let page = reader.page(found.len() as u64, 100).unwrap();
        if page.is_empty() {
            return found;
        }
        found.extend(
            page.iter()
                .map(|(_, bytes, _)| crate::Record::decode(bytes).unwrap().entry),
        );
    }
}

fn verify(path: &Path) -> Report {
    verify_kept(path, Kept::default())
}

fn verify_kept(path: &Path, kept: Kept) -> Report {
    LogReader::open(path)
        .unwrap()
        .verify(None, kept, |_, _| {})
        .unwrap()
}

fn assert_good(path: &Path) -> Report {
    let report = verify(path);
    assert!(report.is_good(), "{:?}", report.findings);
    report
}
