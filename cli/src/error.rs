//! Why a command failed.

use std::path::PathBuf;

/// Why a command failed. Printed to standard error.
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
    /// The cluster cannot be used, or refuses.
    #[error("{what}\n  {fix}")]
    Cluster {
        /// What went wrong.
        what: String,
        /// What to do about it.
        fix: String,
    },
    /// The cluster cannot be reached.
    #[error("{what}\n  {fix}")]
    Unreachable {
        /// What went wrong.
        what: String,
        /// What to do about it.
        fix: String,
    },
    /// Rules cannot be tried.
    #[error(transparent)]
    Trial(#[from] writ_policy::rules::TrialError),
    /// The policy contract gave no answer.
    #[error(transparent)]
    Evaluation(#[from] writ_policy::EvalError),
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
