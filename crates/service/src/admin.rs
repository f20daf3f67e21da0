//! Health, readiness and metrics over plain HTTP.

use std::convert::Infallible;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

/// Most connections at one time, for a kubelet and a few scrapers; further ones wait.
pub const MAX_CONNECTIONS: usize = 64;
/// How long a caller may take for a request's head.
pub const HEAD: Duration = Duration::from_secs(5);
/// How long a whole connection may last.
pub const CONNECTION: Duration = Duration::from_secs(300);
/// Largest head of a request, in bytes.
pub const MAX_HEAD: usize = 16 << 10;

/// An answer, as text.
pub type Answer = Response<Full<Bytes>>;

/// What a program tells of itself.
pub struct Admin {
    ready: Box<dyn Fn() -> Result<(), String> + Send + Sync>,
    metrics: Box<dyn Fn() -> Vec<u8> + Send + Sync>,
}

impl fmt::Debug for Admin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Admin").finish_non_exhaustive()
    }
}

impl Admin {
    /// `ready` says what is missing before the program does its work; `metrics` are in the Prometheus
    /// text format.
    pub fn new(
        ready: impl Fn() -> Result<(), String> + Send + Sync + 'static,
        metrics: impl Fn() -> Vec<u8> + Send + Sync + 'static,
    ) -> Self {
        Self {
            ready: Box::new(ready),
            metrics: Box::new(metrics),
        }
    }

    /// Answers `/healthz`, `/readyz` and `/metrics`, until the future is dropped.
    pub async fn serve(self, listener: TcpListener) {
        let admin = Arc::new(self);
        serve(listener, move |request| {
            let answer = admin.answer(request.method(), request.uri().path());
            std::future::ready(answer)
        })
        .await;
    }

    /// The answer to one request.
    #[must_use]
    pub fn answer(&self, method: &Method, path: &str) -> Answer {
        if method != Method::GET && method != Method::HEAD {
            return text(StatusCode::METHOD_NOT_ALLOWED, "only GET\n");
        }
        match path {
            "/healthz" => text(StatusCode::OK, "ok\n"),
            "/readyz" => match (self.ready)() {
                Ok(()) => text(StatusCode::OK, "ready\n"),
                Err(why) => text(StatusCode::SERVICE_UNAVAILABLE, format!("{why}\n")),
            },
            "/metrics" => text(StatusCode::OK, (self.metrics)()),
            _ => text(
                StatusCode::NOT_FOUND,
                "only /healthz, /readyz and /metrics\n",
            ),
        }
    }
}

/// Answers requests until the future is dropped, and with it every open connection.
pub async fn serve<F, A>(listener: TcpListener, answer: F)
where
    F: Fn(Request<Incoming>) -> A + Clone + Send + 'static,
    A: Future<Output = Answer> + Send + 'static,
{
    let mut open = JoinSet::new();
    loop {
        while open.try_join_next().is_some() {}
        if open.len() >= MAX_CONNECTIONS {
            open.join_next().await;
        }
        match listener.accept().await {
            Ok((stream, _)) => {
                open.spawn(connection(stream, answer.clone()));
            }
            // Out of file descriptors: they come back when connections end.
            Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
        }
    }
}

async fn connection<F, A>(stream: TcpStream, answer: F)
where
    F: Fn(Request<Incoming>) -> A,
    A: Future<Output = Answer>,
{
    // An answer larger than a segment would wait for the client's delayed ACK: 40 ms.
    let _ = stream.set_nodelay(true);
    let service = service_fn(move |request| {
        let answer = answer(request);
        async move { Ok::<_, Infallible>(answer.await) }
    });
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD)
        .max_buf_size(MAX_HEAD)
        .serve_connection(TokioIo::new(stream), service);
    // A connection that fails is its caller's matter.
    let _ = tokio::time::timeout(CONNECTION, served).await;
}

/// An answer of that status and text.
#[must_use]
pub fn text(status: StatusCode, body: impl Into<Bytes>) -> Answer {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    let kind = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn readiness_says_what_is_missing() {
        let no = Admin::new(|| Err("no answer from the API server".to_owned()), Vec::new);
        let yes = Admin::new(|| Ok(()), Vec::new);
        let status = |path: &str, admin: &Admin| admin.answer(&Method::GET, path).status();
        assert_eq!(status("/readyz", &no), StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(status("/readyz", &yes), StatusCode::OK);
        assert_eq!(status("/healthz", &no), StatusCode::OK);
        assert_eq!(status("/other", &yes), StatusCode::NOT_FOUND);
        assert_eq!(
            yes.answer(&Method::POST, "/metrics").status(),
            StatusCode::METHOD_NOT_ALLOWED
        );
    }
}
