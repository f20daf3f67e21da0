//! Query: kept byte for byte, so it is only checked.

use crate::path::hex_pair;
use crate::{Limits, Refusal};

/// Checks a query against RFC 3986 section 3.4 (plus `[` and `]`, which browsers and SDKs send
/// unencoded and which no server reads as a delimiter of the query).
pub(crate) fn check_query(query: &str, limits: &Limits) -> Result<(), Refusal> {
    if query.len() > limits.max_query {
        return Err(Refusal::QueryTooLong {
            limit: limits.max_query,
        });
    }
    let mut bytes = query.bytes();
    while let Some(byte) = bytes.next() {
        match byte {
            b'%' => match hex_pair(bytes.next(), bytes.next()) {
                None => return Err(Refusal::QueryPercent),
                Some(0) => return Err(Refusal::QueryNul),
                Some(_) => {}
            },
            b'!' | b'$'..=b';' | b'=' | b'?'..=b'Z' | b'[' | b']' | b'_' | b'a'..=b'z' | b'~' => {}
            _ => return Err(Refusal::QueryByte),
        }
    }
    Ok(())
}
