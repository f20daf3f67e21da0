//! Fields of an object that this version does not know.
//!
//! Kubernetes grows. What is not known cannot be checked, so a pod that uses it is refused rather
//! than read without it.

use serde_json::Value;

use crate::refusal::{Code, Refusals};

/// Refuses each field of `given` that did not come back in `read`, the same object as our types
/// hold it.
pub fn all(given: &Value, read: &Value, refusals: &mut Refusals) {
    // Deep enough for every object of Kubernetes, and bounded.
    compare(given, read, &mut String::new(), 64, refusals);
}

fn compare(given: &Value, read: &Value, path: &mut String, depth: u8, refusals: &mut Refusals) {
    let Some(depth) = depth.checked_sub(1) else {
        return refuse(path, refusals);
    };
    match (given, read) {
        (Value::Object(given), Value::Object(read)) => {
            for (name, value) in given {
                let length = path.len();
                if !path.is_empty() {
                    path.push('.');
                }
                path.push_str(name);
                match read.get(name) {
                    Some(read) => compare(value, read, path, depth, refusals),
                    None if is_nothing(value) => {}
                    None => refuse(path, refusals),
                }
                path.truncate(length);
            }
        }
        (Value::Array(given), Value::Array(read)) => {
            for (index, (given, read)) in given.iter().zip(read).enumerate() {
                let length = path.len();
                path.push_str(&format!("[{index}]"));
                compare(given, read, path, depth, refusals);
                path.truncate(length);
            }
        }
        _ => {}
    }
}

/// The API reads an absent field, null and an empty collection alike.
fn is_nothing(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Array(items) => items.is_empty(),
        Value::Object(fields) => fields.is_empty(),
        _ => false,
    }
}

fn refuse(path: &str, refusals: &mut Refusals) {
    refusals.add(
        Code::UnknownField,
        path.to_owned(),
        "this version of Writ does not know the field, so it cannot check it",
    );
}
