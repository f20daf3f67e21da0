//! Path: one spelling, or none.

use percent_encoding::percent_decode_str;

use crate::{Limits, PathParameters, Refusal};

/// Unreserved characters (RFC 3986 section 2.3): never percent-encoded in the canonical form.
fn is_unreserved(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~')
}

/// What may stand unencoded in a path segment besides unreserved characters (RFC 3986 `pchar`).
fn is_segment_delimiter(byte: u8) -> bool {
    matches!(
        byte,
        b'!' | b'$' | b'&' | b'\'' | b'(' | b')' | b'*' | b'+' | b',' | b'=' | b':' | b'@'
    )
}

/// Characters that best-fit code page conversions turn into a slash, a backslash or a dot.
const SEPARATOR_LOOKALIKES: [char; 10] = [
    '\u{2044}', '\u{2215}', '\u{29F8}', '\u{FF0F}', '\u{2216}', '\u{29F5}', '\u{FE68}', '\u{FF3C}',
    '\u{FF0E}', '\u{2024}',
];

/// The canonical path: starts with `/`, unreserved characters plain, everything else that is encoded
/// stays encoded with upper-case digits.
pub(crate) fn canonical_path(raw: &str, limits: &Limits) -> Result<String, Refusal> {
    if raw.len() > limits.max_path {
        return Err(Refusal::PathTooLong {
            limit: limits.max_path,
        });
    }
    if !raw.starts_with('/') {
        return Err(Refusal::PathForm);
    }
    let path = normalise(raw, limits)?;
    let decoded = percent_decode_str(&path)
        .decode_utf8()
        .map_err(|_| Refusal::PathNotUtf8)?;
    if decoded.chars().any(|c| SEPARATOR_LOOKALIKES.contains(&c)) {
        return Err(Refusal::PathEncodedSeparator);
    }
    if decoded.chars().any(char::is_control) {
        return Err(Refusal::PathControl);
    }
    check_segments(&path)?;
    Ok(path)
}

fn normalise(raw: &str, limits: &Limits) -> Result<String, Refusal> {
    let mut out = String::with_capacity(raw.len());
    let mut bytes = raw.bytes();
    while let Some(byte) = bytes.next() {
        match byte {
            b'%' => {
                let value = hex_pair(bytes.next(), bytes.next()).ok_or(Refusal::PathPercent)?;
                push_encoded(&mut out, value, limits)?;
            }
            b'/' => out.push('/'),
            b';' if limits.path_parameters == PathParameters::Literal => out.push(';'),
            b';' => return Err(Refusal::PathParameter),
            0..=0x1F | 0x7F => return Err(Refusal::PathControl),
            b'\\' => return Err(Refusal::PathEncodedSeparator),
            _ if is_unreserved(byte) || is_segment_delimiter(byte) => out.push(char::from(byte)),
            _ => return Err(Refusal::PathByte),
        }
    }
    Ok(out)
}

fn push_encoded(out: &mut String, value: u8, limits: &Limits) -> Result<(), Refusal> {
    match value {
        b'/' | b'\\' => Err(Refusal::PathEncodedSeparator),
        b'.' => Err(Refusal::PathEncodedDot),
        b'%' => Err(Refusal::PathDoubleEncoding),
        b';' if limits.path_parameters == PathParameters::Refuse => Err(Refusal::PathParameter),
        0..=0x1F | 0x7F => Err(Refusal::PathControl),
        _ if is_unreserved(value) => {
            out.push(char::from(value));
            Ok(())
        }
        _ => {
            out.push_str(percent_encoding::percent_encode_byte(value));
            Ok(())
        }
    }
}

/// Two hexadecimal digits as a byte.
pub(crate) fn hex_pair(high: Option<u8>, low: Option<u8>) -> Option<u8> {
    let digit = |b: u8| {
        char::from(b)
            .to_digit(16)
            .and_then(|d| u8::try_from(d).ok())
    };
    Some(digit(high?)? << 4 | digit(low?)?)
}

fn check_segments(path: &str) -> Result<(), Refusal> {
    if path.contains("//") {
        return Err(Refusal::PathEmptySegment);
    }
    if path
        .split('/')
        .any(|segment| segment == "." || segment == "..")
    {
        return Err(Refusal::PathDotSegment);
    }
    Ok(())
}

/// The segments of a canonical path, each percent-decoded.
///
/// Matching is done on these: `%40` and `@` address the same thing at every server, and no decoded
/// segment can contain a separator. `/a/` has the segments `a` and the empty one.
#[must_use]
pub fn decoded_segments(canonical_path: &str) -> Vec<String> {
    let rest = canonical_path.strip_prefix('/').unwrap_or(canonical_path);
    rest.split('/')
        .map(|segment| percent_decode_str(segment).decode_utf8_lossy().into_owned())
        .collect()
}
