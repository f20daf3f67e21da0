//! Heads as HTTP/1.1 bytes and as HTTP/2 pseudo-headers.
#![allow(
    dead_code,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Uri};
use writ_canonical::{CanonicalRequest, Limits, RawHead, Scheme, canonicalize};

/// Reads a head as hyper does: `httparse`, then `http` types; absolute-form names the authority, else
/// Host does.
pub fn canonicalize_http1(scheme: Scheme, bytes: &[u8]) -> Result<CanonicalRequest, String> {
    let syntax = || "http1-syntax".to_owned();
    let mut lines = [httparse::EMPTY_HEADER; 128];
    let mut head = httparse::Request::new(&mut lines);
    if !head.parse(bytes).map_err(|_| syntax())?.is_complete() {
        return Err(syntax());
    }
    let method: Method = head.method.unwrap().parse().map_err(|_| syntax())?;
    let target = head.path.unwrap();
    let mut headers = HeaderMap::new();
    for line in head.headers.iter() {
        let name = HeaderName::from_bytes(line.name.as_bytes()).map_err(|_| syntax())?;
        headers.append(
            name,
            HeaderValue::from_bytes(line.value).map_err(|_| syntax())?,
        );
    }
    let host = headers
        .get("host")
        .map(|h| h.to_str().unwrap_or("\u{fffd}").to_owned())
        .unwrap_or_default();
    let absolute = target
        .strip_prefix("http://")
        .or_else(|| target.strip_prefix("https://"));
    let (authority, path_and_query) = match absolute {
        Some(rest) => {
            let at = rest.find(['/', '?']).unwrap_or(rest.len());
            (rest[..at].to_owned(), rest[at..].to_owned())
        }
        None => (host, target.to_owned()),
    };
    let raw = RawHead {
        scheme,
        method: &method,
        authority: &authority,
        path_and_query: &path_and_query,
        headers: &headers,
    };
    canonicalize(raw, &Limits::default()).map_err(|refusal| refusal.code().to_owned())
}

/// Sends a request as HTTP/2 does (method, scheme, authority and path in pseudo-headers, no Host) and
/// reads it back from the `http::Request` that the `h2` crate builds from them.
pub fn canonicalize_http2(request: &CanonicalRequest) -> Result<CanonicalRequest, String> {
    let uri = Uri::builder()
        .scheme(request.scheme.as_str())
        .authority(request.authority())
        .path_and_query(request.path_and_query())
        .build()
        .unwrap();
    let mut received = Request::builder()
        .method(request.method.as_str())
        .uri(uri)
        .body(())
        .unwrap();
    *received.headers_mut() = request.header_map();
    let uri = received.uri();
    let raw = RawHead {
        scheme: request.scheme,
        method: received.method(),
        authority: uri.authority().unwrap().as_str(),
        path_and_query: uri.path_and_query().unwrap().as_str(),
        headers: received.headers(),
    };
    canonicalize(raw, &Limits::default()).map_err(|refusal| refusal.code().to_owned())
}
