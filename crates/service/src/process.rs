//! From the start of a process to its exit code.

use std::fmt::Display;
use std::io::Write as _;
use std::net::SocketAddr;
use std::process::ExitCode;

use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};

use crate::{Logging, ServiceError};

/// Starts the log, then does the work of `program`.
pub async fn run<E: Display>(
    program: &str,
    logging: &Logging,
    work: impl Future<Output = Result<(), E>>,
) -> ExitCode {
    match logging.start() {
        Ok(()) => ended(program, work.await),
        Err(error) => ended(program, Err(error)),
    }
}

/// The exit code of `program`, after it said on standard error why it did not do its work.
pub fn ended(program: &str, done: Result<(), impl Display>) -> ExitCode {
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "{program}: {error}");
            ExitCode::FAILURE
        }
    }
}

/// A listener on `address`.
///
/// # Errors
/// When the port is taken or may not be used.
pub async fn listen(address: SocketAddr) -> Result<TcpListener, ServiceError> {
    TcpListener::bind(address)
        .await
        .map_err(|error| ServiceError::Listen(address, error))
}

/// Waits for SIGTERM or SIGINT.
///
/// # Errors
/// When signals cannot be received.
pub async fn signalled() -> Result<(), ServiceError> {
    let mut terminate = signal(SignalKind::terminate()).map_err(ServiceError::Signals)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(ServiceError::Signals)?;
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    Ok(())
}
