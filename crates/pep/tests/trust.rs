//! Real certificates: the published vectors' chain, verified by the trust bundle of its domain.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

mod common;

use std::sync::Arc;

use base64::Engine as _;
use common::*;
use rustls_pki_types::CertificateDer;
use writ_identity::TrustBundles;

fn bundle(trust_domain: &str) -> Arc<TrustBundles> {
    let ca = keys_file()["ca"].as_str().unwrap().to_owned();
    let ca = base64::engine::general_purpose::STANDARD
        .decode(ca)
        .unwrap();
    let mut bundles = TrustBundles::new();
    bundles
        .insert(trust_domain, [CertificateDer::from(ca)])
        .unwrap();
    Arc::new(bundles)
}

fn stamped() -> World {
    let mut w = World::new();
    let claims = w.claims();
    w.stamp(&claims);
    w
}

#[tokio::test]
async fn a_sender_of_the_trust_domain_is_admitted() {
    let mut w = stamped();
    w.chains = Some(bundle("example.org"));
    let admitted = w.ask(&w.pep()).await.unwrap();
    assert_eq!(admitted.claims().iss_dn, "CN=agent,O=SPIRE");
}

#[tokio::test]
async fn the_authority_of_another_trust_domain_vouches_for_nobody_here() {
    let mut w = stamped();
    w.chains = Some(bundle("example.com"));
    assert_eq!(
        w.ask(&w.pep()).await.unwrap_err().code(),
        "chain-not-trusted"
    );
}
