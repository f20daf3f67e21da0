//! What every long-running program here does alike: it starts with logs, tells its health, readiness
//! and metrics over HTTP, and ends at a signal.
//!
//! ```text
//! Logging   flags and start of the log
//! Meters    metrics, registered as they are made
//! Admin     /healthz, /readyz, /metrics
//! run       from logs to the exit code
//! ```
#![forbid(unsafe_code)]

pub mod admin;
mod error;
mod logging;
mod meters;
mod process;

pub use admin::Admin;
pub use error::ServiceError;
pub use logging::{LogFormat, Logging};
pub use meters::Meters;
pub use process::{ended, listen, run, signalled};
