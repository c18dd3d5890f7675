//! What the origin means by `undefined`, for which JSON has no word: an input that is absent, a member that is left out.
//!
//! TypeBox keeps `undefined` apart from `null`. [`crate::dialect`] reads both as `null`, so this module reads the schema
//! before it is rewritten.
//!
//! Invariants
//! - Where it is not certain that a schema takes `undefined`, an input of nothing is `null`, as it always was.
//! - To leave out what is undefined never makes an output invalid that was valid.

use std::collections::HashSet;

use alkhub_protocol::RawJson;
use serde_json::{Map, Value};

use crate::keywords::{NOTHING, REFERENCES, accepts_anything, schemas_of};

/// Keywords in which a subschema that accepts more may make the whole accept less.
const NARROWING: [&str; 4] = ["not", "if", "oneOf", "contains"];

/// What a spoke of the origin gets for an input of nothing: one that is absent, or `null`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Nothing {
    /// `null` for both.
    Null,
    /// What the caller gave: its schema takes both.
    AsGiven,
    /// No input for both: its schema takes `null` only because `void` and `undefined` are read so.
    Absent,
}

// === impl Nothing ===

impl Nothing {
    /// What it is to a schema as it was written: by its root, and by the members of an `anyOf` there.
    pub(crate) fn of(schema: &Value) -> Self {
        match (takes_undefined(schema, is_typebox(schema)), takes_null(schema)) {
            (false, _) => Self::Null,
            (true, true) => Self::AsGiven,
            (true, false) => Self::Absent,
        }
    }

    /// Whether an input is left out towards a spoke of the origin; one that was not given is `null` here.
    pub fn leaves_out(self, input: &RawJson, is_given: bool) -> bool {
        match self {
            Self::Null => false,
            Self::AsGiven => !is_given,
            Self::Absent => input.is_null(),
        }
    }
}

/// Requires no member of an output that JSON leaves out when it is `undefined`.
pub(crate) fn leave_out(schema: &mut Value) {
    // What a reference there leads to would have to stay as it is.
    if !narrows_a_reference(schema) {
        let unknown = is_typebox(schema);
        relax(schema, unknown);
    }
}

fn relax(schema: &mut Value, unknown: bool) {
    let Value::Object(keywords) = schema else { return };
    require_less(keywords, unknown);
    let widening = keywords
        .iter_mut()
        .filter(|(name, _)| !NARROWING.contains(&name.as_str()));
    for (keyword, value) in widening {
        for (_, inner) in schemas_of(keyword, value) {
            relax(inner, unknown);
        }
    }
}

fn require_less(keywords: &mut Map<String, Value>, unknown: bool) {
    let Some(Value::Object(properties)) = keywords.get("properties") else {
        return;
    };
    let properties = properties.iter().filter(|(_, schema)| takes_undefined(schema, unknown));
    let left_out: HashSet<String> = properties.map(|(name, _)| name.clone()).collect();
    let Some(Value::Array(required)) = keywords.get_mut("required") else {
        return;
    };
    required.retain(|name| !name.as_str().is_some_and(|name| left_out.contains(name)));
    // Draft 4 has no empty list.
    if required.is_empty() {
        keywords.remove("required");
    }
}

/// Whether `{}` in a schema is TypeBox's `Any` or `Unknown`, which take `undefined`: it writes no `$schema`.
fn is_typebox(root: &Value) -> bool {
    root.get("$schema").is_none()
}

/// Whether the schema takes `undefined`; with `unknown`, `{}` does.
fn takes_undefined(schema: &Value, unknown: bool) -> bool {
    let Value::Object(keywords) = schema else { return false };
    if accepts_anything(schema) {
        return unknown;
    }
    match keywords.get("type") {
        Some(types) => names(types, |name| NOTHING.contains(&name)),
        None => any_of(keywords, |member| takes_undefined(member, unknown)).unwrap_or(false),
    }
}

/// Whether the schema takes `null` in its own right, where it takes `null` as it is read.
fn takes_null(schema: &Value) -> bool {
    let keywords = match schema {
        Value::Object(keywords) => keywords,
        other => return *other == Value::Bool(true),
    };
    if let Some(types) = keywords.get("type") {
        return names(types, |name| name == "null");
    }
    if let Some(value) = keywords.get("const") {
        return value.is_null();
    }
    if let Some(Value::Array(values)) = keywords.get("enum") {
        return values.contains(&Value::Null);
    }
    any_of(keywords, takes_null).unwrap_or(true)
}

/// Whether a `type` names one of these.
fn names(types: &Value, is_one: impl Fn(&str) -> bool) -> bool {
    match types {
        Value::Array(types) => types.iter().filter_map(Value::as_str).any(is_one),
        Value::String(name) => is_one(name),
        _ => false,
    }
}

/// Whether this holds for a member of `anyOf`; `None` without one.
fn any_of(keywords: &Map<String, Value>, holds: impl Fn(&Value) -> bool) -> Option<bool> {
    let members = keywords.get("anyOf")?.as_array()?;
    Some(members.iter().any(holds))
}

/// Whether a reference stands within a narrowing keyword.
fn narrows_a_reference(value: &Value) -> bool {
    match value {
        Value::Array(items) => items.iter().any(narrows_a_reference),
        Value::Object(members) => members
            .iter()
            .any(|(name, value)| match NARROWING.contains(&name.as_str()) {
                true => refers(value),
                false => narrows_a_reference(value),
            }),
        _ => false,
    }
}

fn refers(value: &Value) -> bool {
    match value {
        Value::Array(items) => items.iter().any(refers),
        Value::Object(members) => members
            .iter()
            .any(|(name, value)| REFERENCES.contains(&name.as_str()) || refers(value)),
        _ => false,
    }
}

#[cfg(test)]
mod tests;
