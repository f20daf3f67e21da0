//! Why the sidecar does not start.

use std::path::PathBuf;

use crate::config::ConfigError;
use crate::dns::DnsError;

/// Why the sidecar does not start. Each names what to look at.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The configuration is refused.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// A catalog is refused.
    #[error("catalog {path}: {reason}")]
    Catalog {
        /// The file.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// No SVID, or one that cannot be used.
    #[error(
        "identity: {0}; check that the Workload API socket is mounted and that an entry selects this container"
    )]
    Identity(#[from] writ_identity::IdentityError),
    /// No proved state.
    #[error("chain: {0}; check chain.endpoints, chain.quorum and the registry addresses")]
    Chain(#[from] writ_chain::ChainError),
    /// The relay's settings cannot work.
    #[error("relay: {0}; check state.relay")]
    Relay(#[from] writ_relay::RelayError),
    /// The record cannot be opened.
    #[error("record: {0}; check record.directory and its volume")]
    Record(#[from] writ_ledger::LedgerError),
    /// The replay store cannot be opened.
    #[error("replay store: {0}; check record.directory and its volume")]
    Replay(String),
    /// DNS cannot be served.
    #[error("DNS: {0}")]
    Dns(#[from] DnsError),
    /// The declared probes are refused.
    #[error(transparent)]
    Probes(#[from] crate::probes::ProbesError),
    /// The declared scrapes are refused.
    #[error(transparent)]
    Scrapes(#[from] crate::scrapes::ScrapesError),
    /// The PEP's settings are not safe.
    #[error("PEP: {0}")]
    Pep(#[from] writ_pep::ConfigError),
    /// A port cannot be bound.
    #[error(
        "cannot listen on the {what} port {port}: {source}; is another sidecar running in this pod?"
    )]
    Listen {
        /// Which one.
        what: &'static str,
        /// The port.
        port: u16,
        /// What the system said.
        source: std::io::Error,
    },
    /// TLS settings cannot be made.
    #[error("TLS: {0}")]
    Tls(String),
    /// A folder cannot be made private.
    #[error("{path} cannot be used: {source}; it must belong to the sidecar's uid")]
    Directory {
        /// The folder.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// Files cannot be watched for changes.
    #[error("configuration changes cannot be watched: {0}")]
    Watch(#[from] notify::Error),
    /// Signals cannot be received, or metrics not kept.
    #[error(transparent)]
    Service(#[from] writ_service::ServiceError),
    /// The system has no randomness.
    #[error("the system has no randomness")]
    NoRandomness,
}

impl RunError {
    pub(super) fn listen(what: &'static str, port: u16, source: std::io::Error) -> Self {
        Self::Listen { what, port, source }
    }
}
