//! The canonical request and its digests.

use http::{HeaderMap, HeaderName, HeaderValue, Method};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::authority::Authority;
use crate::fields::canonical_fields;
use crate::path::canonical_path;
use crate::query::check_query;
use crate::{Limits, Refusal, sha256};

/// Scheme of the target URI.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Scheme {
    /// Plain HTTP.
    Http,
    /// HTTP over TLS.
    Https,
}

impl Scheme {
    /// `http` or `https`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Https => "https",
        }
    }

    /// Port when the authority names none.
    #[must_use]
    pub fn default_port(self) -> u16 {
        match self {
            Self::Http => 80,
            Self::Https => 443,
        }
    }
}

/// A request head as a server library hands it over, from HTTP/1.1 or HTTP/2 alike.
#[derive(Debug, Clone, Copy)]
pub struct RawHead<'a> {
    /// Scheme of the connection to the target.
    pub scheme: Scheme,
    /// Method.
    pub method: &'a Method,
    /// HTTP/2: `:authority`. HTTP/1.1: the authority of an absolute-form target, else Host.
    pub authority: &'a str,
    /// HTTP/2: `:path`. HTTP/1.1: origin-form target, or path and query of an absolute-form one.
    pub path_and_query: &'a str,
    /// All header fields. A Host field is compared with `authority`.
    pub headers: &'a HeaderMap,
}

/// A request in its only accepted spelling. What is decided, what is signed and what is forwarded
/// are this value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CanonicalRequest {
    /// Scheme of the target.
    pub scheme: Scheme,
    /// Upper-case method.
    pub method: String,
    /// Host: A-labels in lower case, IPv4, or IPv6 in brackets.
    pub host: String,
    /// Port, always explicit.
    pub port: u16,
    /// Path, starting with `/`.
    pub path: String,
    /// Query without `?`; `Some("")` when the target ends in a bare `?`.
    pub query: Option<String>,
    /// End-to-end fields: lower-case names in ascending order, one value each.
    pub fields: Vec<(String, Vec<u8>)>,
}

/// Brings a request into canonical form.
///
/// # Errors
/// A [`Refusal`] for whatever has no canonical form.
pub fn canonicalize(raw: RawHead<'_>, limits: &Limits) -> Result<CanonicalRequest, Refusal> {
    let method = canonical_method(raw.method)?;
    // Names and framing first: a repeated Host must be named as such, not as a mismatch.
    let fields = canonical_fields(raw.headers, limits)?;
    let authority = Authority::parse(raw.authority, raw.scheme)?;
    if let Some(host) = raw.headers.get(http::header::HOST) {
        let host = std::str::from_utf8(host.as_bytes()).map_err(|_| Refusal::AuthorityHost)?;
        if Authority::parse(host, raw.scheme)? != authority {
            return Err(Refusal::HostMismatch);
        }
    }
    let (path, query) = match raw.path_and_query.split_once('?') {
        Some((path, query)) => (path, Some(query)),
        None => (raw.path_and_query, None),
    };
    let path = canonical_path(path, limits)?;
    if let Some(query) = query {
        check_query(query, limits)?;
    }
    Ok(CanonicalRequest {
        scheme: raw.scheme,
        method: method.to_owned(),
        host: authority.host,
        port: authority.port,
        path,
        query: query.map(str::to_owned),
        fields,
    })
}

fn canonical_method(method: &Method) -> Result<&'static str, Refusal> {
    match method.as_str() {
        "GET" => Ok("GET"),
        "HEAD" => Ok("HEAD"),
        "POST" => Ok("POST"),
        "PUT" => Ok("PUT"),
        "PATCH" => Ok("PATCH"),
        "DELETE" => Ok("DELETE"),
        "OPTIONS" => Ok("OPTIONS"),
        "CONNECT" | "TRACE" => Err(Refusal::MethodRefused),
        _ => Err(Refusal::MethodUnknown),
    }
}

impl CanonicalRequest {
    /// Host with the port left out when it is the scheme's default: the value to send as Host or
    /// `:authority`.
    #[must_use]
    pub fn authority(&self) -> String {
        if self.port == self.scheme.default_port() {
            self.host.clone()
        } else {
            format!("{}:{}", self.host, self.port)
        }
    }

    /// Path and query as sent on the wire.
    #[must_use]
    pub fn path_and_query(&self) -> String {
        match &self.query {
            Some(query) => format!("{}?{query}", self.path),
            None => self.path.clone(),
        }
    }

    /// The canonical target URI (claim `sub`): scheme, authority and path. The query is not part of
    /// it; the envelope carries its digest.
    #[must_use]
    pub fn target_uri(&self) -> String {
        format!(
            "{}://{}{}",
            self.scheme.as_str(),
            self.authority(),
            self.path
        )
    }

    /// SHA-256 of `?` and the query's bytes as sent; of the empty string when there is no query. The
    /// `?` keeps a bare `?` apart from no query at all.
    #[must_use]
    pub fn query_digest(&self) -> [u8; 32] {
        match &self.query {
            None => sha256(b""),
            Some(query) => sha256(format!("?{query}").as_bytes()),
        }
    }

    /// SHA-256 over all fields in order, each as `u32be(len(name)) || name || u32be(len(value)) ||
    /// value`, preceded by the ASCII tag `writ-fields/1` and a zero byte.
    #[must_use]
    pub fn fields_digest(&self) -> [u8; 32] {
        let mut hash = Sha256::new();
        hash.update(b"writ-fields/1\0");
        for (name, value) in &self.fields {
            for part in [name.as_bytes(), value.as_slice()] {
                // The field section is bounded far below 4 GiB by `Limits`.
                hash.update(u32::try_from(part.len()).unwrap_or(u32::MAX).to_be_bytes());
                hash.update(part);
            }
        }
        hash.finalize().into()
    }

    /// Value of an end-to-end field by lower-case name.
    #[must_use]
    pub fn field(&self, name: &str) -> Option<&[u8]> {
        self.fields
            .iter()
            .find(|(n, _)| n == name)
            .map(|(_, value)| value.as_slice())
    }

    /// The fields as a header map: exactly what to forward, before Writ's own fields are added. Host
    /// and framing are the transport's.
    #[must_use]
    pub fn header_map(&self) -> HeaderMap {
        self.fields
            .iter()
            .filter_map(|(name, value)| {
                let name = HeaderName::from_bytes(name.as_bytes()).ok()?;
                let value = HeaderValue::from_bytes(value).ok()?;
                Some((name, value))
            })
            .collect()
    }
}
