//! Signatures behind traits: keys live with the caller, algorithms are two.

use std::fmt;

use crate::Refusal;

/// The two signature algorithms of the format.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Algorithm {
    /// ECDSA on P-256 with SHA-256 (RFC 7518), by an SVID key.
    Es256,
    /// Ed25519 (RFC 8037), by a key that a key statement delegates to.
    EdDsa,
}

impl Algorithm {
    /// The `alg` value.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Es256 => "ES256",
            Self::EdDsa => "EdDSA",
        }
    }

    pub(crate) fn from_alg(alg: &str) -> Option<Self> {
        match alg {
            "ES256" => Some(Self::Es256),
            "EdDSA" => Some(Self::EdDsa),
            _ => None,
        }
    }
}

/// A key that signs tokens. Implemented by SVID keys, HSMs and signing services.
pub trait Signer: Send + Sync {
    /// Algorithm of the key.
    fn algorithm(&self) -> Algorithm;
    /// 64 lower-case hexadecimal digits: SHA-256 of the DER leaf, or of the key statement.
    fn kid(&self) -> &str;
    /// Signs `message` (which the algorithm hashes itself): `r || s` or the Ed25519 signature.
    ///
    /// # Errors
    /// When the key cannot be used.
    fn sign(&self, message: &[u8]) -> Result<[u8; 64], SignError>;
    /// DER certificates, leaf first.
    fn certificate_chain(&self) -> &[Vec<u8>];
    /// The statement that delegates to this key, where the SVID does not sign itself.
    fn key_statement(&self) -> Option<&str>;
}

/// The key could not be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("signing failed: {0}; check that the key is valid and its store reachable")]
pub struct SignError(pub String);

/// Verifies one signature over one message.
pub trait SignatureVerifier: Send + Sync {
    /// Whether `signature` is `algorithm`'s over `message` by `public_key` (a SEC 1 uncompressed
    /// P-256 point, or 32 bytes of Ed25519).
    fn verify(
        &self,
        algorithm: Algorithm,
        public_key: &[u8],
        message: &[u8],
        signature: &[u8; 64],
    ) -> SignatureCheck;
}

/// Outcome of a signature check.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SignatureCheck {
    /// It verifies.
    Good,
    /// It does not.
    Bad,
}

impl From<bool> for SignatureCheck {
    fn from(good: bool) -> Self {
        if good { Self::Good } else { Self::Bad }
    }
}

/// Pure Rust: p256 and ed25519-dalek.
#[derive(Clone, Copy, Default)]
pub struct PureVerifier;

impl SignatureVerifier for PureVerifier {
    fn verify(
        &self,
        algorithm: Algorithm,
        public_key: &[u8],
        message: &[u8],
        signature: &[u8; 64],
    ) -> SignatureCheck {
        match algorithm {
            Algorithm::Es256 => pure_es256(public_key, message, signature),
            Algorithm::EdDsa => pure_eddsa(public_key, message, signature),
        }
        .unwrap_or(false)
        .into()
    }
}

fn pure_es256(public_key: &[u8], message: &[u8], signature: &[u8; 64]) -> Option<bool> {
    use p256::ecdsa::signature::Verifier;
    let key = p256::ecdsa::VerifyingKey::from_sec1_bytes(public_key).ok()?;
    let signature = p256::ecdsa::Signature::from_slice(signature).ok()?;
    Some(key.verify(message, &signature).is_ok())
}

fn pure_eddsa(public_key: &[u8], message: &[u8], signature: &[u8; 64]) -> Option<bool> {
    let key = ed25519_dalek::VerifyingKey::from_bytes(public_key.try_into().ok()?).ok()?;
    let signature = ed25519_dalek::Signature::from_bytes(signature);
    Some(key.verify_strict(message, &signature).is_ok())
}

/// The *ring* library.
#[cfg(feature = "ring")]
#[derive(Clone, Copy, Default)]
pub struct RingVerifier;

#[cfg(feature = "ring")]
impl SignatureVerifier for RingVerifier {
    fn verify(
        &self,
        algorithm: Algorithm,
        public_key: &[u8],
        message: &[u8],
        signature: &[u8; 64],
    ) -> SignatureCheck {
        let suite: &dyn ring::signature::VerificationAlgorithm = match algorithm {
            Algorithm::Es256 => &ring::signature::ECDSA_P256_SHA256_FIXED,
            Algorithm::EdDsa => &ring::signature::ED25519,
        };
        ring::signature::UnparsedPublicKey::new(suite, public_key)
            .verify(message, signature)
            .is_ok()
            .into()
    }
}

/// What [`crate::Unverified`] verifies with unless told otherwise.
#[cfg(feature = "ring")]
pub type DefaultVerifier = RingVerifier;
/// What [`crate::Unverified`] verifies with unless told otherwise.
#[cfg(not(feature = "ring"))]
pub type DefaultVerifier = PureVerifier;

/// The low-S form of an ECDSA P-256 signature: of `(r, s)` and `(r, n - s)`, both of which
/// verify, the one that the format allows.
///
/// # Errors
/// [`Refusal::SignatureMalformed`] when a scalar is zero or not below the group order.
pub fn low_s(signature: &[u8; 64]) -> Result<[u8; 64], Refusal> {
    let parsed =
        p256::ecdsa::Signature::from_slice(signature).map_err(|_| Refusal::SignatureMalformed)?;
    let mut out = [0; 64];
    out.copy_from_slice(&parsed.normalize_s().to_bytes());
    Ok(out)
}

impl fmt::Display for Algorithm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
