//! What the origin means by `undefined`, for which JSON has no word: an absent input, or a member that is left out.
//!
//! TypeBox distinguishes `undefined` from `null`. [`crate::dialect`] reads both as `null`, so this module reads the
//! schema before it is rewritten.
//!
//! Invariants
//! - Unless it is certain that a schema accepts `undefined`, an absent input becomes `null`, as it always has.
//! - Leaving out what is undefined never makes a valid output invalid.

use std::collections::HashSet;

use alkhub_protocol::RawJson;
use serde_json::{Map, Value};

use crate::keywords::{NOTHING, REFERENCES, accepts_anything, schemas_of};

/// Keywords in which a subschema that accepts more may make the whole accept less.
const NARROWING: [&str; 4] = ["not", "if", "oneOf", "contains"];

/// What a spoke of the origin gets for an input that is absent or `null`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Nothing {
    /// `null` in both cases.
    Null,
    /// What the caller gave: its schema accepts both.
    AsGiven,
    /// No input in both cases: its schema accepts `null` only because `void` and `undefined` are read as that.
    Absent,
}

// === impl Nothing ===

impl Nothing {
    /// Determined from a schema as it was written: from its root, and the members of an `anyOf` there.
    pub(crate) fn of(schema: &Value) -> Self {
        match (takes_undefined(schema, is_typebox(schema)), takes_null(schema)) {
            (false, _) => Self::Null,
            (true, true) => Self::AsGiven,
            (true, false) => Self::Absent,
        }
    }

    /// Whether an input is left out for a spoke of the origin; one that was not given is `null` here.
    pub fn leaves_out(self, input: &RawJson, is_given: bool) -> bool {
        match self {
            Self::Null => false,
            Self::AsGiven => !is_given,
            Self::Absent => input.is_null(),
        }
    }
}

/// Stops requiring members of an output that JSON leaves out if they are `undefined`.
pub(crate) fn leave_out(schema: &mut Value) {
    // Whatever a reference there leads to would have to stay unchanged.
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
    // Draft 4 does not allow an empty list.
    if required.is_empty() {
        keywords.remove("required");
    }
}

/// Whether `{}` in a schema is TypeBox's `Any` or `Unknown`, which accept `undefined`; TypeBox writes no `$schema`.
fn is_typebox(root: &Value) -> bool {
    root.get("$schema").is_none()
}

/// Whether the schema accepts `undefined`; with `unknown`, `{}` counts as accepting it.
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

/// Whether the schema accepts `null` in its own right, given that it accepts `null` as it is read.
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

/// Whether a `type` names one for which `is_one` holds.
fn names(types: &Value, is_one: impl Fn(&str) -> bool) -> bool {
    match types {
        Value::Array(types) => types.iter().filter_map(Value::as_str).any(is_one),
        Value::String(name) => is_one(name),
        _ => false,
    }
}

/// Whether `holds` is true for a member of `anyOf`; `None` if there is no `anyOf`.
fn any_of(keywords: &Map<String, Value>, holds: impl Fn(&Value) -> bool) -> Option<bool> {
    let members = keywords.get("anyOf")?.as_array()?;
    Some(members.iter().any(holds))
}

/// Whether there is a reference within a narrowing keyword.
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
