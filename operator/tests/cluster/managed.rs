//! Managed servers: they come up, keep their image, and are removed without taking data along.

use alkhub_crds::{Hub, condition};
use k8s_openapi::api::apps::v1::{ReplicaSet, StatefulSet};
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

    // An upgrade of the operator changes nothing about existing data.
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

    // Servers of the user's own, at first with pods that never come up: nothing is removed.
    world.servers().await;
    let given = |name: &str| json!({"managed": null, "storage": null, "secretRef": {"name": name}});
    world
        .patch::<Hub>(
            "demo",
            json!({"spec": {"image": "alkhub/nowhere:bad", "redis": given("redis"), "postgres": given("postgres")}}),
        )
        .await;
    let asked = |set: &ReplicaSet| {
        let status = set.status.as_ref();
        status.is_some_and(|status| status.replicas == 1 && status.ready_replicas.unwrap_or_default() == 0)
    };
    world.until_set("a pod that does not come up", asked).await;
    operator.reconciles(3.0).await;
    for name in ["demo-redis", "demo-postgres"] {
        world
            .until::<StatefulSet>(name, "still there", |set| set.metadata.deletion_timestamp.is_none())
            .await;
        world.until::<Service>(name, "still there", |_| true).await;
    }

    // Then they do come up, and both managed servers are removed: the one whose data were only in its pod, together
    // with its password; the other, without its volume.
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

fn data(secret: &Secret, key: &str) -> String {
    crate::real::text(secret, key)
}

fn password_of(set: &StatefulSet) -> Option<String> {
    let meta = set.spec.as_ref()?.template.metadata.as_ref()?;
    meta.annotations.as_ref()?.get("alkhub.dev/password").cloned()
}

/// A Secret is deleted: Redis takes a new password, the data of Postgres do not.
#[tokio::test]
#[ignore = "needs a cluster: make harness"]
async fn a_lost_password_restarts_a_managed_redis_and_is_asked_for_where_postgres_has_data() {
    let world = world("passwords").await;
    image();
    let operator = world.operator(&Fake::default().serve().await, &[]).await;
    let managed = json!({"managed": true, "storage": {"ephemeral": true}});
    world
        .hub("demo", json!({"replicas": 1, "redis": managed, "postgres": managed}))
        .await;
    up(&world).await;
    let set = world.api::<StatefulSet>().get("demo-redis").await.expect("a set");
    let secret = world.api::<Secret>().get("demo-redis").await.expect("a password");

    world.delete::<Secret>("demo-redis").await;
    let anew = |now: &Secret| now.uid() != secret.uid();
    world.until::<Secret>("demo-redis", "a new password", anew).await;
    let restarted = |now: &StatefulSet| password_of(now).is_some_and(|now| Some(now) != password_of(&set));
    world
        .until::<StatefulSet>("demo-redis", "it is restarted with it", restarted)
        .await;
    up(&world).await;

    let lost = world.api::<Secret>().get("demo-postgres").await.expect("a password");
    world.delete::<Secret>("demo-postgres").await;
    let hub = world.hub_says("demo", condition::DEGRADED, "True", "ApplyFailed").await;
    let conditions = hub.status.expect("a status").conditions;
    let degraded = condition::find(&conditions, condition::DEGRADED).expect("there");
    assert!(degraded.message.contains("ALTER USER alkhub"), "{}", degraded.message);
    operator.reconciles(3.0).await;
    world.gone::<Secret>("demo-postgres").await;

    // By hand, as the condition says: nothing owns it, and it has no label.
    let by_hand = json!({
        "metadata": {"name": "demo-postgres"},
        "stringData": {"password": data(&lost, "password"), "url": data(&lost, "url")},
    });
    let by_hand: Secret = serde_json::from_value(by_hand).expect("a Secret");
    world
        .api::<Secret>()
        .create(&kube::api::PostParams::default(), &by_hand)
        .await
        .expect("a Secret");
    up(&world).await;
    world.hub_says("demo", condition::DEGRADED, "False", "Healthy").await;
    let adopted = |now: &Secret| {
        now.metadata
            .owner_references
            .iter()
            .flatten()
            .any(|owner| owner.kind == "Hub")
    };
    world.until::<Secret>("demo-postgres", "it is adopted", adopted).await;
    drop(operator);
    world.end().await;
}

/// Asks for another size at a moment when the server is no longer managed, but still exists.
#[tokio::test]
#[ignore = "needs a cluster: make harness"]
async fn another_volume_before_the_old_server_is_gone_is_told_with_the_way_out() {
    let world = world("volumes").await;
    let operator = world.operator("http://127.0.0.1:9", &[]).await;
    world.servers().await;
    let sized = |size: &str| json!({"managed": true, "secretRef": null, "storage": {"size": size}});
    let postgres = json!({"secretRef": {"name": "postgres"}});
    let spec = json!({"replicas": 1, "image": "alkhub/nowhere:bad", "redis": {"managed": true, "storage": {"size": "1Gi"}}, "postgres": postgres});
    world.hub("demo", spec).await;
    world.until::<StatefulSet>("demo-redis", "it is made", |_| true).await;

    let given = json!({"managed": null, "storage": null, "secretRef": {"name": "redis"}});
    world.patch::<Hub>("demo", json!({"spec": {"redis": given}})).await;
    world
        .patch::<Hub>("demo", json!({"spec": {"redis": sized("2Gi")}}))
        .await;
    let hub = world.hub_says("demo", condition::DEGRADED, "True", "ApplyFailed").await;

    let conditions = hub.status.expect("a status").conditions;
    let degraded = condition::find(&conditions, condition::DEGRADED).expect("there");
    assert!(
        degraded.message.contains("spec.redis.storage") && degraded.message.contains("size: 1Gi"),
        "{}",
        degraded.message
    );
    world.patch::<Hub>("demo", json!({"spec": {"redis": given}})).await;
    world
        .patch::<Hub>("demo", json!({"spec": {"redis": sized("1024Mi")}}))
        .await;
    let applied = |hub: &Hub| {
        let conditions = hub.status.as_ref().map(|status| status.conditions.as_slice());
        let degraded = condition::find(conditions.unwrap_or_default(), condition::DEGRADED);
        degraded.is_some_and(|degraded| degraded.reason != "ApplyFailed")
    };
    world.until::<Hub>("demo", "the same size is applied", applied).await;
    drop(operator);
    world.end().await;
}
