//! Health, readiness, metrics and the application's probes on port 15820, on a runtime of their own
//! so that load on the data path cannot make a healthy sidecar look dead.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;

use crate::probes::Probes;

/// Most connections at one time; scrapes and probes need a handful.
const MAX_CONNECTIONS: usize = 64;

/// What the admin port tells.
pub trait Status: Send + Sync + 'static {
    /// `Ok` when actions can be decided; otherwise what is missing, a line each.
    ///
    /// # Errors
    /// The reasons why the sidecar is not ready.
    fn ready(&self) -> Result<(), Vec<String>>;

    /// Metrics in the Prometheus text format.
    fn metrics(&self) -> Vec<u8>;
}

/// Serves the admin port until the task is dropped.
///
/// # Errors
/// When the listener cannot be used.
pub async fn serve(
    listener: std::net::TcpListener,
    status: Arc<dyn Status>,
    probes: Arc<Probes>,
) -> std::io::Result<()> {
    let listener = TcpListener::from_std(listener)?;
    let permits = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            tokio::time::sleep(Duration::from_millis(20)).await;
            continue;
        };
        let Ok(permit) = Arc::clone(&permits).try_acquire_owned() else {
            continue;
        };
        let (status, probes) = (Arc::clone(&status), Arc::clone(&probes));
        tokio::spawn(async move {
            let service = service_fn(move |request| {
                let (status, probes) = (Arc::clone(&status), Arc::clone(&probes));
                async move { Ok::<_, Infallible>(answer(&request, status.as_ref(), &probes).await) }
            });
            let _ = http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(Duration::from_secs(5))
                .max_buf_size(16 << 10)
                .serve_connection(TokioIo::new(stream), service)
                .await;
            drop(permit);
        });
    }
}

async fn answer<B>(
    request: &Request<B>,
    status: &dyn Status,
    probes: &Probes,
) -> Response<Full<Bytes>> {
    if request.method() != Method::GET && request.method() != Method::HEAD {
        return text(StatusCode::METHOD_NOT_ALLOWED, "only GET\n".into());
    }
    match request.uri().path() {
        "/healthz" => text(StatusCode::OK, "ok\n".into()),
        "/readyz" => match status.ready() {
            Ok(()) => text(StatusCode::OK, "ready\n".into()),
            Err(reasons) => text(
                StatusCode::SERVICE_UNAVAILABLE,
                reasons.iter().map(|reason| format!("{reason}\n")).collect(),
            ),
        },
        "/metrics" => text(
            StatusCode::OK,
            String::from_utf8_lossy(&status.metrics()).into_owned(),
        ),
        path if Probes::is_probe(path) => {
            let agent = request.headers().get(header::USER_AGENT);
            let (status, reason) = probes.answer(path, agent).await;
            text(status, reason)
        }
        _ => text(
            StatusCode::NOT_FOUND,
            "only /healthz, /readyz, /metrics and declared probes\n".into(),
        ),
    }
}

fn text(status: StatusCode, text: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(text)));
    *response.status_mut() = status;
    response.headers_mut().insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8"),
    );
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Fixed(Result<(), Vec<String>>);

    impl Status for Fixed {
        fn ready(&self) -> Result<(), Vec<String>> {
            self.0.clone()
        }

        fn metrics(&self) -> Vec<u8> {
            b"writ_records 3\n".to_vec()
        }
    }

    async fn get(path: &str, status: &Fixed) -> StatusCode {
        let request = Request::get(path).body(()).unwrap();
        answer(&request, status, &Probes::default()).await.status()
    }

    #[tokio::test]
    async fn readiness_says_no_while_something_is_missing_and_health_does_not() {
        let waiting = Fixed(Err(vec!["no SVID yet".into()]));
        assert_eq!(get("/readyz", &waiting).await, 503);
        assert_eq!(get("/healthz", &waiting).await, 200);
        assert_eq!(get("/readyz", &Fixed(Ok(()))).await, 200);
    }

    #[tokio::test]
    async fn other_paths_and_methods_are_refused() {
        let status = Fixed(Ok(()));
        assert_eq!(get("/debug", &status).await, 404);
        assert_eq!(get("/probe/app/liveness", &status).await, 404);
        let post = Request::post("/metrics").body(()).unwrap();
        let answer = answer(&post, &status, &Probes::default()).await;
        assert_eq!(answer.status(), 405);
    }
}
