//! Bounds on strings in claims. Limits are part of the format.

use crate::Refusal;

/// Longest SPIFFE ID (SPIFFE-ID, section 2.3).
pub(crate) const SPIFFE_ID_MAX: usize = 2048;
/// Longest URI, path or distinguished name.
pub(crate) const TEXT_MAX: usize = 2048;
/// Longest identifier: session, principal, log, capability, idempotency key.
pub(crate) const NAME_MAX: usize = 256;

pub(crate) fn check(ok: bool, claim: &'static str) -> Result<(), Refusal> {
    if ok {
        Ok(())
    } else {
        Err(Refusal::ClaimOutOfBounds(claim))
    }
}

/// 1 to `max` visible ASCII characters (no space, no control).
pub(crate) fn visible(text: &str, max: usize, claim: &'static str) -> Result<(), Refusal> {
    check(
        !text.is_empty() && text.len() <= max && text.bytes().all(|b| b.is_ascii_graphic()),
        claim,
    )
}

/// At most `max` bytes without control characters.
pub(crate) fn text(text: &str, max: usize, claim: &'static str) -> Result<(), Refusal> {
    check(
        text.len() <= max && !text.chars().any(char::is_control),
        claim,
    )
}

/// A SPIFFE ID with a path (SPIFFE-ID, section 2): lower-case trust domain, no empty or dot
/// segment, no trailing slash, no percent-encoding.
pub(crate) fn spiffe_id(id: &str, claim: &'static str) -> Result<(), Refusal> {
    let domain_ok = |d: &str| {
        !d.is_empty()
            && d.len() <= 255
            && d.bytes()
                .all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'.' | b'-' | b'_'))
    };
    let segment_ok = |s: &str| {
        !s.is_empty()
            && s != "."
            && s != ".."
            && s.bytes()
                .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_'))
    };
    let ok = id.len() <= SPIFFE_ID_MAX
        && id
            .strip_prefix("spiffe://")
            .and_then(|rest| rest.split_once('/'))
            .is_some_and(|(domain, path)| domain_ok(domain) && path.split('/').all(segment_ok));
    check(ok, claim)
}

/// A dotted capability: `payments.transfer`.
pub(crate) fn capability(name: &str, claim: &'static str) -> Result<(), Refusal> {
    let ok = name.len() <= NAME_MAX
        && name.split('.').all(|label| {
            !label.is_empty()
                && label
                    .bytes()
                    .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'))
        });
    check(ok, claim)
}

/// A short reason: ASCII letters, digits and hyphens.
pub(crate) fn code(text: &str, claim: &'static str) -> Result<(), Refusal> {
    check(
        !text.is_empty()
            && text.len() <= 64
            && text
                .bytes()
                .all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'-')),
        claim,
    )
}

pub(crate) fn data_class(class: u8, claim: &'static str) -> Result<(), Refusal> {
    check(class <= 3, claim)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spiffe_ids_are_taken_or_refused_by_the_letter() {
        for id in ["spiffe://td/a", "spiffe://a.b-c_d/ns/x/sa/Y.1"] {
            assert!(spiffe_id(id, "iss").is_ok(), "{id}");
        }
        for id in [
            "spiffe://td",
            "spiffe://td/",
            "spiffe://TD/a",
            "spiffe:///a",
            "spiffe://td/a/",
            "spiffe://td/a//b",
            "spiffe://td/../b",
            "spiffe://td/a%20",
            "spiffe://td:1/a",
            "https://td/a",
            "spiffe://td/a?b",
            "spiffe://td/a#b",
            "spiffe://u@td/a",
        ] {
            assert!(spiffe_id(id, "iss").is_err(), "{id}");
        }
    }

    #[test]
    fn capabilities_are_dotted_names() {
        assert!(capability("payments.transfer", "m").is_ok());
        assert!(capability("mcp.tools.list_all-2", "m").is_ok());
        for bad in ["", ".", "a.", ".a", "a..b", "a b", "ä"] {
            assert!(capability(bad, "m").is_err(), "{bad}");
        }
    }
}
