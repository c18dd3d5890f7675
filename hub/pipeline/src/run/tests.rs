//! Tests of runs: each step against a model over lists, waits, bounds, and what hostile pipelines and events can do.

use std::time::Duration;

use alkhub_protocol::RawJson;
use bytes::Bytes;
use proptest::prelude::*;
use serde_json::{Value as Json, json};

use super::*;
use crate::limits::PipelineLimits;

mod model;
mod page;

/// What came out, with payloads as values.
#[derive(Debug, PartialEq)]
enum Out {
    Value(Json),
    Fault(&'static str, &'static str),
}

/// A run under test.
struct Bench {
    run: PipelineRun,
    now: Instant,
    limits: PipelineLimits,
}

impl Bench {
    fn within(pipeline: &str, limits: PipelineLimits) -> Self {
        let parsed = Pipeline::parse(pipeline.as_bytes(), &limits);
        let parsed = parsed.unwrap_or_else(|error| panic!("{pipeline}: {error}"));
        Self {
            run: PipelineRun::new(&parsed, "order", "*"),
            now: Instant::now(),
            limits,
        }
    }

    fn new(pipeline: &str) -> Self {
        Self::within(pipeline, PipelineLimits::default())
    }

    fn push(&mut self, payload: &str) -> Vec<Out> {
        let payload = RawJson::parse(payload.to_owned()).expect("JSON");
        let event = PipelineEvent {
            kind: "order",
            id: "7",
            payload: Some(&payload),
        };
        let mut out = Vec::new();
        self.run.push(&event, self.now, &mut out);
        self.checked(&out, payload.as_str())
    }

    fn wait(&mut self, time: Duration) -> Vec<Out> {
        self.now += time;
        let mut out = Vec::new();
        while self.run.deadline().is_some_and(|deadline| deadline <= self.now) {
            self.run.tick(self.now, &mut out);
        }
        self.checked(&out, "null")
    }

    fn finish(&mut self) -> Vec<Out> {
        let mut out = Vec::new();
        self.run.finish(self.now, &mut out);
        assert!(self.run.is_over() && self.run.deadline().is_none());
        self.checked(&out, "null")
    }

    fn all(&mut self, payloads: &[&str]) -> Vec<Out> {
        let mut out: Vec<Out> = payloads.iter().flat_map(|payload| self.push(payload)).collect();
        out.extend(self.finish());
        out
    }

    fn checked(&self, out: &[PipelineOutput], pushed: &str) -> Vec<Out> {
        let (items, bytes) = self.run.kept();
        assert!(
            items <= self.limits.kept_items && bytes <= self.limits.kept_bytes,
            "{items} {bytes}"
        );
        let outs = out.iter().map(|output| match output {
            PipelineOutput::Unchanged => Out::Value(serde_json::from_str(pushed).expect("JSON")),
            PipelineOutput::Made(made) => Out::Value(serde_json::from_str(made.payload.as_str()).expect("JSON")),
            PipelineOutput::Fault(fault) => Out::Fault(fault.name, fault.reason.code()),
        });
        outs.collect()
    }
}

fn values(values: impl IntoIterator<Item = Json>) -> Vec<Out> {
    values.into_iter().map(Out::Value).collect()
}

#[test]
fn groups_are_emitted_with_their_key_when_they_are_full_idle_or_many() {
    let step = r#"[{"group_by":{"key":"payload.k","size":2,"groups":2,"idle":"1s"}}]"#;
    let mut bench = Bench::new(step);
    let event = |k: &str, n: u32| json!({"k": k, "n": n}).to_string();
    let group = |k: &str, ns: &[u32]| {
        let items: Vec<Json> = ns.iter().map(|n| json!({"k": k, "n": n})).collect();
        json!({"key": k, "items": items})
    };

    assert_eq!(bench.push(&event("a", 1)), []);
    assert_eq!(bench.push(&event("b", 2)), []);
    assert_eq!(bench.push(&event("a", 3)), values([group("a", &[1, 3])]));
    assert_eq!(bench.push(&event("c", 4)), []);
    assert_eq!(bench.push(&event("b", 5)), values([group("b", &[2, 5])]));
    assert_eq!(bench.push(&event("a", 6)), []);
    assert_eq!(bench.push(&event("d", 7)), values([group("c", &[4])]));
    assert_eq!(bench.wait(Duration::from_millis(999)), []);
    assert_eq!(
        bench.wait(Duration::from_millis(1)),
        values([group("a", &[6]), group("d", &[7])])
    );
    assert_eq!(bench.run.kept(), (0, 0));
    assert_eq!(bench.run.deadline(), None);
}

#[test]
fn a_group_has_every_kind_of_key() {
    let mut bench = Bench::new(r#"[{"group_by":{"key":"payload.k","size":2}}]"#);

    for (first, second) in [
        (r#"{"k":1}"#, r#"{"k":1.0}"#),
        (r#"{"k":null}"#, r#"{"k":null}"#),
        (r#"{"k":"1"}"#, r#"{"k":"\u0031"}"#),
        (r#"{"k":{"a":[1],"b":{}}}"#, r#"{"k":{"b":{},"a":[1e0]}}"#),
        (r#"{"k":true}"#, r#"{"k":true}"#),
    ] {
        assert_eq!(bench.push(first), [], "{first}");
        let group = bench.push(second);
        let [Out::Value(group)] = &group[..] else {
            panic!("{first}: {group:?}")
        };
        assert_eq!(group["items"].as_array().map(Vec::len), Some(2));
    }
}

#[test]
fn a_batch_waits_from_its_first_item_and_a_window_from_the_first_of_all() {
    let mut batch = Bench::new(r#"[{"batch":{"every":"10s"}}]"#);
    let mut window = Bench::new(r#"[{"window":{"every":"10s"}}]"#);
    for bench in [&mut batch, &mut window] {
        assert_eq!(bench.push("1"), []);
        assert_eq!(bench.wait(Duration::from_secs(10)), values([json!([1])]));
        assert_eq!(bench.wait(Duration::from_secs(4)), []);
        assert_eq!(bench.run.deadline(), None);
        assert_eq!(bench.push("2"), []);
    }

    assert_eq!(window.wait(Duration::from_secs(6)), values([json!([2])]));
    assert_eq!(batch.wait(Duration::from_secs(6)), []);
    assert_eq!(batch.wait(Duration::from_secs(4)), values([json!([2])]));
}

#[test]
fn an_event_does_not_get_into_a_list_whose_time_has_passed() {
    let mut bench = Bench::new(r#"[{"batch":{"every":"1s"}}]"#);
    bench.push("1");

    bench.now += Duration::from_secs(5);

    assert_eq!(bench.push("2"), values([json!([1])]));
    assert_eq!(bench.finish(), values([json!([2])]));
}

#[test]
fn dedupe_forgets_after_its_time_and_beyond_its_count() {
    let mut bench = Bench::new(r#"[{"dedupe":{"key":"payload","count":2,"for":"10s"}}]"#);

    assert_eq!(bench.push("1"), values([json!(1)]));
    assert_eq!(bench.push("1.0"), []);
    bench.now += Duration::from_secs(9);
    assert_eq!(bench.push("1"), []);
    bench.now += Duration::from_secs(1);
    assert_eq!(bench.push("1"), values([json!(1)]));
    assert_eq!(bench.push("2"), values([json!(2)]));
    assert_eq!(bench.push("3"), values([json!(3)]));
    assert_eq!(bench.push("1"), values([json!(1)]));
}

#[test]
fn take_ends_with_its_last_event_and_ends_what_follows() {
    let mut bench = Bench::new(r#"[{"take":2},"to_array"]"#);

    assert_eq!(bench.push("1"), []);
    assert!(!bench.run.is_over());
    assert_eq!(bench.push("2"), values([json!([1, 2])]));
    assert!(bench.run.is_over());
    assert_eq!(bench.push("3"), []);
    assert_eq!(bench.finish(), []);
}

#[test]
fn a_chain_goes_on_after_each_end_and_a_join_ends_with_the_last() {
    let mut chain = Bench::new(r#"[{"chain":[[{"take":1}],[{"take":2},{"map":"-payload"}],[{"batch":{"size":9}}]]}]"#);
    assert_eq!(
        chain.all(&["1", "2", "3", "4", "5"]),
        values([json!(1), json!(-2), json!(-3), json!([4, 5])])
    );

    let mut join = Bench::new(r#"[{"join":[[{"take":1}],[{"take":2},{"map":"-payload"}]]}]"#);
    assert_eq!(join.push("1"), values([json!(1), json!(-1)]));
    assert_eq!(join.push("2"), values([json!(-2)]));
    assert!(join.run.is_over());
}

#[test]
fn what_is_made_has_the_type_and_id_of_what_it_is_made_of() {
    let pipeline = Pipeline::parse(
        br#"[{"join":[[{"map":"id"}],["to_array"]]}]"#,
        &PipelineLimits::default(),
    );
    let mut run = PipelineRun::new(&pipeline.expect("a pipeline"), "order", "*");
    let (mut out, now) = (Vec::new(), Instant::now());
    let event = PipelineEvent {
        kind: "order",
        id: "7",
        payload: None,
    };

    run.push(&event, now, &mut out);
    run.finish(now, &mut out);

    let texts: Vec<Bytes> = out
        .iter()
        .filter_map(|output| match output {
            PipelineOutput::Made(made) => Some(made.encode()),
            PipelineOutput::Unchanged | PipelineOutput::Fault(_) => None,
        })
        .collect();
    assert_eq!(
        texts,
        [
            &br#"{"type":"order","id":"7","payload":"7"}"#[..],
            br#"{"type":"order","id":"*","payload":[null]}"#
        ]
    );
}

#[test]
fn an_event_that_fails_is_a_fault_in_its_place_and_the_next_one_passes() {
    let mut bench = Bench::new(r#"[{"filter":"payload.ok"},{"take":2}]"#);

    let found: Vec<Out> = [
        r#"{"ok":true}"#,
        "{}",
        r#"{"ok":1}"#,
        r#"{"ok":true,"ok":true}"#,
        r#"{"ok":true}"#,
    ]
    .iter()
    .flat_map(|payload| bench.push(payload))
    .collect();

    let failed = || Out::Fault("filter", "failed");
    let passed = || Out::Value(json!({"ok": true}));
    assert_eq!(found, [passed(), failed(), failed(), failed(), passed()]);
    assert!(bench.run.is_over());
}

#[test]
fn an_event_that_costs_too_much_is_a_fault() {
    let numbers = json!(vec![1; 1_000]).to_string();
    for (step, code) in [
        (
            json!({"filter": "payload.all(a, payload.all(b, a == b))"}),
            "too_expensive",
        ),
        (
            json!({"map": format!("['{}']{}", "x".repeat(100), ".map(a, a + a)".repeat(20))}),
            "too_expensive",
        ),
        (
            json!({"filter": "payload.map(a, 'aaaaaaaaaaaaaaaaaaaa').join('').matches('(a|b)*a(a|b){60}c')"}),
            "too_expensive",
        ),
        (
            json!({"map": format!("payload{}", ".map(a, [a, a, a, a, a, a, a, a])".repeat(6))}),
            "too_expensive",
        ),
        (json!({"dedupe": "payload"}), "too_large"),
        (json!({"group_by": "payload"}), "too_large"),
    ] {
        let mut bench = Bench::new(&json!([step]).to_string());
        let name = step
            .as_object()
            .and_then(|step| step.keys().next())
            .expect("a name")
            .clone();

        let found = bench.push(&numbers);

        let [Out::Fault(by, found)] = &found[..] else {
            panic!("{step}: {found:.100?}")
        };
        assert_eq!((*by, *found), (name.as_str(), code), "{step}");
    }
}

#[test]
fn a_pipeline_that_costs_too_much_in_a_second_is_busy_until_time_has_passed() {
    let limits = PipelineLimits {
        second_units: 1_000,
        ..PipelineLimits::default()
    };
    let mut bench = Bench::within(r#"[{"filter":"payload.all(a, a > 0)"}]"#, limits);
    let payload = json!(vec![1; 50]).to_string();

    let passed = (0..100)
        .map(|_| bench.push(&payload))
        .take_while(|out| matches!(out[..], [Out::Value(_)]))
        .count();
    assert!((2..20).contains(&passed), "{passed}");
    assert_eq!(bench.push(&payload), [Out::Fault("filter", "busy")]);

    bench.now += Duration::from_millis(500);
    let later = (0..100)
        .map(|_| bench.push(&payload))
        .take_while(|out| matches!(out[..], [Out::Value(_)]))
        .count();
    assert!(later > 0 && later <= passed, "{later} {passed}");
}

#[test]
fn one_event_cannot_be_made_into_very_many_or_very_much() {
    let branches = ["[]"; 8].join(",");
    let join = format!(r#"{{"join":[{branches}]}}"#);
    let mut bench = Bench::new(&format!(r#"["flat",{join},{join},{join}]"#));
    let many = json!(vec![0; 3_000]).to_string();

    let found = bench.push(&many);

    let made = found.iter().filter(|out| matches!(out, Out::Value(_))).count();
    assert!(made < 300_000, "{made}");
    assert!(matches!(found.last(), Some(Out::Fault(..))));

    let mut bench = Bench::new(&format!("[{join},{join}]"));
    let large = json!("x".repeat(500_000)).to_string();
    let made = bench
        .push(&large)
        .iter()
        .filter(|out| matches!(out, Out::Value(_)))
        .count();
    assert!(made <= 8, "{made}");
}

#[test]
fn long_numbers_and_names_are_paid_for_and_said_in_short() {
    let digits = "7".repeat(100_000);
    let payload = format!(r#"{{"n":0.{digits},"l":{}}}"#, json!(vec![1; 1_000]));
    for condition in [
        "payload.l.all(x, payload.n < x)",
        "payload.l.all(x, payload.n == x || true)",
        "payload.l.all(x, int(payload.n) < x)",
    ] {
        let mut bench = Bench::new(&json!([{"filter": condition}]).to_string());
        assert_eq!(
            bench.push(&payload),
            [Out::Fault("filter", "too_expensive")],
            "{condition}"
        );
    }

    let mut run = Bench::new(r#"[{"filter":"payload.a"}]"#).run;
    let name = "n".repeat(100_000);
    let payload = RawJson::parse(format!(r#"{{"{name}":1,"{name}":2}}"#)).expect("JSON");
    let event = PipelineEvent {
        kind: "order",
        id: "7",
        payload: Some(&payload),
    };
    let mut out = Vec::new();
    run.push(&event, Instant::now(), &mut out);
    let [PipelineOutput::Fault(fault)] = &out[..] else {
        panic!("{}", out.len())
    };
    assert!(fault.to_string().len() < 300);
}

#[test]
fn the_deepest_pipeline_fits_into_a_small_stack() {
    fn is_send<T: Send>(of: T) -> T {
        of
    }
    let expression = format!("{}payload{}", "[".repeat(30), "]".repeat(30));
    let inner = vec![json!({"map": "payload"}); 26]
        .into_iter()
        .chain([json!({"map": expression})]);
    let mut line = Json::Array(inner.collect());
    for name in ["join", "chain", "join", "chain"] {
        line = json!([{ name: [line] }]);
    }
    let deep = format!("{}{}", "[".repeat(60), "]".repeat(60));
    let run = move || {
        let mut bench = is_send(Bench::new(&line.to_string()));
        bench.push(&deep);
        bench.push("[1]")
    };

    let found = std::thread::Builder::new().stack_size(1024 * 1024).spawn(run);

    let found = found.expect("a thread").join().expect("it does not panic");
    assert!(matches!(found[..], [Out::Value(_)]));
}

#[test]
fn an_end_within_an_event_does_not_make_the_rest_of_it_free() {
    let heavy = "payload.map(a, [0, 1, 2, 3, 4, 5, 6, 7].map(b, [0, 1, 2, 3, 4, 5, 6, 7].map(c, b + c)))";
    let limits = PipelineLimits {
        second_units: u64::MAX,
        ..PipelineLimits::default()
    };
    let batch = r#"{"batch":{"size":1}}"#;
    let text = format!(r#"["flat",{{"chain":[[{{"take":1}},{batch}],[]]}},{batch},{{"filter":"{heavy} == []"}}]"#);
    let mut bench = Bench::within(&text, limits);

    let found = bench.push(&json!(vec![0; 3_000]).to_string());

    let failed = found.iter().filter(|out| matches!(out, Out::Fault(..))).count();
    assert!(failed > 1_000, "{failed}");
}

#[test]
fn a_list_that_would_have_a_hole_is_a_fault_and_ends_the_run() {
    let mut bench = Bench::new(r#"[{"to_array":{"limit":2}}]"#);

    bench.push("1");
    bench.push("2");

    assert_eq!(bench.push("3"), [Out::Fault("to_array", "too_large")]);
    assert!(bench.run.is_over());
}

#[test]
fn what_is_kept_stays_within_its_bounds_in_bytes() {
    let limits = PipelineLimits {
        kept_items: 1_000,
        kept_bytes: 20_000,
        second_units: u64::MAX,
        ..PipelineLimits::default()
    };
    for step in [
        r#"{"batch":{"every":"1h"}}"#,
        r#"{"window":{"every":"1h"}}"#,
        r#"{"dedupe":"payload.k"}"#,
        r#"{"group_by":"payload.k"}"#,
        r#"{"join":[[{"dedupe":"payload.k"}],[{"group_by":"payload.k"}],[{"batch":{"every":"1h"}}],["to_array"]]}"#,
    ] {
        let mut bench = Bench::within(&format!("[{step}]"), limits.clone());
        let mut lost = 0;
        for n in 0..2_000_u32 {
            let payload =
                json!({"k": format!("{}{n}", "k".repeat(n as usize % 300)), "v": "v".repeat(n as usize % 50)});
            // The bench checks what is kept after each.
            lost += bench
                .push(&payload.to_string())
                .iter()
                .filter(|out| matches!(out, Out::Fault(..)))
                .count();
        }
        assert!(lost <= 1, "{step} {lost}");
    }
    let mut bench = Bench::within(r#"[{"batch":{"every":"1h"}}]"#, limits);
    assert_eq!(
        bench.push(&json!("x".repeat(30_000)).to_string()),
        [Out::Fault("batch", "too_large")]
    );
}

#[test]
fn what_is_folded_cannot_grow_or_nest_without_end() {
    for (with, payload) in [("acc + payload", json!("x".repeat(200_000))), ("[acc]", json!(1))] {
        let from = if with == "[acc]" { "[]" } else { "''" };
        let step = json!([{"reduce": {"from": from, "with": with}}]);
        let limits = PipelineLimits {
            second_units: u64::MAX,
            ..PipelineLimits::default()
        };
        let mut bench = Bench::within(&step.to_string(), limits);

        let out: Vec<Out> = (0..100).flat_map(|_| bench.push(&payload.to_string())).collect();

        let is_fault = |out: &Out| matches!(out, Out::Fault("reduce", "too_large" | "too_expensive"));
        assert!(out.iter().any(is_fault), "{with}");
        assert_eq!(bench.finish().len(), 1);
    }
}

#[test]
fn payloads_that_nest_too_deep_for_a_list_are_faults() {
    let deep = format!("{}{}", "[".repeat(64), "]".repeat(64));
    for step in [
        r#""to_array""#,
        r#"{"batch":{"size":2}}"#,
        r#"{"window":{"count":2}}"#,
        r#"{"group_by":"1"}"#,
    ] {
        let mut bench = Bench::new(&format!("[{step}]"));
        let out = bench.push(&deep);
        assert!(matches!(out[..], [Out::Fault(_, "too_large")]), "{step} {out:?}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(600))]

    #[test]
    fn every_pipeline_does_what_its_model_does(
        line in model::lines(),
        items in prop::collection::vec(model::items(), 0..14),
    ) {
        let text = model::text(&line);
        let limits = PipelineLimits { second_units: u64::MAX, steps: 500, nesting: 9, ..PipelineLimits::default() };
        let mut bench = Bench::within(&text, limits);

        let mut found = Vec::new();
        for (i, item) in items.iter().enumerate() {
            found.extend(bench.push(&item.to_string()));
            let (expected, ended) = model::run(&line, &items[..=i], false);
            let values: Vec<&Json> = found.iter().filter_map(|out| match out {
                Out::Value(value) => Some(value),
                Out::Fault(..) => None,
            }).collect();
            prop_assert_eq!(values, expected.iter().collect::<Vec<_>>(), "{} {:?}", text, &items[..=i]);
            prop_assert_eq!(bench.run.is_over(), ended, "{}", text);
        }
        found.extend(bench.finish());
        let (expected, _) = model::run(&line, &items, true);
        let values: Vec<Json> = found.into_iter().filter_map(|out| match out {
            Out::Value(value) => Some(value),
            Out::Fault(..) => None,
        }).collect();
        prop_assert_eq!(values, expected, "{} {:?}", text, items);
        prop_assert_eq!(bench.run.kept(), (0, 0));
    }

    #[test]
    fn windows_of_time_partition_the_events(gaps in prop::collection::vec(0_u64..2_500, 1..40)) {
        let mut bench = Bench::new(r#"[{"window":{"every":"1s"}}]"#);
        let (mut at, mut found) = (0, Vec::new());
        let mut expected: Vec<(u64, Vec<Json>)> = Vec::new();
        for (n, gap) in gaps.iter().enumerate() {
            let gap = if n == 0 { 0 } else { *gap };
            at += gap;
            found.extend(bench.wait(Duration::from_millis(gap)));
            found.extend(bench.push(&n.to_string()));
            match expected.last_mut() {
                Some((window, items)) if *window == at / 1_000 => items.push(json!(n)),
                _ => expected.push((at / 1_000, vec![json!(n)])),
            }
        }
        found.extend(bench.finish());

        prop_assert_eq!(found, values(expected.into_iter().map(|(_, items)| json!(items))));
    }

    #[test]
    fn groups_lose_nothing_and_keep_the_order_of_each_key(
        keys in prop::collection::vec((0_u8..8, 0_u64..400), 0..60),
        size in 1_usize..5,
        groups in 1_usize..5,
    ) {
        let step = json!([{"group_by": {"key": "payload[0]", "size": size, "groups": groups, "idle": "1s"}}]);
        let mut bench = Bench::new(&step.to_string());
        let mut found = Vec::new();
        for (n, (key, gap)) in keys.iter().enumerate() {
            found.extend(bench.wait(Duration::from_millis(*gap)));
            found.extend(bench.push(&json!([key, n]).to_string()));
        }
        found.extend(bench.finish());

        for key in 0..8 {
            let sent: Vec<Json> = keys.iter().enumerate().filter(|(_, (k, _))| *k == key).map(|(n, _)| json!([key, n])).collect();
            let mut got = Vec::new();
            for out in &found {
                let Out::Value(group) = out else { panic!("{out:?}") };
                if group["key"] == json!(key) {
                    let items = group["items"].as_array().expect("items");
                    prop_assert!(!items.is_empty() && items.len() <= size);
                    got.extend(items.iter().cloned());
                }
            }
            prop_assert_eq!(got, sent);
        }
    }
}
