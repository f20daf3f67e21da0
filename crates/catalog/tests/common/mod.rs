//! Catalogs and requests for tests.
#![allow(
    dead_code,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

use http::{HeaderMap, HeaderName, HeaderValue, Method, Uri};
use writ_canonical::{CanonicalRequest, Limits, RawHead, Scheme, canonicalize};
use writ_catalog::Catalog;

/// The example in `docs/catalog.md`: the first YAML block.
pub fn example_text() -> String {
    let docs = include_str!("../../../../docs/catalog.md");
    docs.split("```yaml\n")
        .nth(1)
        .unwrap()
        .split("```")
        .next()
        .unwrap()
        .to_owned()
}

pub fn example() -> Catalog {
    Catalog::from_yaml(&example_text()).unwrap()
}

/// A catalog with one plain destination `api` at `api.example:80`.
pub fn catalog(entries: &str) -> Catalog {
    Catalog::from_yaml(&with_api(entries)).unwrap()
}

pub fn with_api(entries: &str) -> String {
    format!(
        "version: 1\nname: test\ndestinations:\n  - {{name: api, host: api.example, port: 80, peer: unverified, upstream: {{mode: plain}}, agent_tls: originate, envelope: withhold, pep: none}}\n{}",
        entries.trim_start()
    )
}

pub fn request(method: &str, url: &str, fields: &[(&'static str, &str)]) -> CanonicalRequest {
    try_request(method, url, fields).unwrap()
}

pub fn try_request(
    method: &str,
    url: &str,
    fields: &[(&'static str, &str)],
) -> Option<CanonicalRequest> {
    let uri: Uri = url.parse().unwrap();
    let method: Method = method.parse().unwrap();
    let headers: HeaderMap = fields
        .iter()
        .map(|(n, v)| {
            (
                HeaderName::from_static(n),
                HeaderValue::from_str(v).unwrap(),
            )
        })
        .collect();
    let raw = RawHead {
        scheme: if uri.scheme_str() == Some("https") {
            Scheme::Https
        } else {
            Scheme::Http
        },
        method: &method,
        authority: uri.authority().unwrap().as_str(),
        path_and_query: uri.path_and_query().unwrap().as_str(),
        headers: &headers,
    };
    canonicalize(raw, &Limits::default()).ok()
}
