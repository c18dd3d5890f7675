//! Numbers as JSON Schema compares them, and values in the validator's own types.

use alkhub_protocol::json::tree::{Number, Tree};
use serde_json::Value;

/// The value in the validator's own types, with numbers rounded: for messages, and for schemas, whose numbers were
/// found to survive this.
pub(crate) fn to_value(tree: &Tree<'_>) -> Value {
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

/// The nearest 64-bit number; the largest one if there is none.
pub(crate) fn to_number(number: Number<'_>) -> serde_json::Number {
    let text = number.as_str();
    let whole = text.parse::<i64>().map(Into::into);
    let whole = whole.or_else(|_| text.parse::<u64>().map(Into::into));
    let bounded = number.to_f64().clamp(f64::MIN, f64::MAX);
    whole.unwrap_or_else(|_| serde_json::Number::from_f64(bounded).expect("it is finite"))
}

/// A number in the value that 64 bits would round, if there is one.
pub(crate) fn rounded<'a>(tree: &Tree<'a>) -> Option<&'a str> {
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

/// The canonical text of a number: `1` and `1.0` are the same number.
pub(crate) fn canonical(number: Number<'_>) -> String {
    match number.decimal() {
        Some(decimal) => {
            let sign = if decimal.negative { "-" } else { "" };
            format!("{sign}{}e{}", decimal.digits, decimal.exponent)
        }
        None => number.as_str().to_owned(),
    }
}

pub(crate) fn canonical_text(number: &str) -> String {
    match Tree::parse(number.as_bytes()) {
        Ok(Tree::Number(number)) => canonical(number),
        _ => number.to_owned(),
    }
}
