//! Health, readiness and metrics.

use std::sync::Arc;

use http::{Method, Request, StatusCode};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::{Answered, accept, connection, text};
use crate::metrics::Metrics;

/// Says what is missing before reviews can be answered.
pub type Ready = Arc<dyn Fn() -> Result<(), String> + Send + Sync>;

/// Serves `/healthz`, `/readyz` and `/metrics` until `stop`.
pub async fn serve(
    listener: TcpListener,
    ready: Ready,
    metrics: Arc<Metrics>,
    stop: CancellationToken,
    tasks: TaskTracker,
) {
    accept(&listener, &stop.clone(), |stream, permit| {
        let (ready, metrics) = (Arc::clone(&ready), Arc::clone(&metrics));
        let stop = stop.clone();
        tasks.spawn(async move {
            let _permit = permit;
            connection(stream, &stop, move |request| {
                let answer = answer(&request, &ready, &metrics);
                async move { answer }
            })
            .await;
        });
    })
    .await;
}

fn answer<B>(request: &Request<B>, ready: &Ready, metrics: &Metrics) -> Answered {
    if request.method() != Method::GET && request.method() != Method::HEAD {
        return text(StatusCode::METHOD_NOT_ALLOWED, "only GET\n");
    }
    match request.uri().path() {
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
