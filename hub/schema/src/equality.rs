//! When two values are equal in JSON Schema's sense, at a known cost; numbers are compared exactly.

use alkhub_protocol::json::tree::Tree;
use serde_json::Value;

use crate::meter::{of_text, spend};
use crate::number::{canonical, canonical_text};

/// The steps that looking at all of a value takes.
pub(crate) fn weight(value: &Tree<'_>) -> u64 {
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

/// Equality in JSON Schema's sense; the steps are taken from the meter.
pub(crate) fn equal(value: &Tree<'_>, expected: &Value) -> bool {
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

/// Writes a text that is the same for two values exactly if JSON Schema considers them equal.
pub(crate) fn write_canonical(value: &Tree<'_>, to: &mut Vec<u8>) {
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

fn write_text(text: &str, to: &mut Vec<u8>) {
    to.extend(format!("\"{}:", text.len()).into_bytes());
    to.extend(text.as_bytes());
}
