//! JWS compact serialisation (RFC 7515), strict: one token has exactly one form.

use std::fmt;
use std::marker::PhantomData;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::encoding::{b64_option, from_base64url, sha256};
use crate::{Algorithm, Denial, Envelope, KeyStatement, ReceiptClaims, Refusal, json};

/// Longest compact form of any token, in bytes: the size limit of the `SAE` field.
pub const COMPACT_MAX_BYTES: usize = 4096;

/// SHA-256 of the ASCII compact form: the name of a token everywhere else.
pub fn sae_hash(compact: &str) -> [u8; 32] {
    sha256(compact.as_bytes())
}

/// A token in compact form, as issued.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Compact(pub(crate) String);

impl Compact {
    /// The compact form.
    pub fn as_str(&self) -> &str {
        &self.0
    }
    /// The compact form, owned.
    pub fn into_string(self) -> String {
        self.0
    }
    /// [`sae_hash`] of it.
    pub fn hash(&self) -> [u8; 32] {
        sae_hash(&self.0)
    }
}

impl fmt::Display for Compact {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Compact {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // A live envelope in a debug log would be a credential there.
        write!(f, "Compact({})", hex::encode(self.hash()))
    }
}

mod sealed {
    pub trait Sealed {}
    impl Sealed for crate::Envelope {}
    impl Sealed for crate::Denial {}
    impl Sealed for crate::ReceiptClaims {}
    impl Sealed for crate::KeyStatement {}
}

/// A kind of token.
pub trait Token: sealed::Sealed + Serialize + DeserializeOwned {
    /// Its `typ`.
    const TYP: &'static str;
    /// `iss`.
    fn issuer(&self) -> &str;
    /// `iss_dn`, where the kind has it.
    fn issuer_dn(&self) -> Option<&str>;
    /// Checks every bound of the format.
    ///
    /// # Errors
    /// The first bound that does not hold.
    fn check_bounds(&self) -> Result<(), Refusal>;
    /// Whether a delegated EdDSA key may sign this kind.
    #[must_use]
    fn allows(algorithm: Algorithm) -> bool {
        let _ = algorithm;
        true
    }
}

impl Token for Envelope {
    const TYP: &'static str = "application/sae+jwt";
    fn issuer(&self) -> &str {
        &self.iss
    }
    fn issuer_dn(&self) -> Option<&str> {
        Some(&self.iss_dn)
    }
    fn check_bounds(&self) -> Result<(), Refusal> {
        self.check()
    }
}

impl Token for Denial {
    const TYP: &'static str = "application/sae-denial+jwt";
    fn issuer(&self) -> &str {
        &self.iss
    }
    fn issuer_dn(&self) -> Option<&str> {
        Some(&self.iss_dn)
    }
    fn check_bounds(&self) -> Result<(), Refusal> {
        self.check()
    }
}

impl Token for ReceiptClaims {
    const TYP: &'static str = "application/sae-receipt+jwt";
    fn issuer(&self) -> &str {
        &self.iss
    }
    fn issuer_dn(&self) -> Option<&str> {
        Some(&self.iss_dn)
    }
    fn check_bounds(&self) -> Result<(), Refusal> {
        self.check()
    }
}

impl Token for KeyStatement {
    const TYP: &'static str = "application/sae-key+jwt";
    fn issuer(&self) -> &str {
        &self.iss
    }
    fn issuer_dn(&self) -> Option<&str> {
        None
    }
    fn check_bounds(&self) -> Result<(), Refusal> {
        self.check()
    }
    /// Only the SVID key delegates; a delegate does not delegate further.
    fn allows(algorithm: Algorithm) -> bool {
        algorithm == Algorithm::Es256
    }
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Header {
    pub alg: String,
    pub kid: String,
    #[serde(
        rename = "ocsp#S256",
        default,
        skip_serializing_if = "Option::is_none",
        with = "b64_option"
    )]
    pub ocsp: Option<[u8; 32]>,
    pub typ: String,
}

/// A token that was parsed and is not yet to be believed.
///
/// Its form, header and the shape and bounds of its claims are as the format says; nothing is
/// known about who wrote it. Only `verify` gives [`Verified`].
#[derive(Debug, Clone)]
pub struct Unverified<T> {
    pub(crate) compact: Compact,
    pub(crate) signed_len: usize,
    pub(crate) algorithm: Algorithm,
    pub(crate) kid: String,
    pub(crate) ocsp: Option<[u8; 32]>,
    pub(crate) signature: [u8; 64],
    pub(crate) claims: T,
}

impl<T: Token> Unverified<T> {
    /// Parses a compact form and checks everything that needs no key and no clock.
    ///
    /// # Errors
    /// The first [`Refusal`], in the order: size, form, header, `typ`, `alg`, `kid`, JSON,
    /// claims, bounds, canonical form, signature form.
    pub fn parse(compact: &str) -> Result<Self, Refusal> {
        if compact.len() > COMPACT_MAX_BYTES {
            return Err(Refusal::TooLarge);
        }
        let (signed, signature) = compact.rsplit_once('.').ok_or(Refusal::Malformed)?;
        let (header, payload) = signed.split_once('.').ok_or(Refusal::Malformed)?;
        if header.is_empty() || payload.is_empty() || signature.is_empty() || payload.contains('.')
        {
            return Err(Refusal::Malformed);
        }
        let header_bytes = from_base64url(header)?;
        let payload_bytes = from_base64url(payload)?;
        let signature_bytes = from_base64url(signature)?;

        let (header, algorithm) = parse_header::<T>(&header_bytes)?;
        let claims: T = T::deserialize(json::parse(&payload_bytes)?)
            .map_err(|e| Refusal::ClaimsInvalid(e.to_string()))?;
        claims.check_bounds()?;
        if json::canonical(&header)? != header_bytes || json::canonical(&claims)? != payload_bytes {
            return Err(Refusal::NotCanonical);
        }
        let signature: [u8; 64] = signature_bytes
            .try_into()
            .map_err(|_| Refusal::SignatureMalformed)?;
        if algorithm == Algorithm::Es256 && crate::low_s(&signature)? != signature {
            return Err(Refusal::SignatureHighS);
        }
        Ok(Self {
            compact: Compact(compact.to_owned()),
            signed_len: signed.len(),
            algorithm,
            kid: header.kid,
            ocsp: header.ocsp,
            signature,
            claims,
        })
    }

    /// The claims, unbelieved: to find the key and the certificate chain with, not to act on.
    pub fn unverified_claims(&self) -> &T {
        &self.claims
    }
    /// `kid`: which key the token says signed it.
    pub fn kid(&self) -> &str {
        &self.kid
    }
    /// Algorithm that the header names.
    pub fn algorithm(&self) -> Algorithm {
        self.algorithm
    }
    /// SHA-256 of the compact form.
    pub fn hash(&self) -> [u8; 32] {
        self.compact.hash()
    }
    pub(crate) fn signing_input(&self) -> &[u8] {
        self.compact
            .0
            .as_bytes()
            .get(..self.signed_len)
            .unwrap_or_default()
    }
}

fn parse_header<T: Token>(bytes: &[u8]) -> Result<(Header, Algorithm), Refusal> {
    let header = Header::deserialize(json::parse(bytes)?)
        .map_err(|e| Refusal::HeaderInvalid(e.to_string()))?;
    if header.typ != T::TYP {
        return Err(Refusal::TypNotAllowed);
    }
    let algorithm = Algorithm::from_alg(&header.alg)
        .filter(|algorithm| T::allows(*algorithm))
        .ok_or(Refusal::AlgNotAllowed)?;
    let hex = |b: u8| matches!(b, b'0'..=b'9' | b'a'..=b'f');
    if header.kid.len() != 64 || !header.kid.bytes().all(hex) {
        return Err(Refusal::KidMalformed);
    }
    if header.ocsp.is_some() && T::TYP != Envelope::TYP {
        return Err(Refusal::HeaderInvalid(
            "ocsp#S256 belongs to envelopes only".into(),
        ));
    }
    Ok((header, algorithm))
}

/// A token whose signature and issuer were verified (for envelopes also audience and times).
#[derive(Debug, Clone)]
pub struct Verified<T> {
    pub(crate) compact: Compact,
    pub(crate) algorithm: Algorithm,
    pub(crate) kid: String,
    pub(crate) ocsp: Option<[u8; 32]>,
    pub(crate) claims: T,
    pub(crate) _only_by_verification: PhantomData<()>,
}

impl<T> Verified<T> {
    /// The claims.
    pub fn claims(&self) -> &T {
        &self.claims
    }
    /// The compact form.
    pub fn compact(&self) -> &Compact {
        &self.compact
    }
    /// SHA-256 of the compact form.
    pub fn hash(&self) -> [u8; 32] {
        self.compact.hash()
    }
    /// Key that signed.
    pub fn kid(&self) -> &str {
        &self.kid
    }
    /// Algorithm that signed.
    pub fn algorithm(&self) -> Algorithm {
        self.algorithm
    }
    /// SHA-256 of the stapled status response, where one is bound.
    pub fn status_digest(&self) -> Option<&[u8; 32]> {
        self.ocsp.as_ref()
    }
    /// The claims, owned.
    pub fn into_claims(self) -> T {
        self.claims
    }
}
