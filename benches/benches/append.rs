//! The durable record: reserve a place, append an allow with its envelope, wait for the fsync.

use std::io::Write;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use criterion::{Criterion, Throughput};
use writ_ledger::{
    CheckpointKey, Decision, Entry, Log, LogId, LogOptions, Mode, Names, SystemClock,
};
use writ_sae::issue_envelope;
use zeroize::Zeroizing;

use crate::latency;
use crate::world::World;

/// Appends under way at once in the concurrent case.
const TASKS: usize = 64;

/// Budget: 1 ms ours; the disk's fsync is the floor, measured beside it.
pub fn stage(c: &mut Criterion) {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    let folder = tempfile::tempdir_in(latency::target()).unwrap();
    let mut group = c.benchmark_group("append");
    floor(&mut group, folder.path());

    let log = open(&folder.path().join("one.redb"));
    let entry = entry();
    let one = || {
        let reservation = log.reserve().unwrap();
        runtime
            .block_on(log.append(reservation, entry.clone()))
            .unwrap();
    };
    group.bench_function("one-at-a-time", |b| b.iter(one));
    let samples = latency::time(latency::ACTIONS / 4, || (), |()| one());
    latency::keep("append", "one-at-a-time", samples);
    log.close();

    let log = open(&folder.path().join("many.redb"));
    let each = |rounds: usize| {
        let tasks: Vec<_> = (0..TASKS)
            .map(|_| {
                let (log, entry) = (log.clone(), entry.clone());
                runtime.spawn(async move {
                    let mut samples = Vec::with_capacity(rounds);
                    for _ in 0..rounds {
                        let start = Instant::now();
                        let reservation = log.reserve().unwrap();
                        log.append(reservation, entry.clone()).await.unwrap();
                        samples.push(start.elapsed());
                    }
                    samples
                })
            })
            .collect();
        let all = runtime.block_on(async {
            let mut all = Vec::new();
            for task in tasks {
                all.extend(task.await.unwrap());
            }
            all
        });
        assert_eq!(all.len(), rounds * TASKS);
        all
    };
    group.throughput(Throughput::Elements(TASKS as u64));
    group.bench_function("64-at-once", |b| b.iter(|| each(1)));
    latency::keep("append", "64-at-once", each(latency::ACTIONS / TASKS));
    group.finish();
    log.close();
}

/// One write and one fsync of as many bytes: no durable record is faster on this disk.
fn floor<M: criterion::measurement::Measurement>(
    group: &mut criterion::BenchmarkGroup<'_, M>,
    folder: &Path,
) {
    let mut file = std::fs::File::create(folder.join("floor")).unwrap();
    let mut write = || {
        file.write_all(&[7; 4096]).unwrap();
        file.sync_data().unwrap();
    };
    group.bench_function("disk-floor", |b| b.iter(&mut write));
    let samples = latency::time(latency::ACTIONS / 4, || (), |()| write());
    latency::keep("append", "disk-floor", samples);
}

fn open(path: &Path) -> Log {
    let key = CheckpointKey::from_seed(&Zeroizing::new([7; 32]));
    let mut options = LogOptions::new(LogId::from_random([3; 10]), key, "bench");
    options.max_bytes = 8 << 30;
    Log::open(path, options, Arc::new(SystemClock), |_| None).unwrap()
}

/// An allow as large as a real one.
fn entry() -> Entry {
    let world = World::new();
    let jws = issue_envelope(&world.claims(), &world.agent.signer).unwrap();
    Entry::Allow(Box::new(Decision {
        action: Some(vec![7; 672]),
        budget: None,
        jws: Some(jws.into_string()),
        mode: Mode::Enforce,
        names: Names {
            agent: "spiffe://example.org/ns/demo/sa/agent".into(),
            capability: "payments.transfer".into(),
            principal: None,
            resource: Some("account/alice".into()),
            session: Some("session-1".into()),
            target: "https://payments.example.org/v1/transfers".into(),
        },
        reason: "allowed".into(),
        salt: Some([7; 16]),
        witness: None,
    }))
}
