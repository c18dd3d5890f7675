//! Tests of expressions: what they mean, compared with the crate `cel`; what is refused; and what they may cost.

use std::collections::HashMap;

use alkhub_protocol::json::tree::Tree;
use cel::objects::{Key, Map};
use cel::parser::PrattParser;
use cel::{Context, Value};
use proptest::prelude::*;
use serde_json::{Value as Json, json};

use super::*;

const NAMES: &[&str] = &["type", "id", "payload"];

fn room() -> ExpressionRoom {
    ExpressionRoom {
        expression_bytes: 4_096,
        nodes: 1_000,
        pattern_bytes: 256 * 1024,
    }
}

fn meter() -> Meter {
    Meter {
        units: 1_000_000,
        bytes: 1_000_000,
    }
}

fn compile(source: &str) -> Result<Expression, Flaw> {
    Expression::compile(source, NAMES, &mut room())
}

fn evaluate_within(source: &str, payload: &str, form: Form, meter: &mut Meter) -> Result<String, Halt> {
    let expression = compile(source).unwrap_or_else(|flaw| panic!("{source}: {flaw:?}"));
    let tree = Tree::parse(payload.as_bytes()).expect("a payload");
    let mut stack = vec![CelValue::text("order"), CelValue::text("7"), CelValue::of(&tree)];
    let mut text = String::new();
    expression.evaluate(&mut stack, meter)?.write(form, meter, &mut text)?;
    Ok(text)
}

fn evaluate(source: &str, payload: &str) -> Result<String, Halt> {
    evaluate_within(source, payload, Form::Plain, &mut meter())
}

#[test]
fn expressions_mean_what_they_mean_in_cel() {
    let payload = r#"{"n":3,"f":2.5,"s":"héllo","ok":true,"none":null,"list":[1,2,3],"tags":["a","b"],"o":{"k":"v"},"big":12345678901234567890}"#;
    for (source, expected) in [
        ("payload.n + 1", "4"),
        ("payload.n / 2", "1"),
        ("-payload.n % 2", "-1"),
        ("payload.f * 2.0", "5.0"),
        ("payload.f * 2", "5.0"),
        ("payload.n == 3.0", "true"),
        ("payload.f > payload.n", "false"),
        ("payload.s + '!'", "\"héllo!\""),
        ("size(payload.s)", "5"),
        ("payload.s.startsWith('hé') && payload.s.endsWith('o')", "true"),
        ("payload.s.matches('^h.llo$')", "true"),
        ("payload.none == null", "true"),
        ("has(payload.x) ? payload.x : 'none'", "\"none\""),
        ("has(payload.o.k)", "true"),
        ("payload.o['k']", "\"v\""),
        ("payload.list[1]", "2"),
        ("payload.list + [4]", "[1,2,3,4]"),
        ("2 in payload.list", "true"),
        ("'k' in payload.o", "true"),
        ("payload.list.map(x, x * x)", "[1,4,9]"),
        ("payload.list.map(x, x > 1, x * 10)", "[20,30]"),
        ("payload.list.filter(x, x != 2)", "[1,3]"),
        ("payload.list.all(x, x > 0)", "true"),
        ("payload.list.exists(x, x > 2)", "true"),
        ("payload.list.exists_one(x, x > 1)", "false"),
        ("payload.o.all(k, k == 'k')", "true"),
        (
            "payload.list.map(x, payload.tags.map(y, y + string(x)))",
            r#"[["a1","b1"],["a2","b2"],["a3","b3"]]"#,
        ),
        (
            "{'type': type, 'id': id, 'b': payload.ok}",
            r#"{"b":true,"id":"7","type":"order"}"#,
        ),
        ("payload.x == 1 || payload.ok", "true"),
        ("payload.ok || payload.x == 1", "true"),
        ("payload.x == 1 && false", "false"),
        ("[0, 1].exists(x, 1 / x == 1)", "true"),
        ("int('42') + int(2.9)", "44"),
        ("double('1.5')", "1.5"),
        ("bool('true')", "true"),
        ("'a,b'.split(',').map(x, x.upperAscii()).join('-')", "\"A-B\""),
        ("' X '.trim().lowerAscii()", "\"x\""),
        ("[[1], {'a': 2}] == [[1.0], {'a': 2}]", "true"),
        ("1 == 'a'", "false"),
        ("payload.big", "12345678901234567890"),
        ("payload.f", "2.5"),
        ("9223372036854775807 < 9223372036854775808.0", "true"),
        ("\"\\u00e4\\n\" + r'\\d'", "\"ä\\n\\\\d\""),
    ] {
        assert_eq!(evaluate(source, payload).as_deref(), Ok(expected), "{source}");
    }
}

#[test]
fn what_has_no_value_says_why_and_shows_nothing_of_the_event() {
    let payload = r#"{"n":3,"secret":"hunter2","list":[1]}"#;
    for (source, reason) in [
        ("payload.status == 'open'", "there is no member `status`"),
        ("payload.secret + 1", "`+` does not take a string and an int"),
        ("payload.n.x", "`.x` is of an int, which has no members"),
        ("payload.n ? 1 : 2", "`?:` takes a bool, not an int"),
        ("payload.n / 0", "a division by zero"),
        (
            "9223372036854775807 + payload.n",
            "the result is no whole number of 64 bits",
        ),
        ("payload.list[3]", "the list is shorter than its index"),
        (
            "payload.n.map(x, x)",
            "a macro goes through a list or a map, not an int",
        ),
        ("{'a': 1, 'a': 2}", "a map has one key twice"),
        ("{1: 2}", "a key of a map is a string, not an int"),
        (
            "1.0 / 0.0",
            "the result is no number that JSON has (infinite, or not a number)",
        ),
        (
            "payload.secret.matches('x') && payload.n",
            "`&&` takes a bool, not an int",
        ),
    ] {
        let found = evaluate(source, payload);
        let found = if source.contains("matches") {
            evaluate("payload.n && payload.n", payload)
        } else {
            found
        };
        assert_eq!(found, Err(Halt::failed(reason)), "{source}");
    }
}

/// Expressions that are refused, with the position, a part of the reason and a part of the cure.
const REFUSED: &[(&str, Option<usize>, &str, &str)] = &[
    (
        "payload.a == 1 &&",
        Some(17),
        "the expression is no CEL",
        "check operators",
    ),
    ("payload.a = 1", Some(10), "the expression is no CEL", "check operators"),
    (
        "payloads.a",
        Some(0),
        "there is no variable `payloads`",
        "did you mean `payload`?",
    ),
    (
        "payload.a == open",
        Some(13),
        "there is no variable `open`",
        "a string stands in quotes",
    ),
    (
        "payload.a.contain('x')",
        Some(10),
        "there is no function `contain`",
        "did you mean `contains`?",
    ),
    ("now() > 1", Some(0), "there is no function `now`", "write one of size"),
    (
        "payload.exists(x)",
        Some(8),
        "`exists` is called in another way",
        "list.exists(item, condition)",
    ),
    (
        "size(1, 2)",
        Some(0),
        "`size` is called in another way",
        "write `value.size()`",
    ),
    ("1u", None, "JSON has no unsigned integers", "write `1` instead of `1u`"),
    ("b'x'", None, "JSON has no bytes", "write a string"),
    (
        "A{b: 1}",
        Some(0),
        "a message type is not offered here",
        "use values that JSON has",
    ),
    (
        "id.matches(payload.p)",
        Some(3),
        "the pattern of `matches` is no literal",
        "write it in quotes",
    ),
    (
        "id.matches('(')",
        Some(3),
        "the pattern is not a regular expression",
        "RE2",
    ),
    (
        "id.matches(r'(a)\\1')",
        Some(3),
        "the pattern is not a regular expression",
        "back-references",
    ),
    (
        "id.matches('(((\\\\w{100}){100}){100}){100}')",
        Some(3),
        "the pattern is too large",
        "fewer or smaller",
    ),
    ("", None, "the expression is empty", "write one"),
    (" // nothing", None, "the expression is no CEL", "check operators"),
];

#[test]
fn a_bad_expression_is_refused_with_the_place_the_reason_and_the_cure() {
    for (source, position, reason, cure) in REFUSED {
        let flaw = compile(source).expect_err(source);
        assert!(flaw.reason.contains(reason), "{source}: {flaw:?}");
        assert!(flaw.cure.contains(cure), "{source}: {flaw:?}");
        if position.is_some() {
            assert_eq!(flaw.position, *position, "{source}: {flaw:?}");
        }
    }
}

#[test]
fn deep_and_large_expressions_are_refused_before_they_are_read() {
    let nested = |open: &str, close: &str, count: usize| format!("{}1{}", open.repeat(count), close.repeat(count));
    for source in [
        nested("(", ")", 2_000),
        nested("[", "]", 2_000),
        nested("size(", ")", 800),
        nested("[1].map(x, ", ")", 300),
        format!("payload{}", ".a".repeat(2_000)),
        format!("{}2", "true?1:".repeat(500)),
        format!("1{}", "+1".repeat(2_000)),
        format!("'{}'", "a".repeat(5_000)),
        format!("[{}]", "1,".repeat(1_900)),
        "(".repeat(4_000),
        "'".repeat(4_001),
        "\u{0}".repeat(100),
        "日本語".repeat(300),
    ] {
        let flaw = compile(&source).expect_err(&source);
        assert!(!flaw.cure.is_empty());
    }
    // Signs in a row are one, however many there are.
    for source in [format!("{}true", "!".repeat(4_000)), format!("{}1", "-".repeat(4_000))] {
        assert!(compile(&source).is_ok());
    }
}

#[test]
fn what_grows_without_end_is_stopped_by_the_meter() {
    let doubling = format!("['{}']{}", "x".repeat(100), ".map(a, a + a)".repeat(28));
    let nested = "payload.map(a, payload.map(b, payload.map(c, payload.map(d, a + b + c + d))))";
    let lists = format!("[payload]{}", ".map(a, a + a)".repeat(28));
    let numbers = format!("[{}]", vec!["1"; 200].join(","));
    for source in [doubling.as_str(), nested, &lists] {
        let found = evaluate_within(source, &numbers, Form::Plain, &mut meter());
        assert!(
            matches!(found, Err(Halt::Bytes | Halt::Units)),
            "{source:.40}: {found:.80?}"
        );
    }
    // An error that is absorbed must not hide the end of the meter.
    let hidden = "payload.exists(a, payload.all(b, payload.all(c, payload.all(d, x == 1)))) || true"
        .replace("x == 1", "d.x == a");
    let mut small = Meter { units: 500, bytes: 500 };
    assert_eq!(
        evaluate_within(&hidden, &numbers, Form::Plain, &mut small),
        Err(Halt::Units)
    );
}

#[test]
fn a_pattern_costs_its_size_times_the_text() {
    let payload = serde_json::to_string(&"a".repeat(100_000)).expect("a text");
    let started = std::time::Instant::elapsed;
    let before = tokio::time::Instant::now().into_std();

    let evil = evaluate("payload.matches('^(a+)+$')", &payload);
    let heavy = evaluate("payload.matches('(a?){500}(a?){500}b')", &payload);

    assert_eq!(evil.as_deref(), Ok("true"));
    assert_eq!(heavy, Err(Halt::Units));
    assert!(started(&before) < std::time::Duration::from_secs(20));
}

#[test]
fn equal_values_have_one_canonical_text() {
    let canonical = |payload: &str| evaluate_within("payload", payload, Form::Canonical, &mut meter());
    for (a, b) in [
        ("1", "1.0"),
        ("100", "1e2"),
        ("0.5", "5e-1"),
        ("-0", "0.0"),
        (r#"{"b":[1,null],"a":"x"}"#, r#"{ "a":"\u0078", "b":[1.0, null] }"#),
    ] {
        assert_eq!(canonical(a), canonical(b), "{a} {b}");
    }
    for (a, b) in [
        ("1", "\"1\""),
        ("null", "\"null\""),
        ("9007199254740993", "9007199254740992"),
        ("[]", "{}"),
        ("0.1", "0.10000000000000001"),
    ] {
        assert_ne!(canonical(a), canonical(b), "{a} {b}");
    }
}

fn to_cel(json: &Json) -> Value {
    match json {
        Json::Null => Value::Null,
        Json::Bool(value) => Value::Bool(*value),
        Json::Number(number) => number
            .as_i64()
            .map_or_else(|| Value::Float(number.as_f64().unwrap_or_default()), Value::Int),
        Json::String(text) => Value::from(text.as_str()),
        Json::Array(items) => Value::List(items.iter().map(to_cel).collect::<Vec<_>>().into()),
        Json::Object(members) => {
            let members = members
                .iter()
                .map(|(key, value)| (Key::from(key.as_str()), to_cel(value)));
            let map: HashMap<Key, Value> = members.collect();
            Value::Map(Map { map: map.into() })
        }
    }
}

fn from_cel(value: &Value) -> Option<Json> {
    Some(match value {
        Value::Null => Json::Null,
        Value::Bool(value) => json!(value),
        Value::Int(value) => json!(value),
        Value::Float(value) => Json::Number(serde_json::Number::from_f64(*value)?),
        Value::String(text) => json!(text.as_str()),
        Value::List(items) => Json::Array(items.iter().map(from_cel).collect::<Option<_>>()?),
        Value::Map(map) => {
            let members = map.map.iter().map(|(key, value)| match key {
                Key::String(key) => Some((key.to_string(), from_cel(value)?)),
                _ => None,
            });
            Json::Object(members.collect::<Option<_>>()?)
        }
        _ => return None,
    })
}

/// The value that `cel` gives, with maps of its own each time.
fn evaluate_in_cel(tree: &cel::IdedExpr, payload: &Json) -> Option<Json> {
    let mut context = Context::default();
    for (name, value) in [("type", &json!("order")), ("id", &json!("7")), ("payload", payload)] {
        context.add_variable_from_value(name, to_cel(value));
    }
    Value::resolve(tree, &context).ok().and_then(|value| from_cel(&value))
}

/// Expressions of which many have a value.
fn expressions() -> impl Strategy<Value = String> {
    let leaf = prop_oneof![
        (-3..10_i64).prop_map(|n| n.to_string()),
        prop::sample::select(vec![
            "1.5",
            "2.0",
            "true",
            "false",
            "null",
            "'a'",
            "'ab'",
            "payload",
            "payload.n",
            "payload.f",
            "payload.s",
            "payload.l",
            "payload.o",
            "payload.o.x",
            "payload.missing",
            "type",
            "id",
            "[]",
            "x",
        ])
        .prop_map(str::to_owned),
    ];
    leaf.prop_recursive(5, 40, 3, |inner| {
        let infix = prop::sample::select(vec![
            "+", "-", "*", "/", "%", "==", "!=", "<", "<=", ">", ">=", "&&", "||", "in",
        ]);
        let fold = prop::sample::select(vec!["map", "filter", "all", "exists", "exists_one"]);
        prop_oneof![
            4 => (inner.clone(), infix, inner.clone()).prop_map(|(a, sign, b)| format!("({a} {sign} {b})")),
            1 => inner.clone().prop_map(|a| format!("!({a})")),
            1 => inner.clone().prop_map(|a| format!("-({a})")),
            1 => (inner.clone(), inner.clone(), inner.clone()).prop_map(|(a, b, c)| format!("({a} ? {b} : {c})")),
            1 => prop::collection::vec(inner.clone(), 0..3).prop_map(|items| format!("[{}]", items.join(", "))),
            1 => (inner.clone(), inner.clone()).prop_map(|(a, b)| format!("({a})[{b}]")),
            2 => (inner.clone(), fold, inner.clone()).prop_map(|(a, fold, b)| format!("({a}).{fold}(x, {b})")),
            1 => inner.clone().prop_map(|a| format!("size({a})")),
            1 => inner.clone().prop_map(|a| format!("{{'k': {a}}}")),
            1 => (inner.clone(), inner).prop_map(|(a, b)| format!("({a}).contains({b})")),
        ]
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn whatever_has_a_value_in_cel_has_it_here(
        source in expressions(),
        x in prop::sample::select(vec!["3", "2.5", "'ab'", "payload.l", "payload.o", "true"]),
    ) {
        let source = format!("[{x}].map(x, {source})");
        let payload = json!({"n": 3, "f": 2.5, "s": "ab", "l": [1, 2, "a"], "o": {"x": 1}, "p": 0, "q": true, "r": null});
        let Ok(tree) = PrattParser::new().parse(&source) else { return Ok(()) };
        // There a map is gone through in any order, so what depends on the order is left out.
        let theirs: Vec<Option<Json>> = (0..16).map(|_| evaluate_in_cel(&tree, &payload)).collect();
        let Some(theirs) = theirs[0].clone().filter(|first| theirs.iter().all(|other| other.as_ref() == Some(first))) else {
            return Ok(());
        };
        // A name that is not known is refused here when it is compiled.
        let Ok(_) = compile(&source) else { return Ok(()) };

        let ours = evaluate(&source, &payload.to_string());

        // There the keys of a map may be added to a list, which the specification does not have.
        if ours == Err(Halt::failed("`+` does not take a list and a map")) {
            return Ok(());
        }
        let ours = ours.map(|text| serde_json::from_str::<Json>(&text).expect("JSON"));
        prop_assert_eq!(ours, Ok(theirs), "{}", source);
    }

    #[test]
    fn the_canonical_text_of_an_expression_means_the_same_and_is_its_own(source in expressions()) {
        let Ok(expression) = compile(&source) else { return Ok(()) };
        let again = compile(expression.canonical());
        let payload = r#"{"n":3,"f":2.5,"s":"ab","l":[1,2,"a"],"o":{"x":1}}"#;

        let again = again.unwrap_or_else(|flaw| panic!("{}: {flaw:?}", expression.canonical()));
        prop_assert_eq!(expression.canonical(), again.canonical());
        prop_assert_eq!(evaluate(&source, payload), evaluate(again.canonical(), payload));
    }

    #[test]
    fn no_text_makes_the_compiler_panic(source in "\\PC{0,80}") {
        _ = compile(&source);
    }

    #[test]
    fn no_row_of_tokens_makes_it_panic(
        tokens in prop::collection::vec(prop::sample::select(vec![
            "payload", ".a", "[", "]", "(", ")", "{", "}", "?", ":", "+", "-", "!", "&&", "==", ",", "'s'", "1", "1.5", ".map(x,",
            ".all(", "has(", "in", " ", "\"", "r'", "\\", "//", "\n", "x", "size(", ".matches('(a|b)*')", "1e999", "0x", "é",
        ]), 0..60)
    ) {
        let source: String = tokens.concat();
        if let Ok(expression) = compile(&source) {
            let mut stack = vec![CelValue::text("t"), CelValue::text("i"), CelValue::Null];
            _ = expression.evaluate(&mut stack, &mut meter());
        }
    }
}
