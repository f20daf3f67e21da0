//! Certificates of every kind that the tests refuse or accept.
#![allow(dead_code, missing_docs)]

use std::sync::Arc;

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, PublicKeyData,
    SanType,
};
use rustls_pki_types::CertificateDer;
use time::OffsetDateTime;
use writ_identity::{StaticSource, Svid, TrustBundles};
use zeroize::Zeroizing;

pub const AGENT: &str = "spiffe://demo.writ/ns/demo/sa/agent";
pub const TOOL: &str = "spiffe://demo.writ/ns/demo/sa/tool";
/// The instant at which the tests' certificates are valid, and their lifetime.
pub const NOW: u64 = 1_800_000_000;
pub const HOUR: u64 = 3600;

pub fn at(seconds: u64) -> OffsetDateTime {
    OffsetDateTime::from_unix_timestamp(seconds as i64).unwrap()
}

pub fn uri(id: &str) -> SanType {
    SanType::URI(id.try_into().unwrap())
}

pub fn key() -> KeyPair {
    KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap()
}

fn named(common_name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CountryName, "CH");
    params
        .distinguished_name
        .push(DnType::OrganizationName, "Writ, Inc.");
    params
        .distinguished_name
        .push(DnType::CommonName, common_name);
    params.not_before = at(NOW - HOUR);
    params.not_after = at(NOW + HOUR);
    params
}

/// Parameters of a correct SVID; tests spoil one thing.
pub fn svid_params(id: &str) -> CertificateParams {
    let mut params = named("agent");
    params.subject_alt_names = vec![uri(id)];
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![
        ExtendedKeyUsagePurpose::ServerAuth,
        ExtendedKeyUsagePurpose::ClientAuth,
    ];
    params.is_ca = IsCa::ExplicitNoCa;
    params.use_authority_key_identifier_extension = true;
    params
}

pub fn ca_params(name: &str) -> CertificateParams {
    let mut params = named(name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.not_after = at(NOW + 24 * HOUR);
    params
}

/// A trust domain's CA.
pub struct Ca(pub CertifiedIssuer<'static, KeyPair>);

impl Ca {
    pub fn new(name: &str) -> Self {
        Self::of(ca_params(name))
    }

    pub fn of(params: CertificateParams) -> Self {
        Self(CertifiedIssuer::self_signed(params, key()).unwrap())
    }

    pub fn below(&self, params: CertificateParams) -> Self {
        Self(CertifiedIssuer::signed_by(params, key(), &self.0).unwrap())
    }

    pub fn der(&self) -> Vec<u8> {
        self.0.der().to_vec()
    }

    pub fn sign(&self, params: &CertificateParams, key: &impl PublicKeyData) -> Vec<u8> {
        params.signed_by(key, &self.0).unwrap().der().to_vec()
    }

    pub fn bundles(&self, trust_domain: &str) -> TrustBundles {
        let mut bundles = TrustBundles::new();
        bundles
            .insert(trust_domain, [CertificateDer::from(self.der())])
            .unwrap();
        bundles
    }

    pub fn svid_with(&self, params: &CertificateParams) -> Svid {
        let key = key();
        let leaf = CertificateDer::from(self.sign(params, &key));
        Svid::new(vec![leaf], Zeroizing::new(key.serialize_der())).unwrap()
    }

    pub fn svid(&self, id: &str) -> Svid {
        self.svid_with(&svid_params(id))
    }

    pub fn source(&self, id: &str) -> Arc<StaticSource> {
        Arc::new(StaticSource::new(self.svid(id), self.bundles("demo.writ")))
    }
}
