//! Exact amounts.

use alloy_primitives::U256;
use serde_json::Value;
use writ_canonical::json;

use crate::model::AmountSpec;
use crate::refusal::Reason;

/// An amount in the smallest part of its unit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Amount {
    /// `12.34` EUR at scale 2 is 1234.
    pub value: U256,
    /// Decimals of the unit.
    pub scale: u8,
    /// Unit named by the entry.
    pub unit: String,
}

/// Reads the amount from the text of the JSON document, so that no digit passes through a double.
/// `text` was accepted by [`json::parse_strict`], so no member name repeats.
pub(crate) fn read(spec: &AmountSpec, text: &str) -> Result<Amount, Reason> {
    let pointer = spec.pointer.clone();
    let Some(token) = json::token_at(text, &spec.pointer) else {
        return Err(Reason::AmountMissing { pointer });
    };
    let digits = match token.as_bytes().first() {
        Some(b'"') => match serde_json::from_str(token) {
            Ok(Value::String(text)) => text,
            _ => return Err(Reason::AmountForm { pointer }),
        },
        Some(b'-' | b'0'..=b'9') => token.to_owned(),
        Some(b'n') => return Err(Reason::AmountMissing { pointer }),
        _ => return Err(Reason::AmountType { pointer }),
    };
    let value = decimal(&digits, spec)?;
    Ok(Amount {
        value,
        scale: spec.scale,
        unit: spec.unit.clone(),
    })
}

fn decimal(digits: &str, spec: &AmountSpec) -> Result<U256, Reason> {
    let pointer = || spec.pointer.clone();
    if digits.starts_with(['-', '+']) {
        return Err(Reason::AmountSign { pointer: pointer() });
    }
    let (whole, fraction) = match digits.split_once('.') {
        Some((_, "")) => return Err(Reason::AmountForm { pointer: pointer() }),
        Some((whole, fraction)) => (whole, fraction),
        None => (digits, ""),
    };
    let plain = |part: &str| part.bytes().all(|b| b.is_ascii_digit());
    if !plain(whole) || !plain(fraction) {
        let scientific = digits
            .bytes()
            .all(|b| b.is_ascii_digit() || matches!(b, b'.' | b'e' | b'E' | b'+' | b'-'));
        return Err(if scientific && digits.contains(['e', 'E']) {
            Reason::AmountExponent { pointer: pointer() }
        } else {
            Reason::AmountForm { pointer: pointer() }
        });
    }
    if whole.is_empty() || (whole.len() > 1 && whole.starts_with('0')) {
        return Err(Reason::AmountForm { pointer: pointer() });
    }
    if fraction.len() > usize::from(spec.scale) {
        return Err(Reason::AmountDecimals {
            pointer: pointer(),
            limit: spec.scale,
        });
    }
    let too_long = Reason::AmountDigits {
        pointer: pointer(),
        limit: spec.max_digits,
    };
    if whole.len() + fraction.len() > usize::from(spec.max_digits) {
        return Err(too_long);
    }
    let padded = format!(
        "{whole}{fraction:0<width$}",
        width = usize::from(spec.scale)
    );
    U256::from_str_radix(&padded, 10).map_err(|_| too_long)
}
