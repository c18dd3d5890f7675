//! Managed servers: they come up, keep their image, and go without taking data along.

use alkhub_crds::{Hub, condition};
use k8s_openapi::api::apps::v1::{Deployment, StatefulSet};
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Secret, Service};
use kube::ResourceExt as _;
use serde_json::json;

use crate::fake::{Fake, image};
use crate::harness::{World, world};

fn runs(set: &StatefulSet) -> Option<&str> {
    let pod = set.spec.as_ref()?.template.spec.as_ref()?;
    pod.containers.first()?.image.as_deref()
}

async fn up(world: &World) {
    for name in ["demo-redis", "demo-postgres"] {
        let ready = |set: &StatefulSet| set.status.as_ref().and_then(|status| status.ready_replicas) == Some(1);
        world.until::<StatefulSet>(name, "ready", ready).await;
    }
    world.hub_says("demo", condition::READY, "True", "Serving").await;
    let kept = |hub: &Hub| {
        let images = |status: &alkhub_crds::HubStatus| status.redis_image.is_some() && status.postgres_image.is_some();
        hub.status.as_ref().is_some_and(images)
    };
    world
        .until::<Hub>("demo", "the images that worked are kept", kept)
        .await;
}

#[tokio::test]
#[ignore = "needs a cluster: make harness"]
async fn a_managed_server_goes_when_pods_are_ready_without_it_and_its_volume_with_the_hub() {
    let world = world("managed").await;
    image();
    let address = Fake::default().serve().await;
    let operator = world.operator(&address, &["--lease-duration", "10s"]).await;
    let redis = json!({"managed": true, "storage": {"ephemeral": true}});
    world
        .hub(
            "demo",
            json!({"replicas": 1, "redis": redis, "postgres": {"managed": true}}),
        )
        .await;
    up(&world).await;
    world.hub_says("demo", condition::DEGRADED, "False", "Healthy").await;
    operator.reconciles(3.0).await;
    let writes = operator.metric("alkhub_operator_api_writes_total").await;
    operator.reconciles(5.0).await;
    assert_eq!(
        operator.metric("alkhub_operator_api_writes_total").await,
        writes,
        "a steady state has no writes"
    );
    let volume = world
        .api::<PersistentVolumeClaim>()
        .get("data-demo-postgres-0")
        .await
        .expect("a volume");
    let password = world.api::<Secret>().get("demo-postgres").await.expect("a password");

    // An upgrade of the operator changes nothing under data that exist.
    drop(operator);
    let newer = [
        "--postgres-image",
        "postgres:99",
        "--redis-image",
        "redis:99",
        "--lease-duration",
        "10s",
    ];
    let operator = world.operator(&address, &newer).await;
    operator.reconciles(3.0).await;
    for name in ["demo-redis", "demo-postgres"] {
        let set = world.api::<StatefulSet>().get(name).await.expect("a set");
        assert!(!runs(&set).unwrap_or_default().ends_with(":99"), "{set:?}");
    }

    // Servers of the user's own, at first with pods that never come up: nothing goes.
    world.servers().await;
    let given = |name: &str| json!({"managed": null, "storage": null, "secretRef": {"name": name}});
    world
        .patch::<Hub>(
            "demo",
            json!({"spec": {"image": "alkhub/nowhere:bad", "redis": given("redis"), "postgres": given("postgres")}}),
        )
        .await;
    let asked = |d: &Deployment| d.status.as_ref().and_then(|s| s.unavailable_replicas) == Some(1);
    world
        .until::<Deployment>("demo", "a pod that does not come up", asked)
        .await;
    operator.reconciles(3.0).await;
    for name in ["demo-redis", "demo-postgres"] {
        world
            .until::<StatefulSet>(name, "still there", |set| set.metadata.deletion_timestamp.is_none())
            .await;
        world.until::<Service>(name, "still there", |_| true).await;
    }

    // Then they do, and both go: that which had only its pod with its password, the other without its volume.
    world.patch::<Hub>("demo", json!({"spec": {"image": null}})).await;
    for name in ["demo-redis", "demo-postgres"] {
        world.gone::<StatefulSet>(name).await;
        world.gone::<Service>(name).await;
    }
    world.gone::<Secret>("demo-redis").await;
    back_and_gone(&world, &volume, &password).await;
    drop(operator);
    world.end().await;
}

/// A server that is managed again finds its volume and its password; both go with the Hub.
async fn back_and_gone(world: &World, volume: &PersistentVolumeClaim, password: &Secret) {
    let managed = json!({"managed": true, "secretRef": null});
    world.patch::<Hub>("demo", json!({"spec": {"postgres": managed}})).await;
    let ready = |set: &StatefulSet| set.status.as_ref().and_then(|status| status.ready_replicas) == Some(1);
    world.until::<StatefulSet>("demo-postgres", "ready again", ready).await;
    let found = world
        .api::<PersistentVolumeClaim>()
        .get("data-demo-postgres-0")
        .await
        .expect("a volume");
    let secret = world.api::<Secret>().get("demo-postgres").await.expect("a password");
    assert_eq!((found.uid(), secret.data), (volume.uid(), password.data.clone()));

    world.delete::<Hub>("demo").await;
    world.gone::<StatefulSet>("demo-postgres").await;
    world.gone::<PersistentVolumeClaim>("data-demo-postgres-0").await;
    world.gone::<Secret>("demo-postgres").await;
}
