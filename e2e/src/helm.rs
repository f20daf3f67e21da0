//! Real helm on the chart of this repository.

use std::process::Output;

use tokio::process::Command;

use crate::SYSTEM;

/// Runs `helm LINE...` in our own namespace, `CHART` being the chart, and returns what came of it.
pub async fn helm(line: &[&str]) -> Output {
    let chart = concat!(env!("CARGO_MANIFEST_DIR"), "/../charts/writ");
    let words = line
        .iter()
        .map(|word| if *word == "CHART" { chart } else { word });
    Command::new("helm")
        .args(words)
        .args(["--namespace", SYSTEM])
        .output()
        .await
        .expect("helm on the PATH; e2e/run puts it there")
}
