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
/// How long a caller may take for its handshake, and then for its first request's head.
const HEAD: Duration = Duration::from_secs(5);
/// How long a connection may be without a request after that. API servers give theirs up after 90 s; if we
/// were first, a review sent at that moment would fail, and with it somebody's pod.
const IDLE: Duration = Duration::from_secs(150);
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
    let asked = CancellationToken::new();
    let first = asked.clone();
    let service = service_fn(move |request| {
        first.cancel();
        let answer = answer.clone();
        async move { Ok::<_, std::convert::Infallible>(answer(request).await) }
    });
    let mut builder = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        // It counts from the answer before, and is the only limit that there is on waiting for a request.
        .header_read_timeout(IDLE)
        .max_buf_size(64 << 10)
        .http2()
        .timer(TokioTimer::new())
        .max_header_list_size(64 << 10)
        .max_concurrent_streams(MAX_STREAMS)
        .keep_alive_interval(Duration::from_secs(30));
    let served = builder.serve_connection(TokioIo::new(stream), service);
    tokio::pin!(served);
    let silent = async {
        if tokio::time::timeout(HEAD, asked.cancelled()).await.is_ok() {
            std::future::pending::<()>().await;
        }
    };
    let ended = tokio::select! {
        ended = served.as_mut() => ended,
        () = silent => return,
        () = stop.cancelled() => {
            served.as_mut().graceful_shutdown();
            served.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "connection ended");
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::time::Duration;

    use http::StatusCode;
    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
    use tokio::time::Instant;
    use writ_service::admin::text;

    use super::*;

    fn served() -> DuplexStream {
        let (near, far) = duplex(4096);
        tokio::spawn(async move {
            let answer = |_| async { text(StatusCode::OK, "seen") };
            connection(far, &CancellationToken::new(), answer).await;
        });
        near
    }

    async fn ask(connection: &mut DuplexStream) {
        let request = b"POST /mutate HTTP/1.1\r\nhost: a\r\ncontent-length: 0\r\n\r\n";
        connection.write_all(request).await.unwrap();
        let mut answer = String::new();
        while !answer.ends_with("seen") {
            let byte = connection.read_u8().await.unwrap();
            answer.push(char::from(byte));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn it_is_the_api_server_that_gives_an_idle_connection_up() {
        let mut connection = served();
        ask(&mut connection).await;
        // As long as Go's clients keep one.
        tokio::time::sleep(Duration::from_secs(90)).await;
        ask(&mut connection).await;
        tokio::time::sleep(IDLE * 2).await;
        assert_eq!(connection.read(&mut [0]).await.unwrap(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn who_never_asks_is_let_go_soon() {
        for said in ["", "P", "POST /mutate HTTP/1.1\r\nhost"] {
            let (mut connection, began) = (served(), Instant::now());
            connection.write_all(said.as_bytes()).await.unwrap();
            assert_eq!(connection.read(&mut [0]).await.unwrap(), 0);
            assert!(began.elapsed() <= HEAD * 2, "{said}");
        }
    }
}
