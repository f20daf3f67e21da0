//! helm, which installs and removes the chart.

use std::path::{Path, PathBuf};

use crate::cluster::ClusterArgs;
use crate::error::CliError;
use crate::progress::note;

/// One run of helm.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Helm(Vec<String>);

impl Helm {
    /// A command with these words, in the cluster that was named.
    pub fn new(words: &[&str], cluster: &ClusterArgs) -> Self {
        let mut all: Vec<String> = words.iter().map(|w| (*w).to_owned()).collect();
        all.extend(cluster.helm_flags());
        Self(all)
    }

    /// Further words.
    pub fn with(mut self, words: impl IntoIterator<Item = String>) -> Self {
        self.0.extend(words);
        self
    }

    /// The command as a shell takes it.
    pub fn line(&self) -> String {
        let plain = |c: char| c.is_ascii_alphanumeric() || "-_./=:,@".contains(c);
        let words = self.0.iter().map(|word| {
            if !word.is_empty() && word.chars().all(plain) {
                word.clone()
            } else {
                format!("'{}'", word.replace('\'', "'\\''"))
            }
        });
        format!("helm {}", words.collect::<Vec<_>>().join(" "))
    }

    /// Runs it, and waits for its end. What it prints goes where ours goes.
    pub async fn run(&self) -> Result<(), CliError> {
        note(&format!("$ {}", self.line()));
        let status = tokio::process::Command::new("helm")
            .args(&self.0)
            .status()
            .await;
        match status {
            Ok(status) if status.success() => Ok(()),
            Ok(status) => Err(CliError::Cluster {
                what: format!("helm ended with {status}"),
                fix: "see its own message above".to_owned(),
            }),
            Err(error) => Err(CliError::Cluster {
                what: format!("helm cannot be run: {error}"),
                fix: format!(
                    "install helm 3 or newer, or run this elsewhere: {}",
                    self.line()
                ),
            }),
        }
    }
}

/// The chart: as named, else the folder of a checkout.
pub fn chart(named: Option<&Path>) -> Result<PathBuf, CliError> {
    let chart = named.unwrap_or(Path::new("charts/writ"));
    let remote = chart.to_string_lossy().starts_with("oci://");
    if remote || chart.join("Chart.yaml").is_file() || chart.is_file() {
        return Ok(chart.to_owned());
    }
    Err(CliError::Argument(format!(
        "there is no chart at {}: name it with --chart (a folder, a package, or oci://...)",
        chart.display()
    )))
}
