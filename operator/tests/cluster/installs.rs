//! Two installs of the operator that watch one namespace.

use alkhub_crds::{Hub, condition};
use k8s_openapi::api::apps::v1::ReplicaSet;
use serde_json::json;

use crate::fake::Fake;
use crate::harness::world;

#[tokio::test]
#[ignore = "needs a cluster: make harness"]
async fn of_two_installs_one_keeps_a_hub_until_it_is_handed_over_or_ends() {
    let world = world("installs").await;
    let fake = Fake::default();
    let address = fake.serve().await;
    let install = async |lease: &str| {
        // A different flag, so that they want different things.
        let redis = format!("redis:{lease}");
        let more = [
            "--lease-name",
            lease,
            "--redis-image",
            &redis,
            "--lease-duration",
            "10s",
        ];
        let operator = world.operator(&address, &more).await;
        operator.leads().await;
        operator
    };
    let kept_by = |lease: &str| {
        let install = format!("{}/{lease}", world.namespace);
        move |hub: &Hub| hub.status.as_ref().and_then(|status| status.operator.as_ref()) == Some(&install)
    };
    let writes = "alkhub_operator_api_writes_total";

    let first = install("alkhub-operator").await;
    world.demo().await;
    world.spoke("builder", json!({"hubRef": {"name": "demo"}})).await;
    world
        .until::<Hub>("demo", "the first keeps it", kept_by("alkhub-operator"))
        .await;
    world.hub_says("demo", condition::READY, "True", "Serving").await;
    world.hub_says("demo", condition::DEGRADED, "False", "Healthy").await;
    let second = install("second").await;
    world.patch::<Hub>("demo", json!({"spec": {"replicas": 2}})).await;
    let two = |set: &ReplicaSet| set.status.as_ref().and_then(|status| status.ready_replicas) == Some(2);
    world.until_set("two pods", two).await;
    second.reconciles(2.0).await;
    assert!(
        second.metric(writes).await < 1.0,
        "it writes nothing of what another keeps"
    );

    let handed = json!({"status": {"operator": format!("{}/second", world.namespace)}});
    let api = world.api::<Hub>();
    let merge = kube::api::Patch::Merge(handed);
    api.patch_status("demo", &kube::api::PatchParams::default(), &merge)
        .await
        .expect("handed over");
    world.patch::<Hub>("demo", json!({"spec": {"replicas": 1}})).await;
    let one = |set: &ReplicaSet| set.status.as_ref().map(|status| status.replicas) == Some(1);
    world.until_set("one pod", one).await;
    assert!(second.metric(writes).await > 0.0);

    drop(second);
    world
        .until::<Hub>("demo", "the first takes it back", kept_by("alkhub-operator"))
        .await;
    drop(first);
    world.end().await;
}
