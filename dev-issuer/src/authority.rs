//! One trust domain's CA, in memory.

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, SanType,
};
use time::{Duration, OffsetDateTime};
use zeroize::Zeroizing;

use crate::IssuerError;

/// Life of a CA; the process is not meant to live as long.
const CA_LIFETIME: Duration = Duration::days(30);
/// Certificates start this much in the past.
const BACKDATE: Duration = Duration::seconds(10);

/// Signs for one trust domain. The authorities it used before stay in the bundle.
pub(crate) struct Authority {
    trust_domain: String,
    current: CertifiedIssuer<'static, KeyPair>,
    retired: Vec<Vec<u8>>,
}

/// A new SVID.
pub(crate) struct Issued {
    pub certificate: Vec<u8>,
    pub pkcs8: Zeroizing<Vec<u8>>,
}

impl Authority {
    pub(crate) fn new(trust_domain: &str, now: OffsetDateTime) -> Result<Self, IssuerError> {
        Ok(Self {
            trust_domain: trust_domain.to_owned(),
            current: make_ca(trust_domain, now)?,
            retired: Vec::new(),
        })
    }

    /// Replaces the signing key. The old authority stays trusted.
    pub(crate) fn rotate(&mut self, now: OffsetDateTime) -> Result<(), IssuerError> {
        let next = make_ca(&self.trust_domain, now)?;
        self.retired.push(self.current.der().to_vec());
        self.current = next;
        Ok(())
    }

    /// DER certificates, concatenated, as the Workload API wants them.
    pub(crate) fn bundle(&self) -> Vec<u8> {
        let mut bundle = self.current.der().to_vec();
        bundle.extend(self.retired.iter().flatten());
        bundle
    }

    pub(crate) fn issue(
        &self,
        spiffe_id: &str,
        now: OffsetDateTime,
        ttl: Duration,
    ) -> Result<Issued, IssuerError> {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(failed)?;
        let mut params = CertificateParams::default();
        let name = spiffe_id.rsplit('/').next().unwrap_or_default();
        params.distinguished_name = subject(name);
        params.subject_alt_names = vec![SanType::URI(spiffe_id.try_into().map_err(failed)?)];
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::ClientAuth,
        ];
        params.is_ca = IsCa::ExplicitNoCa;
        params.use_authority_key_identifier_extension = true;
        params.not_before = now - BACKDATE;
        params.not_after = now + ttl;
        let certificate = params.signed_by(&key, &self.current).map_err(failed)?;
        Ok(Issued {
            certificate: certificate.der().to_vec(),
            pkcs8: Zeroizing::new(key.serialize_der()),
        })
    }
}

fn make_ca(
    trust_domain: &str,
    now: OffsetDateTime,
) -> Result<CertifiedIssuer<'static, KeyPair>, IssuerError> {
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(failed)?;
    let mut params = CertificateParams::default();
    params.distinguished_name = subject(&format!("{trust_domain} development CA"));
    let uri = format!("spiffe://{trust_domain}");
    params.subject_alt_names = vec![SanType::URI(uri.as_str().try_into().map_err(failed)?)];
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.not_before = now - BACKDATE;
    params.not_after = now + CA_LIFETIME;
    CertifiedIssuer::self_signed(params, key).map_err(failed)
}

fn subject(common_name: &str) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    name.push(DnType::OrganizationName, "writ-dev-issuer");
    name.push(DnType::CommonName, common_name);
    name
}

fn failed(error: rcgen::Error) -> IssuerError {
    IssuerError::Certificate(error.to_string())
}
