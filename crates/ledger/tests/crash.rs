//! The log against kill -9 and against a volume that is really full.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout
)]

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use writ_ledger::store::Access;
use writ_ledger::{
    CheckpointKey, Decision, Enforced, Entry, EntryKind, Kept, LedgerError, Log, LogId, LogOptions,
    LogReader, Mode, Names, Outcome, OutcomeResult, Record, SystemClock,
};
use zeroize::Zeroizing;

const CHILD: &str = "WRIT_TEST_CHILD_FOLDER";

fn open(path: &Path) -> Log {
    let key = CheckpointKey::from_seed(&Zeroizing::new([7; 32]));
    let mut options = LogOptions::new(LogId::from_random([3; 10]), key, "crash test");
    options.checkpoint_every = Duration::from_millis(5);
    options.retry_every = Duration::from_millis(20);
    Log::open(path, options, Arc::new(SystemClock), |_| None).unwrap()
}

fn allow() -> Entry {
    Entry::Allow(Box::new(Decision {
        action: Some(vec![7; 600]),
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

/// This test program, running one of its tests in a process of its own.
fn child(test: &str, folder: &Path) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", test, "--nocapture"]);
    command.env(CHILD, folder);
    command
}

fn child_folder() -> Option<PathBuf> {
    std::env::var_os(CHILD).map(PathBuf::from)
}

/// Appends from many tasks until it is killed, and says each time what is durable.
fn append_until_killed(folder: &Path) {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    let log = open(&folder.join("log.redb"));
    runtime.block_on(async {
        let tasks: Vec<_> = (0..16)
            .map(|task| {
                let log = log.clone();
                tokio::spawn(async move {
                    loop {
                        let reservation = log.reserve().unwrap();
                        let done = log.append(reservation, allow()).await.unwrap();
                        println!("ack {} {}", done.seq, hex(&done.hash));
                        if task % 2 == 0 {
                            let done = log.record(outcome(done.seq)).await.unwrap();
                            println!("ack {} {}", done.seq, hex(&done.hash));
                        }
                    }
                })
            })
            .collect();
        // None of them ends: the process does.
        let failed = first_to_end(tasks).await;
        panic!("an append failed: {failed:?}");
    });
}

/// The first of the tasks to end.
async fn first_to_end(
    tasks: Vec<tokio::task::JoinHandle<()>>,
) -> Result<(), tokio::task::JoinError> {
    for task in tasks {
        task.await?;
    }
    Ok(())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

fn records(reader: &LogReader) -> BTreeMap<u64, (Record, String)> {
    let mut found = BTreeMap::new();
    let mut next = 0;
    loop {
        let page = reader.page(next, 512).unwrap();
        let Some((last, _, _)) = page.last() else {
            return found;
        };
        next = last + 1;
        for (seq, bytes, _) in page {
            let hash = hex(&writ_ledger::record_hash(&bytes));
            found.insert(seq, (Record::decode(&bytes).unwrap(), hash));
        }
    }
}

#[test]
fn every_acknowledged_record_survives_kill_9_and_open_allows_become_unknown_once() {
    if let Some(folder) = child_folder() {
        return append_until_killed(&folder);
    }
    let test = "every_acknowledged_record_survives_kill_9_and_open_allows_become_unknown_once";
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("log.redb");
    let mut acknowledged = BTreeMap::new();
    for round in 0_usize..15 {
        let mut child = child(test, folder.path())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        // Killed after another number of acknowledgements each time, sometimes at the very start.
        let until = (round * 37) % 211;
        let mut seen = 0;
        let mut take = |line: String| {
            if let Some((seq, hash)) = line.strip_prefix("ack ").and_then(|l| l.split_once(' ')) {
                if hash.len() == 64 {
                    acknowledged.insert(seq.parse::<u64>().unwrap(), hash.to_owned());
                }
                return true;
            }
            false
        };
        while seen < until {
            let line = lines
                .next()
                .expect("the child goes on until it is killed")
                .unwrap();
            seen += usize::from(take(line));
        }
        child.kill().unwrap();
        child.wait().unwrap();
        for line in lines.map_while(Result::ok) {
            take(line);
        }
        if !path.exists() {
            continue;
        }
        let reader = LogReader::open(&path).unwrap();
        let found = records(&reader);
        for (seq, hash) in &acknowledged {
            assert_eq!(
                found.get(seq).map(|(_, hash)| hash),
                Some(hash),
                "round {round}"
            );
        }
        let report = reader.verify(None, Kept::default(), |_, _| {}).unwrap();
        assert!(report.is_good(), "round {round}: {:?}", report.findings);
        assert!(matches!(reader.access(), Access::Copy | Access::File));
        drop(reader);

        open(&path).close();
        let found = records(&LogReader::open(&path).unwrap());
        let entries = || found.values().map(|(record, _)| record);
        let mut ends: BTreeMap<u64, usize> = BTreeMap::new();
        for record in entries() {
            match &record.entry {
                Entry::Outcome(outcome) => *ends.entry(outcome.of).or_default() += 1,
                Entry::Unknown(unknown) => *ends.entry(unknown.of).or_default() += 1,
                _ => {}
            }
        }
        let allows = entries().filter(|r| r.entry.kind() == EntryKind::Allow);
        for record in allows {
            assert_eq!(
                ends.get(&record.seq),
                Some(&1),
                "round {round}, allow {}",
                record.seq
            );
        }
    }
    assert!(acknowledged.len() > 1000, "{}", acknowledged.len());
}

#[test]
fn a_full_volume_refuses_actions_and_takes_them_again_when_there_is_room() {
    let test = "a_full_volume_refuses_actions_and_takes_them_again_when_there_is_room";
    if let Some(folder) = child_folder() {
        return fill(&folder);
    }
    // A mount namespace of its own: the small volume exists for this test alone.
    let folder = tempfile::tempdir().unwrap();
    let child = child(test, folder.path());
    let script = r#"mount -t tmpfs -o size=8m tmpfs "$0" && exec "$@""#;
    let status = Command::new("unshare")
        .args(["--mount", "--map-root-user", "sh", "-c", script])
        .arg(folder.path())
        .arg(child.get_program())
        .args(child.get_args())
        .env(CHILD, folder.path())
        .status()
        .unwrap();
    assert!(status.success(), "{status}");
}

fn fill(folder: &Path) {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let path = folder.join("log.redb");
        let log = open(&path);
        let ballast = folder.join("ballast");
        std::fs::write(&ballast, vec![1; 3 << 20]).unwrap();
        let mut acknowledged = Vec::new();
        let refused = loop {
            match log.reserve() {
                Ok(reservation) => match log.append(reservation, allow()).await {
                    Ok(receipt) => acknowledged.push(receipt.seq),
                    Err(error) => break error,
                },
                Err(error) => break error,
            }
        };
        assert!(matches!(refused, LedgerError::NoSpace { .. }), "{refused}");
        // Someone else takes the rest as well, so that the system itself says no.
        let rest = std::fs::File::create(folder.join("rest")).unwrap();
        let mut writer = &rest;
        while std::io::Write::write(&mut writer, &[1; 4096]).is_ok() {}
        assert!(log.reserve().is_err());
        assert!(log.record(allow()).await.is_err());
        let ended = log.record(outcome(acknowledged[0]));

        std::fs::remove_file(&ballast).unwrap();
        std::fs::remove_file(folder.join("rest")).unwrap();
        drop(rest);
        let mut health = log.health();
        tokio::time::timeout(Duration::from_secs(20), health.wait_for(Option::is_none))
            .await
            .unwrap()
            .unwrap();
        ended.await.unwrap();
        let reservation = log.reserve().unwrap();
        acknowledged.push(log.append(reservation, allow()).await.unwrap().seq);
        log.close();

        let reader = LogReader::open(&path).unwrap();
        let report = reader.verify(None, Kept::default(), |_, _| {}).unwrap();
        assert!(report.is_good(), "{:?}", report.findings);
        let allowed: Vec<u64> = records(&reader)
            .values()
            .filter(|(record, _)| record.entry.kind() == EntryKind::Allow)
            .map(|(record, _)| record.seq)
            .collect();
        assert_eq!(
            allowed, acknowledged,
            "what is allowed was acknowledged, and the other way"
        );
    });
}
