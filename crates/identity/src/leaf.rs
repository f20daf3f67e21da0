//! The X.509-SVID profile of a leaf, read strictly (SPIFFE X509-SVID, sections 2 to 5).

use rustls_pki_types::CertificateDer;
use spiffe::SpiffeId;
use x509_cert::Certificate;
use x509_cert::der::Decode;
use x509_cert::der::oid::ObjectIdentifier;
use x509_cert::der::oid::db::rfc5280::{ID_KP_CLIENT_AUTH, ID_KP_SERVER_AUTH};
use x509_cert::der::oid::db::rfc5912::{ID_EC_PUBLIC_KEY, SECP_256_R_1};
use x509_cert::ext::pkix::name::GeneralName;
use x509_cert::ext::pkix::{BasicConstraints, ExtendedKeyUsage, KeyUsage, SubjectAltName};

use crate::{IdentityError, MAX_CERTIFICATE_BYTES};

/// What a leaf says of itself. Only a verified chain makes it true.
#[derive(Debug, Clone)]
pub(crate) struct Leaf {
    pub spiffe_id: SpiffeId,
    /// SEC 1 uncompressed P-256 point, 65 bytes.
    pub public_key: Vec<u8>,
    /// RFC 4514 string.
    pub subject_dn: String,
    pub not_before: u64,
    pub not_after: u64,
}

/// Parses one certificate within the size limit.
pub(crate) fn parse(der: &[u8]) -> Result<Certificate, IdentityError> {
    if der.len() > MAX_CERTIFICATE_BYTES {
        return Err(IdentityError::CertificateTooLarge(der.len()));
    }
    Certificate::from_der(der).map_err(|e| IdentityError::Malformed(e.to_string()))
}

/// Reads one extension; twice the same is malformed.
pub(crate) fn extension<T>(certificate: &Certificate) -> Result<Option<T>, IdentityError>
where
    T: for<'a> Decode<'a, Error = x509_cert::der::Error> + x509_cert::der::oid::AssociatedOid,
{
    certificate
        .tbs_certificate()
        .get_extension::<T>()
        .map(|found| found.map(|(_critical, value)| value))
        .map_err(|e| IdentityError::Malformed(format!("extension {}: {e}", T::OID)))
}

/// Start and end of validity, unix seconds.
pub(crate) fn validity(certificate: &Certificate) -> (u64, u64) {
    let validity = certificate.tbs_certificate().validity();
    (
        validity.not_before.to_unix_duration().as_secs(),
        validity.not_after.to_unix_duration().as_secs(),
    )
}

/// Reads the leaf and checks it against the profile.
pub(crate) fn read(der: &CertificateDer<'_>) -> Result<Leaf, IdentityError> {
    let certificate = parse(der)?;
    let spiffe_id = spiffe_id(&certificate)?;
    check_constraints(&certificate)?;
    let tbs = certificate.tbs_certificate();
    let (not_before, not_after) = validity(&certificate);
    Ok(Leaf {
        spiffe_id,
        public_key: p256_point(&certificate)?,
        subject_dn: tbs.subject().to_string(),
        not_before,
        not_after,
    })
}

fn spiffe_id(certificate: &Certificate) -> Result<SpiffeId, IdentityError> {
    let names = extension::<SubjectAltName>(certificate)?.map_or_else(Vec::new, |san| san.0);
    let mut uris = names.iter().filter_map(|name| match name {
        GeneralName::UniformResourceIdentifier(uri) => Some(uri.as_str()),
        _ => None,
    });
    let uri = uris.next().ok_or(IdentityError::NoSpiffeId)?;
    match uris.count() {
        0 => workload_id(uri),
        more => Err(IdentityError::MultipleUriSans(more + 1)),
    }
}

/// Parses the SPIFFE ID of a workload: a trust domain and a path.
pub(crate) fn workload_id(id: &str) -> Result<SpiffeId, IdentityError> {
    let invalid = |reason: String| IdentityError::InvalidSpiffeId {
        id: id.chars().take(128).collect(),
        reason,
    };
    let parsed = SpiffeId::new(id).map_err(|e| invalid(e.to_string()))?;
    if parsed.path().is_empty() {
        return Err(invalid("it has no path".into()));
    }
    Ok(parsed)
}

fn check_constraints(certificate: &Certificate) -> Result<(), IdentityError> {
    if extension::<BasicConstraints>(certificate)?.is_some_and(|constraints| constraints.ca) {
        return Err(IdentityError::LeafIsCa);
    }
    let usage = extension::<KeyUsage>(certificate)?
        .ok_or(IdentityError::KeyUsage("the extension is absent"))?;
    if !usage.digital_signature() {
        return Err(IdentityError::KeyUsage("digitalSignature is not set"));
    }
    if usage.key_cert_sign() || usage.crl_sign() {
        return Err(IdentityError::KeyUsage("keyCertSign or cRLSign is set"));
    }
    if let Some(ExtendedKeyUsage(purposes)) = extension(certificate)? {
        let has = |purpose: ObjectIdentifier| purposes.contains(&purpose);
        if !has(ID_KP_SERVER_AUTH) || !has(ID_KP_CLIENT_AUTH) {
            return Err(IdentityError::ExtendedKeyUsage);
        }
    }
    Ok(())
}

/// The key as an uncompressed P-256 point. Whether it lies on the curve is checked where it is
/// used: both TLS and `writ_sae::VerifyKey` refuse a point that does not.
fn p256_point(certificate: &Certificate) -> Result<Vec<u8>, IdentityError> {
    let spki = certificate.tbs_certificate().subject_public_key_info();
    let curve = spki
        .algorithm
        .parameters
        .as_ref()
        .and_then(|parameters| parameters.decode_as::<ObjectIdentifier>().ok());
    let point = spki.subject_public_key.as_bytes();
    match point {
        Some(point @ [0x04, ..])
            if spki.algorithm.oid == ID_EC_PUBLIC_KEY
                && curve == Some(SECP_256_R_1)
                && point.len() == 65 =>
        {
            Ok(point.to_vec())
        }
        _ => Err(IdentityError::UnsupportedKey),
    }
}

/// An intermediate must be a CA whose key usage lets it sign certificates.
pub(crate) fn check_intermediate(der: &[u8]) -> Result<(), IdentityError> {
    let certificate = parse(der)?;
    let is_ca = extension::<BasicConstraints>(&certificate)?.is_some_and(|basic| basic.ca);
    let signs = extension::<KeyUsage>(&certificate)?.is_some_and(|usage| usage.key_cert_sign());
    if is_ca && signs {
        Ok(())
    } else {
        Err(IdentityError::IntermediateNotCa)
    }
}
