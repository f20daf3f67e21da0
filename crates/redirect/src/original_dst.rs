//! Where a captured connection was going.

use std::io;
use std::net::SocketAddr;
use std::os::fd::AsFd;

use nix::errno::Errno;
use socket2::{SockAddr, SockRef};

/// Why a connection has no original destination. Each is a reason to refuse it.
#[derive(Debug, thiserror::Error)]
pub enum OriginalDstError {
    /// The connection came to the sidecar's own listener, not by redirection.
    #[error("the connection was made to the sidecar's own listener {0}, not redirected there")]
    OwnListener(SocketAddr),
    /// The connection tracker does not know the connection.
    #[error(
        "the connection was not redirected: are the rules installed in this network namespace?"
    )]
    NotRedirected,
    /// The kernel refused the question.
    #[error("the original destination cannot be read: {0}")]
    Io(#[from] io::Error),
}

impl From<OriginalDstError> for io::Error {
    fn from(error: OriginalDstError) -> Self {
        match error {
            OriginalDstError::Io(error) => error,
            refused => Self::new(io::ErrorKind::ConnectionRefused, refused),
        }
    }
}

/// The destination that the client of a redirected connection asked for (`SO_ORIGINAL_DST`, or
/// `IP6T_SO_ORIGINAL_DST`). An IPv4 client on a dual-stack listener gets an IPv4 address.
///
/// The answer is whatever the client chose: an address to decide on, not one to trust.
///
/// # Errors
/// When the connection was not redirected, or went to the sidecar's own listener.
pub fn original_dst(socket: &impl AsFd) -> Result<SocketAddr, OriginalDstError> {
    let socket = SockRef::from(socket);
    let local = canonical(&socket.local_addr()?)?;
    let asked = match local {
        SocketAddr::V4(_) => socket.original_dst_v4(),
        SocketAddr::V6(_) => socket.original_dst_v6(),
    }
    .map_err(|error| match error.raw_os_error().map(Errno::from_raw) {
        Some(Errno::ENOENT | Errno::ENOPROTOOPT) => OriginalDstError::NotRedirected,
        _ => OriginalDstError::Io(error),
    })?;
    let asked = canonical(&asked)?;
    if (asked.ip(), asked.port()) == (local.ip(), local.port()) {
        return Err(OriginalDstError::OwnListener(local));
    }
    Ok(asked)
}

fn canonical(address: &SockAddr) -> Result<SocketAddr, OriginalDstError> {
    let address = address.as_socket().ok_or(OriginalDstError::NotRedirected)?;
    Ok(SocketAddr::new(address.ip().to_canonical(), address.port()))
}
