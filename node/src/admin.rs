//! Health, readiness and metrics over plain HTTP.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;

use crate::Metrics;

/// Most connections at one time: a kubelet and a few scrapers.
const MAX_CONNECTIONS: usize = 64;
/// How long a caller may take for a request's head, and a whole connection may last.
const HEAD: Duration = Duration::from_secs(5);
const CONNECTION: Duration = Duration::from_secs(300);

/// Says what is missing before the process does its work.
pub type Ready = Arc<dyn Fn() -> Result<(), String> + Send + Sync>;

/// Serves until the process ends.
pub async fn serve(listener: TcpListener, ready: Ready, metrics: Arc<Metrics>) {
    let permits = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        let Ok(permit) = Arc::clone(&permits).acquire_owned().await else {
            return;
        };
        let Ok((stream, _)) = listener.accept().await else {
            // Out of file descriptors: they come back when connections end.
            tokio::time::sleep(Duration::from_millis(20)).await;
            continue;
        };
        let (ready, metrics) = (Arc::clone(&ready), Arc::clone(&metrics));
        tokio::spawn(async move {
            let _permit = permit;
            let service = service_fn(move |request: Request<Incoming>| {
                let answer = answer(request.method(), request.uri().path(), &ready, &metrics);
                async move { Ok::<_, std::convert::Infallible>(answer) }
            });
            let served = hyper::server::conn::http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(HEAD)
                .max_buf_size(16 << 10)
                .serve_connection(TokioIo::new(stream), service);
            // A connection that fails is its caller's matter.
            let _ = tokio::time::timeout(CONNECTION, served).await;
        });
    }
}

fn answer(method: &Method, path: &str, ready: &Ready, metrics: &Metrics) -> Response<Full<Bytes>> {
    if method != Method::GET && method != Method::HEAD {
        return text(StatusCode::METHOD_NOT_ALLOWED, "only GET\n");
    }
    match path {
        "/healthz" => text(StatusCode::OK, "ok\n"),
        "/readyz" => match ready() {
            Ok(()) => text(StatusCode::OK, "ready\n"),
            Err(why) => text(StatusCode::SERVICE_UNAVAILABLE, format!("{why}\n")),
        },
        "/metrics" => text(StatusCode::OK, metrics.text()),
        _ => text(
            StatusCode::NOT_FOUND,
            "only /healthz, /readyz and /metrics\n",
        ),
    }
}

fn text(status: StatusCode, body: impl Into<Bytes>) -> Response<Full<Bytes>> {
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
        let metrics = Metrics::new().unwrap();
        let no: Ready = Arc::new(|| Err("no answer from the API server".to_owned()));
        let yes: Ready = Arc::new(|| Ok(()));
        let status =
            |path: &str, ready: &Ready| answer(&Method::GET, path, ready, &metrics).status();
        assert_eq!(status("/readyz", &no), StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(status("/readyz", &yes), StatusCode::OK);
        assert_eq!(status("/healthz", &no), StatusCode::OK);
        assert_eq!(status("/other", &yes), StatusCode::NOT_FOUND);
        assert_eq!(
            answer(&Method::POST, "/metrics", &yes, &metrics).status(),
            StatusCode::METHOD_NOT_ALLOWED
        );
    }
}
