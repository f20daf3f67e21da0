//! Why a token is refused: stable codes for machines, a detail for people.

use std::fmt;

/// A reason to refuse a token. It is a value, not an error: nothing broke.
///
/// [`Refusal::code`] is part of the format (`docs/sae.md`) and never changes its meaning.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Refusal {
    /// Longer than the limit for its kind.
    TooLarge,
    /// Not three non-empty parts joined by dots.
    Malformed,
    /// A part is not canonical base64url: padding, other alphabet, or trailing bits.
    Base64NotCanonical,
    /// Header or payload is not JSON, or nested too deeply.
    JsonInvalid(String),
    /// An object names a member twice (RFC 8785 cannot order it).
    JsonDuplicateKey(String),
    /// A number is negative, has a fraction, or is beyond 2^53-1.
    JsonNumber,
    /// The protected header lacks a parameter, has one more than allowed, or mistypes one.
    HeaderInvalid(String),
    /// `typ` is not the one expected here.
    TypNotAllowed,
    /// `alg` is neither `ES256` nor `EdDSA`, or not allowed for this kind.
    AlgNotAllowed,
    /// `kid` is not 64 lower-case hexadecimal digits.
    KidMalformed,
    /// A claim is missing, unknown or of another type.
    ClaimsInvalid(String),
    /// A claim is of the right type and out of its bounds.
    ClaimOutOfBounds(&'static str),
    /// `exp - iat` is not 30 to 300 s, or `nbf` lies outside.
    LifetimeOutOfBounds,
    /// Header or payload is not in RFC 8785 form.
    NotCanonical,
    /// `alg` is not the algorithm of the certified key.
    AlgKeyMismatch,
    /// `kid` does not name the key that the chain proves.
    UnknownKey,
    /// The signature is not 64 bytes, or a scalar is out of range.
    SignatureMalformed,
    /// The ECDSA signature has a high S: a second form of the same signature.
    SignatureHighS,
    /// The signature does not verify.
    SignatureInvalid,
    /// `iss` is not the SPIFFE ID that the chain proves.
    IssuerMismatch,
    /// `iss_dn` is not the subject of the leaf certificate.
    SubjectDnMismatch,
    /// `iss` is not the identity of the connection's peer.
    PeerMismatch,
    /// `aud` is another's.
    AudienceMismatch,
    /// `iat` is later than now plus skew.
    IssuedInFuture,
    /// `nbf` is later than now plus skew.
    NotYetValid,
    /// `exp` plus skew has passed.
    Expired,
    /// Issued before the verifier lost its replay store, so it may have been used already.
    IssuedBeforeBoot,
    /// `SAE-Certificate` is longer than allowed or holds too many certificates.
    CertificateHeaderTooLarge,
    /// `SAE-Certificate` is not the structured field that the format names.
    CertificateHeaderInvalid(String),
    /// The key statement is not signed for this key, issuer or time.
    KeyStatementInvalid(Box<Refusal>),
    /// The key statement outlives the SVID that signed it.
    KeyStatementOutlivesSvid,
    /// The delegated key is not a valid Ed25519 point of full order.
    KeyWeak,
}

impl Refusal {
    /// Stable kebab-case code.
    pub fn code(&self) -> &'static str {
        match self {
            Self::TooLarge => "too-large",
            Self::Malformed => "malformed",
            Self::Base64NotCanonical => "base64url-not-canonical",
            Self::JsonInvalid(_) => "json-invalid",
            Self::JsonDuplicateKey(_) => "json-duplicate-key",
            Self::JsonNumber => "json-number-out-of-range",
            Self::HeaderInvalid(_) => "header-invalid",
            Self::TypNotAllowed => "typ-not-allowed",
            Self::AlgNotAllowed => "alg-not-allowed",
            Self::KidMalformed => "kid-malformed",
            Self::ClaimsInvalid(_) => "claims-invalid",
            Self::ClaimOutOfBounds(_) => "claim-out-of-bounds",
            Self::LifetimeOutOfBounds => "lifetime-out-of-bounds",
            Self::NotCanonical => "not-canonical",
            Self::AlgKeyMismatch => "alg-key-mismatch",
            Self::UnknownKey => "unknown-key",
            Self::SignatureMalformed => "signature-malformed",
            Self::SignatureHighS => "signature-high-s",
            Self::SignatureInvalid => "signature-invalid",
            Self::IssuerMismatch => "issuer-mismatch",
            Self::SubjectDnMismatch => "subject-dn-mismatch",
            Self::PeerMismatch => "peer-mismatch",
            Self::AudienceMismatch => "audience-mismatch",
            Self::IssuedInFuture => "issued-in-future",
            Self::NotYetValid => "not-yet-valid",
            Self::Expired => "expired",
            Self::IssuedBeforeBoot => "issued-before-boot",
            Self::CertificateHeaderTooLarge => "certificate-header-too-large",
            Self::CertificateHeaderInvalid(_) => "certificate-header-invalid",
            Self::KeyStatementInvalid(_) => "key-statement-invalid",
            Self::KeyStatementOutlivesSvid => "key-statement-outlives-svid",
            Self::KeyWeak => "key-weak",
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooLarge => f.write_str("the token is longer than its kind allows"),
            Self::Malformed => f.write_str("the token is not three parts joined by dots"),
            Self::Base64NotCanonical => {
                f.write_str("a part is not unpadded base64url with zero trailing bits")
            }
            Self::JsonInvalid(why) => write!(f, "header or payload is not JSON: {why}"),
            Self::JsonDuplicateKey(key) => write!(f, "the member \"{key}\" occurs twice"),
            Self::JsonNumber => f.write_str("a number is not an integer from 0 to 2^53-1"),
            Self::HeaderInvalid(why) => write!(
                f,
                "the protected header must hold exactly alg, kid and typ (and ocsp#S256 when stapled): {why}"
            ),
            Self::TypNotAllowed => f.write_str("typ names another kind of token"),
            Self::AlgNotAllowed => f.write_str("alg must be ES256 or EdDSA"),
            Self::KidMalformed => f.write_str("kid must be 64 lower-case hexadecimal digits"),
            Self::ClaimsInvalid(why) => {
                write!(f, "the claims do not have the format's shape: {why}")
            }
            Self::ClaimOutOfBounds(claim) => write!(f, "the claim {claim} is out of its bounds"),
            Self::LifetimeOutOfBounds => {
                f.write_str("exp - iat must be 30 to 300 s, with iat <= nbf < exp")
            }
            Self::NotCanonical => f.write_str("header or payload is not in RFC 8785 form"),
            Self::AlgKeyMismatch => f.write_str("alg is not the algorithm of the certified key"),
            Self::UnknownKey => {
                f.write_str("kid is neither the leaf certificate's nor the key statement's SHA-256")
            }
            Self::SignatureMalformed => f.write_str("the signature is not a 64-byte signature"),
            Self::SignatureHighS => f.write_str("the ECDSA signature's S is in the upper half"),
            Self::SignatureInvalid => f.write_str("the signature does not verify"),
            Self::IssuerMismatch => f.write_str("iss is not the SPIFFE ID of the certificate"),
            Self::SubjectDnMismatch => f.write_str("iss_dn is not the subject of the certificate"),
            Self::PeerMismatch => f.write_str("iss is not the peer of this connection"),
            Self::AudienceMismatch => f.write_str("aud names another target"),
            Self::IssuedInFuture => f.write_str("iat is in the future: compare the two clocks"),
            Self::NotYetValid => f.write_str("nbf is in the future"),
            Self::Expired => f.write_str("exp has passed"),
            Self::IssuedBeforeBoot => f.write_str(
                "issued before this verifier's replay store was created: ask for a new decision",
            ),
            Self::CertificateHeaderTooLarge => {
                f.write_str("SAE-Certificate is longer than its limit")
            }
            Self::CertificateHeaderInvalid(why) => {
                write!(
                    f,
                    "SAE-Certificate is not the expected structured field: {why}"
                )
            }
            Self::KeyStatementInvalid(why) => write!(f, "the key statement is refused: {why}"),
            Self::KeyStatementOutlivesSvid => {
                f.write_str("the key statement's exp is later than the certificate's notAfter")
            }
            Self::KeyWeak => f.write_str("the delegated Ed25519 key is not a point of full order"),
        }
    }
}
