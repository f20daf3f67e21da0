//! Classifying never panics, and what is classified has a listed capability.
#![no_main]

use std::sync::LazyLock;

use http::{HeaderMap, HeaderName, HeaderValue, Method};
use libfuzzer_sys::fuzz_target;
use writ_canonical::json::JsonLimits;
use writ_canonical::{Limits, RawHead, Scheme, canonicalize, mcp};
use writ_catalog::{BodyView, Catalog};

static CATALOG: LazyLock<Catalog> = LazyLock::new(|| {
    let docs = include_str!("../../docs/catalog.md");
    let yaml = docs.split("```yaml\n").nth(1).and_then(|rest| rest.split("```").next());
    Catalog::from_yaml(yaml.expect("docs/catalog.md has an example")).expect("the example loads")
});

fuzz_target!(|input: (u8, u8, String, Vec<u8>)| {
    let (method, place, path, body) = input;
    let methods = [Method::GET, Method::POST, Method::DELETE];
    let places = ["payments.acme.example:8080", "tools.acme.example", "192.0.2.10:9000"];
    let (method, authority) = (&methods[usize::from(method) % 3], places[usize::from(place) % 3]);
    let mut headers = HeaderMap::new();
    headers.insert(HeaderName::from_static("content-type"), HeaderValue::from_static("application/json"));
    let raw = RawHead { scheme: Scheme::Http, method, authority, path_and_query: &path, headers: &headers };
    let Ok(request) = canonicalize(raw, &Limits::default()) else { return };
    let Some(destination) = CATALOG.destination(&request.host, request.port) else { return };
    let mut intents = vec![CATALOG.classify(destination, &request, BodyView::Bytes(&body))];
    if let Ok(message) = mcp::parse(&body, &JsonLimits::default()) {
        intents.push(CATALOG.classify_mcp(destination, &request, &message));
    }
    for intent in intents.into_iter().flatten() {
        assert!(CATALOG.capabilities().any(|c| c == intent.capability));
    }
});
