//! A trust domain's CA, and SVIDs that are valid now.

#![allow(dead_code, reason = "not every test uses all of it")]

use std::sync::Arc;

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, SanType,
};
use rustls_pki_types::CertificateDer;
use writ_identity::{EnvelopeKeys, KeyKind, StaticSource, Svid, SvidSource, TrustBundles};
use zeroize::Zeroizing;

pub const DOMAIN: &str = "relay.test";

pub fn id(path: &str) -> String {
    format!("spiffe://{DOMAIN}/{path}")
}

pub struct Ca(CertifiedIssuer<'static, KeyPair>);

fn key() -> KeyPair {
    KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap()
}

fn params() -> CertificateParams {
    let mut params = CertificateParams::default();
    let now = time::OffsetDateTime::now_utc();
    params.not_before = now - time::Duration::hours(1);
    params.not_after = now + time::Duration::days(1);
    params
}

impl Ca {
    pub fn new() -> Self {
        let mut params = params();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        Self(CertifiedIssuer::self_signed(params, key()).unwrap())
    }

    /// A workload of this path in the trust domain.
    pub fn source(&self, path: &str) -> Arc<dyn SvidSource> {
        let mut params = params();
        params.subject_alt_names = vec![SanType::URI(id(path).as_str().try_into().unwrap())];
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::ClientAuth,
        ];
        params.is_ca = IsCa::ExplicitNoCa;
        params.use_authority_key_identifier_extension = true;
        let key = key();
        let leaf = params.signed_by(&key, &self.0).unwrap().der().clone();
        let svid = Svid::new(vec![leaf], Zeroizing::new(key.serialize_der())).unwrap();
        Arc::new(StaticSource::new(svid, self.bundles()))
    }

    pub fn bundles(&self) -> TrustBundles {
        let mut bundles = TrustBundles::new();
        let authority = CertificateDer::from(self.0.der().to_vec());
        bundles.insert(DOMAIN, [authority]).unwrap();
        bundles
    }

    /// Keys that sign as this workload.
    pub fn keys(&self, path: &str) -> EnvelopeKeys {
        EnvelopeKeys::new(self.source(path), KeyKind::Svid)
    }
}
