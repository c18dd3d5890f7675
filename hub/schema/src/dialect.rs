//! Schemas as TypeBox and older drafts write them, read as JSON Schema 2020-12.
//!
//! The origin's spokes describe their operations with TypeBox, whose types go beyond JSON's. A spoke that offers such a
//! schema means what TypeBox does with it; the hub checks whatever JSON can carry and warns about what it does not
//! check.
//!
//! | written | read as |
//! |---|---|
//! | `items: [..]`, `additionalItems` (drafts up to 2019-09, TypeBox's tuples) | `prefixItems`, `items` |
//! | `exclusiveMinimum: true`, `exclusiveMaximum: true` (draft 4) | the exclusive limit itself |
//! | `type: "void"`, `type: "undefined"` | `type: "null"`: JSON has no other word for nothing |
//! | any other unknown `type` (`Date`, `Uint8Array`, `bigint`, ...) | nothing is checked there, and a warning says so |
//!
//! Uses of `undefined` that have no counterpart in JSON at all are handled by the module `undefined`, which reads a
//! schema before it is rewritten.
//!
//! A schema that names an older draft in `$schema` keeps that draft's lists and exclusive limits: the validator knows
//! them.

use serde_json::{Map, Value};

use crate::keywords::{NOTHING, schemas_of};

const TYPES: [&str; 7] = ["array", "boolean", "integer", "null", "number", "object", "string"];

/// How many warnings one schema may have; further ones are only counted.
const WARNINGS: usize = 8;

/// Rewrites a schema in place.
pub(crate) fn adapt(schema: &mut Value) -> Vec<String> {
    let older_draft = schema.get("$schema").and_then(Value::as_str).is_some_and(|uri| {
        ["draft-03", "draft-04", "draft-06", "draft-07", "2019-09"]
            .iter()
            .any(|draft| uri.contains(draft))
    });
    let mut adapter = Adapter {
        older_draft,
        warnings: Vec::new(),
        more: 0,
    };
    adapter.schema(schema, "");
    if adapter.more > 0 {
        adapter.warnings.push(format!("and {} places more", adapter.more));
    }
    adapter.warnings
}

struct Adapter {
    older_draft: bool,
    warnings: Vec<String>,
    more: usize,
}

// === impl Adapter ===

impl Adapter {
    fn schema(&mut self, schema: &mut Value, path: &str) {
        let Value::Object(keywords) = schema else { return };
        if self.types(keywords, path) == Types::Unknown {
            *schema = Value::Bool(true);
            return;
        }
        if !self.older_draft {
            lists_to_prefixes(keywords);
            exclusive(keywords, "minimum", "exclusiveMinimum");
            exclusive(keywords, "maximum", "exclusiveMaximum");
        }
        for (keyword, value) in keywords.iter_mut() {
            for (place, inner) in schemas_of(keyword, value) {
                self.schema(inner, &format!("{path}/{keyword}{place}"));
            }
        }
    }

    /// Reads types that stand for the absence of a value as `null`, and finds those that are not JSON's.
    fn types(&mut self, keywords: &mut Map<String, Value>, path: &str) -> Types {
        let mut found = Types::Json;
        let mut own = |kind: &mut Value, warn: &mut dyn FnMut(&str)| {
            let Value::String(name) = kind else { return };
            if NOTHING.contains(&name.as_str()) {
                "null".clone_into(name);
            } else if !TYPES.contains(&name.as_str()) {
                warn(name);
                found = Types::Unknown;
            }
        };
        let mut unknown = Vec::new();
        match keywords.get_mut("type") {
            Some(Value::Array(kinds)) => kinds
                .iter_mut()
                .for_each(|kind| own(kind, &mut |name| unknown.push(name.to_owned()))),
            Some(kind) => own(kind, &mut |name| unknown.push(name.to_owned())),
            None => {}
        }
        for name in unknown {
            self.warn(&name, path);
        }
        found
    }

    fn warn(&mut self, name: &str, path: &str) {
        if self.warnings.len() == WARNINGS {
            self.more += 1;
            return;
        }
        let name: String = name.chars().take(64).collect();
        let path: String = path.chars().take(200).collect();
        let what = if path.is_empty() {
            "the value".to_owned()
        } else {
            format!("what is at `{path}`")
        };
        self.warnings
            .push(format!("`{name}` is no type of JSON: {what} is not checked"));
    }
}

/// What the `type` of a schema names.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Types {
    /// JSON's types, or none.
    Json,
    /// At least one that JSON does not have.
    Unknown,
}

fn lists_to_prefixes(keywords: &mut Map<String, Value>) {
    if !keywords.get("items").is_some_and(Value::is_array) || keywords.contains_key("prefixItems") {
        return;
    }
    let prefixes = keywords.remove("items").expect("it was just seen");
    // An empty list has no meaning, and `prefixItems` must not be empty.
    if prefixes.as_array().is_some_and(|prefixes| !prefixes.is_empty()) {
        keywords.insert("prefixItems".to_owned(), prefixes);
    }
    if let Some(rest) = keywords.remove("additionalItems") {
        keywords.insert("items".to_owned(), rest);
    }
}

/// Turns `{minimum: 3, exclusiveMinimum: true}` into `{exclusiveMinimum: 3}`.
fn exclusive(keywords: &mut Map<String, Value>, limit: &str, exclusive: &str) {
    let Some(Value::Bool(excludes)) = keywords.get(exclusive) else {
        return;
    };
    let excludes = *excludes;
    keywords.remove(exclusive);
    if excludes && let Some(value) = keywords.remove(limit) {
        keywords.insert(exclusive.to_owned(), value);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn adapted(mut schema: Value) -> (Value, Vec<String>) {
        let warnings = adapt(&mut schema);
        (schema, warnings)
    }

    #[test]
    fn a_tuple_as_a_list_is_read_as_prefixes() {
        let (schema, warnings) = adapted(json!({
            "type": "array", "items": [{ "type": "string" }, { "items": [{}], "additionalItems": { "type": "void" } }],
            "additionalItems": false, "minItems": 2, "maxItems": 2,
        }));

        assert_eq!(
            schema,
            json!({
                "type": "array",
                "prefixItems": [{ "type": "string" }, { "prefixItems": [{}], "items": { "type": "null" } }],
                "items": false, "minItems": 2, "maxItems": 2,
            })
        );
        assert!(warnings.is_empty(), "{warnings:?}");
    }

    #[test]
    fn an_older_draft_that_is_named_keeps_its_lists_and_limits() {
        let schema = json!({
            "$schema": "http://json-schema.org/draft-04/schema#",
            "items": [{ "minimum": 1, "exclusiveMinimum": true }], "additionalItems": false,
        });

        assert_eq!(adapted(schema.clone()), (schema, Vec::new()));
    }

    #[test]
    fn a_boolean_beside_a_limit_makes_it_exclusive() {
        let (schema, _) = adapted(json!({
            "minimum": 1, "exclusiveMinimum": true, "maximum": 9, "exclusiveMaximum": false,
        }));

        assert_eq!(schema, json!({ "exclusiveMinimum": 1, "maximum": 9 }));
    }

    #[test]
    fn a_type_that_json_has_not_is_unchecked_and_reported_with_its_place() {
        let (schema, warnings) = adapted(json!({
            "type": "object",
            "properties": {
                "at": { "type": "Date", "minimumTimestamp": 0 },
                "none": { "type": ["undefined", "string"] },
                "raw": { "anyOf": [{ "type": "Uint8Array" }, { "type": "null" }] },
            },
            "const": { "type": "Date" },
        }));

        assert_eq!(
            schema,
            json!({
                "type": "object",
                "properties": {
                    "at": true, "none": { "type": ["null", "string"] },
                    "raw": { "anyOf": [true, { "type": "null" }] },
                },
                "const": { "type": "Date" },
            })
        );
        assert_eq!(
            warnings,
            [
                "`Date` is no type of JSON: what is at `/properties/at` is not checked",
                "`Uint8Array` is no type of JSON: what is at `/properties/raw/anyOf/0` is not checked",
            ]
        );
    }

    #[test]
    fn many_unknown_types_are_counted() {
        let (_, warnings) = adapted(json!({ "anyOf": vec![json!({ "type": "x" }); 20] }));

        assert_eq!(warnings.len(), WARNINGS + 1);
        assert_eq!(warnings.last().map(String::as_str), Some("and 12 places more"));
    }
}
