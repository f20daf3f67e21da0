//! The webhook's listener: reviews over HTTPS.

mod reviews;

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use http::header::CONNECTION;
use http::{HeaderValue, Request, Version};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use writ_service::admin::Answer;

pub use reviews::Reviews;

/// Largest AdmissionReview, in bytes: an object and the one before it, each at most what etcd
/// takes, with room for their form.
pub const MAX_BODY: usize = 8 << 20;
/// Most connections at one time. The API servers keep a few each.
const MAX_CONNECTIONS: usize = 512;
/// Most requests that one connection may have open.
const MAX_STREAMS: u32 = 128;
/// How long a caller may take for its handshake, and for a request's head.
const HEAD: Duration = Duration::from_secs(5);
/// How long one review may take, its body included. The API server waits at most 30 s.
const REVIEW: Duration = Duration::from_secs(8);

/// TLS with the certificate that `resolver` has at the moment; HTTP/2 and HTTP/1.1.
///
/// # Errors
/// When the protocol versions do not fit the provider.
pub fn tls(
    resolver: Arc<dyn rustls::server::ResolvesServerCert>,
) -> Result<Arc<rustls::ServerConfig>, rustls::Error> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_cert_resolver(resolver);
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

/// Answers reviews until `stop`, then ends what is open. From `leaving` on each answer is its connection's last: API
/// servers speak HTTP/1.1 to webhooks, and a review that is sent as its connection ends would fail.
pub async fn serve(
    listener: TcpListener,
    tls: Arc<rustls::ServerConfig>,
    reviews: Arc<Reviews>,
    leaving: CancellationToken,
    stop: CancellationToken,
    tasks: TaskTracker,
) {
    let acceptor = TlsAcceptor::from(tls);
    accept(&listener, &stop.clone(), |stream, permit| {
        let (acceptor, reviews) = (acceptor.clone(), Arc::clone(&reviews));
        let (leaving, stop) = (leaving.clone(), stop.clone());
        tasks.spawn(async move {
            let _permit = permit;
            let Ok(Ok(stream)) = tokio::time::timeout(HEAD, acceptor.accept(stream)).await else {
                return;
            };
            connection(stream, &stop, move |request| {
                let (reviews, leaving) = (Arc::clone(&reviews), leaving.clone());
                async move {
                    let has_fields_for_it = request.version() < Version::HTTP_2;
                    let mut answer = reviews.answer(request, REVIEW).await;
                    if has_fields_for_it && leaving.is_cancelled() {
                        let close = HeaderValue::from_static("close");
                        answer.headers_mut().insert(CONNECTION, close);
                    }
                    answer
                }
            })
            .await;
        });
    })
    .await;
}

/// Accepts until `stop`, at most [`MAX_CONNECTIONS`] at a time.
async fn accept(
    listener: &TcpListener,
    stop: &CancellationToken,
    mut handle: impl FnMut(tokio::net::TcpStream, tokio::sync::OwnedSemaphorePermit),
) {
    let permits = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        let permit = tokio::select! {
            () = stop.cancelled() => return,
            permit = Arc::clone(&permits).acquire_owned() => permit,
        };
        let Ok(permit) = permit else { return };
        let accepted = tokio::select! {
            () = stop.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, _)) => {
                // An answer larger than a segment would wait for the client's delayed ACK: 40 ms.
                let _ = stream.set_nodelay(true);
                handle(stream, permit);
            }
            // Out of file descriptors: they come back when connections end.
            Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
        }
    }
}

async fn connection<S, F, A>(stream: S, stop: &CancellationToken, answer: F)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    F: Fn(Request<Incoming>) -> A + Clone + Send + 'static,
    A: Future<Output = Answer> + Send + 'static,
{
    let service = service_fn(move |request| {
        let answer = answer.clone();
        async move { Ok::<_, std::convert::Infallible>(answer(request).await) }
    });
    let mut builder = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD)
        .max_buf_size(64 << 10)
        .http2()
        .timer(TokioTimer::new())
        .max_header_list_size(64 << 10)
        .max_concurrent_streams(MAX_STREAMS)
        .keep_alive_interval(Duration::from_secs(30));
    let served = builder.serve_connection(TokioIo::new(stream), service);
    tokio::pin!(served);
    let ended = tokio::select! {
        ended = served.as_mut() => ended,
        () = stop.cancelled() => {
            served.as_mut().graceful_shutdown();
            served.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "connection ended");
    }
}
