//! What the API server refuses by itself, with a message that names the field.

use alkhub_crds::{Hub, Spoke};
use serde_json::{Value, json};

use crate::harness::{World, world};

fn hub(change: &Value) -> Value {
    let mut spec = json!({"redis": {"managed": true}, "postgres": {"managed": true}});
    for (key, value) in change.as_object().into_iter().flatten() {
        spec[key] = value.clone();
    }
    spec
}

fn spoke(change: &Value) -> Value {
    let mut spec = json!({"hubRef": {"name": "demo"}});
    for (key, value) in change.as_object().into_iter().flatten() {
        spec[key] = value.clone();
    }
    spec
}

async fn refused(world: &World, kind: &str, name: &str, spec: Value, words: &[&str]) {
    let error = match kind {
        "Hub" => world.try_create::<Hub>(name, kind, spec.clone()).await.map(drop),
        _ => world.try_create::<Spoke>(name, kind, spec.clone()).await.map(drop),
    };
    match error.expect_err(&format!("{kind} {name} {spec} should be refused")) {
        kube::Error::Api(answer) => {
            assert_eq!(answer.code, 422, "{}", answer.message);
            for word in words {
                assert!(answer.message.contains(word), "`{word}` is not in: {}", answer.message);
            }
        }
        error => panic!("{error}"),
    }
}

#[tokio::test]
#[ignore = "needs a cluster: make harness"]
async fn a_hub_that_breaks_a_rule_is_refused_with_the_field_and_the_reason() {
    let world = world("rules").await;
    let check = async |spec: Value, words: &[&str]| refused(&world, "Hub", "demo", spec, words).await;

    check(json!({}), &["spec.redis", "Required"]).await;
    check(hub(&json!({"replicas": 101})), &["spec.replicas", "100"]).await;
    check(hub(&json!({"replicas": -1})), &["spec.replicas"]).await;
    check(
        hub(&json!({"image": "a", "version": "1"})),
        &["spec.version", "not both"],
    )
    .await;
    check(
        hub(&json!({"redis": {}})),
        &["spec.redis.secretRef", "give secretRef, or managed: true"],
    )
    .await;
    check(
        hub(&json!({"redis": {"managed": true, "secretRef": {"name": "x"}}})),
        &["not both"],
    )
    .await;
    check(
        hub(&json!({"postgres": {"secretRef": {"name": "x"}, "storage": {"size": "1Gi"}}})),
        &["spec.postgres.storage", "managed"],
    )
    .await;
    check(
        hub(&json!({"redis": {"managed": true, "caSecretRef": {"name": "x"}}})),
        &["caSecretRef goes with secretRef"],
    )
    .await;
    check(
        hub(&json!({"redis": {"managed": true, "storage": {"ephemeral": true, "size": "1Gi"}}})),
        &["ephemeral"],
    )
    .await;
    check(hub(&json!({"channelPrefix": "no-colon"})), &["spec.channelPrefix"]).await;
    check(
        hub(&json!({"channelPrefix": "a*:"})),
        &["spec.channelPrefix", "must not hold"],
    )
    .await;
    check(hub(&json!({"config": {"calls": 1}})), &["spec.config.calls"]).await;
    for nested in [json!({"b": 1}), json!([[1]]), json!([{"b": 1}])] {
        check(
            hub(&json!({"config": {"calls": {"a": nested}}})),
            &["spec.config.calls.a"],
        )
        .await;
    }
    let spread = json!([{"maxSkew": 99_999_999_999_i64, "topologyKey": "k", "whenUnsatisfiable": "ScheduleAnyway"}]);
    check(
        hub(&json!({"template": {"topologySpreadConstraints": spread}})),
        &["spec.template.topologySpreadConstraints[0].maxSkew", "2147483647"],
    )
    .await;
    check(hub(&json!({"service": {"type": "Magic"}})), &["spec.service.type"]).await;
    for amount in ["lots", "-1Gi", "1 Gi"] {
        check(
            hub(&json!({"template": {"resources": {"requests": {"memory": amount}}}})),
            &["spec.template.resources.requests.memory", "should match"],
        )
        .await;
    }
    refused(
        &world,
        "Hub",
        "1demo",
        hub(&json!({})),
        &["metadata.name", "begins with a letter"],
    )
    .await;
    refused(&world, "Hub", &"d".repeat(41), hub(&json!({})), &["1 to 40"]).await;
    world.end().await;
}

#[tokio::test]
#[ignore = "needs a cluster: make harness"]
async fn an_autoscaler_without_a_target_or_with_crossed_bounds_is_refused() {
    let world = world("rules").await;
    let check = async |spec: Value, words: &[&str]| refused(&world, "Hub", "demo", spec, words).await;

    for (autoscaling, words) in [
        (
            json!({"min": 3, "max": 2, "connectionsPerPod": 9}),
            ["spec.autoscaling.min", "not be more than max"],
        ),
        (
            json!({"min": 1, "max": 2}),
            ["spec.autoscaling.connectionsPerPod", "or both"],
        ),
        (
            json!({"min": 0, "max": 2, "inFlightPerPod": 9}),
            ["spec.autoscaling.min", "greater than or equal to 1"],
        ),
        (
            json!({"max": 2, "inFlightPerPod": 9}),
            ["spec.autoscaling.min", "Required"],
        ),
        (
            json!({"min": 1, "max": 2, "inFlightPerPod": 0}),
            ["spec.autoscaling.inFlightPerPod", "1"],
        ),
    ] {
        check(hub(&json!({"autoscaling": autoscaling})), &words).await;
    }
    let window = json!({"scaleDown": {"stabilizationWindowSeconds": 3601}});
    check(
        hub(&json!({"autoscaling": {"min": 1, "max": 2, "inFlightPerPod": 9, "behaviour": window}})),
        &[
            "spec.autoscaling.behaviour.scaleDown.stabilizationWindowSeconds",
            "3600",
        ],
    )
    .await;
    let grace = json!({"terminationGracePeriodSeconds": 0});
    check(
        hub(&json!({"template": grace})),
        &[
            "spec.template.terminationGracePeriodSeconds",
            "greater than or equal to 1",
        ],
    )
    .await;
    world.end().await;
}

#[tokio::test]
#[ignore = "needs a cluster: make harness"]
async fn a_spoke_that_breaks_a_rule_is_refused_with_the_field_and_the_reason() {
    let world = world("rules").await;
    let check = async |spec: Value, words: &[&str]| refused(&world, "Spoke", "builder", spec, words).await;

    check(json!({}), &["spec.hubRef"]).await;
    check(spoke(&json!({"scopes": ["admin"]})), &["spec.scopes", "admin"]).await;
    check(
        spoke(&json!({"operations": ["hub.list"]})),
        &["spec.operations", "reserved"],
    )
    .await;
    check(spoke(&json!({"operations": ["nodot"]})), &["spec.operations"]).await;
    check(spoke(&json!({"concurrency": 0})), &["spec.concurrency"]).await;
    check(spoke(&json!({"spokeType": "thing"})), &["spec.spokeType", "dev-env"]).await;
    refused(&world, "Spoke", "a.b", spoke(&json!({})), &["no dot"]).await;
    world.end().await;
}

#[tokio::test]
#[ignore = "needs a cluster: make harness"]
async fn what_must_not_change_cannot_be_changed() {
    let world = world("rules").await;
    world
        .hub(
            "demo",
            hub(&json!({
                "postgres": {"managed": true, "storage": {"size": "1Gi"}},
                "config": {"server": {"cors-origins": ["https://a.example"]}, "calls": {"default-timeout": "7s"}},
            })),
        )
        .await;
    world.spoke("builder", spoke(&json!({}))).await;
    let patch = async |kind: &str, fields: Value| {
        let merge = kube::api::Patch::Merge(fields);
        let params = kube::api::PatchParams::default();
        match kind {
            "hub" => world.api::<Hub>().patch("demo", &params, &merge).await.map(drop),
            "status" => world.api::<Hub>().patch_status("demo", &params, &merge).await.map(drop),
            _ => world.api::<Spoke>().patch("builder", &params, &merge).await.map(drop),
        }
    };
    let message = |result: kube::Result<()>| result.expect_err("refused").to_string();

    assert!(
        message(patch("spoke", json!({"spec": {"hubRef": {"name": "other"}}})).await)
            .contains("hubRef cannot be changed")
    );
    assert!(
        message(patch("hub", json!({"spec": {"postgres": {"storage": {"size": "2Gi"}}}})).await)
            .contains("cannot be changed")
    );
    assert!(
        message(patch("hub", json!({"spec": {"postgres": {"storage": null}}})).await).contains("cannot be changed")
    );
    patch("hub", json!({"spec": {"channelPrefix": "a:"}}))
        .await
        .expect("nobody is connected");
    patch("status", json!({"status": {"spokes": 1}}))
        .await
        .expect("a status");
    assert!(
        message(patch("hub", json!({"spec": {"channelPrefix": "b:"}})).await).contains("while spokes are connected")
    );
    assert!(
        message(patch("hub", json!({"spec": {"channelPrefix": null}})).await).contains("while spokes are connected")
    );
    patch("hub", json!({"spec": {"replicas": 3}}))
        .await
        .expect("other fields may change");
    world.end().await;
}
