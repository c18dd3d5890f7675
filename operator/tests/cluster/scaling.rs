//! The operator scales a Hub by its load, but leaves it alone while it does not know the load or somebody else scales
//! it.

use alkhub_crds::{Hub, condition};
use k8s_openapi::api::autoscaling::v2::HorizontalPodAutoscaler;
use kube::ResourceExt;
use kube::api::PostParams;
use serde_json::{Value, json};

use crate::fake::Fake;
use crate::harness::{Operator, World, world};

async fn scaled(namespace: &str, autoscaling: Value) -> (World, String, Fake, Operator) {
    let world = world(namespace).await;
    let fake = Fake::default();
    let address = fake.serve().await;
    let operator = world.operator(&address, &["--lease-duration", "10s"]).await;
    world.demo().await;
    world.hub_says("demo", condition::PROGRESSING, "False", "Stable").await;
    world
        .patch::<Hub>("demo", json!({"spec": {"autoscaling": autoscaling}}))
        .await;
    world
        .hub_says("demo", condition::AUTOSCALING_CONFLICT, "False", "Alone")
        .await;
    (world, address, fake, operator)
}

/// Waits until the Hub asks for this many pods, has them, and knows their load.
async fn has(world: &World, pods: i32) {
    let shown = format!("{pods}/{pods}");
    let is = |hub: &Hub| {
        let status = hub.status.clone().unwrap_or_default();
        let says = |kind: &str, reason: &str| {
            condition::find(&status.conditions, kind).is_some_and(|condition| condition.reason == reason)
        };
        hub.spec.replicas == pods
            && status.pods.as_deref() == Some(&*shown)
            && status.observed_generation == hub.metadata.generation
            && says(condition::PROGRESSING, "Stable")
            && status.balance.is_some()
    };
    world.until::<Hub>("demo", &shown, is).await;
}

async fn names(world: &World) -> Vec<String> {
    world
        .pods()
        .await
        .expect("pods")
        .iter()
        .map(ResourceExt::name_any)
        .collect()
}

async fn replicas(world: &World) -> i32 {
    world.api::<Hub>().get("demo").await.expect("a Hub").spec.replicas
}

#[tokio::test]
#[ignore = "needs a cluster: make harness"]
async fn a_hub_follows_its_connections_and_no_decision_is_made_while_a_pod_is_not_known() {
    let down = json!({"scaleDown": {"stabilizationWindowSeconds": 3}});
    let spec = json!({"min": 1, "max": 3, "connectionsPerPod": 10, "behaviour": down});
    let (world, address, fake, operator) = scaled("scaled", spec).await;
    let first = names(&world).await.remove(0);

    fake.pod(&first, 25);
    has(&world, 3).await;

    // Fewer would do, as far as anybody can tell: the load of one pod is unknown.
    let hidden = names(&world)
        .await
        .into_iter()
        .find(|pod| *pod != first)
        .expect("another one");
    fake.hide(&hidden);
    world
        .hub_says("demo", condition::BALANCED, "Unknown", "FiguresMissing")
        .await;
    fake.pod(&first, 5);
    operator.reconciles(8.0).await;
    assert_eq!(replicas(&world).await, 3);
    fake.away(true);
    world
        .hub_says("demo", condition::BALANCED, "Unknown", "HubUnreachable")
        .await;
    operator.reconciles(8.0).await;
    assert_eq!(replicas(&world).await, 3);

    // Another leader goes on from what the status says.
    drop(operator);
    fake.away(false);
    fake.show(&hidden);
    let operator = world.operator(&address, &["--lease-duration", "10s"]).await;
    has(&world, 1).await;
    world.was_ready_all_the_time().await;
    drop(operator);
    world.end().await;
}

#[tokio::test]
#[ignore = "needs a cluster: make harness"]
async fn another_autoscaler_is_told_and_not_fought_with() {
    let spec = json!({"min": 1, "max": 3, "inFlightPerPod": 5, "connectionsPerPod": 10});
    let (world, _address, fake, operator) = scaled("contested", spec).await;
    let target = json!({"apiVersion": "alkhub.dev/v1alpha1", "kind": "Hub", "name": "demo"});
    let other =
        json!({"metadata": {"name": "theirs"}, "spec": {"minReplicas": 1, "maxReplicas": 2, "scaleTargetRef": target}});
    let other: HorizontalPodAutoscaler = serde_json::from_value(other).expect("an autoscaler");
    world
        .api::<HorizontalPodAutoscaler>()
        .create(&PostParams::default(), &other)
        .await
        .expect("created");

    let told = world
        .hub_says(
            "demo",
            condition::AUTOSCALING_CONFLICT,
            "True",
            "HorizontalPodAutoscaler",
        )
        .await;
    let conditions = told.status.unwrap_or_default().conditions;
    let conflict = condition::find(&conditions, condition::AUTOSCALING_CONFLICT).expect("a condition");
    assert!(conflict.message.contains("theirs"), "{}", conflict.message);
    fake.pod(&names(&world).await[0], 25);
    operator.reconciles(5.0).await;
    assert_eq!(replicas(&world).await, 1);

    world.delete::<HorizontalPodAutoscaler>("theirs").await;
    has(&world, 3).await;
    drop(operator);
    world.end().await;
}
