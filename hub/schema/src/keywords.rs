//! The keywords of JSON Schema by what they do with the schemas inside them.

use serde_json::Value;

/// Lists of subschemas that apply to the same value.
pub(crate) const LISTS: [&str; 3] = ["allOf", "anyOf", "oneOf"];
/// A subschema that applies to the same value.
pub(crate) const SINGLE: [&str; 4] = ["not", "if", "then", "else"];
/// Subschemas by name that apply to the same value.
pub(crate) const MAPS: [&str; 2] = ["dependentSchemas", "dependencies"];
/// References to a subschema that applies to the same value.
pub(crate) const REFERENCES: [&str; 3] = ["$ref", "$dynamicRef", "$recursiveRef"];
/// A subschema that applies to members or items.
pub(crate) const BELOW: [&str; 7] = [
    "items",
    "additionalItems",
    "unevaluatedItems",
    "contains",
    "additionalProperties",
    "unevaluatedProperties",
    "propertyNames",
];
/// Lists of subschemas that apply to items.
pub(crate) const BELOW_LISTS: [&str; 2] = ["items", "prefixItems"];
/// Subschemas by name that apply to members.
pub(crate) const BELOW_MAPS: [&str; 2] = ["properties", "patternProperties"];

/// Keywords with a schema, or with schemas by name, that do not apply to a value by themselves.
const ASIDE: &str = "contentSchema";
const ASIDE_MAPS: [&str; 2] = ["$defs", "definitions"];

/// Keywords that refuse nothing: TypeBox's `Unknown` is `{}`, and schemars adds `$schema` and `title`.
const ANNOTATIONS: [&str; 7] = [
    "$schema",
    "$id",
    "title",
    "description",
    "$comment",
    "default",
    "examples",
];

/// TypeBox's types for the absence of a value, which are read as `null`.
pub(crate) const NOTHING: [&str; 2] = ["void", "undefined"];

/// Whether a schema refuses no value: it is `true`, or has nothing but annotations.
pub(crate) fn accepts_anything(schema: &Value) -> bool {
    match schema {
        Value::Bool(accepts) => *accepts,
        Value::Object(keywords) => keywords.keys().all(|keyword| ANNOTATIONS.contains(&keyword.as_str())),
        _ => false,
    }
}

/// The schemas under a keyword, each with its place there as a JSON pointer.
pub(crate) fn schemas_of<'a>(keyword: &str, value: &'a mut Value) -> Vec<(String, &'a mut Value)> {
    if value.is_object() && (SINGLE.contains(&keyword) || BELOW.contains(&keyword) || keyword == ASIDE) {
        return vec![(String::new(), value)];
    }
    match value {
        Value::Array(items) if LISTS.contains(&keyword) || BELOW_LISTS.contains(&keyword) => {
            let items = items.iter_mut().enumerate();
            items.map(|(i, item)| (format!("/{i}"), item)).collect()
        }
        Value::Object(inner) if has_schemas_by_name(keyword) => {
            let escaped = |name: &String| name.replace('~', "~0").replace('/', "~1");
            let inner = inner.iter_mut();
            inner
                .map(|(name, item)| (format!("/{}", escaped(name)), item))
                .collect()
        }
        _ => Vec::new(),
    }
}

fn has_schemas_by_name(keyword: &str) -> bool {
    MAPS.contains(&keyword) || BELOW_MAPS.contains(&keyword) || ASIDE_MAPS.contains(&keyword)
}
