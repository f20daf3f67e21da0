//! From raw data to a table.

use std::fmt::Write;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::machine::Machine;

/// What the design allows a stage: p99, nanoseconds.
struct Budget {
    group: &'static str,
    name: &'static str,
    title: &'static str,
    required: Option<u64>,
    ours: Option<u64>,
}

const fn budget(
    group: &'static str,
    name: &'static str,
    title: &'static str,
    required: Option<u64>,
    ours: Option<u64>,
) -> Budget {
    Budget {
        group,
        name,
        title,
        required,
        ours,
    }
}

const US: u64 = 1_000;
const MS: u64 = 1_000_000;

/// In the order of the table.
const BUDGETS: [Budget; 9] = [
    budget(
        "evaluate",
        "allowed",
        "policy evaluation, allowed",
        Some(5 * MS),
        Some(20 * US),
    ),
    budget(
        "evaluate",
        "amount-over-limit",
        "policy evaluation, denied",
        Some(5 * MS),
        Some(20 * US),
    ),
    budget(
        "sign",
        "es256-svid",
        "sign, ES256 with the SVID",
        Some(2 * MS),
        Some(50 * US),
    ),
    budget(
        "sign",
        "es256-pure-rust",
        "sign, ES256 in pure Rust",
        Some(2 * MS),
        None,
    ),
    budget(
        "verify",
        "checks",
        "verify: all checks of a PEP",
        Some(MS),
        Some(150 * US),
    ),
    budget(
        "verify",
        "with-durable-replay",
        "verify, with a durable replay store",
        Some(MS),
        None,
    ),
    budget(
        "append",
        "disk-floor",
        "4 KiB and one fsync: the disk's floor",
        None,
        None,
    ),
    budget(
        "append",
        "one-at-a-time",
        "durable record, one at a time",
        None,
        Some(MS),
    ),
    budget(
        "append",
        "64-at-once",
        "durable record, 64 at once",
        None,
        None,
    ),
];

/// Distribution of one stage, action by action.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Latency {
    /// Criterion's group.
    pub group: String,
    /// Name in the group.
    pub name: String,
    /// Number of actions timed.
    pub actions: u64,
    /// Median.
    pub p50_ns: u64,
    /// 90th percentile.
    pub p90_ns: u64,
    /// 99th percentile.
    pub p99_ns: u64,
    /// 99.9th percentile.
    pub p999_ns: u64,
    /// Longest.
    pub max_ns: u64,
}

/// One stage: the distribution, and criterion's estimate of the mean.
#[derive(Debug, Serialize)]
pub struct Stage {
    /// Distribution.
    pub latency: Latency,
    /// Criterion's mean of one iteration, nanoseconds.
    pub mean_ns: f64,
    /// Bounds of its 95 % confidence interval.
    pub mean_interval_ns: [f64; 2],
}

#[derive(Deserialize)]
struct Estimates {
    mean: Estimate,
}

#[derive(Deserialize)]
struct Estimate {
    point_estimate: f64,
    confidence_interval: Interval,
}

#[derive(Deserialize)]
struct Interval {
    lower_bound: f64,
    upper_bound: f64,
}

/// Reads what the benches left under `criterion`. A stage that was not measured is an error: a
/// table must not get shorter in silence.
pub fn read(criterion: &Path) -> Result<Vec<Stage>, String> {
    BUDGETS
        .iter()
        .map(|budget| {
            let folder = criterion.join(budget.group).join(budget.name);
            let latency: Latency = json(&folder.join("latency.json"))?;
            let estimates: Estimates = json(&folder.join("new/estimates.json"))?;
            let interval = estimates.mean.confidence_interval;
            Ok(Stage {
                latency,
                mean_ns: estimates.mean.point_estimate,
                mean_interval_ns: [interval.lower_bound, interval.upper_bound],
            })
        })
        .collect()
}

fn json<T: serde::de::DeserializeOwned>(path: &Path) -> Result<T, String> {
    let text = std::fs::read_to_string(path).map_err(|e| {
        format!(
            "{}: {e}; run `cargo bench -p writ-benches` first",
            path.display()
        )
    })?;
    serde_json::from_str(&text).map_err(|e| format!("{}: {e}", path.display()))
}

/// The table.
pub fn markdown(stages: &[Stage], machine: &Machine) -> String {
    let mut out = String::new();
    // Writing to a String cannot fail.
    let _ = write_table(&mut out, stages, machine);
    out
}

fn write_table(out: &mut String, stages: &[Stage], machine: &Machine) -> std::fmt::Result {
    writeln!(
        out,
        "Machine: {}, {} threads, {} GiB; Linux {}; {}.\n",
        machine.cpu, machine.threads, machine.memory_gib, machine.kernel, machine.rustc
    )?;
    writeln!(
        out,
        "| stage | p50 | p99 | p99.9 | mean | required p99 | our p99 | kept |"
    )?;
    writeln!(out, "|---|---|---|---|---|---|---|---|")?;
    for (budget, stage) in BUDGETS.iter().zip(stages) {
        let latency = &stage.latency;
        let bound = |bound: Option<u64>| bound.map_or_else(|| "-".to_owned(), duration);
        writeln!(
            out,
            "| {} | {} | {} | {} | {} | {} | {} | {} |",
            budget.title,
            duration(latency.p50_ns),
            duration(latency.p99_ns),
            duration(latency.p999_ns),
            duration(stage.mean_ns as u64),
            bound(budget.required),
            bound(budget.ours),
            kept(budget, latency.p99_ns),
        )?;
    }
    writeln!(
        out,
        "\nThe mean of `64 at once` is that of a round of 64 records. Anchoring is on no request's path."
    )
}

fn kept(budget: &Budget, p99: u64) -> &'static str {
    match (budget.required, budget.ours) {
        (None, None) => "-",
        (_, Some(ours)) if p99 <= ours => "yes",
        (Some(required), _) if p99 <= required => "required only",
        (Some(_), None) | (Some(_), Some(_)) | (None, Some(_)) => "no",
    }
}

fn duration(ns: u64) -> String {
    match ns {
        0..1_000 => format!("{ns} ns"),
        1_000..1_000_000 => format!("{:.1} us", ns as f64 / 1e3),
        _ => format!("{:.2} ms", ns as f64 / 1e6),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_stage_beyond_its_budget_says_so() {
        let both = budget("g", "n", "t", Some(5 * MS), Some(20 * US));
        assert_eq!(kept(&both, 10 * US), "yes");
        assert_eq!(kept(&both, 30 * US), "required only");
        assert_eq!(kept(&both, 6 * MS), "no");
        let ours = budget("g", "n", "t", None, Some(MS));
        assert_eq!((kept(&ours, MS), kept(&ours, 2 * MS)), ("yes", "no"));
    }

    #[test]
    fn a_stage_that_was_not_measured_is_an_error() {
        let missing = read(Path::new("/nonexistent")).unwrap_err();
        assert!(missing.contains("cargo bench"), "{missing}");
    }
}
