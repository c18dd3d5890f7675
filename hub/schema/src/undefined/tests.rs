//! Schemas as TypeBox 0.34 writes them.

use serde_json::json;

use super::*;

fn left_out(mut schema: Value) -> Value {
    leave_out(&mut schema);
    schema
}

fn requires(properties: &Value) -> Value {
    let names: Vec<&String> = properties.as_object().expect("an object").keys().collect();
    json!({ "type": "object", "properties": properties, "required": names })
}

#[test]
fn nothing_is_what_the_root_and_its_alternatives_take() {
    let undefined = json!({ "type": "undefined" });
    for (schema, wanted) in [
        (json!({ "type": "void" }), Nothing::Absent),
        (json!({ "type": "undefined", "title": "t" }), Nothing::Absent),
        (json!({ "type": ["undefined", "string"] }), Nothing::Absent),
        (json!({ "anyOf": [{ "type": "object" }, undefined] }), Nothing::Absent),
        (
            json!({ "$id": "T0", "anyOf": [{ "anyOf": [undefined] }, { "$id": "T1", "type": "Date" }] }),
            Nothing::Absent,
        ),
        (json!({ "anyOf": [undefined, { "const": 1 }] }), Nothing::Absent),
        (json!({ "anyOf": [undefined, false, { "enum": [1] }] }), Nothing::Absent),
        (json!({ "anyOf": [undefined, { "const": null }] }), Nothing::AsGiven),
        (json!({ "anyOf": [undefined, { "enum": [1, null] }] }), Nothing::AsGiven),
        (json!({ "anyOf": [undefined, { "type": "null" }] }), Nothing::AsGiven),
        (
            json!({ "anyOf": [undefined, { "$ref": "#/$defs/a" }] }),
            Nothing::AsGiven,
        ),
        (json!({ "type": ["undefined", "null"] }), Nothing::AsGiven),
        (json!({}), Nothing::AsGiven),
        (json!({ "description": "Any" }), Nothing::AsGiven),
        (
            json!({ "$schema": "https://json-schema.org/draft/2020-12/schema" }),
            Nothing::Null,
        ),
        (json!(true), Nothing::Null),
        (json!(false), Nothing::Null),
        (json!({ "type": "null" }), Nothing::Null),
        (json!({ "type": ["object", "null"] }), Nothing::Null),
        (
            json!({ "anyOf": [{ "type": "null" }, { "type": "string" }] }),
            Nothing::Null,
        ),
        (json!({ "properties": { "a": undefined } }), Nothing::Null),
        (json!({ "not": { "type": "null" } }), Nothing::Null),
    ] {
        assert_eq!(Nothing::of(&schema), wanted, "{schema}");
    }
}

#[test]
fn an_input_is_left_out_where_the_schema_takes_no_null() {
    let (null, other) = (RawJson::null(), RawJson::from(json!({})));
    for (nothing, absent, given) in [
        (Nothing::Null, false, false),
        (Nothing::AsGiven, true, false),
        (Nothing::Absent, true, true),
    ] {
        assert_eq!(nothing.leaves_out(&null, false), absent, "{nothing:?}");
        assert_eq!(nothing.leaves_out(&null, true), given, "{nothing:?}");
        assert!(!nothing.leaves_out(&other, true), "{nothing:?}");
    }
}

#[test]
fn a_member_that_may_be_undefined_is_not_required_wherever_it_is() {
    let undefined = json!({ "anyOf": [{ "type": "string" }, { "anyOf": [{ "type": "undefined" }] }] });
    let inner = json!({ "v": { "type": "void" }, "e": undefined, "any": {}, "s": { "type": "string" } });
    let schema = requires(&json!({ "list": { "items": requires(&inner) }, "t": true }));

    let schema = left_out(json!({ "allOf": [schema], "$defs": { "a": requires(&json!({ "any": {} })) } }));

    assert_eq!(schema.pointer("/allOf/0/required"), Some(&json!(["list", "t"])));
    assert_eq!(
        schema.pointer("/allOf/0/properties/list/items/required"),
        Some(&json!(["s"]))
    );
    assert_eq!(schema.pointer("/$defs/a/required"), None, "an empty list is no draft 4");
}

#[test]
fn an_unknown_member_stays_required_where_the_schema_is_not_typeboxs() {
    let mut schema = requires(&json!({ "any": {}, "v": { "type": "void" } }));
    schema["$schema"] = json!("https://json-schema.org/draft/2020-12/schema");

    assert_eq!(left_out(schema)["required"], json!(["any"]));
}

/// `oneOf` may tell its alternatives apart by which members are present.
#[test]
fn nothing_is_relaxed_where_more_may_be_less() {
    let by_presence = json!([requires(&json!({ "a": {} })), requires(&json!({ "b": {} }))]);
    let referred = json!({
        "oneOf": [{ "$ref": "#/$defs/a" }, { "$ref": "#/$defs/b" }],
        "$defs": { "a": requires(&json!({ "a": {} })), "b": requires(&json!({ "b": {} })) },
    });
    for schema in [
        json!({ "oneOf": by_presence }),
        json!({ "not": { "anyOf": by_presence } }),
        json!({ "if": by_presence[0], "then": false }),
        json!({ "type": "array", "contains": by_presence[0], "maxContains": 1 }),
        referred.clone(),
        json!({ "items": referred }),
    ] {
        assert_eq!(left_out(schema.clone()), schema);
    }
    let beside = json!({ "not": by_presence[0], "properties": { "v": {} }, "required": ["v"] });
    assert_eq!(
        left_out(beside),
        json!({ "not": by_presence[0], "properties": { "v": {} } }),
        "what stands beside is relaxed"
    );
}
