//! Connections between relay, sidecars and witnesses: mutual TLS by SVID on both sides.

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use futures::Stream;
use hyper_util::rt::TokioIo;
use rustls_pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio_rustls::{TlsAcceptor, TlsConnector, server};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use tonic::transport::server::Connected;
use tonic::transport::{Channel, Endpoint};
use writ_identity::SvidSource;
use writ_identity::tls::{Authorize, ExpectedPeer, client_config, peer_spiffe_id, server_config};

use crate::RelayError;
use crate::limits::{BETWEEN_REPORTS, KEEP_ALIVE, KEEP_ALIVE_TIMEOUT, REQUEST};

/// How long a handshake may take.
const HANDSHAKE: Duration = Duration::from_secs(5);
/// Handshakes under way at one time.
const HANDSHAKES: usize = 256;

/// Connects to the one at `address` (`host:port`) whose SPIFFE ID is `peer`.
pub(crate) async fn connect(
    address: &str,
    peer: &str,
    source: &Arc<dyn SvidSource>,
) -> Result<Channel, RelayError> {
    let unreachable = |reason: String| RelayError::Unreachable {
        to: address.to_owned(),
        reason,
    };
    let tls = client_config(Arc::clone(source), ExpectedPeer::new(peer)?)?;
    let connector = TlsConnector::from(tls);
    let to = address.to_owned();
    let dial = tower::service_fn(move |_: tonic::codegen::http::Uri| {
        let (connector, to) = (connector.clone(), to.clone());
        async move {
            let stream = TcpStream::connect(to.as_str()).await?;
            stream.set_nodelay(true)?;
            // Who the peer is, its SVID says; the name plays no part.
            let name = ServerName::try_from("relay.invalid").map_err(std::io::Error::other)?;
            let stream = connector.connect(name, stream).await?;
            Ok::<_, std::io::Error>(TokioIo::new(stream))
        }
    });
    let endpoint = Endpoint::from_static("http://relay.invalid")
        .connect_timeout(REQUEST)
        .http2_keep_alive_interval(KEEP_ALIVE)
        .keep_alive_timeout(KEEP_ALIVE_TIMEOUT)
        .keep_alive_while_idle(true);
    let channel = endpoint.connect_with_connector(dial).await;
    channel.map_err(|e| unreachable(causes(&e)))
}

/// An error with what is behind it.
pub(crate) fn causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        next = cause.source();
    }
    text
}

/// Who is at the other end of an accepted connection.
#[derive(Debug, Clone)]
pub(crate) struct PeerId {
    id: Arc<str>,
    /// When it reported last.
    reported: Arc<Mutex<Option<Instant>>>,
}

/// An accepted connection, its peer known.
pub(crate) struct Accepted {
    stream: server::TlsStream<TcpStream>,
    peer: PeerId,
    closing: Pin<Box<WaitForCancellationFutureOwned>>,
    _permit: OwnedSemaphorePermit,
}

impl Connected for Accepted {
    type ConnectInfo = PeerId;

    fn connect_info(&self) -> PeerId {
        self.peer.clone()
    }
}

impl AsyncRead for Accepted {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        if self.closing.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Err(std::io::ErrorKind::ConnectionAborted.into()));
        }
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Accepted {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// Listens, and answers connections whose peer `authorize` names, at most `most` at one time. All of them end with
/// `closing`.
pub(crate) async fn listen(
    address: SocketAddr,
    source: &Arc<dyn SvidSource>,
    authorize: Authorize,
    most: usize,
    closing: &CancellationToken,
) -> Result<
    (
        SocketAddr,
        impl Stream<Item = Result<Accepted, std::io::Error>> + use<>,
    ),
    RelayError,
> {
    let acceptor = TlsAcceptor::from(server_config(Arc::clone(source), authorize)?);
    let failed = |e| RelayError::Listen(address, e);
    let listener = TcpListener::bind(address).await.map_err(failed)?;
    let local = listener.local_addr().map_err(failed)?;
    let (sender, accepted) = mpsc::channel(HANDSHAKES);
    tokio::spawn(accept(listener, acceptor, sender, most, closing.clone()));
    Ok((local, ReceiverStream::new(accepted)))
}

async fn accept(
    listener: TcpListener,
    acceptor: TlsAcceptor,
    sender: mpsc::Sender<Result<Accepted, std::io::Error>>,
    most: usize,
    closing: CancellationToken,
) {
    let connections = Arc::new(Semaphore::new(most));
    let handshakes = Arc::new(Semaphore::new(HANDSHAKES));
    loop {
        let Ok(turn) = Arc::clone(&handshakes).acquire_owned().await else {
            return;
        };
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = sender.closed() => return,
            () = closing.cancelled() => return,
        };
        let Ok((stream, from)) = accepted else {
            // Out of file descriptors: they come back when connections end.
            tokio::time::sleep(Duration::from_millis(20)).await;
            continue;
        };
        let Ok(permit) = Arc::clone(&connections).try_acquire_owned() else {
            tracing::warn!(%from, most, "connection refused: as many as are served are open");
            continue;
        };
        let (acceptor, sender) = (acceptor.clone(), sender.clone());
        let closing = Box::pin(closing.clone().cancelled_owned());
        tokio::spawn(async move {
            let _turn = turn;
            let _ = stream.set_nodelay(true);
            let stream = match tokio::time::timeout(HANDSHAKE, acceptor.accept(stream)).await {
                Ok(Ok(stream)) => stream,
                Ok(Err(error)) => return tracing::info!(%from, %error, "peer refused"),
                Err(_) => return tracing::info!(%from, "handshake took too long"),
            };
            let Ok(peer) = peer_spiffe_id(stream.get_ref().1) else {
                return;
            };
            let accepted = Accepted {
                stream,
                peer: PeerId {
                    id: peer.into(),
                    reported: Arc::default(),
                },
                closing,
                _permit: permit,
            };
            // The server ended.
            let _ = sender.send(Ok(accepted)).await;
        });
    }
}

/// Whose request it is.
pub(crate) fn peer<T>(request: &tonic::Request<T>) -> Result<Arc<str>, tonic::Status> {
    let peer = request.extensions().get::<PeerId>();
    peer.map(|peer| Arc::clone(&peer.id))
        .ok_or_else(|| tonic::Status::unauthenticated("no identity"))
}

/// Whether it is time for another report on this connection; if so, it counts as made.
pub(crate) fn may_report<T>(request: &tonic::Request<T>) -> Result<(), tonic::Status> {
    let peer = request.extensions().get::<PeerId>();
    let peer = peer.ok_or_else(|| tonic::Status::unauthenticated("no identity"))?;
    let mut reported = peer.reported.lock().unwrap_or_else(PoisonError::into_inner);
    if reported.is_some_and(|at| at.elapsed() < BETWEEN_REPORTS) {
        return Err(tonic::Status::resource_exhausted("one report a second"));
    }
    *reported = Some(Instant::now());
    Ok(())
}
