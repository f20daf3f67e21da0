//! How bytes and numbers stand in a record: base64url without padding, amounts in decimal.

use alloy_primitives::U256;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Deserializer, Serializer, de::Error as _};

/// Largest integer that every JSON reader keeps exact, 2^53 - 1.
pub const MAX_INTEGER: u64 = (1 << 53) - 1;

/// Bytes as base64url without padding (RFC 4648 section 5).
pub fn to_base64url(bytes: &[u8]) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

/// Bytes of a canonical base64url text; `None` for any other text.
pub fn from_base64url(text: &str) -> Option<Vec<u8>> {
    URL_SAFE_NO_PAD.decode(text).ok()
}

fn array<const N: usize>(text: &str) -> Option<[u8; N]> {
    from_base64url(text)?.try_into().ok()
}

/// `[u8; N]` as base64url.
pub mod b64 {
    use super::*;

    /// Writes base64url.
    ///
    /// # Errors
    /// Those of the serializer.
    pub fn serialize<S: Serializer, const N: usize>(b: &[u8; N], s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(&to_base64url(b))
    }

    /// Reads exactly `N` bytes of base64url.
    ///
    /// # Errors
    /// When the text is no base64url of `N` bytes.
    pub fn deserialize<'de, D: Deserializer<'de>, const N: usize>(
        d: D,
    ) -> Result<[u8; N], D::Error> {
        let text = String::deserialize(d)?;
        array(&text).ok_or_else(|| D::Error::custom("wrong base64url or length"))
    }
}

/// `Option<[u8; N]>` as base64url; an absent member is `None`.
pub mod b64_option {
    use super::*;

    /// Writes base64url; `None` is left out by the struct.
    ///
    /// # Errors
    /// Those of the serializer.
    pub fn serialize<S: Serializer, const N: usize>(
        b: &Option<[u8; N]>,
        s: S,
    ) -> Result<S::Ok, S::Error> {
        match b {
            Some(bytes) => s.serialize_str(&to_base64url(bytes)),
            None => s.serialize_none(),
        }
    }

    /// Reads exactly `N` bytes of base64url.
    ///
    /// # Errors
    /// When the text is no base64url of `N` bytes.
    pub fn deserialize<'de, D: Deserializer<'de>, const N: usize>(
        d: D,
    ) -> Result<Option<[u8; N]>, D::Error> {
        let text = String::deserialize(d)?;
        array(&text)
            .map(Some)
            .ok_or_else(|| D::Error::custom("wrong base64url or length"))
    }
}

/// `Vec<u8>` as base64url.
pub mod b64_bytes {
    use super::*;

    /// Writes base64url.
    ///
    /// # Errors
    /// Those of the serializer.
    pub fn serialize<S: Serializer>(b: &[u8], s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(&to_base64url(b))
    }

    /// Reads base64url.
    ///
    /// # Errors
    /// When the text is no base64url.
    pub fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<Vec<u8>, D::Error> {
        let text = String::deserialize(d)?;
        from_base64url(&text).ok_or_else(|| D::Error::custom("wrong base64url"))
    }
}

/// `Option<Vec<u8>>` as base64url; an absent member is `None`.
pub mod b64_bytes_option {
    use super::*;

    /// Writes base64url; `None` is left out by the struct.
    ///
    /// # Errors
    /// Those of the serializer.
    pub fn serialize<S: Serializer>(b: &Option<Vec<u8>>, s: S) -> Result<S::Ok, S::Error> {
        match b {
            Some(bytes) => s.serialize_str(&to_base64url(bytes)),
            None => s.serialize_none(),
        }
    }

    /// Reads base64url.
    ///
    /// # Errors
    /// When the text is no base64url.
    pub fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<Option<Vec<u8>>, D::Error> {
        b64_bytes::deserialize(d).map(Some)
    }
}

/// A list of byte strings, each as base64url.
pub mod b64_list {
    use super::*;

    /// Writes a list of base64url texts.
    ///
    /// # Errors
    /// Those of the serializer.
    pub fn serialize<S: Serializer>(list: &[Vec<u8>], s: S) -> Result<S::Ok, S::Error> {
        s.collect_seq(list.iter().map(|bytes| to_base64url(bytes)))
    }

    /// Reads a list of base64url texts.
    ///
    /// # Errors
    /// When one of them is no base64url.
    pub fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<Vec<Vec<u8>>, D::Error> {
        Vec::<String>::deserialize(d)?
            .iter()
            .map(|text| from_base64url(text).ok_or_else(|| D::Error::custom("wrong base64url")))
            .collect()
    }
}

/// A 256-bit amount as a decimal string without leading zeros.
pub mod decimal {
    use super::*;

    /// Writes decimal digits.
    ///
    /// # Errors
    /// Those of the serializer.
    pub fn serialize<S: Serializer>(value: &U256, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(value)
    }

    /// Reads decimal digits.
    ///
    /// # Errors
    /// When the text is anything but digits, has a leading zero, or exceeds 256 bits.
    pub fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<U256, D::Error> {
        let text = String::deserialize(d)?;
        let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
        if !digits || (text.len() > 1 && text.starts_with('0')) {
            return Err(D::Error::custom("not a decimal amount"));
        }
        U256::from_str_radix(&text, 10).map_err(|_| D::Error::custom("amount above 256 bits"))
    }
}
