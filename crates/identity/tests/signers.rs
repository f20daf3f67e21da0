//! Signers over SVIDs: what they sign verifies with the SVID's chain, and no key shows (T-084, T-057).
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

mod common;

use std::sync::Arc;

use common::{AGENT, Ca, HOUR, NOW, at, key, svid_params};
use rustls_pki_types::CertificateDer;
use writ_identity::{
    DELEGATED_KEY_LIFETIME, DelegatedSigner, EnvelopeKeys, IdentityError, KeyKind, Svid,
    SvidSigner, SvidSource,
};
use writ_sae::{Algorithm, KeyStatement, Signer, Unverified};
use zeroize::Zeroizing;

fn public_key(ca: &Ca, svid: &Svid) -> Vec<u8> {
    let verified = ca.bundles("demo.writ").verify_chain(svid.chain(), NOW);
    verified.unwrap().public_key
}

#[test]
fn an_svid_signs_es256_with_low_s_under_its_fingerprint() {
    let ca = Ca::new("demo");
    let svid = ca.svid(AGENT);
    let signer = SvidSigner::new(&svid).unwrap();
    assert_eq!(signer.algorithm(), Algorithm::Es256);
    assert_eq!(signer.kid(), svid.leaf_sha256_hex());
    let public_key = public_key(&ca, &svid);
    for message in 0..64_u8 {
        let signature = signer.sign(&[message]).unwrap();
        assert_eq!(writ_sae::low_s(&signature).unwrap(), signature);
        ring::signature::UnparsedPublicKey::new(
            &ring::signature::ECDSA_P256_SHA256_FIXED,
            &public_key,
        )
        .verify(&[message], &signature)
        .unwrap();
    }
}

#[test]
fn a_delegated_key_is_named_by_a_statement_that_ends_with_the_svid() {
    let ca = Ca::new("demo");
    let mut params = svid_params(AGENT);
    params.not_after = at(NOW + 600);
    let svid = ca.svid_with(&params);
    let signer = DelegatedSigner::new(&svid, NOW).unwrap();
    assert_eq!(signer.algorithm(), Algorithm::EdDsa);
    assert_eq!(signer.expires(), NOW + 600);
    let statement = signer.key_statement().unwrap();
    assert_eq!(signer.kid(), hex::encode(writ_sae::sae_hash(statement)));
    let parsed = Unverified::<KeyStatement>::parse(statement).unwrap();
    assert_eq!(parsed.kid(), svid.leaf_sha256_hex());
}

#[test]
fn a_delegated_key_lives_an_hour_at_most() {
    let ca = Ca::new("demo");
    let mut params = svid_params(AGENT);
    params.not_after = at(NOW + 23 * HOUR);
    let signer = DelegatedSigner::new(&ca.svid_with(&params), NOW).unwrap();
    assert_eq!(signer.expires(), NOW + DELEGATED_KEY_LIFETIME);
}

#[test]
fn an_expired_svid_signs_nothing() {
    let ca = Ca::new("demo");
    let source = ca.source(AGENT);
    let expired = || Err(IdentityError::SvidExpired(NOW + HOUR));
    for kind in [KeyKind::Svid, KeyKind::Delegated] {
        let keys = EnvelopeKeys::new(source.clone(), kind);
        assert!(keys.current(NOW).is_ok());
        assert_eq!(keys.current(NOW + HOUR + 1).map(|_| ()), expired());
    }
    let delegated = DelegatedSigner::new(&source.svid(), NOW + HOUR + 1);
    assert_eq!(delegated.map(|_| ()), expired());
}

#[test]
fn signers_follow_the_rotation_of_the_svid() {
    let ca = Ca::new("demo");
    let source = ca.source(AGENT);
    for kind in [KeyKind::Svid, KeyKind::Delegated] {
        let keys = EnvelopeKeys::new(source.clone(), kind);
        let first = keys.current(NOW).unwrap();
        let again = keys.current(NOW + 1).unwrap();
        assert_eq!(first.signer.kid(), again.signer.kid());
        source.replace(ca.svid(AGENT), ca.bundles("demo.writ"));
        let rotated = keys.current(NOW + 2).unwrap();
        assert_ne!(first.signer.kid(), rotated.signer.kid());
        assert_eq!(
            rotated.signer.certificate_chain()[0],
            source.svid().chain()[0].as_ref()
        );
    }
}

#[test]
fn a_delegated_key_is_renewed_before_its_end() {
    let ca = Ca::new("demo");
    let mut params = svid_params(AGENT);
    params.not_after = at(NOW + 20 * HOUR);
    let source = writ_identity::StaticSource::new(ca.svid_with(&params), ca.bundles("demo.writ"));
    let keys = EnvelopeKeys::new(Arc::new(source), KeyKind::Delegated);
    let first = keys.current(NOW).unwrap();
    let before = keys.current(NOW + DELEGATED_KEY_LIFETIME / 2 - 1).unwrap();
    let after = keys.current(NOW + DELEGATED_KEY_LIFETIME / 2).unwrap();
    assert_eq!(first.signer.kid(), before.signer.kid());
    assert_ne!(first.signer.kid(), after.signer.kid());
}

#[test]
fn debug_output_shows_no_key() {
    let ca = Ca::new("demo");
    let key = key();
    let leaf = CertificateDer::from(ca.sign(&svid_params(AGENT), &key));
    let pkcs8 = key.serialize_der();
    let svid = Svid::new(vec![leaf], Zeroizing::new(pkcs8.clone())).unwrap();
    let signer = SvidSigner::new(&svid).unwrap();
    let delegated = DelegatedSigner::new(&svid, NOW).unwrap();
    let printed = format!("{svid:?} {signer:?} {delegated:?}");
    assert!(printed.contains(AGENT));
    // The secret scalar: the longest run of the PKCS #8 form that a debug print could show.
    let as_list = format!("{pkcs8:?}");
    let secret = &pkcs8[36..68];
    for form in [as_list, hex::encode(secret), format!("{secret:?}")] {
        assert!(!printed.contains(&form));
    }
    assert!(!printed.contains("key:"));
}
