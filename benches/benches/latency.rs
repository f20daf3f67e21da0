//! Times single actions and keeps their distribution.

use std::path::PathBuf;
use std::time::{Duration, Instant};

/// Actions timed for each stage, after as many again to warm up.
pub const ACTIONS: usize = 20_000;

/// Writes the distribution of `samples` beside criterion's data of `group`/`name`.
pub fn keep(group: &str, name: &str, mut samples: Vec<Duration>) {
    samples.sort_unstable();
    let at = |quantile: f64| {
        let index = ((samples.len() as f64 * quantile).ceil() as usize).clamp(1, samples.len());
        u64::try_from(samples[index - 1].as_nanos()).unwrap()
    };
    let json = serde_json::json!({
        "group": group,
        "name": name,
        "actions": samples.len(),
        "p50_ns": at(0.5),
        "p90_ns": at(0.9),
        "p99_ns": at(0.99),
        "p999_ns": at(0.999),
        "max_ns": at(1.0),
    });
    let folder = target().join("criterion").join(group).join(name);
    std::fs::create_dir_all(&folder).unwrap();
    let text = serde_json::to_string_pretty(&json).unwrap();
    std::fs::write(folder.join("latency.json"), text).unwrap();
}

/// Times `action` [`ACTIONS`] times, after half as many that are not counted; `prepare` is not
/// timed.
pub fn time<T>(
    actions: usize,
    mut prepare: impl FnMut() -> T,
    mut action: impl FnMut(T),
) -> Vec<Duration> {
    for _ in 0..actions / 2 {
        action(prepare());
    }
    (0..actions)
        .map(|_| {
            let input = prepare();
            let start = Instant::now();
            action(input);
            start.elapsed()
        })
        .collect()
}

/// Where cargo puts what it builds, on the disk that is measured.
pub fn target() -> PathBuf {
    let set = std::env::var_os("CARGO_TARGET_DIR").map(PathBuf::from);
    set.unwrap_or_else(|| PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../target")))
}
