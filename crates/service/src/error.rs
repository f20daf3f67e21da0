//! Why a service does not start, each with what to check.

use std::io;
use std::net::SocketAddr;

/// Why a service does not start.
#[derive(Debug, thiserror::Error)]
pub enum ServiceError {
    /// The filter of the log cannot be used.
    #[error("--log {filter}: {reason}; try `info`")]
    Filter {
        /// As given.
        filter: String,
        /// What is wrong with it.
        reason: String,
    },
    /// Somebody else keeps a log in this process.
    #[error("logs: {0}")]
    Logs(#[from] tracing_subscriber::util::TryInitError),
    /// A port cannot be listened on.
    #[error("cannot listen on {0}: {1}")]
    Listen(SocketAddr, io::Error),
    /// Signals cannot be received.
    #[error("signals cannot be received: {0}")]
    Signals(io::Error),
    /// A metric cannot be kept: its name is wrong, or taken.
    #[error("metrics: {0}")]
    Metrics(#[from] prometheus::Error),
}
