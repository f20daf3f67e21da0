//! Trust bundles and path validation (RFC 5280 by rustls-webpki, SPIFFE's rules on top).

use std::collections::BTreeMap;
use std::time::Duration;

use ring::digest;
use rustls_pki_types::{CertificateDer, SignatureVerificationAlgorithm, TrustAnchor, UnixTime};
use webpki::{EndEntityCert, KeyUsage, VerifiedPath};
use writ_sae::{ChainError, ChainVerifier, VerifiedSvid};
use x509_cert::ext::pkix::BasicConstraints;

use crate::leaf::{self, Leaf};
use crate::{IdentityError, MAX_CHAIN_CERTIFICATES};

/// Most authorities that one bundle may have.
pub const MAX_AUTHORITIES: usize = 64;

/// Signatures that an authority may have made. SVID keys themselves are P-256 only.
static CHAIN_ALGORITHMS: &[&dyn SignatureVerificationAlgorithm] = &[
    webpki::ring::ECDSA_P256_SHA256,
    webpki::ring::ECDSA_P256_SHA384,
    webpki::ring::ECDSA_P384_SHA256,
    webpki::ring::ECDSA_P384_SHA384,
    webpki::ring::ED25519,
    webpki::ring::RSA_PKCS1_2048_8192_SHA256,
    webpki::ring::RSA_PKCS1_2048_8192_SHA384,
    webpki::ring::RSA_PKCS1_2048_8192_SHA512,
];

#[derive(Debug, Clone)]
struct Authority {
    der: CertificateDer<'static>,
    anchor: TrustAnchor<'static>,
    not_before: u64,
    not_after: u64,
    /// How many intermediates may follow, where it says so.
    path_len: Option<u8>,
}

/// X.509 authorities of each trust domain: the own one and those federated with it.
///
/// A chain is checked against the bundle of the trust domain that its leaf names, never another.
#[derive(Debug, Clone, Default)]
pub struct TrustBundles {
    domains: BTreeMap<String, Vec<Authority>>,
}

impl TrustBundles {
    /// No trust domain at all: refuses every chain.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds or replaces the bundle of `trust_domain` (`example.org`): DER CA certificates.
    ///
    /// # Errors
    /// [`IdentityError::Bundle`] when one cannot be used; nothing is changed then.
    pub fn insert(
        &mut self,
        trust_domain: &str,
        authorities: impl IntoIterator<Item = CertificateDer<'static>>,
    ) -> Result<(), IdentityError> {
        let unusable = |reason: String| IdentityError::Bundle {
            trust_domain: trust_domain.chars().take(128).collect(),
            reason,
        };
        let domain = spiffe::TrustDomain::new(trust_domain).map_err(|e| unusable(e.to_string()))?;
        let mut parsed = Vec::new();
        for der in authorities {
            if parsed.len() == MAX_AUTHORITIES {
                return Err(unusable(format!("more than {MAX_AUTHORITIES} authorities")));
            }
            parsed.push(Authority::parse(der).map_err(|e| unusable(e.to_string()))?);
        }
        if parsed.is_empty() {
            return Err(unusable("it is empty".into()));
        }
        self.domains.insert(domain.as_str().to_owned(), parsed);
        Ok(())
    }

    /// Names of the trust domains.
    pub fn trust_domains(&self) -> impl Iterator<Item = &str> {
        self.domains.keys().map(String::as_str)
    }

    /// DER authorities of a trust domain; what evidence keeps for verification years later.
    pub fn authorities(
        &self,
        trust_domain: &str,
    ) -> impl Iterator<Item = &CertificateDer<'static>> {
        let domain = self.domains.get(trust_domain);
        domain.into_iter().flatten().map(|authority| &authority.der)
    }

    /// Verifies `chain` (DER, leaf first) as an X.509-SVID at `now` (unix seconds).
    ///
    /// # Errors
    /// One [`IdentityError`] per rule that it breaks.
    pub fn verify_chain(
        &self,
        chain: &[impl AsRef<[u8]>],
        now: u64,
    ) -> Result<VerifiedSvid, IdentityError> {
        if chain.len() > MAX_CHAIN_CERTIFICATES {
            return Err(IdentityError::ChainTooLong(chain.len()));
        }
        let chain: Vec<CertificateDer<'_>> = chain
            .iter()
            .map(|der| CertificateDer::from(der.as_ref()))
            .collect();
        let (first, intermediates) = chain.split_first().ok_or(IdentityError::EmptyChain)?;
        let leaf = leaf::read(first)?;
        for intermediate in intermediates {
            leaf::check_intermediate(intermediate)?;
        }
        self.verify_path(first, intermediates, &leaf, now)?;
        Ok(VerifiedSvid {
            spiffe_id: leaf.spiffe_id.to_string(),
            public_key: leaf.public_key,
            leaf_sha256: sha256(first),
            subject_dn: leaf.subject_dn,
            not_after: leaf.not_after,
        })
    }

    fn verify_path(
        &self,
        first: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        leaf: &Leaf,
        now: u64,
    ) -> Result<(), IdentityError> {
        let trust_domain = leaf.spiffe_id.trust_domain_name();
        let authorities = self
            .domains
            .get(trust_domain)
            .ok_or_else(|| IdentityError::UnknownTrustDomain(trust_domain.to_owned()))?;
        // webpki looks neither at an anchor's validity nor at its path length: an expired authority
        // vouches for nobody, and one for leaves only vouches for no other authority.
        let anchors: Vec<TrustAnchor<'_>> = authorities
            .iter()
            .filter(|authority| (authority.not_before..=authority.not_after).contains(&now))
            .map(|authority| authority.anchor.clone())
            .collect();
        let within_length = |path: &VerifiedPath<'_>| {
            let length = path.intermediate_certificates().count();
            let allows = |authority: &Authority| {
                authority.anchor == *path.anchor()
                    && authority
                        .path_len
                        .is_none_or(|most| length <= usize::from(most))
            };
            if authorities.iter().any(allows) {
                Ok(())
            } else {
                Err(webpki::Error::PathLenConstraintViolated)
            }
        };
        EndEntityCert::try_from(first)
            .and_then(|end_entity| {
                end_entity
                    .verify_for_usage(
                        CHAIN_ALGORITHMS,
                        &anchors,
                        intermediates,
                        UnixTime::since_unix_epoch(Duration::from_secs(now)),
                        KeyUsage::client_auth(),
                        None,
                        Some(&within_length),
                    )
                    .map(|_path| ())
            })
            .map_err(|error| path_error(error, trust_domain))
    }
}

impl Authority {
    fn parse(der: CertificateDer<'static>) -> Result<Self, IdentityError> {
        let certificate = leaf::parse(&der)?;
        leaf::check_intermediate(&der)?;
        let (not_before, not_after) = leaf::validity(&certificate);
        let path_len = leaf::extension::<BasicConstraints>(&certificate)?
            .and_then(|constraints| constraints.path_len_constraint);
        let anchor = webpki::anchor_from_trusted_cert(&der)
            .map_err(|e| IdentityError::Malformed(e.to_string()))?
            .to_owned();
        Ok(Self {
            der,
            anchor,
            not_before,
            not_after,
            path_len,
        })
    }
}

impl ChainVerifier for TrustBundles {
    fn verify_chain(&self, chain: &[Vec<u8>], now: u64) -> Result<VerifiedSvid, ChainError> {
        Ok(TrustBundles::verify_chain(self, chain, now)?)
    }
}

fn path_error(error: webpki::Error, trust_domain: &str) -> IdentityError {
    use webpki::Error;
    match error {
        Error::CertExpired { .. } => IdentityError::Expired,
        Error::CertNotValidYet { .. } => IdentityError::NotYetValid,
        Error::UnknownIssuer | Error::InvalidSignatureForPublicKey => {
            IdentityError::UntrustedIssuer(trust_domain.to_owned())
        }
        other => IdentityError::InvalidPath(other.to_string()),
    }
}

pub(crate) fn sha256(data: &[u8]) -> [u8; 32] {
    let mut out = [0; 32];
    out.copy_from_slice(digest::digest(&digest::SHA256, data).as_ref());
    out
}
