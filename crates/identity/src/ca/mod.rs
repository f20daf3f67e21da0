//! The interception CA of one pod (`agent_tls: intercept`; design, section 9).
//!
//! It may certify only the DNS names that the catalog permits (name constraints, RFC 5280,
//! section 4.2.1.10: subdomains are inherent), server certificates only, and no IP address but
//! those listed. Its constraints are fixed when the pod starts; names added later are refused.

mod store;

use std::collections::BTreeSet;
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use moka::sync::Cache;
use rcgen::{
    BasicConstraints, CertificateParams, CidrSubnet, DnType, ExtendedKeyUsagePurpose,
    GeneralSubtree, IsCa, Issuer, KeyPair, KeyUsagePurpose, NameConstraints, PublicKeyData,
    SanType, SigningKey,
};
use rustls::sign::CertifiedKey;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName};
use time::OffsetDateTime;
use x509_cert::der::pem::{LineEnding, encode_string};
use zeroize::{Zeroize, Zeroizing};

use crate::{IdentityError, leaf};

/// Life of the CA certificate, in seconds: longer than a pod should live.
pub const CA_LIFETIME: u64 = 365 * 24 * 3600;
/// Life of a leaf, in seconds; it is made anew after half of it.
pub const LEAF_LIFETIME: u64 = 24 * 3600;
/// Most leaves kept.
pub const MAX_LEAVES: u64 = 1024;
/// Most names that may be permitted.
pub const MAX_NAMES: usize = 4096;
/// Certificates start this much in the past, in seconds.
const BACKDATE: u64 = 300;

/// Where the CA's key stays over a restart of the sidecar.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KeyStore {
    /// In this process only: a restart makes a new CA, which running agents do not trust.
    Ephemeral,
    /// In this directory, which must be on tmpfs or ramfs and mounted in the sidecar alone.
    MemoryBacked(std::path::PathBuf),
    /// In this directory on any file system. For development on one machine only.
    Development(std::path::PathBuf),
}

/// What the CA may certify.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Permitted {
    /// DNS names, subdomains included.
    pub names: BTreeSet<String>,
    /// IP addresses; every other one is excluded.
    pub addresses: BTreeSet<IpAddr>,
}

/// The CA with its key and the leaves it made. `Debug` prints no key.
pub struct PodCa {
    certificate: CertificateDer<'static>,
    issuer: Issuer<'static, CaKey>,
    permitted: Permitted,
    leaves: Cache<String, Arc<Leaf>>,
}

struct Leaf {
    certified: Arc<CertifiedKey>,
    renew_at: u64,
}

/// The CA's key pair, wiped when dropped.
struct CaKey(KeyPair);

impl Drop for CaKey {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

impl PublicKeyData for CaKey {
    fn der_bytes(&self) -> &[u8] {
        self.0.der_bytes()
    }
    fn algorithm(&self) -> &'static rcgen::SignatureAlgorithm {
        self.0.algorithm()
    }
}

impl SigningKey for CaKey {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rcgen::Error> {
        self.0.sign(message)
    }
}

impl PodCa {
    /// Takes the CA that `store` holds, or makes one for `permitted` and stores it.
    ///
    /// A stored CA keeps the constraints that it was made with, so that agents which already trust
    /// it go on; see [`Self::permitted`].
    ///
    /// # Errors
    /// [`IdentityError::NotMemoryBacked`], [`IdentityError::InsecureKeyFile`], or
    /// [`IdentityError::Ca`] when nothing is permitted or what is stored cannot be used.
    pub fn load_or_create(
        store: &KeyStore,
        permitted: Permitted,
        now: u64,
    ) -> Result<Self, IdentityError> {
        if let Some(stored) = store::load(store)? {
            return Self::from_stored(&stored, now);
        }
        let (certificate, key) = create(permitted, now)?;
        let text = store::encode(&certificate, &key)?;
        match store::save(store, &text)? {
            store::Saved::Ours => Self::from_stored(&text, now),
            store::Saved::Theirs(stored) => Self::from_stored(&stored, now),
        }
    }

    fn from_stored(text: &Zeroizing<String>, now: u64) -> Result<Self, IdentityError> {
        let (certificate, pkcs8) = store::decode(text)?;
        let key = PrivatePkcs8KeyDer::from(pkcs8.as_slice());
        let key = KeyPair::from_pkcs8_der_and_sign_algo(&key, &rcgen::PKCS_ECDSA_P256_SHA256)
            .map_err(ca_error)?;
        let parsed = leaf::parse(&certificate)?;
        let (not_before, not_after) = leaf::validity(&parsed);
        if !(not_before..=not_after).contains(&now) {
            return Err(IdentityError::Ca(
                "the stored CA has expired; restart the pod".into(),
            ));
        }
        let spki = parsed.tbs_certificate().subject_public_key_info();
        if spki.subject_public_key.as_bytes() != Some(key.public_key_raw()) {
            return Err(IdentityError::Ca(
                "stored key and certificate differ".into(),
            ));
        }
        let permitted = store::permitted(&parsed)?;
        let issuer = Issuer::from_ca_cert_der(&certificate, CaKey(key)).map_err(ca_error)?;
        Ok(Self {
            certificate,
            issuer,
            permitted,
            leaves: Cache::new(MAX_LEAVES),
        })
    }

    /// The CA certificate that the agent must trust.
    pub fn certificate(&self) -> &CertificateDer<'static> {
        &self.certificate
    }

    /// What the CA may certify, read from its certificate.
    pub fn permitted(&self) -> &Permitted {
        &self.permitted
    }

    /// The certificate for `name` (a DNS name or an IP address), its one SAN, valid at `now`.
    ///
    /// # Errors
    /// [`IdentityError::NameNotPermitted`] outside the constraints.
    pub fn leaf_for(&self, name: &str, now: u64) -> Result<Arc<CertifiedKey>, IdentityError> {
        let (key, san) = self.subject(name)?;
        if let Some(leaf) = self.leaves.get(&key).filter(|leaf| now < leaf.renew_at) {
            return Ok(Arc::clone(&leaf.certified));
        }
        let certified = Arc::new(self.issue(san, now)?);
        let leaf = Leaf {
            certified: Arc::clone(&certified),
            renew_at: now.saturating_add(LEAF_LIFETIME / 2),
        };
        self.leaves.insert(key, Arc::new(leaf));
        Ok(certified)
    }

    fn subject(&self, name: &str) -> Result<(String, SanType), IdentityError> {
        let refused = || IdentityError::NameNotPermitted(name.chars().take(256).collect());
        if let Ok(address) = name.parse::<IpAddr>() {
            return if self.permitted.addresses.contains(&address) {
                Ok((address.to_string(), SanType::IpAddress(address)))
            } else {
                Err(refused())
            };
        }
        let name = dns_name(name).ok_or_else(refused)?;
        let covers = |permitted: &String| {
            name.strip_suffix(permitted.as_str())
                .is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
        };
        if !self.permitted.names.iter().any(covers) {
            return Err(refused());
        }
        let san = SanType::DnsName(name.clone().try_into().map_err(ca_error)?);
        Ok((name, san))
    }

    fn issue(&self, san: SanType, now: u64) -> Result<CertifiedKey, IdentityError> {
        let key = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).map_err(ca_error)?;
        let mut params = CertificateParams::default();
        // No common name: the SAN is the only name, and empty subjects make it critical.
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.subject_alt_names = vec![san];
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.use_authority_key_identifier_extension = true;
        validity(&mut params, now, LEAF_LIFETIME)?;
        let certificate = params.signed_by(&key, &self.issuer).map_err(ca_error)?;
        let der = Zeroizing::new(key.serialize_der());
        let pkcs8 = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(der.as_slice()));
        let signing = rustls::crypto::ring::sign::any_ecdsa_type(&pkcs8).map_err(ca_error)?;
        let chain = vec![certificate.der().clone(), self.certificate.clone()];
        Ok(CertifiedKey::new(chain, signing))
    }

    /// PEM text for the agent's trust store: `roots`, then this CA.
    ///
    /// # Errors
    /// [`IdentityError::Ca`] when a certificate cannot be encoded.
    pub fn trust_bundle_pem(&self, roots: &[CertificateDer<'_>]) -> Result<String, IdentityError> {
        roots
            .iter()
            .map(AsRef::as_ref)
            .chain([self.certificate.as_ref()])
            .map(|der| encode_string("CERTIFICATE", LineEnding::LF, der).map_err(ca_error))
            .collect()
    }

    /// Writes [`Self::trust_bundle_pem`] to `path` as a whole, readable by everyone (it holds no
    /// secret).
    ///
    /// # Errors
    /// [`IdentityError::Io`].
    pub fn write_trust_bundle(
        &self,
        path: &std::path::Path,
        roots: &[CertificateDer<'_>],
    ) -> Result<(), IdentityError> {
        store::write_public(path, &self.trust_bundle_pem(roots)?)
    }
}

impl fmt::Debug for PodCa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PodCa")
            .field("permitted", &self.permitted)
            .finish_non_exhaustive()
    }
}

fn create(
    permitted: Permitted,
    now: u64,
) -> Result<(CertificateDer<'static>, Zeroizing<Vec<u8>>), IdentityError> {
    let mut key = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).map_err(ca_error)?;
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params
        .distinguished_name
        .push(DnType::OrganizationName, "Writ");
    params
        .distinguished_name
        .push(DnType::CommonName, "Writ pod interception CA");
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    params.name_constraints = Some(constraints(permitted)?);
    validity(&mut params, now, CA_LIFETIME)?;
    let certificate = params.self_signed(&key).map_err(ca_error)?;
    let pkcs8 = Zeroizing::new(key.serialize_der());
    key.zeroize();
    Ok((certificate.der().clone(), pkcs8))
}

/// Without a permitted name of a kind, a CA would be free in that kind: nothing permitted at all
/// is refused, and IP families without a listed address are excluded as a whole.
fn constraints(permitted: Permitted) -> Result<NameConstraints, IdentityError> {
    if permitted.names.is_empty() {
        return Err(IdentityError::Ca(
            "no DNS name is permitted; no destination intercepts".into(),
        ));
    }
    if permitted.names.len() + permitted.addresses.len() > MAX_NAMES {
        return Err(IdentityError::Ca(format!("more than {MAX_NAMES} names")));
    }
    let mut permitted_subtrees = Vec::new();
    for name in &permitted.names {
        let name = dns_name(name)
            .ok_or_else(|| IdentityError::Ca(format!("{name:?} is no plain DNS name")))?;
        permitted_subtrees.push(GeneralSubtree::DnsName(name));
    }
    for address in &permitted.addresses {
        permitted_subtrees.push(GeneralSubtree::IpAddress(one(*address)));
    }
    let mut excluded_subtrees = Vec::new();
    if !permitted.addresses.iter().any(IpAddr::is_ipv4) {
        excluded_subtrees.push(GeneralSubtree::IpAddress(CidrSubnet::V4([0; 4], [0; 4])));
    }
    if !permitted.addresses.iter().any(IpAddr::is_ipv6) {
        excluded_subtrees.push(GeneralSubtree::IpAddress(CidrSubnet::V6([0; 16], [0; 16])));
    }
    Ok(NameConstraints {
        permitted_subtrees,
        excluded_subtrees,
    })
}

fn one(address: IpAddr) -> CidrSubnet {
    match address {
        IpAddr::V4(address) => CidrSubnet::V4(address.octets(), [0xff; 4]),
        IpAddr::V6(address) => CidrSubnet::V6(address.octets(), [0xff; 16]),
    }
}

/// Lower-case, no trailing dot, no wildcard, and no form of an IP address.
fn dns_name(name: &str) -> Option<String> {
    let name = name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase();
    match ServerName::try_from(name.as_str()).ok()? {
        ServerName::DnsName(_) => Some(name),
        _ => None,
    }
}

fn validity(params: &mut CertificateParams, now: u64, life: u64) -> Result<(), IdentityError> {
    params.not_before = instant(now.saturating_sub(BACKDATE))?;
    params.not_after = instant(now.saturating_add(life))?;
    Ok(())
}

fn instant(seconds: u64) -> Result<OffsetDateTime, IdentityError> {
    let seconds = i64::try_from(seconds).map_err(ca_error)?;
    OffsetDateTime::from_unix_timestamp(seconds).map_err(ca_error)
}

fn ca_error(error: impl fmt::Display) -> IdentityError {
    IdentityError::Ca(error.to_string())
}
