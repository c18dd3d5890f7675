//! When JSON Schema calls two values equal, at a price that is known; numbers exactly.

use alkhub_protocol::json::tree::{Number, Tree};
use serde_json::Value;

use super::metered::{of_text, spend};

/// Steps for a look at all of a value.
pub(super) fn weight(value: &Tree<'_>) -> u64 {
    match value {
        Tree::String(text) => of_text(text),
        Tree::Number(number) => of_text(number.as_str()),
        Tree::Array(items) => 1 + items.iter().map(weight).sum::<u64>(),
        Tree::Object(members) => {
            1 + members
                .iter()
                .map(|(key, value)| of_text(key) + weight(value))
                .sum::<u64>()
        }
        Tree::Null | Tree::Bool(_) => 1,
    }
}

/// Equality in JSON Schema's sense, paid for.
pub(super) fn equal(value: &Tree<'_>, expected: &Value) -> bool {
    match (value, expected) {
        (Tree::Array(items), Value::Array(others)) => {
            spend(1) && items.len() == others.len() && items.iter().zip(others).all(|(item, other)| equal(item, other))
        }
        (Tree::Object(members), Value::Object(others)) => {
            spend(1)
                && members.len() == others.len()
                && members.iter().all(|(key, value)| {
                    spend(of_text(key)) && others.get(&**key).is_some_and(|other| equal(value, other))
                })
        }
        (Tree::String(text), Value::String(other)) => {
            let differ = text.len() != other.len();
            spend(if differ { 1 } else { of_text(text) }) && text == other
        }
        (Tree::Number(number), Value::Number(other)) => {
            spend(of_text(number.as_str())) && canonical(*number) == canonical_text(&other.to_string())
        }
        (Tree::Bool(value), Value::Bool(other)) => spend(1) && value == other,
        (Tree::Null, Value::Null) => spend(1),
        _ => false,
    }
}

/// Writes a text that two values share exactly when JSON Schema calls them equal.
pub(super) fn write_canonical(value: &Tree<'_>, to: &mut Vec<u8>) {
    match value {
        Tree::Number(number) => to.extend(canonical(*number).into_bytes()),
        Tree::Array(items) => {
            to.push(b'[');
            for item in items {
                write_canonical(item, to);
                to.push(b',');
            }
            to.push(b']');
        }
        Tree::Object(members) => {
            to.push(b'{');
            for (key, value) in members.iter() {
                write_text(key, to);
                write_canonical(value, to);
                to.push(b',');
            }
            to.push(b'}');
        }
        Tree::String(text) => write_text(text, to),
        Tree::Bool(true) => to.push(b't'),
        Tree::Bool(false) => to.push(b'f'),
        Tree::Null => to.push(b'n'),
    }
}

/// The value as the validator's own types have it, numbers rounded: for messages, and for schemas, whose numbers were
/// found to survive it.
pub(super) fn to_value(tree: &Tree<'_>) -> Value {
    match tree {
        Tree::Null => Value::Null,
        Tree::Bool(value) => Value::Bool(*value),
        Tree::Number(number) => Value::Number(to_number(*number)),
        Tree::String(text) => Value::String(text.clone().into_owned()),
        Tree::Array(items) => Value::Array(items.iter().map(to_value).collect()),
        Tree::Object(members) => {
            let members = members.iter();
            Value::Object(
                members
                    .map(|(key, value)| (key.clone().into_owned(), to_value(value)))
                    .collect(),
            )
        }
    }
}

/// The nearest number of 64 bits; the largest where there is none.
pub(super) fn to_number(number: Number<'_>) -> serde_json::Number {
    let text = number.as_str();
    let whole = text.parse::<i64>().map(Into::into);
    let whole = whole.or_else(|_| text.parse::<u64>().map(Into::into));
    let bounded = number.to_f64().clamp(f64::MIN, f64::MAX);
    whole.unwrap_or_else(|_| serde_json::Number::from_f64(bounded).expect("it is finite"))
}

/// A number that is another one after it was one of 64 bits.
pub(super) fn rounded<'a>(tree: &Tree<'a>) -> Option<&'a str> {
    match tree {
        Tree::Number(number) => {
            let same = canonical(*number) == canonical_text(&to_number(*number).to_string());
            (!same).then(|| number.as_str())
        }
        Tree::Array(items) => items.iter().find_map(rounded),
        Tree::Object(members) => members.iter().find_map(|(_, value)| rounded(value)),
        Tree::Null | Tree::Bool(_) | Tree::String(_) => None,
    }
}

fn write_text(text: &str, to: &mut Vec<u8>) {
    to.extend(format!("\"{}:", text.len()).into_bytes());
    to.extend(text.as_bytes());
}

/// `1` and `1.0` are one number.
fn canonical(number: Number<'_>) -> String {
    match number.decimal() {
        Some(decimal) => {
            let sign = if decimal.negative { "-" } else { "" };
            format!("{sign}{}e{}", decimal.digits, decimal.exponent)
        }
        None => number.as_str().to_owned(),
    }
}

fn canonical_text(number: &str) -> String {
    match Tree::parse(number.as_bytes()) {
        Ok(Tree::Number(number)) => canonical(number),
        _ => number.to_owned(),
    }
}
