//! The own identity: certificate chain and private key, in memory only.

use std::fmt;
use std::sync::Arc;

use rustls::sign::CertifiedKey;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use zeroize::Zeroizing;

use crate::bundle::sha256;
use crate::{IdentityError, MAX_CHAIN_CERTIFICATES, leaf};

/// One X.509-SVID with its key. `Debug` prints no key.
///
/// The PKCS #8 bytes are wiped when the SVID is dropped, and nothing here ever writes them
/// anywhere; the copies that ring makes inside its own key objects it does not wipe.
pub struct Svid {
    spiffe_id: String,
    trust_domain: String,
    subject_dn: String,
    chain: Vec<CertificateDer<'static>>,
    key: Zeroizing<Vec<u8>>,
    certified: Arc<CertifiedKey>,
    not_before: u64,
    not_after: u64,
    leaf_sha256_hex: String,
}

impl Svid {
    /// Makes an SVID from its DER chain (leaf first) and its PKCS #8 key.
    ///
    /// # Errors
    /// When the leaf breaks the SVID profile, is no P-256 certificate, or the key is another's.
    pub fn new(
        chain: Vec<CertificateDer<'static>>,
        pkcs8: Zeroizing<Vec<u8>>,
    ) -> Result<Self, IdentityError> {
        if chain.len() > MAX_CHAIN_CERTIFICATES {
            return Err(IdentityError::ChainTooLong(chain.len()));
        }
        let first = chain.first().ok_or(IdentityError::EmptyChain)?;
        let leaf = leaf::read(first)?;
        let leaf_sha256_hex = hex::encode(sha256(first));
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(pkcs8.as_slice()));
        let signing = rustls::crypto::ring::sign::any_ecdsa_type(&key)
            .map_err(|e| IdentityError::KeyMismatch(e.to_string()))?;
        let certified = CertifiedKey::new(chain.clone(), signing);
        certified
            .keys_match()
            .map_err(|e| IdentityError::KeyMismatch(e.to_string()))?;
        Ok(Self {
            trust_domain: leaf.spiffe_id.trust_domain_name().to_owned(),
            spiffe_id: leaf.spiffe_id.to_string(),
            subject_dn: leaf.subject_dn,
            chain,
            certified: Arc::new(certified),
            key: pkcs8,
            not_before: leaf.not_before,
            not_after: leaf.not_after,
            leaf_sha256_hex,
        })
    }

    /// `spiffe://trust-domain/path`.
    pub fn spiffe_id(&self) -> &str {
        &self.spiffe_id
    }
    /// Trust domain of the SPIFFE ID.
    pub fn trust_domain(&self) -> &str {
        &self.trust_domain
    }
    /// RFC 4514 string of the leaf's subject (T-086).
    pub fn subject_dn(&self) -> &str {
        &self.subject_dn
    }
    /// DER chain, leaf first.
    pub fn chain(&self) -> &[CertificateDer<'static>] {
        &self.chain
    }
    /// Start of validity, unix seconds.
    pub fn not_before(&self) -> u64 {
        self.not_before
    }
    /// End of validity, unix seconds, itself still valid.
    pub fn not_after(&self) -> u64 {
        self.not_after
    }
    /// Lower-case hex SHA-256 of the DER leaf: the `kid` of what its key signs (T-084).
    pub fn leaf_sha256_hex(&self) -> &str {
        &self.leaf_sha256_hex
    }
    /// Whether the SVID is valid at `now`, unix seconds.
    pub fn is_valid_at(&self, now: u64) -> bool {
        (self.not_before..=self.not_after).contains(&now)
    }
    pub(crate) fn certified(&self) -> &Arc<CertifiedKey> {
        &self.certified
    }
    pub(crate) fn pkcs8(&self) -> &[u8] {
        &self.key
    }
}

impl fmt::Debug for Svid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Svid")
            .field("spiffe_id", &self.spiffe_id)
            .field("leaf_sha256", &self.leaf_sha256_hex)
            .field("not_before", &self.not_before)
            .field("not_after", &self.not_after)
            .finish_non_exhaustive()
    }
}
