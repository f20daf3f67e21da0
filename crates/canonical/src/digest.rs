//! Digests of content (RFC 9530).

use serde::{Deserialize, Serialize};
use sfv::{BareItem, Dictionary, ListEntry, Parser};
use sha2::{Digest, Sha256, Sha512};

use crate::Refusal;

/// How the body is bound to the decision.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BodyBinding {
    /// The whole body was read and hashed before the decision.
    Bound {
        /// SHA-256 of the content as transferred.
        sha256: [u8; 32],
        /// Length in bytes.
        len: u64,
    },
    /// Too large or a stream: the decision does not cover its bytes, and the rule must allow that.
    Unbound,
}

impl BodyBinding {
    /// Binding of a body that was read completely.
    #[must_use]
    pub fn of(body: &[u8]) -> Self {
        Self::Bound {
            sha256: sha256(body),
            len: body.len() as u64,
        }
    }
}

/// SHA-256 of `bytes`.
#[must_use]
pub fn sha256(bytes: &[u8]) -> [u8; 32] {
    Sha256::digest(bytes).into()
}

/// `Content-Digest` value with the SHA-256 of `body`: `sha-256=:<base64>:`.
#[must_use]
pub fn content_digest(body: &[u8]) -> String {
    use base64::Engine as _;
    let encoded = base64::engine::general_purpose::STANDARD.encode(sha256(body));
    format!("sha-256=:{encoded}:")
}

/// Checks a received `Content-Digest` value against the content as transferred. Every `sha-256` and
/// `sha-512` member must match; other algorithms are ignored, but one of the two must be there.
///
/// # Errors
/// [`Refusal::ContentDigestForm`] or [`Refusal::ContentDigestMismatch`].
pub fn verify_content_digest(value: &[u8], body: &[u8]) -> Result<(), Refusal> {
    let members: Dictionary = Parser::new(value)
        .parse()
        .map_err(|_| Refusal::ContentDigestForm)?;
    let mut checked = false;
    for (algorithm, entry) in &members {
        let ListEntry::Item(item) = entry else {
            return Err(Refusal::ContentDigestForm);
        };
        let BareItem::ByteSequence(claimed) = &item.bare_item else {
            return Err(Refusal::ContentDigestForm);
        };
        let matches = match algorithm.as_str() {
            "sha-256" => claimed.as_slice() == Sha256::digest(body).as_slice(),
            "sha-512" => claimed.as_slice() == Sha512::digest(body).as_slice(),
            _ => continue,
        };
        if !matches {
            return Err(Refusal::ContentDigestMismatch);
        }
        checked = true;
    }
    if checked {
        Ok(())
    } else {
        Err(Refusal::ContentDigestForm)
    }
}
