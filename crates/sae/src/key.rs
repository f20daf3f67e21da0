//! From a certificate chain to the key that may have signed.

use crate::encoding::sha256;
use crate::{Algorithm, KeyStatement, Refusal, Verified};

/// `kid` of an SVID key: lower-case hex SHA-256 of the DER leaf certificate.
pub fn leaf_kid(leaf_der: &[u8]) -> String {
    hex::encode(sha256(leaf_der))
}

/// What a verified X.509-SVID chain proves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VerifiedSvid {
    /// SPIFFE ID in the leaf's URI SAN.
    pub spiffe_id: String,
    /// Public key of the leaf: SEC 1 uncompressed P-256 point, or DER `SubjectPublicKeyInfo`.
    pub public_key: Vec<u8>,
    /// SHA-256 of the DER leaf.
    pub leaf_sha256: [u8; 32],
    /// RFC 4514 subject; may be empty.
    pub subject_dn: String,
    /// The leaf's `notAfter`, unix seconds.
    pub not_after: u64,
}

/// Verifies chains against the bundles of the trusted trust domains.
pub trait ChainVerifier: Send + Sync {
    /// Verifies `chain` (DER, leaf first) at `now` (unix seconds) as an X.509-SVID.
    ///
    /// # Errors
    /// [`ChainError`] when the chain leads to no trusted bundle or is not an SVID.
    fn verify_chain(&self, chain: &[Vec<u8>], now: u64) -> Result<VerifiedSvid, ChainError>;
}

/// Why a certificate chain proves nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the certificate chain is not trusted: {0}")]
pub struct ChainError(pub String);

/// A public key that a verified chain proves, ready to verify tokens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VerifyKey {
    pub(crate) algorithm: Algorithm,
    pub(crate) public_key: Vec<u8>,
    pub(crate) kid: String,
    pub(crate) spiffe_id: String,
    pub(crate) subject_dn: String,
}

impl VerifyKey {
    /// The SVID's own key.
    ///
    /// # Errors
    /// [`Refusal::AlgKeyMismatch`] when it is not a P-256 key.
    pub fn from_svid(svid: &VerifiedSvid) -> Result<Self, Refusal> {
        Ok(Self {
            algorithm: Algorithm::Es256,
            public_key: p256_point(&svid.public_key)?,
            kid: hex::encode(svid.leaf_sha256),
            spiffe_id: svid.spiffe_id.clone(),
            subject_dn: svid.subject_dn.clone(),
        })
    }

    /// The key that a statement by this SVID delegates to.
    ///
    /// # Errors
    /// [`Refusal::IssuerMismatch`] or [`Refusal::KeyStatementOutlivesSvid`] when the statement
    /// is not this SVID's.
    pub fn from_statement(
        statement: &Verified<KeyStatement>,
        svid: &VerifiedSvid,
    ) -> Result<Self, Refusal> {
        let claims = statement.claims();
        if claims.iss != svid.spiffe_id || statement.kid() != hex::encode(svid.leaf_sha256) {
            return Err(Refusal::IssuerMismatch);
        }
        if claims.exp > svid.not_after {
            return Err(Refusal::KeyStatementOutlivesSvid);
        }
        Ok(Self {
            algorithm: Algorithm::EdDsa,
            public_key: claims.cnf.jwk.x.to_vec(),
            kid: hex::encode(statement.hash()),
            spiffe_id: svid.spiffe_id.clone(),
            subject_dn: svid.subject_dn.clone(),
        })
    }

    /// The `kid` that tokens by this key carry.
    pub fn kid(&self) -> &str {
        &self.kid
    }
    /// SPIFFE ID that the chain proves.
    pub fn spiffe_id(&self) -> &str {
        &self.spiffe_id
    }
    /// Algorithm of the key.
    pub fn algorithm(&self) -> Algorithm {
        self.algorithm
    }
}

fn p256_point(key: &[u8]) -> Result<Vec<u8>, Refusal> {
    use p256::pkcs8::DecodePublicKey;
    let parsed = if key.len() == 65 {
        p256::PublicKey::from_sec1_bytes(key).ok()
    } else {
        p256::PublicKey::from_public_key_der(key).ok()
    };
    let point = p256::ecdsa::VerifyingKey::from(parsed.ok_or(Refusal::AlgKeyMismatch)?);
    Ok(point.to_sec1_point(false).as_bytes().to_vec())
}
