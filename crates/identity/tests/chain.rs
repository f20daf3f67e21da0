//! What `TrustBundles::verify_chain` accepts, and why it refuses what it refuses (T-002).
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

mod common;

use common::{AGENT, Ca, HOUR, NOW, at, ca_params, key, svid_params, uri};
use proptest::prelude::*;
use rcgen::{
    BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, KeyPair, KeyUsagePurpose,
    PublicKeyData, SanType, SubjectPublicKeyInfo,
};
use rustls_pki_types::CertificateDer;
use writ_identity::{IdentityError, MAX_CERTIFICATE_BYTES, Svid, TrustBundles, VerifiedSvid};
use zeroize::Zeroizing;

type Verified = Result<VerifiedSvid, IdentityError>;

/// Verifies one leaf with these parameters, signed by the trust domain's CA.
fn leaf_with(spoil: impl FnOnce(&mut CertificateParams)) -> Verified {
    leaf_for(&key(), spoil)
}

fn leaf_for(key: &impl PublicKeyData, spoil: impl FnOnce(&mut CertificateParams)) -> Verified {
    let ca = Ca::new("demo");
    let mut params = svid_params(AGENT);
    spoil(&mut params);
    ca.bundles("demo.writ")
        .verify_chain(&[ca.sign(&params, key)], NOW)
}

#[test]
fn a_valid_chain_proves_identity_key_subject_and_fingerprint() {
    let ca = Ca::new("demo");
    let svid = ca.svid(AGENT);
    let verified = ca
        .bundles("demo.writ")
        .verify_chain(svid.chain(), NOW)
        .unwrap();
    assert_eq!(verified.spiffe_id, AGENT);
    assert_eq!(verified.not_after, NOW + HOUR);
    assert_eq!(hex::encode(verified.leaf_sha256), svid.leaf_sha256_hex());
    // RFC 4514, section 2: last RDN first, commas escaped.
    assert_eq!(verified.subject_dn, r"CN=agent,O=Writ\, Inc.,C=CH");
    assert_eq!(svid.subject_dn(), verified.subject_dn);
    writ_sae::VerifyKey::from_svid(&verified).unwrap();
}

#[test]
fn the_fingerprint_is_the_one_that_openssl_prints() {
    let svid = Ca::new("demo").svid(AGENT);
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("leaf.der");
    std::fs::write(&path, svid.chain()[0].as_ref()).unwrap();
    let output = std::process::Command::new("openssl")
        .args([
            "x509",
            "-inform",
            "DER",
            "-noout",
            "-fingerprint",
            "-sha256",
            "-in",
        ])
        .arg(&path)
        .output()
        .unwrap();
    let printed = String::from_utf8(output.stdout).unwrap();
    let hex = printed.trim().rsplit('=').next().unwrap().replace(':', "");
    assert_eq!(hex.to_lowercase(), svid.leaf_sha256_hex());
}

#[test]
fn a_chain_with_an_intermediate_is_accepted() {
    let root = Ca::new("root");
    let intermediate = root.below(ca_params("intermediate"));
    let leaf = intermediate.sign(&svid_params(AGENT), &key());
    let chain = [leaf, intermediate.der()];
    let verified = root.bundles("demo.writ").verify_chain(&chain, NOW).unwrap();
    assert_eq!(verified.spiffe_id, AGENT);
}

#[test]
fn an_expired_svid_is_refused() {
    let result = leaf_with(|params| params.not_after = at(NOW - 1));
    assert_eq!(result, Err(IdentityError::Expired));
}

#[test]
fn an_svid_that_is_not_valid_yet_is_refused() {
    let result = leaf_with(|params| params.not_before = at(NOW + 1));
    assert_eq!(result, Err(IdentityError::NotYetValid));
}

#[test]
fn an_old_chain_verifies_at_the_time_of_signing_from_the_exported_bundle() {
    let ca = Ca::new("demo");
    let svid = ca.svid(AGENT);
    let exported: Vec<CertificateDer<'static>> = ca
        .bundles("demo.writ")
        .authorities("demo.writ")
        .cloned()
        .collect();
    let mut archived = TrustBundles::new();
    archived.insert("demo.writ", exported).unwrap();
    let three_years_on = NOW + 3 * 365 * 24 * HOUR;
    assert!(archived.verify_chain(svid.chain(), NOW).is_ok());
    assert!(archived.verify_chain(svid.chain(), three_years_on).is_err());
}

#[test]
fn an_expired_authority_vouches_for_nobody() {
    let mut params = ca_params("old");
    params.not_after = at(NOW - 1);
    let ca = Ca::of(params);
    let result = ca
        .bundles("demo.writ")
        .verify_chain(ca.svid(AGENT).chain(), NOW);
    assert_eq!(
        result,
        Err(IdentityError::UntrustedIssuer("demo.writ".into()))
    );
}

#[test]
fn a_foreign_ca_is_refused_even_with_the_same_name() {
    let (ours, theirs) = (Ca::new("demo"), Ca::new("demo"));
    let result = ours
        .bundles("demo.writ")
        .verify_chain(theirs.svid(AGENT).chain(), NOW);
    assert_eq!(
        result,
        Err(IdentityError::UntrustedIssuer("demo.writ".into()))
    );
}

#[test]
fn a_trust_domain_cannot_vouch_for_another() {
    let (demo, partner) = (Ca::new("demo"), Ca::new("partner"));
    let mut bundles = demo.bundles("demo.writ");
    bundles
        .insert("partner.writ", [CertificateDer::from(partner.der())])
        .unwrap();
    let own = partner.svid("spiffe://partner.writ/ns/a/sa/b");
    assert!(bundles.verify_chain(own.chain(), NOW).is_ok());
    let forged = partner.svid(AGENT);
    assert_eq!(
        bundles.verify_chain(forged.chain(), NOW),
        Err(IdentityError::UntrustedIssuer("demo.writ".into()))
    );
}

#[test]
fn an_unknown_trust_domain_is_refused() {
    let ca = Ca::new("demo");
    let result = ca
        .bundles("other.writ")
        .verify_chain(ca.svid(AGENT).chain(), NOW);
    assert_eq!(
        result,
        Err(IdentityError::UnknownTrustDomain("demo.writ".into()))
    );
}

#[test]
fn two_uri_sans_are_refused() {
    let result = leaf_with(|p| {
        p.subject_alt_names
            .push(uri("spiffe://demo.writ/ns/demo/sa/admin"))
    });
    assert_eq!(result, Err(IdentityError::MultipleUriSans(2)));
}

#[test]
fn a_certificate_without_uri_san_is_refused() {
    let dns = || vec![SanType::DnsName("agent.demo".try_into().unwrap())];
    for sans in [Vec::new(), dns()] {
        let result = leaf_with(|params| params.subject_alt_names = sans);
        assert_eq!(result, Err(IdentityError::NoSpiffeId));
    }
}

#[test]
fn a_uri_that_is_no_workload_id_is_refused() {
    for id in [
        "spiffe://demo.writ",
        "spiffe://demo.writ/a/../b",
        "spiffe://demo.writ/a?b",
        "https://demo.writ/a",
        "spiffe://demo.writ:80/a",
    ] {
        let result = leaf_with(|params| params.subject_alt_names = vec![uri(id)]);
        assert!(
            matches!(result, Err(IdentityError::InvalidSpiffeId { .. })),
            "{id}: {result:?}"
        );
    }
}

#[test]
fn a_ca_certificate_as_leaf_is_refused() {
    let result = leaf_with(|p| p.is_ca = IsCa::Ca(BasicConstraints::Unconstrained));
    assert_eq!(result, Err(IdentityError::LeafIsCa));
}

#[test]
fn a_leaf_with_another_key_usage_is_refused() {
    let usages = [
        vec![],
        vec![KeyUsagePurpose::KeyEncipherment],
        vec![
            KeyUsagePurpose::DigitalSignature,
            KeyUsagePurpose::KeyCertSign,
        ],
        vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::CrlSign],
    ];
    for usage in usages {
        let result = leaf_with(|params| params.key_usages = usage);
        assert!(
            matches!(result, Err(IdentityError::KeyUsage(_))),
            "{result:?}"
        );
    }
}

#[test]
fn a_leaf_whose_extended_key_usage_lacks_a_side_is_refused() {
    let result =
        leaf_with(|params| params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth]);
    assert_eq!(result, Err(IdentityError::ExtendedKeyUsage));
}

#[test]
fn an_rsa_leaf_is_refused() {
    let rsa = SubjectPublicKeyInfo::from_pem(include_str!("data/rsa-2048-public.pem")).unwrap();
    assert_eq!(leaf_for(&rsa, |_| {}), Err(IdentityError::UnsupportedKey));
}

#[test]
fn leaves_of_other_curves_are_refused() {
    for algorithm in [&rcgen::PKCS_ECDSA_P384_SHA384, &rcgen::PKCS_ED25519] {
        let key = KeyPair::generate_for(algorithm).unwrap();
        assert_eq!(leaf_for(&key, |_| {}), Err(IdentityError::UnsupportedKey));
    }
}

#[test]
fn a_chain_that_is_too_long_is_refused() {
    let ca = Ca::new("demo");
    let leaf = ca.svid(AGENT).chain()[0].to_vec();
    let mut chain = vec![leaf];
    chain.resize(6, ca.der());
    let result = ca.bundles("demo.writ").verify_chain(&chain, NOW);
    assert_eq!(result, Err(IdentityError::ChainTooLong(6)));
}

#[test]
fn a_path_longer_than_its_constraint_is_refused() {
    let mut params = ca_params("root");
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    let root = Ca::of(params);
    let intermediate = root.below(ca_params("intermediate"));
    let chain = [
        intermediate.sign(&svid_params(AGENT), &key()),
        intermediate.der(),
    ];
    let result = root.bundles("demo.writ").verify_chain(&chain, NOW);
    assert!(
        matches!(result, Err(IdentityError::InvalidPath(_))),
        "{result:?}"
    );
}

#[test]
fn another_workload_cannot_act_as_intermediate() {
    let ca = Ca::new("demo");
    let (workload_key, params) = (key(), svid_params(AGENT));
    let workload = ca.sign(&params, &workload_key);
    let issuer = rcgen::Issuer::new(params, workload_key);
    let victim = svid_params("spiffe://demo.writ/ns/demo/sa/admin");
    let forged = victim.signed_by(&key(), &issuer).unwrap().der().to_vec();
    let result = ca
        .bundles("demo.writ")
        .verify_chain(&[forged, workload], NOW);
    assert_eq!(result, Err(IdentityError::IntermediateNotCa));
}

#[test]
fn an_empty_chain_is_refused() {
    let none: [Vec<u8>; 0] = [];
    let result = Ca::new("demo")
        .bundles("demo.writ")
        .verify_chain(&none, NOW);
    assert_eq!(result, Err(IdentityError::EmptyChain));
}

#[test]
fn an_oversized_certificate_is_refused_before_it_is_parsed() {
    let large = vec![0x30; MAX_CERTIFICATE_BYTES + 1];
    let result = Ca::new("demo")
        .bundles("demo.writ")
        .verify_chain(&[large], NOW);
    assert_eq!(
        result,
        Err(IdentityError::CertificateTooLarge(
            MAX_CERTIFICATE_BYTES + 1
        ))
    );
}

#[test]
fn a_bundle_takes_only_certificates_that_may_sign() {
    let ca = Ca::new("demo");
    let leaf = ca.svid(AGENT).chain()[0].clone();
    let mut bundles = TrustBundles::new();
    assert!(bundles.insert("demo.writ", [leaf]).is_err());
    assert!(bundles.insert("demo.writ", []).is_err());
    assert!(
        bundles
            .insert("Not A Domain", [CertificateDer::from(ca.der())])
            .is_err()
    );
    assert_eq!(bundles.trust_domains().count(), 0);
}

#[test]
fn an_svid_with_the_key_of_another_is_refused() {
    let ca = Ca::new("demo");
    let leaf = CertificateDer::from(ca.sign(&svid_params(AGENT), &key()));
    let result = Svid::new(vec![leaf], Zeroizing::new(key().serialize_der()));
    assert!(matches!(result, Err(IdentityError::KeyMismatch(_))));
}

proptest! {
    #[test]
    fn no_changed_byte_of_a_leaf_passes(position in any::<prop::sample::Index>(), flip in 1_u8..) {
        let ca = Ca::new("demo");
        let mut leaf = ca.svid(AGENT).chain()[0].to_vec();
        let position = position.index(leaf.len());
        leaf[position] ^= flip;
        prop_assert!(ca.bundles("demo.writ").verify_chain(&[leaf], NOW).is_err());
    }

    #[test]
    fn arbitrary_bytes_are_refused(chain in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..200), 0..7)) {
        let ca = Ca::new("demo");
        prop_assert!(ca.bundles("demo.writ").verify_chain(&chain, NOW).is_err());
    }
}

#[test]
fn a_chain_that_verified_is_judged_anew_by_other_bundles_and_in_another_second() {
    use writ_identity::CurrentBundles;
    use writ_sae::ChainVerifier;
    let (ca, other) = (Ca::new("demo"), Ca::new("other"));
    let source = ca.source(AGENT);
    let bundles = CurrentBundles::new(source.clone());
    let chain = vec![ca.svid(AGENT).chain()[0].to_vec()];
    let stranger = vec![other.svid(AGENT).chain()[0].to_vec()];
    for _ in 0..2 {
        assert_eq!(bundles.verify_chain(&chain, NOW).unwrap().spiffe_id, AGENT);
        assert!(bundles.verify_chain(&stranger, NOW).is_err());
    }
    assert!(
        bundles.verify_chain(&chain, NOW + HOUR + 1).is_err(),
        "expired"
    );
    assert!(bundles.verify_chain(&chain, NOW).is_ok());
    source.replace(other.svid(AGENT), other.bundles("demo.writ"));
    assert!(
        bundles.verify_chain(&chain, NOW).is_err(),
        "not in the new bundles"
    );
    assert!(bundles.verify_chain(&stranger, NOW).is_ok());
}
