//! JSON as the format allows it: no duplicate member, only integers from 0 to 2^53-1, shallow,
//! and in RFC 8785 form.

use std::cell::Cell;
use std::fmt;

use serde::Serialize;
use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};

use crate::Refusal;

/// Greatest integer that every JSON implementation keeps (I-JSON, RFC 7493).
pub(crate) const MAX_INTEGER: u64 = (1 << 53) - 1;

const MAX_DEPTH: u8 = 6;

/// Parses the whole of `bytes`.
pub(crate) fn parse(bytes: &[u8]) -> Result<Value, Refusal> {
    let fault = Cell::new(None);
    let seed = Strict {
        depth: 0,
        fault: &fault,
    };
    let mut deserializer = serde_json::Deserializer::from_slice(bytes);
    let value = seed
        .deserialize(&mut deserializer)
        .and_then(|value| deserializer.end().map(|()| value));
    value.map_err(|e| {
        fault
            .take()
            .unwrap_or_else(|| Refusal::JsonInvalid(e.to_string()))
    })
}

/// The RFC 8785 form. Claims hold only strings, integers, booleans, lists and objects, which
/// always serialise.
pub(crate) fn canonical<T: Serialize>(value: &T) -> Result<Vec<u8>, Refusal> {
    serde_json_canonicalizer::to_vec(value).map_err(|e| Refusal::JsonInvalid(e.to_string()))
}

#[derive(Clone, Copy)]
struct Strict<'a> {
    depth: u8,
    fault: &'a Cell<Option<Refusal>>,
}

impl Strict<'_> {
    fn fail<E: Error>(self, refusal: Refusal) -> E {
        let error = E::custom(&refusal);
        self.fault.set(Some(refusal));
        error
    }

    fn deeper<E: Error>(self) -> Result<Self, E> {
        if self.depth >= MAX_DEPTH {
            return Err(self.fail(Refusal::JsonInvalid("nested too deeply".into())));
        }
        Ok(Self {
            depth: self.depth + 1,
            ..self
        })
    }
}

impl<'de> DeserializeSeed<'de> for Strict<'_> {
    type Value = Value;
    fn deserialize<D: Deserializer<'de>>(self, d: D) -> Result<Value, D::Error> {
        d.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Strict<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value without null or fractions")
    }
    fn visit_bool<E: Error>(self, v: bool) -> Result<Value, E> {
        Ok(Value::Bool(v))
    }
    fn visit_u64<E: Error>(self, v: u64) -> Result<Value, E> {
        if v > MAX_INTEGER {
            return Err(self.fail(Refusal::JsonNumber));
        }
        Ok(Value::from(v))
    }
    fn visit_i64<E: Error>(self, _: i64) -> Result<Value, E> {
        Err(self.fail(Refusal::JsonNumber))
    }
    fn visit_f64<E: Error>(self, _: f64) -> Result<Value, E> {
        Err(self.fail(Refusal::JsonNumber))
    }
    fn visit_str<E: Error>(self, v: &str) -> Result<Value, E> {
        Ok(Value::String(v.to_owned()))
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Value, A::Error> {
        let deeper = self.deeper()?;
        let mut list = Vec::new();
        while let Some(item) = seq.next_element_seed(deeper)? {
            list.push(item);
        }
        Ok(Value::Array(list))
    }
    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        let deeper = self.deeper()?;
        let mut object = Map::new();
        while let Some(key) = map.next_key::<String>()? {
            if object.contains_key(&key) {
                return Err(self.fail(Refusal::JsonDuplicateKey(key)));
            }
            let value = map.next_value_seed(deeper)?;
            object.insert(key, value);
        }
        Ok(Value::Object(object))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn code(json: &str) -> &'static str {
        parse(json.as_bytes()).unwrap_err().code()
    }

    #[test]
    fn what_other_parsers_keep_quiet_about_is_refused() {
        assert_eq!(code(r#"{"a":1,"a":1}"#), "json-duplicate-key");
        assert_eq!(code(r#"{"b":{"a":1,"\u0061":2}}"#), "json-duplicate-key");
        assert_eq!(code("9007199254740992"), "json-number-out-of-range");
        assert_eq!(code("-1"), "json-number-out-of-range");
        assert_eq!(code("1.0"), "json-number-out-of-range");
        assert_eq!(code("1e2"), "json-number-out-of-range");
        assert_eq!(code("99999999999999999999"), "json-number-out-of-range");
        assert_eq!(code("null"), "json-invalid");
        assert_eq!(code("1 2"), "json-invalid");
        assert_eq!(code("[[[[[[[1]]]]]]]"), "json-invalid");
        assert_eq!(code("\"\u{1}\""), "json-invalid");
    }

    #[test]
    fn the_greatest_integer_passes() {
        assert_eq!(parse(b"9007199254740991"), Ok(Value::from(MAX_INTEGER)));
    }
}
