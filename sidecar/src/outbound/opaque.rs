//! Connections that pass unread: one action each, decided on the server name, recorded as opaque.

use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use crate::hello::Rewound;

/// How long an opaque connection may live: it was decided once, and that is no standing permission.
const LIFETIME: Duration = Duration::from_secs(3600);

/// How an opaque connection went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Passed {
    /// Bytes from the agent.
    pub sent: u64,
    /// Bytes to the agent.
    pub received: u64,
}

/// Passes bytes both ways until both sides are done, the ClientHello first.
///
/// # Errors
/// When either side breaks, or the connection has lived for an hour.
pub async fn pass(agent: Rewound, mut target: TcpStream) -> std::io::Result<Passed> {
    let (head, mut agent) = agent.into_parts();
    target.write_all(&head).await?;
    let (sent, received) = tokio::time::timeout(
        LIFETIME,
        tokio::io::copy_bidirectional(&mut agent, &mut target),
    )
    .await
    .map_err(|_| std::io::Error::from(std::io::ErrorKind::TimedOut))??;
    Ok(Passed {
        sent: sent.saturating_add(head.len() as u64),
        received,
    })
}
