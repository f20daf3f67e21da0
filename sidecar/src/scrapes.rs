//! The application's metrics, for a monitoring system that has no identity and sends no envelope.
//!
//! Captured inbound connections need an SVID, which a scraper has not; so the webhook hands over in
//! `WRIT_SCRAPES` which ports and paths the pod declares. A connection to such a port that begins
//! without TLS gets answers to `GET` of exactly a declared path, by a request that the sidecar makes
//! anew; whatever else it asks is refused. Connections with TLS go to the PEP like any other.

mod forward;

use std::collections::{BTreeSet, HashMap};
use std::convert::Infallible;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use serde::Deserialize;
use tokio::net::TcpStream;
use tokio::sync::Semaphore;

use crate::body::Body;
use crate::problem::Problem;

/// Largest `WRIT_SCRAPES`, in bytes.
const MAX_BYTES: usize = 8 << 10;
/// Most declared paths of one pod.
const MAX_TARGETS: usize = 32;
/// Longest path, in bytes.
const MAX_PATH: usize = 256;
/// Most scrapes at one time, of all ports; a monitoring system needs one or two.
const MAX_OPEN: usize = 16;
/// How long a scraper may take to begin.
const BEGIN: Duration = Duration::from_secs(10);
/// How long one scrape may take, from its first byte to its last.
const WHOLE: Duration = Duration::from_secs(60);
/// The first byte of every TLS connection: a handshake record (RFC 8446, section 5.1).
const TLS_HANDSHAKE: u8 = 22;

/// Code of a refusal: without mutual TLS nothing but declared metrics is answered.
pub const SCRAPE_ONLY: &str = "scrape-only";
/// Code of a refusal: too many scrapes at one time.
pub const SCRAPES_BUSY: &str = "scrapes-busy";

/// Why `WRIT_SCRAPES` was refused.
#[derive(Debug, thiserror::Error)]
pub enum ScrapesError {
    /// Larger than any webhook makes it.
    #[error("WRIT_SCRAPES has {0} bytes, more than {MAX_BYTES}; declare fewer paths")]
    TooLarge(usize),
    /// Not the JSON that the webhook writes.
    #[error("WRIT_SCRAPES: {0}; the webhook and the sidecar must be of the same version")]
    Malformed(String),
}

/// What became of one request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The application was asked for its metrics.
    Asked,
    /// Refused, with this code.
    Refused(&'static str),
}

/// The declared paths, by port.
#[derive(Debug)]
pub struct Scrapes {
    paths: HashMap<u16, BTreeSet<String>>,
    pod: IpAddr,
    permits: Semaphore,
}

/// The form that the webhook writes.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Declared {
    port: u16,
    path: String,
}

impl Scrapes {
    /// Reads the declaration of a pod at `pod`: what listens on loopback alone is not reachable for
    /// a scraper either.
    ///
    /// # Errors
    /// [`ScrapesError`]; nothing of a refused declaration is answered.
    pub fn parse(declared: Option<&str>, pod: Option<IpAddr>) -> Result<Self, ScrapesError> {
        let text = declared.filter(|text| !text.is_empty()).unwrap_or("[]");
        if text.len() > MAX_BYTES {
            return Err(ScrapesError::TooLarge(text.len()));
        }
        let malformed = |why: String| ScrapesError::Malformed(why);
        let declared: Vec<Declared> =
            serde_json::from_str(text).map_err(|error| malformed(error.to_string()))?;
        if declared.len() > MAX_TARGETS {
            return Err(malformed("too many paths".to_owned()));
        }
        let mut paths: HashMap<u16, BTreeSet<String>> = HashMap::new();
        for Declared { port, path } in declared {
            if port == 0 || !is_plain_path(&path) {
                return Err(malformed(format!("{port} {path:?}")));
            }
            paths.entry(port).or_default().insert(path);
        }
        Ok(Self {
            paths,
            pod: pod.unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST)),
            permits: Semaphore::new(MAX_OPEN),
        })
    }

    /// Whether this connection to `port` is a scraper's: the port is declared, and the connection
    /// does not begin as TLS does. Nothing is read from it. `None`: it ended before it began.
    pub async fn takes(&self, stream: &TcpStream, port: u16) -> Option<bool> {
        if !self.paths.contains_key(&port) {
            return Some(false);
        }
        let mut first = [0];
        let peeked = tokio::time::timeout(BEGIN, stream.peek(&mut first)).await;
        match (peeked, first) {
            (Ok(Ok(1)), [first]) => Some(first != TLS_HANDSHAKE),
            _ => None,
        }
    }

    /// Answers a scraper's one request to `port`, and ends the connection. The application is at
    /// `app`, or where its manifest says.
    pub async fn serve(
        &self,
        stream: TcpStream,
        port: u16,
        app: Option<SocketAddr>,
        tell: impl Fn(Outcome) + Send + Sync,
    ) {
        let Some(paths) = self.paths.get(&port) else {
            return;
        };
        let Ok(_permit) = self.permits.try_acquire() else {
            return tell(Outcome::Refused(SCRAPES_BUSY));
        };
        // Never the address that was dialled: whoever is near the node may put any there.
        let app = app.unwrap_or_else(|| SocketAddr::new(self.pod, port));
        let service = service_fn(|request| {
            let tell = &tell;
            async move { Ok::<_, Infallible>(answer(request, paths, app, tell).await) }
        });
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(BEGIN)
            .max_buf_size(16 << 10)
            .keep_alive(false)
            .serve_connection(TokioIo::new(stream), service);
        if let Ok(Err(error)) = tokio::time::timeout(WHOLE, connection).await {
            tracing::debug!(%error, port, "scrape ended");
        }
    }
}

async fn answer(
    request: Request<Incoming>,
    paths: &BTreeSet<String>,
    app: SocketAddr,
    tell: &(impl Fn(Outcome) + Sync),
) -> Response<Body> {
    let Some(path) = declared(&request, paths) else {
        tell(Outcome::Refused(SCRAPE_ONLY));
        return problem(Problem::new(
            StatusCode::FORBIDDEN,
            SCRAPE_ONLY,
            "without mutual TLS only GET of a declared metrics path is answered here; agents call \
             through their sidecar",
        ));
    };
    tell(Outcome::Asked);
    let asked = forward::ask(app, path, request.headers());
    asked.await.unwrap_or_else(|why| {
        problem(Problem::new(
            StatusCode::BAD_GATEWAY,
            "application-unreachable",
            why,
        ))
    })
}

/// The declared path that is asked for, if it is asked for in just that way.
fn declared<'a, B: http_body::Body>(
    request: &Request<B>,
    paths: &'a BTreeSet<String>,
) -> Option<&'a str> {
    let uri = request.uri();
    let plain = request.method() == Method::GET
        && uri.scheme().is_none()
        && uri.authority().is_none()
        && uri.query().is_none()
        && request.body().is_end_stream();
    plain.then(|| paths.get(uri.path()).map(String::as_str))?
}

/// A path that nobody reads in two ways: no dots as parts, no empty parts, nothing encoded.
fn is_plain_path(path: &str) -> bool {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-._~".contains(&b);
    let part = |part: &str| !matches!(part, "" | "." | "..") && part.bytes().all(plain);
    path.len() <= MAX_PATH
        && path
            .strip_prefix('/')
            .is_some_and(|rest| rest.is_empty() || rest.split('/').all(part))
}

fn problem(problem: Problem) -> Response<Body> {
    problem
        .into_response::<Full<bytes::Bytes>>()
        .map(|full| full.map_err(|never| match never {}).boxed())
}

#[cfg(test)]
mod tests;
