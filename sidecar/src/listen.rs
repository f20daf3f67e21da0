//! Accept loops: bounded, and with the original destination of each connection.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use writ_redirect::original_dst;

use crate::metrics::Metrics;

/// A captured connection and where it was going.
pub struct Captured {
    /// The connection.
    pub stream: TcpStream,
    /// Who made it.
    pub from: SocketAddr,
    /// The address that was dialled: to decide on, never to trust.
    pub to: SocketAddr,
}

/// Which way captured connections go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// Out of the pod; listens on loopback only.
    Outbound,
    /// Into the pod.
    Inbound,
}

impl Direction {
    const fn label(self) -> &'static str {
        match self {
            Self::Outbound => "outbound",
            Self::Inbound => "inbound",
        }
    }

    const fn addresses(self) -> [IpAddr; 2] {
        match self {
            Self::Outbound => [
                IpAddr::V4(Ipv4Addr::LOCALHOST),
                IpAddr::V6(Ipv6Addr::LOCALHOST),
            ],
            Self::Inbound => [
                IpAddr::V4(Ipv4Addr::UNSPECIFIED),
                IpAddr::V6(Ipv6Addr::UNSPECIFIED),
            ],
        }
    }
}

/// Binds `port` for both families. IPv6 is left out where the pod has none.
///
/// # Errors
/// When IPv4 cannot be bound, or IPv6 exists and cannot.
pub fn bind(direction: Direction, port: u16) -> std::io::Result<Vec<TcpListener>> {
    use socket2::{Domain, Protocol, Socket, Type};
    let mut listeners = Vec::new();
    for address in direction.addresses() {
        let domain = if address.is_ipv4() {
            Domain::IPV4
        } else {
            Domain::IPV6
        };
        let socket = match Socket::new(domain, Type::STREAM, Some(Protocol::TCP)) {
            Ok(socket) => socket,
            Err(_) if address.is_ipv6() => continue,
            Err(error) => return Err(error),
        };
        socket.set_reuse_address(true)?;
        if address.is_ipv6() {
            socket.set_only_v6(true)?;
        }
        socket.set_nonblocking(true)?;
        match socket.bind(&SocketAddr::new(address, port).into()) {
            Ok(()) => {}
            Err(error)
                if address.is_ipv6() && error.kind() == std::io::ErrorKind::AddrNotAvailable =>
            {
                continue;
            }
            Err(error) => return Err(error),
        }
        socket.listen(1024)?;
        listeners.push(TcpListener::from_std(socket.into())?);
    }
    Ok(listeners)
}

/// Accepts until `stop`, at most `limit` connections at one time, each handled in a task that
/// `tasks` waits for when draining.
pub async fn accept<F, Fut>(
    listener: TcpListener,
    direction: Direction,
    limit: usize,
    metrics: Arc<Metrics>,
    stop: CancellationToken,
    tasks: TaskTracker,
    handle: F,
) where
    F: Fn(Captured) -> Fut + Clone + Send + Sync + 'static,
    Fut: Future<Output = ()> + Send + 'static,
{
    let permits = Arc::new(Semaphore::new(limit));
    loop {
        // Taken before accepting: connections over the limit wait in the kernel's bounded backlog.
        let permit = tokio::select! {
            () = stop.cancelled() => return,
            permit = Arc::clone(&permits).acquire_owned() => permit,
        };
        let Ok(permit) = permit else { return };
        let accepted = tokio::select! {
            () = stop.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        let (stream, from) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                // Out of descriptors, most likely: wait for some to close rather than spin.
                tracing::warn!(%error, "accept failed");
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            }
        };
        let to = match original_dst(&stream) {
            Ok(to) => to,
            Err(reason) => {
                tracing::warn!(%from, %reason, "connection refused");
                continue;
            }
        };
        let _ = stream.set_nodelay(true);
        let open = metrics.connection(direction.label());
        let work = handle(Captured { stream, from, to });
        tasks.spawn(async move {
            work.await;
            drop((open, permit));
        });
    }
}
