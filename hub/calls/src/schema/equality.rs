//! When JSON Schema calls two values equal, at a price that is known.

use jsonschema::json::cmp;
use serde_json::{Number, Value};

use super::metered::{of_text, spend};

/// Steps for a look at all of a value.
pub(super) fn weight(value: &Value) -> u64 {
    match value {
        Value::String(text) => of_text(text),
        Value::Array(items) => 1 + items.iter().map(weight).sum::<u64>(),
        Value::Object(members) => {
            1 + members
                .iter()
                .map(|(key, value)| of_text(key) + weight(value))
                .sum::<u64>()
        }
        _ => 1,
    }
}

/// Equality in JSON Schema's sense, paid for.
pub(super) fn equal(value: &Value, expected: &Value) -> bool {
    match (value, expected) {
        (Value::Array(items), Value::Array(others)) => {
            spend(1) && items.len() == others.len() && items.iter().zip(others).all(|(item, other)| equal(item, other))
        }
        (Value::Object(members), Value::Object(others)) => {
            let same = |(key, value): (&String, &Value)| {
                spend(of_text(key)) && others.get(key).is_some_and(|other| equal(value, other))
            };
            spend(1) && members.len() == others.len() && members.iter().all(same)
        }
        (Value::String(text), Value::String(other)) => {
            let differ = text.len() != other.len();
            spend(if differ { 1 } else { of_text(text) }) && text == other
        }
        _ => spend(1) && cmp::equal(value, expected),
    }
}

/// Writes a text that two values share exactly when JSON Schema calls them equal.
pub(super) fn write_canonical(value: &Value, to: &mut Vec<u8>) -> bool {
    match value {
        Value::Number(number) => to.extend(canonical(number).into_bytes()),
        Value::Array(items) => {
            to.push(b'[');
            for item in items {
                write_canonical(item, to);
                to.push(b',');
            }
            to.push(b']');
        }
        Value::Object(members) => {
            let mut sorted: Vec<_> = members.iter().collect();
            sorted.sort_unstable_by_key(|(key, _)| *key);
            to.push(b'{');
            for (key, value) in sorted {
                write_text(key, to);
                write_canonical(value, to);
                to.push(b',');
            }
            to.push(b'}');
        }
        Value::String(text) => write_text(text, to),
        Value::Bool(true) => to.push(b't'),
        Value::Bool(false) => to.push(b'f'),
        Value::Null => to.push(b'n'),
    }
    true
}

fn write_text(text: &str, to: &mut Vec<u8>) {
    to.extend(format!("\"{}:", text.len()).into_bytes());
    to.extend(text.as_bytes());
}

/// `1` and `1.0` are one number.
fn canonical(number: &Number) -> String {
    match number.as_f64() {
        _ if number.is_i64() || number.is_u64() => number.to_string(),
        #[expect(clippy::cast_possible_truncation, reason = "whole and within the range")]
        Some(whole) if whole.fract() == 0.0 && whole.abs() < 1e30 => (whole as i128).to_string(),
        Some(other) => format!("{:x}", other.to_bits()),
        None => number.to_string(),
    }
}
