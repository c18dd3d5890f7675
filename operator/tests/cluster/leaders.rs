//! Leader election between processes.

use std::time::Duration;

use alkhub_test_support::until_within;
use k8s_openapi::api::coordination::v1::Lease;
use tokio::time::Instant;

use crate::harness::{Operator, eventually, world};

async fn is_leader(operator: &Operator) -> Result<(), String> {
    match operator.get("/readyz").await? {
        (200, text) if text.starts_with("leader") => Ok(()),
        other => Err(format!("{other:?}")),
    }
}

#[tokio::test]
#[ignore = "needs a cluster: make harness"]
async fn a_leader_that_ends_hands_over_at_once() {
    let world = world("leader").await;
    let mut first = world.operator("http://127.0.0.1:9", &["--identity", "first"]).await;
    first.leads().await;
    let second = world.operator("http://127.0.0.1:9", &["--identity", "second"]).await;
    eventually("the second stands by", || async {
        match second.get("/readyz").await? {
            (200, text) if text.starts_with("standby") => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await;

    let begun = Instant::now();
    first.signal("-TERM");
    until_within("the second leads", Duration::from_secs(5), || is_leader(&second)).await;
    let taken = begun.elapsed();

    assert!(first.until_ended().await.success());
    println!("handed over in {taken:?}");
    assert!(taken <= Duration::from_secs(1), "handed over in {taken:?}");
    world
        .until::<Lease>("alkhub-operator", "the second holds it", |lease| {
            let holder = lease
                .spec
                .as_ref()
                .and_then(|spec| spec.holder_identity.as_deref())
                .unwrap_or_default();
            holder.starts_with("second-")
        })
        .await;
    world.end().await;
}

#[tokio::test]
#[ignore = "needs a cluster: make harness"]
async fn a_leader_that_was_stopped_finds_the_gate_shut_and_stands_by() {
    let world = world("stopped").await;
    let first = world
        .operator("http://127.0.0.1:9", &["--identity", "first", "--lease-duration", "4s"])
        .await;
    first.leads().await;
    let second = world
        .operator(
            "http://127.0.0.1:9",
            &["--identity", "second", "--lease-duration", "4s"],
        )
        .await;

    first.signal("-STOP");
    until_within("the second leads", Duration::from_secs(30), || is_leader(&second)).await;
    // While the first was away, a Hub came: its old caches know nothing, and it must write nothing.
    world
        .hub(
            "demo",
            serde_json::json!({"redis": {"managed": true}, "postgres": {"managed": true}}),
        )
        .await;
    first.signal("-CONT");
    eventually("the first stands by", || async {
        match first.get("/readyz").await? {
            (200, text) if text.starts_with("standby") => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await;

    assert_eq!(first.metric("alkhub_operator_api_writes_total").await, 0.0);
    is_leader(&second).await.expect("the second still leads");
    world.end().await;
}
