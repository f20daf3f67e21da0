//! JSON that has one reading (M-22).
//!
//! serde_json does all parsing. What it is silent about is refused here: repeated member names (it
//! keeps the last), integers beyond 2^53-1 (RFC 8785 would round them) and decimals that do not
//! survive a round trip through an IEEE 754 double.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;
use serde_json::{Map, Number, Value};
use thiserror::Error;

/// Largest integer that a double holds together with all its neighbours: 2^53 - 1.
pub const MAX_SAFE_INTEGER: u64 = (1 << 53) - 1;

/// Bounds on a JSON text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct JsonLimits {
    /// Longest text, bytes.
    pub max_bytes: usize,
    /// Deepest nesting of arrays and objects; a scalar has depth 0. At most 100.
    pub max_depth: usize,
    /// Most values (members, elements and containers) in the whole text.
    pub max_values: usize,
}

impl Default for JsonLimits {
    fn default() -> Self {
        Self {
            max_bytes: 1024 * 1024,
            max_depth: 32,
            max_values: 100_000,
        }
    }
}

/// Why a text is not accepted. Positions and limits only, never content.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum JsonError {
    /// Longer than [`JsonLimits::max_bytes`].
    #[error("the JSON text is longer than {limit} bytes: send less")]
    TooLarge {
        /// Limit in bytes.
        limit: usize,
    },
    /// Deeper than [`JsonLimits::max_depth`].
    #[error("the JSON text nests deeper than {limit} levels: flatten it")]
    TooDeep {
        /// Limit in levels.
        limit: usize,
    },
    /// More values than [`JsonLimits::max_values`].
    #[error("the JSON text has more than {limit} values: split the request")]
    TooManyValues {
        /// Limit.
        limit: usize,
    },
    /// Two members of one object have the same name after unescaping.
    #[error("an object repeats a member name (line {line}, column {column}): send each name once")]
    DuplicateKey {
        /// Line, from 1.
        line: usize,
        /// Column, from 1.
        column: usize,
    },
    /// An integer beyond 2^53-1 either way, or a double of that magnitude.
    #[error("a number is beyond 2^53-1 (line {line}, column {column}): send it as a string")]
    NumberRange {
        /// Line, from 1; 0 when not known.
        line: usize,
        /// Column, from 1; 0 when not known.
        column: usize,
    },
    /// A decimal that a double does not hold exactly as written.
    #[error("a decimal number has more digits than an IEEE 754 double keeps: send it as a string")]
    NumberPrecision,
    /// Not JSON (RFC 8259), not UTF-8, a lone surrogate, or bytes after the value.
    #[error(
        "the text is not JSON as RFC 8259 has it (line {line}, column {column}): correct it there"
    )]
    Syntax {
        /// Line, from 1.
        line: usize,
        /// Column, from 1.
        column: usize,
    },
}

impl JsonError {
    /// Stable identifier, kebab-case.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::TooLarge { .. } => "json-too-large",
            Self::TooDeep { .. } => "json-too-deep",
            Self::TooManyValues { .. } => "json-too-many-values",
            Self::DuplicateKey { .. } => "json-duplicate-key",
            Self::NumberRange { .. } => "json-number-range",
            Self::NumberPrecision => "json-number-precision",
            Self::Syntax { .. } => "json-syntax",
        }
    }
}

/// Parses a JSON text, refusing whatever two implementations may read differently.
///
/// # Errors
/// A [`JsonError`].
pub fn parse_strict(text: &[u8], limits: &JsonLimits) -> Result<Value, JsonError> {
    if text.len() > limits.max_bytes {
        return Err(JsonError::TooLarge {
            limit: limits.max_bytes,
        });
    }
    let mut state = State {
        limits,
        values: 0,
        floats: false,
        refused: None,
    };
    let mut parser = serde_json::Deserializer::from_slice(text);
    let value = Strict {
        state: &mut state,
        depth: 0,
    }
    .deserialize(&mut parser)
    .and_then(|value| parser.end().map(|()| value));
    let value = match value {
        Ok(value) => value,
        Err(error) => return Err(explain(state.refused, &error, limits)),
    };
    if state.floats {
        // The visitor saw the double only; whether the text says the same is read from the tokens.
        let raw: &RawValue = serde_json::from_slice(text).map_err(|e| explain(None, &e, limits))?;
        check_decimals(raw, limits.max_depth)?;
    }
    Ok(value)
}

/// RFC 8785 form of a value that [`parse_strict`] accepted.
#[must_use]
pub fn to_jcs(value: &Value) -> Vec<u8> {
    // Serialising a Value into memory cannot fail: its keys are strings and its numbers finite.
    serde_json_canonicalizer::to_vec(value).unwrap_or_default()
}

/// The text of the value at a JSON pointer (RFC 6901), exactly as written: for a number all its
/// digits. `None` when there is none. Call it on texts that [`parse_strict`] accepted.
#[must_use]
pub fn token_at<'a>(text: &'a str, pointer: &str) -> Option<&'a str> {
    let mut current: &RawValue = serde_json::from_str(text).ok()?;
    if pointer.is_empty() {
        return Some(current.get());
    }
    for part in pointer.strip_prefix('/')?.split('/') {
        let name = part.replace("~1", "/").replace("~0", "~");
        current = child(current, &name)?;
    }
    Some(current.get())
}

fn child<'a>(parent: &'a RawValue, name: &str) -> Option<&'a RawValue> {
    match parent.get().as_bytes().first()? {
        b'{' => {
            let members: Members<'a> = serde_json::from_str(parent.get()).ok()?;
            members
                .0
                .into_iter()
                .find(|(key, _)| key == name)
                .map(|(_, value)| value)
        }
        b'[' => {
            let index: usize = name
                .parse()
                .ok()
                .filter(|i: &usize| i.to_string() == name)?;
            let elements: Vec<&'a RawValue> = serde_json::from_str(parent.get()).ok()?;
            elements.get(index).copied()
        }
        _ => None,
    }
}

/// Members of an object in order, values as text.
struct Members<'a>(Vec<(String, &'a RawValue)>);

impl<'de> serde::Deserialize<'de> for Members<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct MembersVisitor;
        impl<'de> Visitor<'de> for MembersVisitor {
            type Value = Members<'de>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut members = Vec::new();
                while let Some(entry) = map.next_entry::<String, &RawValue>()? {
                    members.push(entry);
                }
                Ok(Members(members))
            }
        }
        deserializer.deserialize_map(MembersVisitor)
    }
}

fn check_decimals(raw: &RawValue, depth_left: usize) -> Result<(), JsonError> {
    let text = raw.get();
    let unreadable = |_| JsonError::Syntax { line: 0, column: 0 };
    let below = depth_left.saturating_sub(1);
    match text.as_bytes().first() {
        Some(b'{') => {
            let members: Members<'_> = serde_json::from_str(text).map_err(unreadable)?;
            members
                .0
                .iter()
                .try_for_each(|(_, value)| check_decimals(value, below))
        }
        Some(b'[') => {
            let elements: Vec<&RawValue> = serde_json::from_str(text).map_err(unreadable)?;
            elements
                .iter()
                .try_for_each(|value| check_decimals(value, below))
        }
        Some(b'-' | b'0'..=b'9') if !round_trips(text) => Err(JsonError::NumberPrecision),
        _ => Ok(()),
    }
}

/// True when the decimal of the double in RFC 8785 form is the decimal that was written. Another
/// shortest decimal of the same double would not do: its canonical form would be another number.
fn round_trips(token: &str) -> bool {
    let Ok(value) = token.parse::<f64>() else {
        return false;
    };
    if value == 0.0 {
        // RFC 8785 writes -0 as 0; what is only too small for a double is not zero.
        return significand(token).is_some_and(|(_, digits, _)| digits.is_empty());
    }
    let canonical = to_jcs(&Value::from(value));
    let Ok(canonical) = std::str::from_utf8(&canonical) else {
        return false;
    };
    matches!((significand(token), significand(canonical)), (Some(a), Some(b)) if a == b)
}

/// Digits without leading and trailing zeros, and the power of ten of the last digit.
fn significand(token: &str) -> Option<(bool, String, i64)> {
    let negative = token.starts_with('-');
    let unsigned = token.trim_start_matches('-');
    let (mantissa, exponent) = match unsigned.split_once(['e', 'E']) {
        Some((mantissa, exponent)) => (
            mantissa,
            exponent.trim_start_matches('+').parse::<i64>().ok()?,
        ),
        None => (unsigned, 0),
    };
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let digits = format!("{whole}{fraction}");
    let digits = digits.trim_start_matches('0');
    let trimmed = digits.trim_end_matches('0');
    if trimmed.is_empty() {
        return Some((negative, String::new(), 0));
    }
    let dropped = i64::try_from(digits.len() - trimmed.len()).ok()?;
    let shift = i64::try_from(fraction.len()).ok()?;
    Some((
        negative,
        trimmed.to_owned(),
        exponent.checked_sub(shift)?.checked_add(dropped)?,
    ))
}

struct State<'l> {
    limits: &'l JsonLimits,
    values: usize,
    floats: bool,
    refused: Option<Refused>,
}

#[derive(Clone, Copy)]
enum Refused {
    DuplicateKey,
    NumberRange,
    TooDeep,
    TooManyValues,
}

fn explain(refused: Option<Refused>, error: &serde_json::Error, limits: &JsonLimits) -> JsonError {
    let (line, column) = (error.line(), error.column());
    match refused {
        Some(Refused::DuplicateKey) => JsonError::DuplicateKey { line, column },
        Some(Refused::NumberRange) => JsonError::NumberRange { line, column },
        Some(Refused::TooDeep) => JsonError::TooDeep {
            limit: limits.max_depth,
        },
        Some(Refused::TooManyValues) => JsonError::TooManyValues {
            limit: limits.max_values,
        },
        None => JsonError::Syntax { line, column },
    }
}

struct Strict<'s, 'l> {
    state: &'s mut State<'l>,
    depth: usize,
}

impl Strict<'_, '_> {
    fn refuse<E: serde::de::Error>(&mut self, why: Refused) -> E {
        self.state.refused = Some(why);
        E::custom("refused")
    }

    fn enter<E: serde::de::Error>(&mut self) -> Result<usize, E> {
        let depth = self.depth + 1;
        if depth > self.state.limits.max_depth {
            return Err(self.refuse(Refused::TooDeep));
        }
        Ok(depth)
    }
}

impl<'de> DeserializeSeed<'de> for Strict<'_, '_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(mut self, deserializer: D) -> Result<Value, D::Error> {
        self.state.values += 1;
        if self.state.values > self.state.limits.max_values {
            return Err(self.refuse(Refused::TooManyValues));
        }
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Strict<'_, '_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_u64<E: serde::de::Error>(mut self, value: u64) -> Result<Value, E> {
        if value > MAX_SAFE_INTEGER {
            return Err(self.refuse(Refused::NumberRange));
        }
        Ok(Value::Number(value.into()))
    }

    fn visit_i64<E: serde::de::Error>(mut self, value: i64) -> Result<Value, E> {
        if value.unsigned_abs() > MAX_SAFE_INTEGER {
            return Err(self.refuse(Refused::NumberRange));
        }
        Ok(Value::Number(value.into()))
    }

    fn visit_f64<E: serde::de::Error>(mut self, value: f64) -> Result<Value, E> {
        self.state.floats = true;
        // 2^53 as a double; beyond it doubles skip integers.
        if value.abs() >= 9_007_199_254_740_992.0 {
            return Err(self.refuse(Refused::NumberRange));
        }
        // -0 and 0 are one number in RFC 8785; an integer-valued double is kept as the integer, so
        // that 1, 1.0 and 1e0 are one value here as they are one in the canonical form.
        #[allow(clippy::cast_possible_truncation)]
        if value.fract() == 0.0 {
            return Ok(Value::Number((value as i64).into()));
        }
        Number::from_f64(value)
            .map(Value::Number)
            .ok_or_else(|| E::custom("not finite"))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(Value::String(value.to_owned()))
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(Value::String(value))
    }

    fn visit_seq<A: SeqAccess<'de>>(mut self, mut seq: A) -> Result<Value, A::Error> {
        let depth = self.enter()?;
        let mut elements = Vec::new();
        while let Some(element) = seq.next_element_seed(Strict {
            state: self.state,
            depth,
        })? {
            elements.push(element);
        }
        Ok(Value::Array(elements))
    }

    fn visit_map<A: MapAccess<'de>>(mut self, mut map: A) -> Result<Value, A::Error> {
        let depth = self.enter()?;
        let mut members = Map::new();
        while let Some(name) = map.next_key::<String>()? {
            if members.contains_key(&name) {
                return Err(self.refuse(Refused::DuplicateKey));
            }
            let value = map.next_value_seed(Strict {
                state: self.state,
                depth,
            })?;
            members.insert(name, value);
        }
        Ok(Value::Object(members))
    }
}
