//! The request that the application gets, and what of its answer the scraper gets.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use http::header::{ACCEPT, ACCEPT_ENCODING, CONTENT_ENCODING, CONTENT_TYPE, HOST, USER_AGENT};
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use crate::body::Body;

/// How long the application may take to accept a connection.
const CONNECT: Duration = Duration::from_secs(5);
/// Largest answer that is passed on, in bytes.
const MAX_ANSWER: usize = 64 << 20;

/// Of the scraper's request only what says in which form it wants its answer. Anything else, such
/// as a field that an application takes for a caller's name, is left out.
const ASKED: [HeaderName; 4] = [
    ACCEPT,
    ACCEPT_ENCODING,
    USER_AGENT,
    HeaderName::from_static("x-prometheus-scrape-timeout-seconds"),
];
/// Of the application's answer only what says in which form it is.
const ANSWERED: [HeaderName; 2] = [CONTENT_TYPE, CONTENT_ENCODING];

/// Asks the application at `app` for `path`.
///
/// # Errors
/// Why it did not answer.
pub(super) async fn ask(
    app: SocketAddr,
    path: &str,
    asked: &HeaderMap,
) -> Result<Response<Body>, String> {
    let failed = |error: &dyn std::fmt::Display| format!("{app}: {error}");
    let mut request = Request::get(path)
        .body(Empty::<Bytes>::new())
        .map_err(|error| failed(&error))?;
    let host = HeaderValue::try_from(app.to_string()).map_err(|error| failed(&error))?;
    request.headers_mut().insert(HOST, host);
    copy(&ASKED, asked, request.headers_mut());
    let stream = tokio::time::timeout(CONNECT, TcpStream::connect(app))
        .await
        .map_err(|_| failed(&"does not accept connections"))?
        .map_err(|error| failed(&error))?;
    let (mut sender, connection) = http1::Builder::new()
        .max_buf_size(64 << 10)
        .handshake(TokioIo::new(stream))
        .await
        .map_err(|error| failed(&error))?;
    tokio::spawn(connection);
    let response = sender.send_request(request).await;
    let (parts, body) = response.map_err(|error| failed(&error))?.into_parts();
    if parts.status.is_informational() {
        return Err(failed(&"another protocol is no answer"));
    }
    let body = Limited::new(body, MAX_ANSWER).boxed();
    let mut response = Response::new(body);
    *response.status_mut() = parts.status;
    copy(&ANSWERED, &parts.headers, response.headers_mut());
    Ok(response)
}

fn copy(names: &[HeaderName], from: &HeaderMap, into: &mut HeaderMap) {
    for name in names {
        for value in from.get_all(name) {
            into.append(name, value.clone());
        }
    }
}
