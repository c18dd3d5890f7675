//! Leader election between processes.

use std::time::Duration;

use alkhub_crds::{Hub, condition};
use alkhub_test_support::until_within;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::ListParams;
use serde_json::json;
use tokio::time::Instant;

use crate::fake::{Fake, image};
use crate::harness::{Operator, eventually, world};

/// Writes other than those of the Lease.
const WRITES: &str = "alkhub_operator_api_writes_total";

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
    until_within("the second leads", Duration::from_secs(10), || is_leader(&second)).await;
    let taken = begun.elapsed();

    assert!(first.until_ended().await.success());
    println!("handed over in {taken:?}");
    // At once, not when the Lease of 15 s expires; a loaded machine takes its time.
    assert!(taken <= Duration::from_secs(3), "handed over in {taken:?}");
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
    image();
    let fake = Fake::default();
    let address = fake.serve().await;
    let operator = async |identity| {
        let more = ["--identity", identity, "--lease-duration", "10s"];
        world.operator(&address, &more).await
    };
    let first = operator("first").await;
    first.leads().await;
    world.servers().await;
    let given = |name: &str| json!({"secretRef": {"name": name}});
    let spec = json!({"replicas": 1, "redis": given("redis"), "postgres": given("postgres")});
    world.hub("demo", spec).await;
    world.hub_says("demo", condition::READY, "True", "Serving").await;
    world.hub_says("demo", condition::DEGRADED, "False", "Healthy").await;
    first.reconciles(3.0).await;
    let written = first.metric(WRITES).await;
    assert!(written > 0.0, "it wrote the Hub's objects");
    let second = operator("second").await;

    first.signal("-STOP");
    until_within("the second leads", Duration::from_secs(60), || is_leader(&second)).await;
    // Now there is something to write, and the second operator is suspended too, so that the first one finds it undone.
    // Its Lease is still valid.
    second.signal("-STOP");
    world
        .patch::<Hub>(
            "demo",
            json!({"spec": {"config": {"calls": {"default-timeout": "7s"}}}}),
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

    assert_eq!(first.metric(WRITES).await, written, "no write without the Lease");
    second.signal("-CONT");
    eventually("the second writes it", || async {
        let all = world.api::<ConfigMap>().list(&ListParams::default()).await;
        let all = all.map_err(|error| error.to_string())?;
        let has = |config: &ConfigMap| {
            config
                .data
                .as_ref()
                .is_some_and(|data| data.values().any(|text| text.contains("7s")))
        };
        all.iter().any(has).then_some(()).ok_or_else(|| format!("{all:?}"))
    })
    .await;
    is_leader(&second).await.expect("the second still leads");
    assert_eq!(first.metric(WRITES).await, written, "it stands by");
    world.end().await;
}
