//! The results, as JSON and as a page.

use std::time::Duration;

use serde::Serialize;

use crate::machine::Machine;

/// Memory that a relay may take, MiB.
const MEMORY: u64 = 512;
/// What a revocation may take to the last sidecar, ms.
const REVOKED: f64 = 1000.0;

#[derive(Serialize)]
pub struct Measured {
    pub machine: Machine,
    pub load_before: f64,
    pub sidecars: usize,
    pub policies: usize,
    pub resident_kib: Resident,
    pub connected_s: f64,
    pub heads: usize,
    pub reads_a_head: f64,
    pub processor: f64,
    pub spread_ms: Percentiles,
    pub revoked_ms: Percentiles,
    pub counted_ms: f64,
    pub kept_ms: Percentiles,
    pub reported_s: f64,
}

#[derive(Serialize)]
pub struct Resident {
    pub empty: u64,
    pub watching: u64,
    pub reporting: u64,
    pub most: u64,
}

#[derive(Serialize)]
pub struct Percentiles {
    pub p50: f64,
    pub p99: f64,
    pub most: f64,
}

/// Of these times, in milliseconds.
pub fn percentiles(mut times: Vec<Duration>) -> Percentiles {
    times.sort_unstable();
    let at = |share: usize| {
        let index = (times.len() * share / 100).min(times.len() - 1);
        times[index].as_secs_f64() * 1000.0
    };
    Percentiles {
        p50: at(50),
        p99: at(99),
        most: at(100),
    }
}

/// Programs that wanted a processor in the last minute.
pub fn load() -> f64 {
    let text = std::fs::read_to_string("/proc/loadavg").unwrap();
    text.split(' ').next().unwrap().parse().unwrap()
}

/// Writes both where they are wanted; the page to standard output otherwise.
pub fn write(measured: &Measured) {
    if let Ok(file) = std::env::var("RELAY_RAW") {
        let text = serde_json::to_string_pretty(measured).unwrap() + "\n";
        std::fs::write(file, text).unwrap();
    }
    let text = page(measured);
    match std::env::var("RELAY_PAGE") {
        Ok(file) => std::fs::write(file, text).unwrap(),
        Err(_) => println!("{text}"),
    }
}

fn page(m: &Measured) -> String {
    let mib = |kib: u64| kib.div_ceil(1024);
    let verdict = |kept: bool| if kept { "kept" } else { "**over**" };
    let row = |what: &str, p: &Percentiles| {
        format!("| {what} | {:.0} | {:.0} | {:.0} |\n", p.p50, p.p99, p.most)
    };
    let most = mib(m.resident_kib.most);
    let mut text = format!(
        "# Benchmark of the relay\n\nMade by `scripts/bench-relay`; raw data in [benchmarks/relay.json](benchmarks/relay.json). What \
         is bad stands here too.\n\n{} sidecars on one relay, each a connection of its own with mutual TLS, {} agents' \
         namespaces apart; {} AgentPolicies. The relay is the real program; the sidecars, the Kubernetes API (from \
         memory), the witness and the EVM node (a block a second) are on the same machine: {}, {} threads, Linux {}; \
         load average {:.1} when it began. The simulated sidecars do not check what they are told.\n\n",
        m.sidecars,
        50,
        m.policies,
        m.machine.cpu,
        m.machine.threads,
        m.machine.kernel,
        m.load_before
    );
    text.push_str("| ms | p50 | p99 | the last |\n|---|---|---|---|\n");
    text.push_str(&row(
        "a head, from the first sidecar that has it",
        &m.spread_ms,
    ));
    text.push_str(&row(
        "a revocation, from the API server's answer to a sidecar",
        &m.revoked_ms,
    ));
    text.push_str(&row("reports of all at one time, until kept", &m.kept_ms));
    text.push_str(&format!(
        "\nA revocation's p99 must be under {REVOKED:.0} ms: {}. Its status counted all {} of them after {:.0} ms.\n\n",
        verdict(m.revoked_ms.p99 < REVOKED), m.sidecars, m.counted_ms
    ));
    text.push_str(&format!(
        "| relay's memory, MiB resident | |\n|---|---|\n| before the first sidecar | {} |\n| all connected, {} heads later | {} |\n\
         | after all reported | {} |\n| at most | {most} |\n\nIt must be within {MEMORY} MiB: {}.\n\n",
        mib(m.resident_kib.empty), m.heads, mib(m.resident_kib.watching), mib(m.resident_kib.reporting),
        verdict(most <= MEMORY)
    ));
    text.push_str(&format!(
        "All connected within {:.0} s. {:.0} reads from endpoints a head, whatever the number of sidecars; {:.2} processors \
         while a head came each second.\n",
        m.connected_s, m.reads_a_head, m.processor
    ));
    text
}
