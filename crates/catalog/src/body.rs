//! What can be read of a body.

use serde_json::Value;
use writ_canonical::CanonicalRequest;
use writ_canonical::json::{self, JsonLimits};

use crate::refusal::Reason;

/// The body of a request, as far as it was read before the decision.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BodyView<'a> {
    /// Read as a whole; empty when there is none.
    Bytes(&'a [u8]),
    /// Too large, or a stream.
    Unbound,
}

/// The body as the catalog sees it.
#[derive(Debug)]
pub(crate) enum Content<'a> {
    Empty,
    Json { value: Value, text: &'a str },
    Opaque(&'a [u8]),
    Unbound,
}

/// Reads a body. JSON is read strictly whenever Content-Type says JSON, also where the entry needs
/// nothing of it: what has two readings is not passed on.
pub(crate) fn read<'a>(
    request: &CanonicalRequest,
    body: BodyView<'a>,
    limits: &JsonLimits,
) -> Result<Content<'a>, Reason> {
    let bytes = match body {
        BodyView::Unbound => return Ok(Content::Unbound),
        BodyView::Bytes([]) => return Ok(Content::Empty),
        BodyView::Bytes(bytes) => bytes,
    };
    if bytes.len() > limits.max_bytes {
        return Err(Reason::BodyTooLarge {
            limit: limits.max_bytes,
        });
    }
    // Detectors must see what the target sees, so an encoded body is refused even where the entry
    // selects nothing from it.
    if request
        .field("content-encoding")
        .is_some_and(|coding| !coding.eq_ignore_ascii_case(b"identity"))
    {
        return Err(Reason::BodyEncoded);
    }
    if !is_json(request) {
        return Ok(Content::Opaque(bytes));
    }
    let value = json::parse_strict(bytes, limits).map_err(Reason::Json)?;
    let text = std::str::from_utf8(bytes).map_err(|_| Reason::BodyNotJson)?;
    Ok(Content::Json { value, text })
}

/// `application/json` or `*/*+json` (RFC 6839).
fn is_json(request: &CanonicalRequest) -> bool {
    let Some(value) = request
        .field("content-type")
        .and_then(|v| std::str::from_utf8(v).ok())
    else {
        return false;
    };
    let essence = value
        .split(';')
        .next()
        .unwrap_or_default()
        .trim()
        .to_ascii_lowercase();
    essence == "application/json" || essence.ends_with("+json")
}
