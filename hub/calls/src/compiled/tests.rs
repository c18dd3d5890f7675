//! The budget of compiled specifications, and whose turn it is to compile.

use futures::FutureExt as _;

use super::*;
use crate::fixture::{metrics, spec};

fn spoke(name: &str) -> SpokeName {
    name.parse().expect("valid")
}

fn key(id: &str) -> Arc<str> {
    id.into()
}

/// Some 3.5 KiB each.
fn text(i: usize) -> OperationSpec {
    spec(&format!("text.op{i}"), r#"{"type":"string"}"#)
}

#[tokio::test]
async fn a_spoke_over_its_budget_is_refused_and_others_are_not() {
    let specs = Specs::new(
        metrics(),
        Budget {
            hub: 1 << 20,
            spoke: 9_000,
        },
    );
    let mut in_use = Vec::new();
    for i in 0..2 {
        in_use.push(specs.compile(&spoke("a"), &key("a"), text(i)).await.expect("fits"));
    }

    let refused = specs
        .compile(&spoke("a"), &key("a"), text(2))
        .await
        .expect_err("over the budget");
    let known = specs.compile(&spoke("a"), &key("a"), text(1)).await;
    let other = specs.compile(&spoke("b"), &key("b"), text(2)).await;

    assert!(matches!(&refused, Error::SpokeBudget { limit: 9_000, .. }), "{refused}");
    assert!(
        refused.to_string().contains("`calls.spec-bytes-per-spoke`"),
        "{refused}"
    );
    assert!(known.is_ok() && other.is_ok());
}

#[tokio::test]
async fn what_nobody_uses_makes_room() {
    let specs = Specs::new(
        metrics(),
        Budget {
            hub: 9_000,
            spoke: 9_000,
        },
    );
    let first = specs.compile(&spoke("a"), &key("a"), text(0)).await.expect("fits");
    for i in 1..20 {
        specs
            .compile(&spoke("a"), &key("a"), text(i))
            .await
            .expect("the one before it is not used");
    }

    let kept = specs.get(&first.hash).expect("it is in use");

    assert!(Arc::ptr_eq(&kept, &first));
    assert!(specs.kept.lock().bytes <= 9_000);
}

#[tokio::test]
async fn a_full_hub_refuses_by_the_name_of_the_setting() {
    let specs = Specs::new(
        metrics(),
        Budget {
            hub: 5_000,
            spoke: 1 << 20,
        },
    );
    let _in_use = specs.compile(&spoke("a"), &key("a"), text(0)).await.expect("fits");

    let refused = specs
        .compile(&spoke("b"), &key("b"), text(1))
        .await
        .expect_err("over the budget");

    assert!(refused.to_string().contains("`calls.spec-bytes`"), "{refused}");
}

#[tokio::test]
async fn what_made_room_in_vain_is_told_as_gone() {
    let specs = Specs::new(
        metrics(),
        Budget {
            hub: 9_000,
            spoke: 5_000,
        },
    );
    drop(specs.compile(&spoke("a"), &key("a"), text(0)).await.expect("fits"));
    let large = r#"{"type":"string","pattern":"^(a|b|c){1,40}[a-z]{3,90}$"}"#;

    let refused = specs.compile(&spoke("a"), &key("a"), spec("text.large", large)).await;

    assert!(matches!(refused, Err(Error::SpokeBudget { .. })), "{refused:?}");
    assert_eq!(specs.metrics.specs.bytes.get(), 0);
}

#[tokio::test]
async fn patterns_count_with_what_they_may_take() {
    let specs = Specs::new(
        metrics(),
        Budget {
            hub: 1 << 30,
            spoke: 1 << 30,
        },
    );
    let schema = r#"{"type":"string","pattern":"^(a|b){500}c[0-9a-f]{200}$"}"#;

    let plain = specs.compile(&spoke("a"), &key("a"), text(0)).await.expect("fits");
    let pattern = specs
        .compile(&spoke("a"), &key("a"), spec("text.hard", schema))
        .await
        .expect("fits");

    assert!(
        pattern.bytes > plain.bytes + 100_000,
        "{} {}",
        pattern.bytes,
        plain.bytes
    );
}

/// 150 patterns, each its own: more than is light.
fn heavy(i: usize) -> OperationSpec {
    let properties: serde_json::Map<_, _> = (0..150)
        .map(|p| {
            (
                format!("p{p}"),
                serde_json::json!({"pattern": format!("^[a-z]{{1,63}}{i}x{p}$")}),
            )
        })
        .collect();
    let schema = serde_json::json!({"properties": properties}).to_string();
    spec(&format!("heavy.op{i}"), &schema)
}

fn hub_and_spoke(hub: usize, spoke: usize) -> Specs {
    Specs::new(metrics(), Budget { hub, spoke })
}

#[tokio::test]
async fn what_was_refused_is_refused_again_without_a_turn() {
    let specs = hub_and_spoke(1 << 30, 1 << 20);
    let wrong = || spec("text.wrong", r#"{"type":3}"#);
    let first = [
        specs.compile(&spoke("a"), &key("a"), heavy(1)).await,
        specs.compile(&spoke("a"), &key("a"), wrong()).await,
    ];
    let _taken = (
        specs.light.turn(&key("other")).await,
        specs.heavy.turn(&key("other")).await,
    );

    let again = [
        specs
            .compile(&spoke("a"), &key("a"), heavy(1))
            .now_or_never()
            .expect("at once"),
        specs
            .compile(&spoke("a"), &key("a"), wrong())
            .now_or_never()
            .expect("at once"),
    ];

    assert!(matches!(again[0], Err(Error::SpokeBudget { .. })), "{again:?}");
    assert!(matches!(again[1], Err(Error::Known(_))), "{again:?}");
    let text = |refused: &Result<Arc<Operation>, Error>| refused.as_ref().expect_err("refused").to_string();
    assert_eq!(first.each_ref().map(text), again.each_ref().map(text));
}

#[tokio::test]
async fn what_is_light_does_not_wait_for_what_is_heavy() {
    let specs = hub_and_spoke(1 << 30, 1 << 30);
    let taken = specs.heavy.turn(&key("greedy")).await;
    let (a, b, key_a, key_b) = (spoke("a"), spoke("b"), key("a"), key("b"));
    let mut waits = Box::pin(specs.compile(&b, &key_b, heavy(1)));

    let light = specs.compile(&a, &key_a, text(0));
    let light = tokio::select! {
        light = light => light,
        _ = &mut waits => panic!("the turn is taken"),
    };

    assert!(light.is_ok());
    drop(taken);
    assert!(waits.await.is_ok());
}
