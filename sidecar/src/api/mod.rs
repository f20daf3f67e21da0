//! The local API on port 15821, loopback only: an agent asks for a decision on an action of its own
//! that no captured request carries. How to use it: `docs/local-api.md`.
//!
//! Whoever is in the pod may ask, since the pod is one identity. A web page that the agent's browser
//! shows may not: the Host must be loopback, the body must be declared as JSON, and a request with
//! an Origin is refused.

mod action;
#[cfg(test)]
mod tests;

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use bytes::Bytes;
use http::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, HOST, ORIGIN};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use writ_canonical::{Authority, Scheme};

use crate::body::{self, BodyError, Collected, ReadError};
use crate::gate::{Custom, Denied, Gate, HandedOver};
use crate::outbound::Live;
use crate::problem::Problem;
use crate::seen::{Seen, Sight};

/// The one resource.
const ACTIONS: &str = "/v1/actions";

/// What an agent's process may take up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Most connections at one time; more wait in the kernel's bounded backlog.
    pub connections: usize,
    /// Longest body, in bytes.
    pub body: usize,
    /// How long a request's head may take, also on an idle connection.
    pub header_timeout: Duration,
    /// How long a request's body may take.
    pub body_timeout: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 64,
            body: 64 << 10,
            header_timeout: Duration::from_secs(10),
            body_timeout: Duration::from_secs(10),
        }
    }
}

/// Decides on custom actions.
pub trait Decide: Send + Sync + 'static {
    /// Decides, signs and records.
    fn decide(&self, custom: Custom) -> impl Future<Output = Result<HandedOver, Denied>> + Send;

    /// Refuses a request to `target` that is no custom action, and records that.
    fn refuse(
        &self,
        target: &str,
        code: &str,
        why: &str,
        status: u16,
    ) -> impl Future<Output = Denied> + Send;
}

/// The gate, with the catalog in force.
pub struct LocalActions {
    /// Decides, records, signs.
    pub gate: Arc<Gate>,
    /// What reload swaps.
    pub live: Arc<ArcSwap<Live>>,
    /// What the agent asked for, whichever way.
    pub seen: Arc<Seen>,
}

impl Decide for LocalActions {
    async fn decide(&self, custom: Custom) -> Result<HandedOver, Denied> {
        let live = self.live.load_full();
        let destination = format!("{}:{}", custom.target.host, custom.target.port);
        let mut sight = Sight::of_custom(&destination, &custom.capability);
        let decided = self
            .gate
            .decide_custom(&live.catalog, custom, &mut sight)
            .await;
        if let Err(denied) = &decided {
            sight.denied(denied);
        }
        self.seen.note(sight, self.gate.now());
        decided
    }

    async fn refuse(&self, target: &str, code: &str, why: &str, status: u16) -> Denied {
        self.gate.refuse(target, code, why, status).await
    }
}

/// Serves one listener until `stop`; open requests are `tasks` to wait for when draining.
pub async fn serve<D: Decide>(
    listener: TcpListener,
    decide: Arc<D>,
    limits: Limits,
    permits: Arc<Semaphore>,
    stop: CancellationToken,
    tasks: TaskTracker,
) {
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
        let Ok((stream, _)) = accepted else {
            // Out of descriptors, most likely: wait for some to close rather than spin.
            tokio::time::sleep(Duration::from_millis(50)).await;
            continue;
        };
        let (decide, stop) = (Arc::clone(&decide), stop.clone());
        tasks.spawn(async move {
            converse(stream, decide, limits, stop).await;
            drop(permit);
        });
    }
}

/// Serves one connection to its end.
async fn converse<S, D>(stream: S, decide: Arc<D>, limits: Limits, stop: CancellationToken)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    D: Decide,
{
    let service = service_fn(move |request| {
        let decide = Arc::clone(&decide);
        async move { Ok::<_, Infallible>(answer(request, decide.as_ref(), limits).await) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.header_timeout)
        .max_buf_size(16 << 10)
        .serve_connection(TokioIo::new(stream), service);
    tokio::pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = stop.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "connection to the local API ended");
    }
}

async fn answer<D, B>(request: Request<B>, decide: &D, limits: Limits) -> Response<Full<Bytes>>
where
    D: Decide,
    B: http_body::Body<Data = Bytes> + Send + Sync + Unpin + 'static,
    B::Error: Into<BodyError>,
{
    if request.uri().path() != ACTIONS {
        let why = "the local API has one resource, POST /v1/actions";
        return Problem::new(StatusCode::NOT_FOUND, "not-found", why).into_response();
    }
    if request.method() != Method::POST {
        let why = "an action is asked for with POST";
        let problem = Problem::new(StatusCode::METHOD_NOT_ALLOWED, "method-not-allowed", why);
        let mut response: Response<Full<Bytes>> = problem.into_response();
        let headers = response.headers_mut();
        headers.insert(ALLOW, HeaderValue::from_static("POST"));
        return response;
    }
    match ask(request, decide, limits).await {
        Ok(handed_over) => action::allowed(&handed_over),
        Err(denied) => denied.problem.into_response(),
    }
}

async fn ask<D, B>(request: Request<B>, decide: &D, limits: Limits) -> Result<HandedOver, Denied>
where
    D: Decide,
    B: http_body::Body<Data = Bytes> + Send + Sync + Unpin + 'static,
    B::Error: Into<BodyError>,
{
    let (parts, body) = request.into_parts();
    if let Err((code, why, status)) = from_the_pod(&parts.headers) {
        return Err(decide.refuse(ACTIONS, code, why, status).await);
    }
    let refusal = match body::collect(body, limits.body, limits.body_timeout).await {
        Ok(Collected::Whole(bytes)) => match action::parse(&bytes) {
            Ok(custom) => return decide.decide(custom).await,
            Err(refusal) => {
                let target = refusal.target.as_deref().unwrap_or(ACTIONS);
                return Err(decide.refuse(target, refusal.code, &refusal.why, 400).await);
            }
        },
        Ok(Collected::TooLarge(_)) => (
            "body-too-large",
            format!("the action is longer than {} bytes: send less", limits.body),
            413,
        ),
        Err(error @ ReadError::Late(_)) => ("body-late", error.to_string(), 408),
        Err(error @ ReadError::Broken(_)) => ("body-broken", error.to_string(), 400),
    };
    let (code, why, status) = refusal;
    Err(decide.refuse(ACTIONS, code, &why, status).await)
}

/// Refuses what a web page could have made a browser in the pod send.
fn from_the_pod(headers: &HeaderMap) -> Result<(), (&'static str, &'static str, u16)> {
    let host = headers
        .get(HOST)
        .and_then(|host| host.to_str().ok())
        .and_then(|host| Authority::parse(host, Scheme::Http).ok());
    let loopback = host
        .is_some_and(|named| matches!(named.host.as_str(), "127.0.0.1" | "[::1]" | "localhost"));
    if !loopback {
        let why =
            "the Host is not loopback; address the local API as 127.0.0.1, [::1] or localhost";
        return Err(("misdirected", why, 421));
    }
    if headers.contains_key(ORIGIN) {
        let why = "a web page may not ask for actions; ask from the agent's own process";
        return Err(("origin-refused", why, 403));
    }
    let json = headers.get(CONTENT_TYPE).is_some_and(|value| {
        let essence = value.as_bytes().split(|b| *b == b';').next();
        essence.is_some_and(|e| e.trim_ascii().eq_ignore_ascii_case(b"application/json"))
    });
    if !json {
        let why = "set Content-Type: application/json";
        return Err(("not-json", why, 415));
    }
    Ok(())
}

/// A JSON answer that nobody keeps.
fn json(status: StatusCode, body: Vec<u8>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}
