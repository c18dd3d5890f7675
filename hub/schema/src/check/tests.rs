//! What a check refuses, what it reports, and what it costs.

use std::time::Duration;

use super::*;

fn raw(json: &str) -> RawJson {
    RawJson::parse(json.to_owned()).expect("JSON")
}

fn compile(schema: &'static str) -> Result<Check, Error> {
    Check::compile(&RawJson::parse(schema).expect("JSON"))
}

#[test]
fn a_violation_names_path_and_rule() {
    let check = compile(r#"{"type":"object","properties":{"list":{"items":{"type":"integer"}}}}"#).expect("valid");

    let violation = check
        .check(&raw(r#"{"list":[1,"two"]}"#))
        .expect_err("a string is no integer");

    assert_eq!(violation.path, "/list/1");
    assert_eq!(violation.rule, "/properties/list/items/type");
    assert_eq!(
        violation.details().as_str(),
        r#"{"path":"/list/1","rule":"/properties/list/items/type"}"#
    );
    assert!(!violation.message.contains("two"), "{}", violation.message);
}

#[test]
fn a_schema_that_accepts_anything_parses_nothing() {
    for schema in [
        "true",
        "{}",
        r#"{"$schema":"https://json-schema.org/draft/2020-12/schema","title":"Any"}"#,
    ] {
        let check = compile(schema).expect("valid");
        assert!(matches!(check, Check::Anything), "{schema}");
        assert!(
            check.check(&raw(r#"{"a":1,"a":2}"#)).is_ok(),
            "a tree would have no place for it"
        );
    }
    assert!(matches!(compile("false").expect("valid"), Check::Schema(_)));
}

#[test]
fn a_schema_that_is_none_is_refused_with_its_place() {
    let error = compile(r#"{"properties":{"a":{"minLength":"1"}}}"#).expect_err("a text is no length");
    assert!(error.to_string().contains("/properties/a/minLength"), "{error}");
    assert!(compile("3").is_err());
    assert!(compile(r#"{"pattern":"("}"#).is_err());
}

#[test]
fn a_reference_out_of_the_schema_is_never_fetched() {
    for schema in [
        r#"{"$ref":"http://127.0.0.1:1/schema.json"}"#,
        r#"{"$ref":"file:///etc/passwd"}"#,
        r##"{"$ref":"#/nowhere"}"##,
    ] {
        assert!(compile(schema).is_err(), "{schema}");
    }
    assert!(compile(r##"{"$defs":{"a":{"type":"null"}},"$ref":"#/$defs/a"}"##).is_ok());
}

#[test]
fn a_pattern_that_would_run_for_ever_is_stopped() {
    let check = compile(r#"{"pattern":"^(a+)+(?=b)$"}"#).expect("valid");
    let long = format!("\"{}!\"", "a".repeat(60));

    assert!(check.check(&raw(&long)).is_err());
}

#[test]
fn a_fault_of_the_value_itself_names_no_empty_path() {
    let check = Check::compile(&RawJson::from(serde_json::json!({ "type": "integer" }))).expect("a schema");

    let violation = check.check(&raw("null")).expect_err("null is no integer");

    assert!(
        violation.to_string().starts_with("does not match its schema: "),
        "{violation}"
    );
}

/// `a0` … `an`, each made from a reference to the next one, and the last one.
fn chain(length: usize, wrap: impl Fn(Value) -> Value, last: Value) -> Value {
    let mut definitions = serde_json::Map::new();
    for i in 0..length {
        let next = serde_json::json!({ "$ref": format!("#/$defs/a{}", i + 1) });
        definitions.insert(format!("a{i}"), wrap(next));
    }
    definitions.insert(format!("a{length}"), last);
    serde_json::json!({ "$ref": "#/$defs/a0", "$defs": definitions })
}

fn compile_value(schema: Value) -> Result<Check, Error> {
    Check::compile(&RawJson::from(schema))
}

/// `[[[…"text"…]]]`
fn nested(depth: usize) -> String {
    format!("{}\"text\"{}", "[".repeat(depth), "]".repeat(depth))
}

/// The result of a check, which must be given up after a bounded number of steps even in a slow debug build.
fn soon(check: &Check, json: &str) -> Result<(), Violation> {
    let json = raw(json);
    let started = tokio::time::Instant::now();
    let answer = check.check(&json);
    let elapsed = started.elapsed();
    assert!(
        elapsed < Duration::from_secs(20),
        "{elapsed:?} for {} bytes",
        json.len()
    );
    answer
}

#[test]
fn alternatives_that_double_at_each_level_end_soon() {
    let twice = |next: Value| {
        let other = next.clone();
        serde_json::json!({ "anyOf": [
            { "type": "array", "items": next },
            { "type": "array", "items": other, "maxItems": 5 },
        ] })
    };
    let check = compile_value(chain(60, twice, serde_json::json!({ "type": "integer" }))).expect("accepted");

    for depth in [14, 22, 60] {
        let violation = soon(&check, &nested(depth)).expect_err("a string is no integer");
        assert!(!violation.message.is_empty());
    }
    soon(&check, "[[[]]]").expect("all of it is checked that must be");
}

#[test]
fn a_schema_that_applies_itself_twice_to_each_item_ends_soon() {
    for schema in [
        r##"{"$id":"t","anyOf":[{"type":"array","items":{"$ref":"#"}},{"type":"array","items":{"$ref":"#"},"maxItems":5},{"const":1}]}"##,
        r##"{"oneOf":[{"type":"array","contains":{"$ref":"#"}},{"type":"array","items":{"$ref":"#"}},{"const":1}]}"##,
        r##"{"not":{"not":{"items":{"$ref":"#"}}},"items":{"$ref":"#"},"type":["array","integer"]}"##,
        r##"{"if":{"items":{"$ref":"#"}},"then":{"items":{"$ref":"#"}},"else":{"items":{"$ref":"#"},"minItems":2}}"##,
        r##"{"anyOf":[{"prefixItems":[{"$ref":"#"}]},{"prefixItems":[{"$ref":"#"}],"maxItems":3}],"unevaluatedItems":false,"type":"array"}"##,
        r##"{"$dynamicAnchor":"t","allOf":[{"items":{"$dynamicRef":"#t"}},{"items":{"$dynamicRef":"#t"}}],"type":["array","null"]}"##,
    ] {
        let check = compile(schema).expect("accepted");
        drop(soon(&check, &nested(60)));
        let wide = format!("[{}[]]", "[[],[[]]],".repeat(20_000));
        drop(soon(&check, &wide));
    }
}

#[test]
fn a_schema_that_multiplies_at_one_value_is_refused_with_its_place() {
    let twice = |next: Value| serde_json::json!({ "allOf": [next.clone(), next] });
    let error = compile_value(chain(20, twice, serde_json::json!(true))).expect_err("2^20 ways to one value");
    assert!(error.to_string().contains("`/$defs/a"), "{error}");
    assert!(error.to_string().contains("10000"), "{error}");

    compile_value(chain(8, twice, serde_json::json!({ "type": "integer" }))).expect("256 ways are few");
}

#[test]
fn a_schema_that_never_goes_down_is_refused() {
    for schema in [
        r##"{"$defs":{"a":{"anyOf":[{"$ref":"#/$defs/b"},{"type":"null"}]},"b":{"not":{"$ref":"#/$defs/a"}}},"$ref":"#/$defs/a"}"##,
        r##"{"properties":{"x":{"$ref":"#/allOf/0"}},"allOf":[{"if":{"$ref":"#"}}]}"##,
    ] {
        let error = compile(schema).expect_err("endless").to_string();
        assert!(error.contains("applies itself to the same value again"), "{error}");
    }
}

#[test]
fn a_long_way_of_references_is_refused_before_the_stack_ends() {
    let next = |next: Value| next;
    let error = compile_value(chain(3_000, next, serde_json::json!(true))).expect_err("deep");
    assert!(error.to_string().contains("nests more than 64"), "{error}");

    let deep = chain(
        60,
        |next| serde_json::json!({ "allOf": [next] }),
        serde_json::json!(true),
    );
    assert!(compile_value(deep).is_err());

    // Close to the limit at each of 64 levels.
    let mut schema = chain(
        28,
        |next| serde_json::json!({ "allOf": [next] }),
        serde_json::json!({ "items": { "$ref": "#" } }),
    );
    schema["type"] = serde_json::json!(["array", "string"]);
    let check = compile_value(schema).expect("accepted");
    drop(soon(&check, &nested(63)));
}

#[test]
fn ordinary_recursive_schemas_are_accepted_and_say_where_a_fault_is() {
    let tree = r##"{"anyOf":[{"type":"string"},{"type":"array","items":{"$ref":"#"}}]}"##;
    let check = compile(tree).expect("accepted");
    soon(&check, &nested(60)).expect("a tree");
    let violation = soon(&check, "[[1]]").expect_err("a number");
    assert_eq!((violation.path.as_str(), violation.rule.as_str()), ("", "/anyOf"));

    let list =
        r##"{"type":"object","properties":{"value":{"type":"integer"},"next":{"$ref":"#"}},"required":["value"]}"##;
    let violation = soon(&compile(list).expect("accepted"), r#"{"value":1,"next":{"next":{}}}"#).expect_err("no value");
    assert_eq!(violation.path, "/next");
    assert_eq!(violation.rule, "/required");

    let meta = compile(r#"{"$ref":"https://json-schema.org/draft/2020-12/schema"}"#).expect("accepted");
    soon(&meta, list).expect("a schema");
    soon(&meta, r#"{"properties":{"a":{"type":3}}}"#).expect_err("no type");
}

#[test]
fn a_check_answers_what_the_crate_answers_for_plain_values() {
    let schemas = [
        r#"{"type":["object","array","null"]}"#,
        r#"{"enum":[1,"a",null,[1,{"a":2.0}],{}]}"#,
        r#"{"const":{"a":[1,2]}}"#,
        r#"{"const":1.0}"#,
        r#"{"properties":{"a":{"type":"integer"}},"additionalProperties":false,"required":["a"]}"#,
        r#"{"patternProperties":{"^a":{"type":"integer"}},"minProperties":1}"#,
        r#"{"propertyNames":{"maxLength":1}}"#,
        r#"{"items":{"type":"integer"},"minItems":2,"uniqueItems":true}"#,
        r#"{"prefixItems":[{"type":"integer"}],"items":{"type":"object"}}"#,
        r#"{"contains":{"const":1},"maxContains":1}"#,
        r#"{"allOf":[{"properties":{"a":true}}],"unevaluatedProperties":false,"unevaluatedItems":false}"#,
        r#"{"oneOf":[{"type":"integer"},{"minimum":2},{"maxLength":3}]}"#,
        r#"{"if":{"type":"string"},"then":{"minLength":2,"pattern":"b"},"else":{"not":{"type":"boolean"}}}"#,
        r#"{"dependentRequired":{"a":["b"]},"dependentSchemas":{"b":{"maxProperties":2}}}"#,
        r#"{"multipleOf":0.5,"exclusiveMaximum":9007199254740993}"#,
    ];
    let values = [
        "null",
        "true",
        "0",
        "1",
        "1.0",
        "2.5",
        "-3",
        "1e300",
        "9007199254740993",
        r#""""#,
        r#""a""#,
        r#""aéb""#,
        "[]",
        "[1]",
        "[1,2]",
        "[1,1.0]",
        "[1,{}]",
        r#"[1,{"a":2}]"#,
        "{}",
        r#"{"a":1}"#,
        r#"{"a":[1,2]}"#,
        r#"{"a":1,"b":2}"#,
        r#"{"b":1,"ab":"x","c":null}"#,
    ];
    for schema in schemas {
        let plain = jsonschema::validator_for(&serde_json::from_str(schema).expect("JSON")).expect("a schema");
        let check = compile(schema).expect("a schema");
        for json in values {
            let value: Value = serde_json::from_str(json).expect("JSON");
            let fault = plain.validate(&value).err();
            let fault = fault.map(|fault| (fault.instance_path().to_string(), fault.schema_path().to_string()));
            let found = check.check(&raw(json)).err().map(|found| (found.path, found.rule));
            assert_eq!(found, fault, "{json} against {schema}");
        }
    }
}

#[test]
fn a_schema_like_the_meta_schema_is_accepted() {
    let keywords = [
        "not",
        "if",
        "then",
        "else",
        "items",
        "contains",
        "additionalProperties",
        "propertyNames",
    ];
    let mut properties = serde_json::Map::new();
    for keyword in keywords {
        properties.insert(keyword.to_owned(), serde_json::json!({ "$ref": "#" }));
    }
    for keyword in ["allOf", "anyOf", "oneOf"] {
        properties.insert(
            keyword.to_owned(),
            serde_json::json!({ "type": "array", "items": { "$ref": "#" } }),
        );
    }
    let schema = serde_json::json!({
        "type": ["object", "boolean"],
        "properties": properties,
        "patternProperties": { "^x-": true },
    });
    let check = compile_value(schema).expect("accepted");

    let mut json = "true".to_owned();
    for i in 0..60 {
        json = format!(r#"{{"{}":{json}}}"#, keywords[i % keywords.len()]);
    }
    soon(&check, &json).expect("a schema");
}

#[test]
fn a_large_union_of_objects_is_accepted_and_checked_over_a_full_payload() {
    let mut definitions = serde_json::Map::new();
    definitions.insert(
        "base".to_owned(),
        serde_json::json!({ "type": "object", "required": ["id"] }),
    );
    for i in 0..300 {
        let variant = serde_json::json!({
            "allOf": [{ "$ref": "#/$defs/base" }],
            "properties": { "kind": { "const": format!("k{i}") }, "parts": { "type": "array", "items": { "$ref": "#/$defs/any" } } },
            "required": ["kind"],
        });
        definitions.insert(format!("v{i}"), variant);
    }
    let variants: Vec<Value> = (0..300)
        .map(|i| serde_json::json!({ "$ref": format!("#/$defs/v{i}") }))
        .collect();
    definitions.insert("any".to_owned(), serde_json::json!({ "oneOf": variants }));
    let schema = serde_json::json!({ "type": "array", "items": { "$ref": "#/$defs/any" }, "$defs": definitions });
    let check = compile_value(schema).expect("accepted");

    let item =
        r#"{"id":1,"kind":"k299","parts":[{"id":2,"kind":"k150"}],"text":"0123456789012345678901234567890123456789"}"#;
    let json = format!("[{}{item}]", format!("{item},").repeat(500));
    soon(&check, &json).expect("each is the last variant");
}

#[test]
fn references_by_anchor_and_by_id_are_followed() {
    let anchor = r##"{"$defs":{"a":{"$anchor":"leaf","type":"integer"}},"items":{"$ref":"#leaf"}}"##;
    assert!(soon(&compile(anchor).expect("accepted"), "[1]").is_ok());
    let id = r##"{"$id":"https://example.org/root.json","$defs":{"a":{"$id":"tree.json","items":{"$ref":"#"}}},"$ref":"tree.json"}"##;
    assert!(soon(&compile(id).expect("accepted"), "[[]]").is_ok());
    let escaped = r##"{"$defs":{"a b/c":{"type":"integer"}},"items":{"$ref":"#/$defs/a%20b~1c"}}"##;
    assert!(soon(&compile(escaped).expect("accepted"), "[1]").is_ok());
    let draft4 = r##"{"$schema":"http://json-schema.org/draft-04/schema#","id":"http://example.org/x","definitions":{"a":{"type":"integer"}},"items":{"$ref":"#/definitions/a"}}"##;
    assert!(soon(&compile(draft4).expect("accepted"), "[1]").is_ok());
}

#[test]
fn unique_items_are_found_in_linear_time() {
    let check = compile(r#"{"uniqueItems":true}"#).expect("accepted");
    for (json, unique) in [
        ("[1,1.0]", false),
        ("[0,-0.0]", false),
        (r#"[{"a":1,"b":2},{"b":2,"a":1.0}]"#, false),
        ("[[],[[]],[[],[]],{},null,false,true,0,\"\",\"0\"]", true),
        ("[9007199254740993,9007199254740992]", true),
        (r#"["1:","1",["a","b"],["a,b"],{"a":"b"}]"#, true),
    ] {
        assert_eq!(check.check(&raw(json)).is_ok(), unique, "{json}");
    }
    // Different trees made only of arrays: the crate has one hash for all of them.
    let trees = (0..30_000_u32).map(|i| format!("{i:015b}").replace('0', "[[]],").replace('1', "[],"));
    let trees: Vec<String> = trees.map(|tree| format!("[{}]", tree.trim_end_matches(','))).collect();
    soon(&check, &format!("[{}]", trees.join(","))).expect("no two are the same");
}

#[test]
fn an_error_in_each_of_many_items_takes_little_memory() {
    let check =
        compile(r#"{"anyOf":[{"type":"null"},{"type":"array","items":{"type":"integer"}}]}"#).expect("accepted");
    let json = format!("[{}\"\"]", "\"\",".repeat(300_000));

    let violation = soon(&check, &json).expect_err("strings");

    assert_eq!((violation.path.as_str(), violation.rule.as_str()), ("", "/anyOf"));
}

#[test]
fn patterns_are_matched_with_strings_that_they_can_be_done_with_soon() {
    let long: String = "ab".repeat(400 * 1024);
    let base64 = compile(r#"{"pattern":"^[A-Za-z0-9+/]*={0,2}$"}"#).expect("accepted");
    soon(&base64, &format!("\"{long}\"")).expect("a long text and a small pattern");

    for pattern in ["^(a|b)*a(a|b){2000}c", "(?=[^c]*c)d", r"^.{1,1000}$"] {
        let check = compile_value(serde_json::json!({ "pattern": pattern })).expect("accepted");
        let violation = soon(&check, &format!("\"{long}\"")).expect_err("too long");
        assert!(violation.message.contains("too long for the patterns"), "{violation}");
        drop(soon(&check, &format!("\"{}\"", &long[..2_000])));
    }
    let names =
        compile_value(serde_json::json!({ "patternProperties": { "^(a|b)*a(a|b){2000}c": false } })).expect("accepted");
    assert!(soon(&names, &format!("{{\"{long}\":1}}")).is_err());
}

#[test]
fn more_patterns_than_memory_is_for_are_refused() {
    let many = |count: usize, pattern: &str| {
        let properties: serde_json::Map<_, _> = (0..count)
            .map(|i| {
                (
                    format!("p{i}"),
                    serde_json::json!({ "pattern": format!("{pattern}{i}") }),
                )
            })
            .collect();
        compile_value(serde_json::json!({ "properties": properties }))
    };
    assert!(many(1_001, "a").is_err());
    assert!(many(200, "^[a-z]{1,63}").is_ok());
    assert!(many(200, "\\p{L}{60}").is_err());
}

#[test]
fn what_is_over_the_limit_is_refused_before_it_is_compiled() {
    let properties: serde_json::Map<_, _> = (0..150)
        .map(|i| {
            (
                format!("p{i}"),
                serde_json::json!({ "pattern": format!("^[a-z]{{1,63}}{i}$") }),
            )
        })
        .collect();
    let schema = RawJson::from(serde_json::json!({ "properties": properties }));
    let began = tokio::time::Instant::now();

    let refused = Check::prepare(&schema, Side::Input, 1 << 20).expect_err("150 patterns take more than 1 MiB");
    let in_vain = began.elapsed();
    let taken = Check::prepare(&schema, Side::Input, usize::MAX).expect("a schema");

    let Error::Over { bytes } = refused else {
        panic!("{refused}");
    };
    assert!((1 << 20..=taken.bytes).contains(&bytes), "{bytes} of {}", taken.bytes);
    assert!(in_vain < began.elapsed() / 4, "{in_vain:?}");
}

#[test]
fn a_second_member_of_one_name_is_refused_with_its_place() {
    let check = compile(r#"{"properties":{"a":{"type":"integer"}}}"#).expect("valid");

    for (json, path) in [(r#"{"a":"x","a":1}"#, ""), (r#"{"b":[{"c":1,"\u0063":1}]}"#, "/b/0")] {
        let violation = check.check(&raw(json)).expect_err(json);
        assert_eq!(violation.path, path, "{json}");
        assert!(violation.message.ends_with("is there twice"), "{violation}");
    }
    assert!(compile(r#"{"type":"string","type":"integer"}"#).is_err());
}

#[test]
fn half_of_a_surrogate_pair_is_refused_in_words() {
    let check = compile(r#"{"properties":{"a":{"maxLength":9}}}"#).expect("valid");

    let violation = check.check(&raw(r#"{"a":"cut \ud83d"}"#)).expect_err("no character");

    assert_eq!(
        violation.to_string(),
        "at `/a`: half of a surrogate pair is no character"
    );
}

#[test]
fn numbers_are_equal_when_every_digit_is() {
    let unique = compile(r#"{"uniqueItems":true}"#).expect("valid");
    let one = compile(r#"{"enum":[1, 0.1, 100000000000000000000]}"#).expect("valid");

    for (json, valid) in [
        ("[123456789012345678901234567890,123456789012345678901234567891]", true),
        (
            "[123456789012345678901234567890,1.2345678901234567890123456789e29]",
            false,
        ),
        ("[0.1,0.1000000000000000055]", true),
        ("[1e400,10e399]", false),
        ("[1,1.0]", false),
    ] {
        assert_eq!(unique.check(&raw(json)).is_ok(), valid, "{json}");
    }
    for (json, valid) in [
        ("1.0", true),
        ("0.10", true),
        ("0.1000000000000000055", false),
        ("1e20", true),
        ("100000000000000000001", false),
    ] {
        assert_eq!(one.check(&raw(json)).is_ok(), valid, "{json}");
    }
}

#[test]
fn a_number_that_64_bits_would_round_is_compared_with_no_limit() {
    for (schema, limited) in [
        (r#"{"multipleOf":3}"#, true),
        (r#"{"minimum":0}"#, true),
        (r#"{"exclusiveMaximum":1e300}"#, true),
        (r#"{"type":"number"}"#, false),
        (r#"{"type":"integer"}"#, false),
        (r#"{"type":["integer","null"],"title":"n"}"#, false),
    ] {
        let check = compile(schema).expect("valid");
        let found = check.check(&raw("123456789012345678901234567890"));
        assert_eq!(found.is_err(), limited, "{schema}");
        if let Err(violation) = found {
            assert!(violation.message.contains("17 significant digits"), "{violation}");
        }
        assert!(check.check(&raw("18446744073709551615")).is_ok(), "{schema}");
    }
    let whole = compile(r#"{"type":"integer"}"#).expect("valid");
    assert!(whole.check(&raw("1.5e1")).is_ok() && whole.check(&raw("15.0000000000000000000000001")).is_err());
}

#[test]
fn a_schema_with_a_number_that_would_be_rounded_is_refused_with_the_number() {
    for number in ["1e400", "123456789012345678901234567891", "0.1000000000000000055"] {
        let schema = format!(r#"{{"maximum":{number}}}"#);
        let error = Check::compile(&RawJson::parse(schema).expect("JSON")).expect_err(number);
        assert!(error.to_string().contains(number), "{error}");
    }
}

/// The origin's operations when they use TypeBox's types beyond JSON's.
#[test]
fn shapes_of_typebox_are_checked_as_far_as_json_goes() {
    for (schema, valid, invalid, warnings) in [
        (
            r#"{"type":"array","items":[{"type":"string"},{"type":"number"}],"additionalItems":false,"minItems":2,"maxItems":2}"#,
            r#"["a",1]"#,
            r#"[1,"a"]"#,
            0,
        ),
        (r#"{"type":"void"}"#, "null", "1", 0),
        (r#"{"anyOf":[{"type":"undefined"},{"type":"string"}]}"#, "null", "1", 0),
        (r#"{"type":"number","minimum":1,"exclusiveMinimum":true}"#, "2", "1", 0),
        (
            r#"{"type":"object","required":["at"],"properties":{"at":{"type":"Date"},"n":{"type":"bigint"}}}"#,
            r#"{"at":"2026-01-01T00:00:00Z","n":"1n"}"#,
            "{}",
            2,
        ),
        (
            r#"{"type":"object","properties":{"r":{"type":"RegExp","source":"a","flags":"g"},"a":{"type":"string"}}}"#,
            r#"{"r":{},"a":""}"#,
            r#"{"r":{},"a":1}"#,
            1,
        ),
    ] {
        let prepared = Check::prepare(&RawJson::parse(schema).expect("JSON"), Side::Input, usize::MAX).expect(schema);
        assert!(prepared.check.check(&raw(valid)).is_ok(), "{schema}");
        assert!(prepared.check.check(&raw(invalid)).is_err(), "{schema}");
        assert_eq!(prepared.warnings.len(), warnings, "{:?}", prepared.warnings);
    }
    let raw = Check::prepare(
        &RawJson::parse(r#"{"type":"Uint8Array"}"#).expect("JSON"),
        Side::Input,
        usize::MAX,
    )
    .expect("accepted");
    assert!(matches!(raw.check, Check::Anything));
    assert_eq!(
        raw.warnings,
        ["`Uint8Array` is no type of JSON: the value is not checked"]
    );
}

#[test]
fn an_output_may_lack_what_an_input_must_have() {
    let schema = RawJson::from(serde_json::json!({
        "type": "object",
        "properties": {
            "ok": { "type": "boolean" },
            "error": { "anyOf": [{ "type": "string" }, { "type": "undefined" }] },
        },
        "required": ["ok", "error"],
    }));
    let check = |side| Check::prepare(&schema, side, usize::MAX).expect("a schema").check;

    let (input, output) = (check(Side::Input), check(Side::Output));

    assert!(output.check(&raw(r#"{"ok":true}"#)).is_ok());
    assert!(output.check(&raw(r#"{"ok":true,"error":"x"}"#)).is_ok());
    assert!(output.check(&raw(r#"{"ok":true,"error":1}"#)).is_err());
    assert!(output.check(&raw(r#"{"error":"x"}"#)).is_err());
    assert!(
        input.check(&raw(r#"{"ok":true}"#)).is_err(),
        "the spoke would refuse it"
    );
}

#[test]
fn patterns_count_with_what_they_may_take() {
    let bytes = |schema: &str| {
        let prepared = Check::prepare(&raw(schema), Side::Input, usize::MAX);
        prepared.expect("a schema").bytes
    };

    let plain = bytes(r#"{"type":"string"}"#);
    let pattern = bytes(r#"{"type":"string","pattern":"^(a|b){500}c[0-9a-f]{200}$"}"#);

    assert!(pattern > plain + 100_000, "{pattern} {plain}");
}
