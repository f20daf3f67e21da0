//! Forms of names in a catalog.

use crate::UNLISTED;
use crate::error::CatalogError;

fn invalid(item: &str, problem: impl Into<String>) -> CatalogError {
    CatalogError::Invalid {
        item: item.to_owned(),
        problem: problem.into(),
    }
}

/// Lower-case words joined by `-`, `_` or `.`.
fn is_words(text: &str, separators: &[char]) -> bool {
    text.split(separators).all(|w| {
        !w.is_empty()
            && w.bytes()
                .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit())
    })
}

/// Name of a destination, an entry or a CA bundle.
pub(crate) fn name(item: &str, text: &str) -> Result<(), CatalogError> {
    if text.len() <= 64 && is_words(text, &['-', '_', '.']) {
        return Ok(());
    }
    Err(invalid(
        item,
        "a name is 1 to 64 characters: lower-case letters and digits, joined by '-', '_' or '.'",
    ))
}

/// Dotted capability of at least two parts.
pub(crate) fn capability(item: &str, text: &str) -> Result<(), CatalogError> {
    if text == UNLISTED {
        return Err(invalid(
            item,
            "capability 'unlisted' is reserved for requests without an entry: choose another name",
        ));
    }
    if text.len() <= 100 && text.contains('.') && is_words(text, &['-', '_', '.']) {
        return Ok(());
    }
    Err(invalid(
        item,
        "a capability has at least two dotted parts of lower-case letters, digits, '-' and '_', at most 100 characters, such as payments.transfer",
    ))
}

/// JSON pointer (RFC 6901) below the root.
pub(crate) fn pointer(item: &str, text: &str) -> Result<(), CatalogError> {
    let escapes_ok = text
        .split('~')
        .skip(1)
        .all(|rest| rest.starts_with(['0', '1']));
    if text.starts_with('/')
        && text.len() <= 256
        && escapes_ok
        && !text.chars().any(char::is_control)
    {
        return Ok(());
    }
    Err(invalid(
        item,
        format!("{text:?} is not a JSON pointer (RFC 6901) of at most 256 bytes, such as /amount"),
    ))
}

/// SPIFFE ID as the SPIFFE standard has it, with a path.
pub(crate) fn spiffe_id(item: &str, text: &str) -> Result<(), CatalogError> {
    let is_domain =
        |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'-' | b'.' | b'_');
    let is_path = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_');
    let valid = text.len() <= 2048
        && text
            .strip_prefix("spiffe://")
            .and_then(|rest| rest.split_once('/'))
            .is_some_and(|(domain, path)| {
                !domain.is_empty()
                    && domain.bytes().all(is_domain)
                    && path
                        .split('/')
                        .all(|s| !s.is_empty() && s != "." && s != ".." && s.bytes().all(is_path))
            });
    if valid {
        return Ok(());
    }
    Err(invalid(
        item,
        "peer.spiffe is not a SPIFFE ID with a path, such as spiffe://example.org/ns/pay/sa/api",
    ))
}

/// Tool or JSON-RPC method.
pub(crate) fn mcp_name(item: &str, text: &str) -> Result<(), CatalogError> {
    if (1..=128).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_graphic()) {
        return Ok(());
    }
    Err(invalid(
        item,
        "tool and method are 1 to 128 printable ASCII characters without spaces",
    ))
}
