//! What pipelines do, as functions over lists: what has come out after these events, and whether the end has come.

use proptest::prelude::*;
use serde_json::{Value as Json, json};

/// A step that needs no time.
#[derive(Clone, Debug)]
pub(super) enum Modelled {
    Filter(i64),
    Map,
    Flat,
    Take(usize),
    Dedupe(usize),
    Batch(usize),
    Window(usize),
    ToArray,
    Reduce,
    Pipe(Vec<Modelled>),
    Chain(Vec<Vec<Modelled>>),
    Join(Vec<Vec<Modelled>>),
}

pub(super) fn items() -> impl Strategy<Value = Json> {
    prop_oneof![
        3 => (0_i64..5).prop_map(Json::from),
        1 => prop::collection::vec(0_i64..5, 0..4).prop_map(|items| json!(items)),
    ]
}

pub(super) fn lines() -> impl Strategy<Value = Vec<Modelled>> {
    let leaf = prop_oneof![
        (0_i64..5).prop_map(Modelled::Filter),
        Just(Modelled::Map),
        Just(Modelled::Flat),
        (1_usize..7).prop_map(Modelled::Take),
        (1_usize..4).prop_map(Modelled::Dedupe),
        (1_usize..4).prop_map(Modelled::Batch),
        (1_usize..4).prop_map(Modelled::Window),
        Just(Modelled::ToArray),
        Just(Modelled::Reduce),
    ];
    let step = leaf.prop_recursive(2, 12, 3, |inner| {
        let line = prop::collection::vec(inner, 0..3);
        let branches = prop::collection::vec(line.clone(), 1..4);
        prop_oneof![
            line.prop_map(Modelled::Pipe),
            branches.clone().prop_map(Modelled::Chain),
            branches.prop_map(Modelled::Join),
        ]
    });
    prop::collection::vec(step, 0..4)
}

pub(super) fn text(line: &[Modelled]) -> String {
    fn of(line: &[Modelled]) -> Json {
        let steps = line.iter().map(|step| match step {
            Modelled::Filter(n) => json!({"filter": format!("payload != {n}")}),
            Modelled::Map => json!({"map": "[payload, 1]"}),
            Modelled::Flat => json!("flat"),
            Modelled::Take(n) => json!({"take": n}),
            Modelled::Dedupe(n) => json!({"dedupe": {"key": "payload", "count": n}}),
            Modelled::Batch(n) => json!({"batch": {"size": n}}),
            Modelled::Window(n) => json!({"window": {"count": n}}),
            Modelled::ToArray => json!({"to_array": {}}),
            Modelled::Reduce => json!({"reduce": {"from": "[]", "with": "acc + [payload]"}}),
            Modelled::Pipe(line) => json!({"pipe": of(line)}),
            Modelled::Chain(branches) => json!({"chain": branches.iter().map(|line| of(line)).collect::<Vec<_>>()}),
            Modelled::Join(branches) => json!({"join": branches.iter().map(|line| of(line)).collect::<Vec<_>>()}),
        });
        Json::Array(steps.collect())
    }
    of(line).to_string()
}

/// What has come out after these items, where `end` says that there are no more; and whether the line is over.
pub(super) fn run(line: &[Modelled], items: &[Json], end: bool) -> (Vec<Json>, bool) {
    let start = (items.to_vec(), end);
    line.iter().fold(start, |(items, end), model| step(model, items, end))
}

fn step(model: &Modelled, items: Vec<Json>, end: bool) -> (Vec<Json>, bool) {
    match model {
        Modelled::Filter(n) => (items.into_iter().filter(|item| *item != json!(n)).collect(), end),
        Modelled::Map => (items.into_iter().map(|item| json!([item, 1])).collect(), end),
        Modelled::Flat => {
            let lists = items.into_iter().filter_map(|item| item.as_array().cloned());
            (lists.flatten().collect(), end)
        }
        Modelled::Take(n) => (items.iter().take(*n).cloned().collect(), end || items.len() >= *n),
        Modelled::Dedupe(n) => {
            let mut seen: Vec<Json> = Vec::new();
            let mut kept = Vec::new();
            for item in items.into_iter() {
                if !seen.contains(&item) {
                    seen.push(item.clone());
                    seen.drain(..seen.len().saturating_sub(*n));
                    kept.push(item);
                }
            }
            (kept, end)
        }
        Modelled::Batch(n) | Modelled::Window(n) => {
            let chunks = items.chunks(*n).filter(|chunk| end || chunk.len() == *n);
            (chunks.map(|chunk| json!(chunk)).collect(), end)
        }
        Modelled::ToArray | Modelled::Reduce => (if end { vec![json!(items)] } else { Vec::new() }, end),
        Modelled::Pipe(line) => run(line, &items, end),
        Modelled::Chain(branches) => chain(branches, &items, end),
        Modelled::Join(branches) => join(branches, &items, end),
    }
}

fn chain(branches: &[Vec<Modelled>], items: &[Json], end: bool) -> (Vec<Json>, bool) {
    let (mut out, mut rest) = (Vec::new(), items);
    for branch in branches {
        let ended = (1..=rest.len()).find(|count| run(branch, &rest[..*count], false).1);
        match ended {
            Some(count) => {
                out.extend(run(branch, &rest[..count], false).0);
                rest = &rest[count..];
            }
            None => {
                out.extend(run(branch, rest, end).0);
                if !end {
                    return (out, false);
                }
                rest = &[];
            }
        }
    }
    (out, true)
}

fn join(branches: &[Vec<Modelled>], items: &[Json], end: bool) -> (Vec<Json>, bool) {
    let mut out = Vec::new();
    let mut had = vec![0; branches.len()];
    let moments = (1..=items.len())
        .map(|count| (count, false))
        .chain(end.then_some((items.len(), true)));
    for (count, end) in moments {
        for (branch, had) in branches.iter().zip(&mut had) {
            let made = run(branch, &items[..count], end).0;
            out.extend(made[*had..].iter().cloned());
            *had = made.len();
        }
    }
    let over = branches.iter().all(|branch| run(branch, items, end).1);
    (out, over)
}
