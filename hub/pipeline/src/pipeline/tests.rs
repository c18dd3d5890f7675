//! Tests of what a pipeline may be: what is refused and how that is said, and when two are equal.

use proptest::prelude::*;
use serde_json::{Value as Json, json};

use super::*;

fn parse(text: &str) -> Result<Pipeline, Error> {
    Pipeline::parse(text.as_bytes(), &PipelineLimits::default())
}

fn refused(text: &str) -> String {
    parse(text).expect_err(text).to_string()
}

#[test]
fn every_step_is_read_in_each_of_its_forms() {
    for text in [
        "[]",
        r#"[{"filter":"payload.ok"}]"#,
        r#"[{"map":"{'n': payload.n}"}]"#,
        r#"[{"pipe":[{"take":1},{"pipe":[]}]}]"#,
        r#"[{"take":10}]"#,
        r#"[{"reduce":{"from":"0","with":"acc + payload.n"}}]"#,
        r#"["to_array"]"#,
        r#"[{"toArray":{}}]"#,
        r#"[{"to_array":{"limit":5}}]"#,
        r#"[{"batch":{"size":10,"every":"1s"}}]"#,
        r#"[{"batch":{"every":"1s"}}]"#,
        r#"[{"dedupe":"payload.id"}]"#,
        r#"[{"dedupe":{"key":"payload.id","count":10,"for":"1m"}}]"#,
        r#"[{"window":{"every":"10s"}}]"#,
        r#"[{"window":{"count":10}}]"#,
        r#"["flat"]"#,
        r#"[{"flat":"payload.items"}]"#,
        r#"[{"groupBy":"payload.user"}]"#,
        r#"[{"group_by":{"key":"payload.user","size":3,"groups":5,"idle":"2s"}}]"#,
        r#"[{"chain":[[{"take":3}],[{"filter":"payload.late"}]]}]"#,
        r#"[{"join":[[],["flat"]]}]"#,
    ] {
        let pipeline = parse(text).unwrap_or_else(|error| panic!("{text}: {error}"));
        let again = parse(pipeline.canonical()).unwrap_or_else(|error| panic!("{}: {error}", pipeline.canonical()));
        assert_eq!(pipeline.canonical(), again.canonical(), "{text}");
    }
}

/// Pipelines that are refused, with the beginning of what is said.
const REFUSED: &[(&str, &str)] = &[
    (
        r#"[{"take":1},{"filtr":"true"}]"#,
        "step 1: there is no step `filtr`: did you mean `filter`?",
    ),
    (
        r#"[{"dedup":"id"}]"#,
        "step 0: there is no step `dedup`: did you mean `dedupe`?",
    ),
    (
        r#"[{"sort":"id"}]"#,
        "step 0: there is no step `sort`: write one of filter, map, ",
    ),
    (
        r#"[{"take":"ten"}]"#,
        "step 0 (`take`): `take` is no whole number: write one from 1 to ",
    ),
    (
        r#"[{"take":0}]"#,
        "step 0 (`take`): `take` is out of range: write one from 1 to ",
    ),
    (r#"[{"take":1.5}]"#, "step 0 (`take`): `take` is no whole number"),
    (
        r#"[{"filter":true}]"#,
        "step 0 (`filter`): its expression is a bool: write it in a string",
    ),
    (
        r#"[{"take":1},{"filter":"payload.a == 'ä' && payloads.b"}]"#,
        "step 1 (`filter`): at character 21: there is no variable `payloads`: did you mean `payload`?",
    ),
    (
        r#"[{"filter":"payload.a =="}]"#,
        "step 0 (`filter`): at character 13: the expression is no CEL",
    ),
    (
        r#"[{"filter":"'ä' = 1"}]"#,
        "step 0 (`filter`): at character 5: the expression is no CEL",
    ),
    (
        r#"[{"filter":"true &&\n  'ä' == payloads"}]"#,
        "step 0 (`filter`): at character 18: there is no variable `payloads`",
    ),
    (
        r#"[{"batch":{}}]"#,
        "step 0 (`batch`): it has neither `size` nor `every`: write {\"size\":100",
    ),
    (
        r#"[{"batch":{"sizes":1}}]"#,
        "step 0 (`batch`): there is no option `sizes`: did you mean `size`?",
    ),
    (
        r#"[{"batch":{"every":1}}]"#,
        "step 0 (`batch`): `every` is no time: write a number with a unit",
    ),
    (
        r#"[{"batch":{"every":"1ms"}}]"#,
        "step 0 (`batch`): `every` is out of range: write 10ms to 86400s",
    ),
    (
        r#"[{"batch":{"size":100000}}]"#,
        "step 0 (`batch`): `size` is out of range: write one from 1 to 10000",
    ),
    (
        r#"[{"window":{"every":"1s","count":3}}]"#,
        "step 0 (`window`): it needs either `every` or `count`",
    ),
    (
        r#"[{"reduce":{"from":"payload.x","with":"acc"}}]"#,
        "step 0 (`reduce`): at character 1: there is no variable",
    ),
    (
        r#"[{"reduce":{"from":"1 / 0","with":"acc"}}]"#,
        "step 0 (`reduce`): `from` has no value",
    ),
    (
        r#"[{"reduce":{"from":"0"}}]"#,
        "step 0 (`reduce`): the option `with` is missing: add it",
    ),
    (
        r#"[{"chain":[]}]"#,
        "step 0 (`chain`): it needs a list of lists of steps",
    ),
    (
        r#"[{"chain":[{"take":1}]}]"#,
        "step 0 (`chain`): it needs a list of lists of steps",
    ),
    (
        r#"[{"join":[[{"take":1}],[{"take":1},{"takee":1}]]}]"#,
        "step 0.1.1: there is no step `takee`",
    ),
    (
        r#"[{"pipe":[{"pipe":[{"nope":1}]}]}]"#,
        "step 0.0.0: there is no step `nope`",
    ),
    (
        r#"[{"take":1,"filter":"true"}]"#,
        "step 0: a step is an object with one member",
    ),
    (
        r#"[17]"#,
        "step 0: a step is an object with one member, its name, and this is a number",
    ),
    (r#"{"take":1}"#, "steps are a list, and this is an object"),
    (
        r#"[{"take":1,"take":2}]"#,
        "the pipeline is not JSON that can be used (the object at `/0` has",
    ),
    ("[", "the pipeline is not JSON that can be used"),
    ("", "the pipeline is not JSON that can be used"),
];

#[test]
fn a_bad_step_is_refused_with_its_place_the_reason_and_the_cure() {
    for (text, message) in REFUSED {
        let said = refused(text);
        assert!(said.starts_with(*message), "{text}\n said {said}\n not {message}");
    }
    let error = Pipeline::parse(b"[\"\xff\"]", &PipelineLimits::default());
    assert!(error.is_err());
}

#[test]
fn hostile_pipelines_are_refused_quickly() {
    let steps = |count: usize| format!("[{}]", vec![r#"{"take":1}"#; count].join(","));
    let nested =
        |name: &str, depth: usize| format!("[{}{}]", format!("{{\"{name}\":[[").repeat(depth), "]]}".repeat(depth));
    let heavy = r#"{"filter":"payload.s.matches('\\\\w{40}')"}"#;
    for text in [
        steps(10_000),
        steps(33),
        nested("join", 5),
        nested("join", 30),
        nested("chain", 1_000),
        format!("[{}{}]", "{\"pipe\":[".repeat(40), "]}".repeat(40)),
        "[".repeat(10_000),
        format!("[{{\"filter\":\"{}\"}}]", "(".repeat(3_000)),
        format!("[{{\"filter\":\"'{}'\"}}]", "x".repeat(15_000)),
        format!("[{}]", vec![r#"{"filter":"payload.a + payload.b + payload.c + payload.d > 1 && payload.e == 2 && payload.f == 3 && payload.g == 4 && payload.h == 5"}"#; 30].join(",")),
        format!("[{}]", [heavy; 8].join(",")),
        format!("[{{\"join\":[{}]}}]", vec!["[]"; 500].join(",")),
        format!("[{{\"{}\":1}}]", "x".repeat(10_000)),
        format!("[{{\"{0}\":1,\"{0}\":2}}]", "x".repeat(5_000)),
        format!("[{{\"filter\":\"{}\"}}]", "a".repeat(2_000)),
    ] {
        let error = refused(&text);
        assert!(error.len() < 500, "{error}");
    }
}

#[test]
fn equal_pipelines_have_one_text_and_others_have_others() {
    let text = |text: &str| parse(text).expect(text).canonical().to_owned();
    for (a, b) in [
        (
            r#"[{"filter":"payload.a==1"}]"#,
            r#"[ { "filter" : " payload.a  ==  1 // one" } ]"#,
        ),
        (
            r#"[{"filter":"payload.a == \"x\""}]"#,
            r#"[{"filter":"(payload.a) == 'x'"}]"#,
        ),
        (
            r#"[{"filter":"payload.l.all(x, x > 1)"}]"#,
            r#"[{"filter":"payload.l.all(item, item > 1)"}]"#,
        ),
        (r#"[{"pipe":[{"take":1}]},{"pipe":[]}]"#, r#"[{"take":1}]"#),
        (
            r#"[{"batch":{"size":2,"every":"1s"}}]"#,
            r#"[{"batch":{"every":"1000ms","size":2}}]"#,
        ),
        (r#"[{"dedupe":"id"}]"#, r#"[{"dedupe":{"key":"id","for":"10m"}}]"#),
        (r#"["flat"]"#, r#"[{"flat":"payload"}]"#),
        (r#"[{"groupBy":"id"}]"#, r#"[{"group_by":{"key":"id","idle":"60s"}}]"#),
        (
            r#"[{"reduce":{"from":"1+1","with":"acc"}}]"#,
            r#"[{"reduce":{"from":"2","with":"acc"}}]"#,
        ),
    ] {
        assert_eq!(text(a), text(b));
    }
    for (a, b) in [
        (r#"[{"take":1}]"#, r#"[{"take":2}]"#),
        (r#"[{"filter":"payload.a == 1"}]"#, r#"[{"filter":"payload.a == 1.0"}]"#),
        (r#"[{"filter":"true"},{"take":1}]"#, r#"[{"take":1},{"filter":"true"}]"#),
        (r#"[{"chain":[["flat"],[]]}]"#, r#"[{"join":[["flat"],[]]}]"#),
        (
            r#"[{"map":"payload.l.map(x, id)"}]"#,
            r#"[{"map":"payload.l.map(id, id)"}]"#,
        ),
        (
            r#"[{"filter":"payload.a.matches('x')"}]"#,
            r#"[{"filter":"payload.a.matches('y')"}]"#,
        ),
    ] {
        assert_ne!(text(a), text(b));
    }
}

/// JSON that has something of a pipeline.
fn likely() -> impl Strategy<Value = Json> {
    let leaf = prop_oneof![
        Just(json!(null)),
        any::<bool>().prop_map(Json::from),
        any::<i64>().prop_map(Json::from),
        any::<f64>().prop_map(|n| json!(n)),
        prop::sample::select(vec![
            "payload.a",
            "1s",
            "to_array",
            "flat",
            "true",
            "acc + 1",
            "((",
            "",
            "10ms",
            "'"
        ])
        .prop_map(Json::from),
        "\\PC{0,12}".prop_map(Json::from),
    ];
    leaf.prop_recursive(6, 60, 6, |inner| {
        let name = prop::sample::select(vec![
            "filter", "map", "pipe", "take", "reduce", "to_array", "toArray", "batch", "dedupe", "window", "flat",
            "group_by", "chain", "join", "size", "every", "key", "count", "for", "from", "with", "idle", "groups",
            "limit", "nope",
        ]);
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..5).prop_map(Json::Array),
            (name.clone(), inner.clone()).prop_map(|(name, value)| json!({ name: value })),
            prop::collection::vec((name, inner), 0..4)
                .prop_map(|members| Json::Object(members.into_iter().map(|(k, v)| (k.to_owned(), v)).collect())),
        ]
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(3_000))]

    #[test]
    fn any_json_is_refused_in_words_or_has_a_canonical_text(value in prop::collection::vec(likely(), 0..4)) {
        match parse(&Json::Array(value).to_string()) {
            Ok(pipeline) => {
                let again = parse(pipeline.canonical());
                prop_assert_eq!(again.as_ref().map(Pipeline::canonical), Ok(pipeline.canonical()));
            }
            Err(error) => prop_assert!(!error.reason.is_empty() && !error.cure.is_empty()),
        }
    }

    #[test]
    fn any_bytes_are_refused_or_read(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        _ = Pipeline::parse(&bytes, &PipelineLimits::default());
    }
}
