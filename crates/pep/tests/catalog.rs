//! The caller's real catalog, at the target's side.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

mod common;

use std::sync::Arc;

use common::*;
use http::Method;
use writ_catalog::{BodyView, Catalog};
use writ_sae::*;

/// The agent addresses port 80, the sidecar the target's port 443.
const CATALOG: &str = r#"
version: 1
name: demo
destinations:
  - name: payments
    host: payments.example.org
    port: 80
    peer: {spiffe: spiffe://example.org/ns/demo/sa/tool}
    upstream: {mode: mtls, port: 443}
    agent_tls: originate
    envelope: stamp
    pep: sidecar
entries:
  - {name: transfer, destination: payments, protocol: http, method: POST, path: /v1/transfers, capability: payments.transfer, class: internal}
  - {name: read, destination: payments, protocol: http, method: GET, path: /v1/transfers, capability: payments.read, class: internal}
  - {name: call, destination: payments, protocol: mcp, path: /mcp, tool: transfer, capability: payments.tool, class: internal}
presets:
  - {preset: mcp-base, destination: payments, path: /mcp, class: internal}
"#;

fn world() -> (World, Catalog) {
    let catalog = || Catalog::from_yaml(CATALOG).unwrap();
    let mut w = World::new();
    w.catalog_hash = catalog().hash();
    w.registered().catalog_hash = catalog().hash();
    w.catalog = Some(Arc::new(catalog()));
    (w, catalog())
}

/// Claims as the sender's sidecar makes them from the same catalog.
fn claims(w: &World, catalog: &Catalog) -> Claims {
    let head = w.head();
    let destination = catalog.destination(&head.host, 80).unwrap();
    let intent = catalog
        .classify(destination, &head, BodyView::Bytes(&w.body))
        .unwrap();
    let mut claims = w.claims();
    claims.act.method = intent.capability;
    claims.act.params.digest = intent.params_digest;
    claims
}

#[tokio::test]
async fn the_target_reads_the_request_as_the_sender_did() {
    let (mut w, catalog) = world();
    let claims = claims(&w, &catalog);
    w.stamp(&claims);
    let admitted = w.ask(&w.pep()).await.unwrap();
    assert_eq!(admitted.action.capability, "payments.transfer");
}

#[tokio::test]
async fn a_capability_that_the_request_does_not_have_is_refused() {
    let (mut w, catalog) = world();
    let mut claims = claims(&w, &catalog);
    claims.act.method = "payments.read".into();
    w.stamp(&claims);
    assert_eq!(
        w.ask(&w.pep()).await.unwrap_err().code(),
        "capability-mismatch"
    );
}

#[tokio::test]
async fn a_request_that_the_catalog_does_not_list_is_refused() {
    let (mut w, catalog) = world();
    let mut claims = claims(&w, &catalog);
    w.method = Method::DELETE;
    claims.act.http.as_mut().unwrap().method = "DELETE".into();
    w.stamp(&claims);
    assert_eq!(w.ask(&w.pep()).await.unwrap_err().code(), "not-classified");
}

#[tokio::test]
async fn another_catalog_than_the_registered_one_is_refused() {
    let (mut w, catalog) = world();
    let mut claims = claims(&w, &catalog);
    claims.pol.catalog_hash = [1; 32];
    w.stamp(&claims);
    assert_eq!(w.ask(&w.pep()).await.unwrap_err().code(), "policy-changed");
    // Registered, and not held here.
    w.registered().catalog_hash = [1; 32];
    assert_eq!(w.ask(&w.pep()).await.unwrap_err().code(), "catalog-unknown");
}

#[tokio::test]
async fn an_mcp_tool_call_is_read_from_its_message() {
    let (mut w, catalog) = world();
    w.kinds = vec![Kind::Http, Kind::Mcp];
    w.target = "/mcp".into();
    w.body = br#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"transfer","arguments":{"to":"alice"}}}"#.to_vec();
    let head = w.head();
    let message =
        writ_canonical::mcp::parse(&w.body, &writ_canonical::json::JsonLimits::default()).unwrap();
    let destination = catalog.destination(&head.host, 80).unwrap();
    let intent = catalog.classify_mcp(destination, &head, &message).unwrap();
    let mut claims = w.claims();
    claims.act.kind = Kind::Mcp;
    claims.act.method = "payments.tool".into();
    claims.act.params.digest = intent.params_digest;
    w.stamp(&claims);
    let admitted = w.ask(&w.pep()).await.unwrap();
    assert_eq!(admitted.action.capability, "payments.tool");

    claims.act.kind = Kind::Http;
    claims.jti = Jti([1; 16]);
    w.stamp(&claims);
    assert_eq!(w.ask(&w.pep()).await.unwrap_err().code(), "kind-mismatch");
}
