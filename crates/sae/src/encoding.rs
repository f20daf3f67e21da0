//! How bytes stand in claims: hashes as base64url without padding, addresses as lower-case hex.

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use sha2::{Digest, Sha256};

use crate::Refusal;

/// SHA-256 (FIPS 180-4).
pub fn sha256(bytes: &[u8]) -> [u8; 32] {
    Sha256::digest(bytes).into()
}

/// Base64url without padding (RFC 7515, section 2).
pub fn to_base64url(bytes: &[u8]) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

/// Decodes canonical base64url: no padding, no foreign character, zero trailing bits.
///
/// # Errors
/// [`Refusal::Base64NotCanonical`].
pub fn from_base64url(text: &str) -> Result<Vec<u8>, Refusal> {
    URL_SAFE_NO_PAD
        .decode(text)
        .map_err(|_| Refusal::Base64NotCanonical)
}

fn fixed<const N: usize>(text: &str) -> Option<[u8; N]> {
    URL_SAFE_NO_PAD.decode(text).ok()?.try_into().ok()
}

pub(crate) fn content_digest(digest: &[u8; 32]) -> String {
    format!("sha-256=:{}:", STANDARD.encode(digest))
}

pub(crate) fn parse_content_digest(text: &str) -> Option<[u8; 32]> {
    let inner = text.strip_prefix("sha-256=:")?.strip_suffix(':')?;
    STANDARD.decode(inner).ok()?.try_into().ok()
}

/// `serde(with)`: `[u8; N]` as canonical base64url.
pub mod b64 {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    /// Serialises as base64url.
    ///
    /// # Errors
    /// Only the serializer's own.
    pub fn serialize<S: Serializer, const N: usize>(b: &[u8; N], s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(&super::to_base64url(b))
    }

    /// Deserialises exactly `N` bytes of canonical base64url.
    ///
    /// # Errors
    /// When the text is not that.
    pub fn deserialize<'de, D: Deserializer<'de>, const N: usize>(
        d: D,
    ) -> Result<[u8; N], D::Error> {
        let text = String::deserialize(d)?;
        super::fixed(&text).ok_or_else(|| D::Error::custom(format!("not {N} bytes of base64url")))
    }
}

/// `serde(with)`: an optional `[u8; 32]`; absent when `None`, never `null`.
pub mod b64_option {
    use serde::{Deserializer, Serializer};

    /// Serialises `Some` as base64url.
    ///
    /// # Errors
    /// Only the serializer's own.
    pub fn serialize<S: Serializer>(b: &Option<[u8; 32]>, s: S) -> Result<S::Ok, S::Error> {
        match b {
            Some(b) => super::b64::serialize(b, s),
            None => s.serialize_none(),
        }
    }

    /// Deserialises a present value.
    ///
    /// # Errors
    /// When it is not 32 bytes of canonical base64url.
    pub fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<Option<[u8; 32]>, D::Error> {
        super::b64::deserialize(d).map(Some)
    }
}

/// `serde(with)`: a list of `[u8; 32]`.
pub mod b64_list {
    use serde::{Deserialize, Deserializer, Serializer, de::Error, ser::SerializeSeq};

    /// Serialises each as base64url.
    ///
    /// # Errors
    /// Only the serializer's own.
    pub fn serialize<S: Serializer>(list: &[[u8; 32]], s: S) -> Result<S::Ok, S::Error> {
        let mut seq = s.serialize_seq(Some(list.len()))?;
        for hash in list {
            seq.serialize_element(&super::to_base64url(hash))?;
        }
        seq.end()
    }

    /// Deserialises each.
    ///
    /// # Errors
    /// When one is not 32 bytes of canonical base64url.
    pub fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<Vec<[u8; 32]>, D::Error> {
        Vec::<String>::deserialize(d)?
            .iter()
            .map(|text| {
                super::fixed(text).ok_or_else(|| D::Error::custom("not 32 bytes of base64url"))
            })
            .collect()
    }
}

/// `serde(with)`: a 20-byte EVM address as `0x` and 40 lower-case hexadecimal digits.
pub mod address {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    /// Serialises as lower-case hex.
    ///
    /// # Errors
    /// Only the serializer's own.
    pub fn serialize<S: Serializer>(a: &[u8; 20], s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(&format!("0x{}", hex::encode(a)))
    }

    /// Deserialises lower-case hex.
    ///
    /// # Errors
    /// When the text is not that.
    pub fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<[u8; 20], D::Error> {
        let text = String::deserialize(d)?;
        text.strip_prefix("0x")
            .filter(|digits| !digits.bytes().any(|b| b.is_ascii_uppercase()))
            .and_then(|digits| hex::decode(digits).ok())
            .and_then(|bytes| bytes.try_into().ok())
            .ok_or_else(|| D::Error::custom("not an address in lower-case hexadecimal"))
    }
}
