//! `act`: what is done.

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use crate::Refusal;
use crate::bounds::{self, NAME_MAX, TEXT_MAX, check};
use crate::encoding::{b64, b64_option, content_digest, parse_content_digest};

/// The action that was decided.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Act {
    /// Data class of the request: 0 public, 1 internal, 2 confidential, 3 restricted.
    pub classification: u8,
    /// SHA-256 of an envelope of another layer that this action carries, where there is one.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "b64_option")]
    pub envelope_hash: Option<[u8; 32]>,
    /// The request that carries the action; present exactly for kinds that travel over HTTP.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub http: Option<HttpBinding>,
    /// Idempotency key: makes a re-decision of the same action safe.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub idem: Option<String>,
    /// Protocol of the action.
    pub kind: Kind,
    /// Capability, dotted: `payments.transfer`.
    pub method: String,
    /// Parameters, by digest.
    pub params: Params,
}

/// Protocol of an action. A PEP accepts its own kinds only.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// One HTTP request.
    Http,
    /// One JSON-RPC message of the Model Context Protocol.
    Mcp,
    /// One Agent2Agent message.
    A2a,
    /// One gRPC call or stream message.
    Grpc,
    /// One WebSocket message.
    Ws,
    /// One opaque TLS connection, decided on SNI. Recorded, never stamped.
    Opaque,
    /// An action described by the agent over the local API.
    Custom,
}

impl Kind {
    /// The name in the claim.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Mcp => "mcp",
            Self::A2a => "a2a",
            Self::Grpc => "grpc",
            Self::Ws => "ws",
            Self::Opaque => "opaque",
            Self::Custom => "custom",
        }
    }

    /// Whether an HTTP request carries the action, and `act.http` binds it.
    pub fn over_http(self) -> bool {
        !matches!(self, Self::Opaque | Self::Custom)
    }
}

/// Parameters of an action: never the raw values, which may be sensitive.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Params {
    /// SHA-256 of the parameters as the catalog canonicalises them.
    #[serde(with = "b64")]
    pub digest: [u8; 32],
    /// The few fields that the catalog selects to be readable, at most 16.
    pub fields: BTreeMap<String, Scalar>,
}

/// A selected field's value.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Scalar {
    /// `true` or `false`.
    Bool(bool),
    /// An integer from 0 to 2^53-1; anything else travels as a string.
    Integer(u64),
    /// At most 256 bytes.
    String(String),
}

/// The HTTP request that carries the action.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HttpBinding {
    /// The body, by digest or `unbound`.
    pub content_digest: BodyDigest,
    /// SHA-256 over the canonical end-to-end fields.
    #[serde(with = "b64")]
    pub fields_digest: [u8; 32],
    /// Request method.
    pub method: String,
    /// Canonical path.
    pub path: String,
    /// SHA-256 of the canonical query.
    #[serde(with = "b64")]
    pub query_digest: [u8; 32],
}

/// A body bound by its digest, or a body that was too large or streaming to bind.
///
/// In the claim: `sha-256=:<base64>:` (the RFC 9530 field value) or `unbound`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BodyDigest {
    /// SHA-256 over the whole body (an empty one included).
    Sha256([u8; 32]),
    /// Not bound; the rule allowed that.
    Unbound,
}

impl Serialize for BodyDigest {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Sha256(digest) => s.serialize_str(&content_digest(digest)),
            Self::Unbound => s.serialize_str("unbound"),
        }
    }
}

impl<'de> Deserialize<'de> for BodyDigest {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let text = String::deserialize(d)?;
        if text == "unbound" {
            return Ok(Self::Unbound);
        }
        parse_content_digest(&text)
            .map(Self::Sha256)
            .ok_or_else(|| de::Error::custom("neither sha-256=:...: nor unbound"))
    }
}

impl Act {
    pub(crate) fn check(&self) -> Result<(), Refusal> {
        bounds::data_class(self.classification, "act.classification")?;
        bounds::capability(&self.method, "act.method")?;
        if let Some(idem) = &self.idem {
            bounds::visible(idem, NAME_MAX, "act.idem")?;
        }
        check(self.kind.over_http() == self.http.is_some(), "act.http")?;
        if let Some(http) = &self.http {
            http.check()?;
        }
        check(self.params.fields.len() <= 16, "act.params.fields")?;
        for (name, value) in &self.params.fields {
            bounds::visible(name, NAME_MAX, "act.params.fields")?;
            match value {
                Scalar::String(s) => bounds::text(s, NAME_MAX, "act.params.fields")?,
                Scalar::Integer(n) => {
                    check(*n <= crate::json::MAX_INTEGER, "act.params.fields")?;
                }
                Scalar::Bool(_) => {}
            }
        }
        Ok(())
    }
}

impl HttpBinding {
    fn check(&self) -> Result<(), Refusal> {
        // RFC 9110 token; methods are case-sensitive and taken as they are.
        let token = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
        check(
            !self.method.is_empty() && self.method.len() <= 32 && self.method.bytes().all(token),
            "act.http.method",
        )?;
        bounds::visible(&self.path, TEXT_MAX, "act.http.path")?;
        check(
            self.path.starts_with('/') || self.path == "*",
            "act.http.path",
        )
    }
}
