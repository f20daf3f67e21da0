//! Header fields: what is removed, what is refused, and the one list that is digested and forwarded.

use std::collections::{BTreeMap, BTreeSet};

use http::{HeaderMap, HeaderName};

use crate::{Limits, Refusal};

/// Fields outside the decision, removed before it. `host` is carried by the authority,
/// `content-length` by the body binding; the rest belong to one connection, to tracing, to
/// forwarding, or to Writ itself. Sorted, published in `docs/canonical.md`.
pub const EXCLUDED_FIELDS: &[&str] = &[
    "baggage",
    "b3",
    "connection",
    "content-length",
    "elastic-apm-traceparent",
    "expect",
    "forwarded",
    "grpc-trace-bin",
    "host",
    "keep-alive",
    "proxy-authenticate",
    "proxy-authorization",
    "proxy-connection",
    "sae",
    "sentry-trace",
    "te",
    "traceparent",
    "tracestate",
    "transfer-encoding",
    "true-client-ip",
    "uber-trace-id",
    "via",
    "x-amzn-trace-id",
    "x-b3-flags",
    "x-b3-parentspanid",
    "x-b3-sampled",
    "x-b3-spanid",
    "x-b3-traceid",
    "x-client-ip",
    "x-cloud-trace-context",
    "x-cluster-client-ip",
    "x-correlation-id",
    "x-ot-span-context",
    "x-real-ip",
    "x-request-id",
];

/// Every field whose name starts with one of these is excluded too.
pub const EXCLUDED_PREFIXES: &[&str] = &[
    "sae-",
    "x-envoy-",
    "x-forwarded-",
    "x-datadog-",
    "uberctx-",
    "ot-tracer-",
];

/// Fields that make a server run another method.
const METHOD_OVERRIDE: &[&str] = &[
    "x-http-method",
    "x-http-method-override",
    "x-method",
    "x-method-override",
    "x-original-method",
    "http-method-override",
];

/// Fields that make a server route another host or path.
const URL_REWRITE: &[&str] = &[
    "x-accel-redirect",
    "x-host",
    "x-http-destinationurl",
    "x-http-host-override",
    "x-original-host",
    "x-original-uri",
    "x-original-url",
    "x-override-url",
    "x-proxy-url",
    "x-rewrite-uri",
    "x-rewrite-url",
    "x-sendfile",
    "x-url-scheme",
];

/// Fields of which a request may carry one line only: their grammar is no list, so recipients
/// disagree on which line counts.
const SINGLETONS: &[&str] = &[
    "authorization",
    "content-digest",
    "content-disposition",
    "content-encoding",
    "content-language",
    "content-length",
    "content-location",
    "content-range",
    "content-type",
    "date",
    "expect",
    "from",
    "host",
    "idempotency-key",
    "if-modified-since",
    "if-range",
    "if-unmodified-since",
    "last-event-id",
    "max-forwards",
    "mcp-protocol-version",
    "mcp-session-id",
    "origin",
    "proxy-authorization",
    "range",
    "referer",
    "sae",
    "sae-certificate",
    "sae-status",
    "transfer-encoding",
    "user-agent",
];

/// True for a field (lower-case name) that the decision does not cover and that is not forwarded.
#[must_use]
pub fn is_excluded(name: &str) -> bool {
    EXCLUDED_FIELDS.contains(&name)
        || EXCLUDED_PREFIXES
            .iter()
            .any(|prefix| name.starts_with(prefix))
}

/// Removes every excluded field. Call it on what is forwarded; [`crate::canonicalize`] leaves them
/// out of the canonical form by itself.
pub fn remove_excluded(headers: &mut HeaderMap) {
    let excluded: Vec<HeaderName> = headers
        .keys()
        .filter(|name| is_excluded(name.as_str()))
        .cloned()
        .collect();
    for name in excluded {
        headers.remove(&name);
    }
}

/// The end-to-end fields in canonical order: sorted by name, the lines of one name joined in the
/// order received (`", "`, for Cookie `"; "`; RFC 9110 section 5.3, RFC 9113 section 8.2.3).
pub(crate) fn canonical_fields(
    headers: &HeaderMap,
    limits: &Limits,
) -> Result<Vec<(String, Vec<u8>)>, Refusal> {
    check_size(headers, limits)?;
    check_names(headers)?;
    check_framing(headers)?;
    let mut fields: BTreeMap<&str, Vec<u8>> = BTreeMap::new();
    for (name, value) in headers {
        let name = name.as_str();
        let bytes = value.as_bytes();
        if !is_plain_value(bytes) {
            return Err(Refusal::FieldValue {
                name: name.to_owned(),
            });
        }
        if is_excluded(name) {
            continue;
        }
        fields
            .entry(name)
            .and_modify(|joined| {
                joined.extend_from_slice(if name == "cookie" { b"; " } else { b", " });
                joined.extend_from_slice(bytes);
            })
            .or_insert_with(|| bytes.to_vec());
    }
    Ok(fields
        .into_iter()
        .map(|(name, value)| (name.to_owned(), value))
        .collect())
}

fn check_size(headers: &HeaderMap, limits: &Limits) -> Result<(), Refusal> {
    if headers.len() > limits.max_fields {
        return Err(Refusal::TooManyFields {
            limit: limits.max_fields,
        });
    }
    let bytes: usize = headers
        .iter()
        .map(|(name, value)| name.as_str().len() + value.len())
        .sum();
    if bytes > limits.max_fields_bytes {
        return Err(Refusal::FieldsTooLarge {
            limit: limits.max_fields_bytes,
        });
    }
    Ok(())
}

/// No control characters (HTAB inside is allowed, RFC 9110 section 5.5), no surrounding white space.
fn is_plain_value(value: &[u8]) -> bool {
    let blank = |b: Option<&u8>| matches!(b, Some(b' ' | b'\t'));
    let control = value
        .iter()
        .any(|b| (*b < 0x20 && *b != b'\t') || *b == 0x7F);
    !control && !blank(value.first()) && !blank(value.last())
}

fn check_names(headers: &HeaderMap) -> Result<(), Refusal> {
    let names: BTreeSet<&str> = headers.keys().map(HeaderName::as_str).collect();
    for name in names.iter().copied() {
        let owned = || name.to_owned();
        if METHOD_OVERRIDE.contains(&name) {
            return Err(Refusal::MethodOverride { name: owned() });
        }
        if URL_REWRITE.contains(&name) {
            return Err(Refusal::UrlRewrite { name: owned() });
        }
        if SINGLETONS.contains(&name) && headers.get_all(name).iter().count() > 1 {
            return Err(Refusal::DuplicateField { name: owned() });
        }
        if name.contains('_') && is_guarded(&name.replace('_', "-"), &names) {
            return Err(Refusal::FieldNameAlias { name: owned() });
        }
    }
    Ok(())
}

/// A name that `a_b` must not stand in for: one that we act on, or one that is there as well.
fn is_guarded(hyphenated: &str, present: &BTreeSet<&str>) -> bool {
    METHOD_OVERRIDE.contains(&hyphenated)
        || URL_REWRITE.contains(&hyphenated)
        || SINGLETONS.contains(&hyphenated)
        || is_excluded(hyphenated)
        || present.contains(hyphenated)
}

fn check_framing(headers: &HeaderMap) -> Result<(), Refusal> {
    if headers.contains_key("upgrade") || headers.contains_key("http2-settings") {
        return Err(Refusal::Upgrade);
    }
    if headers.contains_key("trailer") {
        return Err(Refusal::Trailers);
    }
    if let Some(value) = headers.get("expect")
        && !value.as_bytes().eq_ignore_ascii_case(b"100-continue")
    {
        return Err(Refusal::Expect);
    }
    let length = headers.get("content-length");
    if let Some(value) = length {
        let digits = value.as_bytes();
        if digits.is_empty() || digits.len() > 18 || !digits.iter().all(u8::is_ascii_digit) {
            return Err(Refusal::ContentLength);
        }
    }
    if let Some(value) = headers.get("transfer-encoding")
        && (length.is_some() || !value.as_bytes().eq_ignore_ascii_case(b"chunked"))
    {
        return Err(Refusal::TransferEncoding);
    }
    check_connection(headers)
}

fn check_connection(headers: &HeaderMap) -> Result<(), Refusal> {
    for value in headers.get_all("connection") {
        let Ok(text) = value.to_str() else {
            return Err(Refusal::FieldValue {
                name: "connection".to_owned(),
            });
        };
        for option in text
            .split(',')
            .map(|option| option.trim().to_ascii_lowercase())
        {
            if !matches!(option.as_str(), "" | "close" | "keep-alive" | "te") {
                let shown: String = option.chars().take(64).collect();
                return Err(Refusal::ConnectionListed { name: shown });
            }
        }
    }
    Ok(())
}
