//! Hubs: their objects, changes, drift, refusals, and their end.

use alkhub_crds::{Hub, condition};
use k8s_openapi::api::apps::v1::ReplicaSet;
use k8s_openapi::api::autoscaling::v1::Scale;
use k8s_openapi::api::core::v1::{ConfigMap, Secret, Service, ServiceAccount};
use k8s_openapi::api::events::v1::Event;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use kube::ResourceExt as _;
use kube::api::{ListParams, Patch, PatchParams, PostParams};
use serde_json::{Value, json};

use crate::fake::{Fake, image};
use crate::harness::{Operator, World, eventually, world};

fn given(replicas: i32) -> Value {
    json!({"replicas": replicas, "redis": {"secretRef": {"name": "redis"}}, "postgres": {"secretRef": {"name": "postgres"}}})
}

fn replicas(set: &ReplicaSet) -> Option<i32> {
    set.spec.as_ref()?.replicas
}

#[tokio::test]
#[ignore = "needs a cluster: make harness"]
async fn a_hub_gets_its_objects_follows_its_spec_and_is_then_left_alone() {
    let world = world("hub").await;
    image();
    let fake = Fake::default();
    let operator = world.operator(&fake.serve().await, &[]).await;

    world.hub("demo", given(2)).await;
    let refused = world
        .hub_says("demo", condition::ACCEPTED, "False", "SecretNotFound")
        .await;
    assert!(
        refused
            .status
            .expect("a status")
            .conditions
            .iter()
            .any(|c| c.message.contains("`redis`"))
    );
    world.servers().await;

    let hub = world.hub_says("demo", condition::READY, "True", "Serving").await;
    world.hub_says("demo", condition::DEGRADED, "False", "Healthy").await;
    let status = hub.status.clone().expect("a status");
    assert_eq!(
        (status.replicas, status.ready_replicas, status.pods.as_deref()),
        (2, 2, Some("2/2"))
    );
    assert_eq!(status.observed_generation, hub.metadata.generation);
    for name in ["demo", "demo-pods"] {
        world.until::<Service>(name, "a Service", |_| true).await;
    }
    world
        .until::<ServiceAccount>("demo", "no token", |a| a.automount_service_account_token == Some(false))
        .await;
    let counts = |budget: &PodDisruptionBudget| {
        let status = budget.status.as_ref();
        status.is_some_and(|status| (status.expected_pods, status.disruptions_allowed) == (2, 1))
    };
    world
        .until::<PodDisruptionBudget>("demo", "a budget that counts both pods", counts)
        .await;
    let auth = world
        .api::<Secret>()
        .get("demo-auth")
        .await
        .expect("a Secret")
        .data
        .expect("data");
    assert_eq!(
        fake.keys(),
        [String::from_utf8(auth["admin-key"].0.clone()).expect("text")]
    );

    scaled_and_changed(&world).await;
    left_alone(&world, &operator).await;

    println!("{}", operator.memory());
    let events = world.api::<Event>().list(&ListParams::default()).await.expect("events");
    assert!(
        events
            .iter()
            .any(|event| event.reason.as_deref() == Some("SecretNotFound")),
        "{events:?}"
    );

    world.delete::<Hub>("demo").await;
    eventually("no ReplicaSet is left", || async {
        let left = world.sets().await?;
        left.is_empty().then_some(()).ok_or_else(|| format!("{left:?}"))
    })
    .await;
    world.gone::<Service>("demo-pods").await;
    world
        .until::<Secret>("demo-auth", "its keys outlive it", |_| true)
        .await;
    world.end().await;
}

async fn scaled_and_changed(world: &World) {
    // Scaling goes through the scale subresource, and the selector finds the pods that are to stay.
    let scale = world
        .api::<Hub>()
        .patch_scale(
            "demo",
            &PatchParams::default(),
            &Patch::Merge(json!({"spec": {"replicas": 1}})),
        )
        .await;
    let scale: Scale = scale.expect("scaled");
    let selector = scale.status.expect("a status").selector.expect("a selector");
    assert!(selector.contains("alkhub.dev/serving=true"), "{selector}");
    let pods = world
        .api::<k8s_openapi::api::core::v1::Pod>()
        .list(&ListParams::default().labels(&selector))
        .await;
    assert!(!pods.expect("pods").items.is_empty());
    world.until_set("one replica", |set| replicas(set) == Some(1)).await;
    world.gone::<PodDisruptionBudget>("demo").await;

    // A change of the settings changes the file and rolls the pods.
    let before = world.another_revision(None).await;
    world
        .patch::<Hub>(
            "demo",
            json!({"spec": {"config": {"calls": {"default-timeout": "7s"}}}}),
        )
        .await;
    let now = world.another_revision(Some(&before)).await;
    world.hub_says("demo", condition::PROGRESSING, "False", "Stable").await;
    let config = config(world, &now).await;
    assert!(config.data.expect("settings")["hub.toml"].contains("7s"));
}

/// The settings of a revision.
async fn config(world: &World, revision: &str) -> ConfigMap {
    world
        .until::<ConfigMap>(&format!("demo-config-{revision}"), "its settings", |_| true)
        .await
}

async fn left_alone(world: &World, operator: &Operator) {
    // Nothing is written while nothing changes, though the operator goes on looking.
    operator.reconciles(3.0).await;
    let writes = operator.metric("alkhub_operator_api_writes_total").await;
    let polls = operator.metric("alkhub_operator_hub_polls_total").await;
    operator.reconciles(8.0).await;
    assert!(operator.metric("alkhub_operator_hub_polls_total").await > polls);
    assert_eq!(
        operator.metric("alkhub_operator_api_writes_total").await,
        writes,
        "a steady state has no writes"
    );

    // What somebody else changed is corrected, field by field; what they added stays.
    let set = world.until_set("the one that runs", |_| true).await.name_any();
    world
        .patch::<ReplicaSet>(
            &set,
            json!({"metadata": {"labels": {"theirs": "yes"}}, "spec": {"replicas": 3}}),
        )
        .await;
    let mended = world
        .until::<ReplicaSet>(&set, "one replica again", |set| replicas(set) == Some(1))
        .await;
    assert_eq!(mended.labels()["theirs"], "yes");
    let name = config(world, &world.another_revision(None).await).await.name_any();
    world.delete::<ConfigMap>(&name).await;
    world
        .until::<ConfigMap>(&name, "it is there again", |c| c.metadata.deletion_timestamp.is_none())
        .await;
}

#[tokio::test]
#[ignore = "needs a cluster: make harness"]
async fn an_unknown_setting_becomes_a_condition_and_a_correction_mends_it() {
    let world = world("setting").await;
    let operator = world.operator("http://127.0.0.1:9", &[]).await;
    world.servers().await;
    let mut spec = given(1);
    spec["config"] = json!({"calls": {"no-such-setting": 1}});

    world.hub("demo", spec).await;
    let hub = world
        .hub_says("demo", condition::ACCEPTED, "False", "InvalidSetting")
        .await;

    let conditions = hub.status.expect("a status").conditions;
    let accepted = condition::find(&conditions, condition::ACCEPTED).expect("there");
    assert!(accepted.message.contains("no-such-setting"), "{}", accepted.message);
    assert!(world.sets().await.expect("an answer").is_empty());
    world.patch::<Hub>("demo", json!({"spec": {"config": null}})).await;
    world.hub_says("demo", condition::ACCEPTED, "True", "Valid").await;
    drop(operator);
    world.end().await;
}

#[tokio::test]
#[ignore = "needs a cluster: make harness"]
async fn the_younger_of_two_hubs_with_one_redis_and_prefix_is_refused() {
    let world = world("prefix").await;
    let operator = world.operator("http://127.0.0.1:9", &[]).await;
    world.servers().await;
    // Another name of the same server.
    world
        .secret(
            "same",
            "url",
            &format!("rediss://:pw@cache.{}.svc.cluster.local:6379/4", world.namespace),
        )
        .await;
    let with = |secret: &str, prefix: &str| json!({"redis": {"secretRef": {"name": secret}}, "postgres": {"secretRef": {"name": "postgres"}}, "channelPrefix": prefix});

    let older = world.hub("zeta", with("redis", "shared:")).await;
    world
        .hub_says("zeta", condition::PREFIX_CONFLICT, "False", "Unique")
        .await;
    // Ages have a resolution of a second; within one, the uid decides.
    eventually("another second", || async {
        let now = k8s_openapi::jiff::Timestamp::now().as_second();
        let made = older.creation_timestamp().map_or(now, |at| at.0.as_second());
        if now > made {
            Ok(())
        } else {
            Err("the same second".to_owned())
        }
    })
    .await;
    world.hub("alpha", with("same", "shared:part:")).await;
    let refused = world
        .hub_says("alpha", condition::PREFIX_CONFLICT, "True", "PrefixInUse")
        .await;

    let conditions = refused.status.expect("a status").conditions;
    assert!(condition::find(&conditions, condition::PREFIX_CONFLICT).is_some_and(|c| c.message.contains("zeta")));
    let sets = world
        .api::<ReplicaSet>()
        .list(&ListParams::default())
        .await
        .expect("an answer");
    assert!(sets.iter().all(|set| !set.name_any().starts_with("alpha")), "{sets:?}");
    world
        .hub_says("zeta", condition::PREFIX_CONFLICT, "False", "Unique")
        .await;
    world
        .patch::<Hub>("alpha", json!({"spec": {"channelPrefix": "own:"}}))
        .await;
    world
        .hub_says("alpha", condition::PREFIX_CONFLICT, "False", "Unique")
        .await;
    drop(operator);
    world.end().await;
}

#[tokio::test]
#[ignore = "needs a cluster: make harness"]
async fn an_object_of_somebody_elses_is_never_taken_over() {
    let world = world("taken").await;
    let operator = world.operator("http://127.0.0.1:9", &[]).await;
    world.servers().await;
    let theirs: Service =
        serde_json::from_value(json!({"metadata": {"name": "demo"}, "spec": {"ports": [{"port": 80}]}}))
            .expect("a Service");
    world
        .api::<Service>()
        .create(&PostParams::default(), &theirs)
        .await
        .expect("a Service");

    world.hub("demo", given(1)).await;
    let hub = world.hub_says("demo", condition::DEGRADED, "True", "ApplyFailed").await;

    let conditions = hub.status.expect("a status").conditions;
    assert!(condition::find(&conditions, condition::DEGRADED).is_some_and(|c| c.message.contains("Service `demo`")));
    let theirs = world.api::<Service>().get("demo").await.expect("still there");
    assert!(theirs.metadata.owner_references.is_none());
    world.delete::<Service>("demo").await;
    let ours = |service: &Service| {
        service
            .metadata
            .owner_references
            .iter()
            .flatten()
            .any(|owner| owner.kind == "Hub")
    };
    world.until::<Service>("demo", "it is the Hub's", ours).await;
    let well = |hub: &Hub| {
        let conditions = hub
            .status
            .as_ref()
            .map(|status| status.conditions.as_slice())
            .unwrap_or_default();
        !condition::is_true(conditions, condition::DEGRADED)
    };
    world.until::<Hub>("demo", "it is no longer degraded", well).await;
    drop(operator);
    world.end().await;
}
