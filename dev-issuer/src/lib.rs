//! A SPIFFE Workload API server with a CA in memory, **for development on one machine only**.
//!
//! It speaks the protocol of a SPIRE agent (X.509 profile), so that clients need no change between
//! the two. It attests nobody beyond the uid that the kernel reports for the socket's peer, keeps no
//! state and has no revocation: production uses SPIRE.
//!
//! A workload is known by its uid (`SO_PEERCRED`, as seen from this process's user namespace) or,
//! where one uid runs several workloads, by the socket that it was given.
#![forbid(unsafe_code)]

mod authority;
mod config;
mod server;

/// The generated protocol.
#[allow(missing_docs, clippy::all, clippy::pedantic)]
mod proto {
    tonic::include_proto!("_");
}

pub use config::{Config, Socket, TrustDomainConfig, Workload};
pub use server::{Issuer, serve};

/// Why the issuer does not run.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum IssuerError {
    /// The configuration does not fit together.
    #[error("configuration: {0}")]
    Config(String),
    /// A certificate could not be made.
    #[error("certificate: {0}")]
    Certificate(String),
    /// The socket could not be made.
    #[error("{path}: {source}; check that the directory exists and is writable")]
    Socket {
        /// Where.
        path: std::path::PathBuf,
        /// The system's message.
        source: std::io::Error,
    },
    /// A listener ended.
    #[error("serving: {0}")]
    Serve(String),
}
