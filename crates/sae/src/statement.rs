//! The key statement: an SVID key names an in-memory Ed25519 key that signs in its stead.
//!
//! An SVID leaf may not sign certificates, so the delegation is a JWS with `cnf` (RFC 7800).

use serde::{Deserialize, Serialize};

use crate::encoding::b64;
use crate::json::MAX_INTEGER;
use crate::{Refusal, bounds};

/// Claims of a key statement.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KeyStatement {
    /// The delegated key.
    pub cnf: Confirmation,
    /// End of validity, unix seconds, no later than the SVID's.
    pub exp: u64,
    /// SPIFFE ID of the SVID that signs this statement.
    pub iss: String,
    /// Start of validity, unix seconds.
    pub nbf: u64,
}

/// `cnf` (RFC 7800).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Confirmation {
    /// The key.
    pub jwk: OkpJwk,
}

/// An Ed25519 public key (RFC 8037).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OkpJwk {
    /// `Ed25519`.
    pub crv: String,
    /// `OKP`.
    pub kty: String,
    /// The public key.
    #[serde(with = "b64")]
    pub x: [u8; 32],
}

impl KeyStatement {
    /// A statement of the SVID `iss` for the Ed25519 key `public_key`.
    pub fn new(iss: impl Into<String>, public_key: [u8; 32], nbf: u64, exp: u64) -> Self {
        let jwk = OkpJwk {
            crv: "Ed25519".into(),
            kty: "OKP".into(),
            x: public_key,
        };
        Self {
            cnf: Confirmation { jwk },
            exp,
            iss: iss.into(),
            nbf,
        }
    }

    pub(crate) fn check(&self) -> Result<(), Refusal> {
        bounds::spiffe_id(&self.iss, "iss")?;
        bounds::check(self.cnf.jwk.kty == "OKP", "cnf.jwk.kty")?;
        bounds::check(self.cnf.jwk.crv == "Ed25519", "cnf.jwk.crv")?;
        bounds::check(self.exp <= MAX_INTEGER, "exp")?;
        bounds::check(self.nbf < self.exp, "exp")?;
        match ed25519_dalek::VerifyingKey::from_bytes(&self.cnf.jwk.x) {
            Ok(key) if !key.is_weak() => Ok(()),
            _ => Err(Refusal::KeyWeak),
        }
    }
}
