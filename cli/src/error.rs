//! Why a command failed.

use std::path::PathBuf;

/// Why a command failed. Printed to standard error; the exit code is 1.
#[derive(Debug, thiserror::Error)]
pub enum CliError {
    /// A file cannot be read or written.
    #[error("{path}: {reason}")]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// Standard output cannot be written.
    #[error("cannot write the output: {0}")]
    Output(String),
    /// An argument does not fit.
    #[error("{0}")]
    Argument(String),
    /// A transaction or a deployment.
    #[error(transparent)]
    Chain(#[from] writ_chain::tx::TxError),
    /// Rules.
    #[error(transparent)]
    Rules(#[from] writ_policy::rules::RulesError),
    /// Rules that do not fit into a contract.
    #[error(transparent)]
    InitCode(#[from] writ_policy::rules::ArtifactError),
    /// The record.
    #[error(transparent)]
    Ledger(#[from] writ_ledger::LedgerError),
}
