//! A relay with thousands of simulated sidecars: its memory, how long a head and a revocation take to the last of them, and
//! how long it takes until what they all report is kept.
//!
//! The relay is the real program, the Kubernetes API answers from memory, the chain is a real node. A simulated sidecar is
//! a connection of its own with mutual TLS, which does all that a sidecar does but check what it is told.
//!
//! `SIDECARS` (5,000) and `POLICIES` (1,000) say how many; `RELAY_PAGE` and `RELAY_RAW` where the results go.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::indexing_slicing,
    reason = "a bench fails loudly"
)]

#[path = "../../../operator/tests/support/kubernetes.rs"]
mod kubernetes;
#[path = "../../src/machine.rs"]
mod machine;
mod page;
mod sidecar;
mod world;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use sidecar::{Event, Sidecar};
use tokio::sync::{Semaphore, mpsc};
use world::World;

/// Sidecars that connect at one time.
const CONNECTING: usize = 64;
/// How long heads are watched.
const WATCHED: Duration = Duration::from_secs(20);
/// Longer than anything that is waited for takes.
const PATIENCE: Duration = Duration::from_secs(300);

#[tokio::main]
async fn main() {
    // `cargo test` runs benches too, to see that they start.
    if !std::env::args().any(|arg| arg == "--bench") {
        return;
    }
    let count = number("SIDECARS", 5000);
    let policies = number("POLICIES", 1000);
    let load_before = page::load();
    let world = World::start(policies).await;
    let empty = world.resident();
    println!("relay started: {} MiB resident", empty / 1024);

    let (events, mut heard) = mpsc::unbounded_channel();
    let began = Instant::now();
    let sidecars = connect(&world, count, &events).await;
    let connected = began.elapsed();
    world.until("sidecars", u64::try_from(count).unwrap()).await;
    println!("{count} sidecars connected in {connected:.1?}");

    while heard.try_recv().is_ok() {}
    let (cpu, reads) = (world.processor(), world.metric("reads").await);
    let (began, mut heads) = (Instant::now(), BTreeMap::<u64, Vec<Instant>>::new());
    while let Some(left) = WATCHED.checked_sub(began.elapsed()) {
        match tokio::time::timeout(left, heard.recv()).await {
            Ok(Some((Event::Head(number), at))) => heads.entry(number).or_default().push(at),
            Ok(Some(_)) => {}
            Ok(None) | Err(_) => break,
        }
    }
    let cpu = (world.processor() - cpu) / WATCHED.as_secs_f64();
    let reads = world.metric("reads").await - reads;
    // Those that began before, or are under way, did not reach all.
    heads.retain(|_, times| times.len() == count);
    let spread = heads.values().flat_map(|times| {
        let first = *times.iter().min().unwrap();
        times.iter().map(move |at| *at - first)
    });
    let spread: Vec<Duration> = spread.collect();
    assert!(!heads.is_empty(), "no head reached all sidecars");
    let watching = world.resident();
    println!(
        "{} heads reached all; {} MiB resident",
        heads.len(),
        watching / 1024
    );

    let asked = Instant::now();
    world.revoke();
    let mut revoked = Vec::new();
    while revoked.len() < count {
        match tokio::time::timeout(PATIENCE, heard.recv()).await {
            Ok(Some((Event::Revoked, at))) => revoked.push(at - asked),
            Ok(Some(_)) => {}
            Ok(None) | Err(_) => panic!("{} of {count} were told", revoked.len()),
        }
    }
    world.counted(count).await;
    let counted = asked.elapsed();
    println!("revocation told to {count}");

    let began = Instant::now();
    let kept = report(&sidecars).await;
    let reported = began.elapsed();
    let reporting = world.resident();
    println!("reports of {count} kept in {reported:.1?}");

    page::write(&page::Measured {
        machine: machine::describe(),
        load_before,
        sidecars: count,
        policies,
        resident_kib: page::Resident {
            empty,
            watching,
            reporting,
            most: world.most_resident(),
        },
        connected_s: connected.as_secs_f64(),
        heads: heads.len(),
        reads_a_head: reads as f64 / heads.len() as f64,
        processor: cpu,
        spread_ms: page::percentiles(spread),
        revoked_ms: page::percentiles(revoked),
        counted_ms: counted.as_secs_f64() * 1000.0,
        kept_ms: page::percentiles(kept),
        reported_s: reported.as_secs_f64(),
    });
}

fn number(name: &str, default: usize) -> usize {
    std::env::var(name).map_or(default, |text| text.parse().unwrap())
}

async fn connect(
    world: &World,
    count: usize,
    events: &mpsc::UnboundedSender<(Event, Instant)>,
) -> Vec<Arc<Sidecar>> {
    let turns = Arc::new(Semaphore::new(CONNECTING));
    let mut connecting = Vec::with_capacity(count);
    for n in 0..count {
        let turn = Arc::clone(&turns).acquire_owned().await.unwrap();
        let sidecar = Sidecar::connect(world, n, events.clone());
        connecting.push(tokio::spawn(async move {
            let _turn = turn;
            Arc::new(sidecar.await)
        }));
    }
    let mut sidecars = Vec::with_capacity(count);
    for one in connecting {
        sidecars.push(one.await.unwrap());
    }
    sidecars
}

/// All of them report at one time; how long each took until it was kept.
async fn report(sidecars: &[Arc<Sidecar>]) -> Vec<Duration> {
    let reporting: Vec<_> = sidecars
        .iter()
        .map(|sidecar| tokio::spawn(Arc::clone(sidecar).report()))
        .collect();
    let mut took = Vec::with_capacity(reporting.len());
    for one in reporting {
        took.push(tokio::time::timeout(PATIENCE, one).await.unwrap().unwrap());
    }
    took
}
