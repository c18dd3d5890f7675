//! What goes wrong around Hubs and Spokes: a refused spec, a foreign finalizer, an API server that fails.

use alkhub_crds::{Hub, Spoke, SpokePhase, condition};
use k8s_openapi::api::admissionregistration::v1::ValidatingWebhookConfiguration;
use k8s_openapi::api::core::v1::Secret;
use kube::ResourceExt as _;
use kube::api::PostParams;
use serde_json::json;

use crate::fake::Fake;
use crate::harness::{Operator, World, eventually, given, phase, world};

/// A namespace with the Hub `demo`, its admin API, and an operator.
async fn running(namespace: &str) -> (World, Fake, Operator) {
    let world = world(namespace).await;
    let fake = Fake::default();
    let operator = world.operator(&fake.serve().await, &[]).await;
    world.demo().await;
    (world, fake, operator)
}

/// The message of a Hub's condition.
fn message(hub: &Hub, kind: &str) -> String {
    let conditions = hub.status.as_ref().map(|status| status.conditions.as_slice());
    condition::find(conditions.unwrap_or_default(), kind)
        .map(|condition| condition.message.clone())
        .unwrap_or_default()
}

/// Registers a webhook that nobody serves for all new ReplicaSets of the namespace; returns its name.
async fn refusing(world: &World) -> String {
    let name = format!("{}.example.org", world.namespace);
    let webhook: ValidatingWebhookConfiguration = serde_json::from_value(json!({
        "metadata": {"name": name},
        "webhooks": [{
            "name": name, "admissionReviewVersions": ["v1"], "sideEffects": "None", "failurePolicy": "Fail",
            "timeoutSeconds": 1, "clientConfig": {"url": "https://127.0.0.1:9/"},
            "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": world.namespace}},
            "rules": [{"apiGroups": ["apps"], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["replicasets"]}],
        }],
    }))
    .expect("a webhook");
    let all = kube::Api::<ValidatingWebhookConfiguration>::all(world.client.clone());
    all.create(&PostParams::default(), &webhook).await.expect("a webhook");
    name
}

async fn suspended(world: &World, fake: &Fake, name: &str) {
    world.patch::<Spoke>(name, json!({"spec": {"suspended": true}})).await;
    phase(world, name, SpokePhase::Suspended).await;
    eventually("the suspension is declared", || async {
        let told = fake.puts().last().is_some_and(|put| put.suspended);
        told.then_some(()).ok_or_else(|| format!("{:?}", fake.puts()))
    })
    .await;
}

#[tokio::test]
#[ignore = "needs a cluster: make harness"]
async fn spokes_of_a_refused_hub_are_looked_at_and_declared_all_the_same() {
    let world = world("frozen").await;
    let fake = Fake::default();
    let address = fake.serve().await;
    let operator = world.operator(&address, &[]).await;
    world.demo().await;
    world.one_and_two(&fake).await;

    let applied = world.hub_says("demo", condition::ACCEPTED, "True", "Valid").await;
    world
        .patch::<Hub>("demo", json!({"spec": {"config": {"calls": {"no-such": "7s"}}}}))
        .await;
    let hub = world
        .hub_says("demo", condition::ACCEPTED, "False", "InvalidSetting")
        .await;
    let generation = applied.metadata.generation.expect("the API server counts");
    let waits = format!("changes since generation {generation} are not applied");
    for kind in [condition::READY, condition::PROGRESSING] {
        assert!(message(&hub, kind).contains(&waits), "{hub:?}");
    }
    fake.connect("one", 0);
    phase(&world, "one", SpokePhase::Disconnected).await;
    suspended(&world, &fake, "one").await;

    // A new operator, for which the Hub was refused from the start.
    drop(operator);
    let operator = world.operator(&address, &["--lease-duration", "3s"]).await;
    operator.leads().await;
    suspended(&world, &fake, "two").await;
    let hub = world.hub_says("demo", condition::DEGRADED, "False", "Healthy").await;
    assert!(message(&hub, condition::ACCEPTED).contains("no-such"), "{hub:?}");
    drop(operator);
    world.end().await;
}

#[tokio::test]
#[ignore = "needs a cluster: make harness"]
async fn spokes_of_a_hub_that_cannot_be_applied_are_looked_at_and_the_api_servers_word_is_shown_once() {
    let (world, fake, operator) = running("unapplied").await;
    world.spoke("one", json!({"hubRef": {"name": "demo"}})).await;
    phase(&world, "one", SpokePhase::Ready).await;

    // 422: no label has such a name.
    world
        .patch::<Hub>("demo", json!({"spec": {"template": {"labels": {"not a label": "x"}}}}))
        .await;
    let hub = world.hub_says("demo", condition::DEGRADED, "True", "ApplyFailed").await;
    let said = message(&hub, condition::DEGRADED);
    assert_eq!(
        said.matches("not a label").count(),
        said.matches("Invalid value").count(),
        "{said}"
    );
    assert!(said.contains("is invalid") && !said.contains("Status {"), "{said}");
    fake.connect("one", 1);
    phase(&world, "one", SpokePhase::Connected).await;

    // 500: somebody's webhook does not answer. It keeps failing, and the condition says so.
    let webhook = refusing(&world).await;
    world
        .patch::<Hub>(
            "demo",
            json!({"spec": {"template": {"labels": null, "annotations": {"a": "b"}}}}),
        )
        .await;
    let says = |hub: &Hub| {
        message(hub, condition::DEGRADED).contains("failed calling webhook")
            && hub.status.as_ref().and_then(|status| status.observed_generation) == hub.metadata.generation
    };
    world.until::<Hub>("demo", "it says what cannot be applied", says).await;
    suspended(&world, &fake, "one").await;
    let all = kube::Api::<ValidatingWebhookConfiguration>::all(world.client.clone());
    all.delete(&webhook, &kube::api::DeleteParams::default())
        .await
        .expect("deleted");
    world.hub_says("demo", condition::PROGRESSING, "False", "Stable").await;
    drop(operator);
    world.end().await;
}

#[tokio::test]
#[ignore = "needs a cluster: make harness"]
async fn a_spoke_whose_finalizer_somebody_else_wrote_goes_and_leaves_their_others_alone() {
    let (world, fake, operator) = running("finalizer").await;
    let restored: Spoke = serde_json::from_value(json!({
        "apiVersion": "alkhub.dev/v1alpha1", "kind": "Spoke", "spec": {"hubRef": {"name": "demo"}},
        "metadata": {"name": "builder", "finalizers": ["alkhub.dev/spoke", "example.org/theirs"]},
    }))
    .expect("a Spoke");
    let params = PostParams {
        field_manager: Some("kubectl-client-side-apply".to_owned()),
        ..PostParams::default()
    };
    let spokes = world.api::<Spoke>();
    spokes.create(&params, &restored).await.expect("a Spoke");
    phase(&world, "builder", SpokePhase::Ready).await;

    world.delete::<Spoke>("builder").await;
    let ours_is_gone = |spoke: &Spoke| spoke.finalizers() == ["example.org/theirs"];
    world
        .until::<Spoke>("builder", "only their finalizer is left", ours_is_gone)
        .await;
    assert_eq!(fake.deletes().len(), 1, "{:?}", fake.deletes());
    world
        .patch::<Spoke>("builder", json!({"metadata": {"finalizers": null}}))
        .await;
    world.gone::<Spoke>("builder").await;
    drop(operator);
    world.end().await;
}

/// The backup of docs/OPERATIONS.md: the Secret's content and labels, and nothing else of the original object.
fn backed_up(secret: Secret) -> Secret {
    let metadata = kube::api::ObjectMeta {
        name: secret.metadata.name,
        labels: secret.metadata.labels,
        ..Default::default()
    };
    Secret { metadata, ..secret }
}

#[tokio::test]
#[ignore = "needs a cluster: make harness"]
async fn a_restored_auth_secret_is_adopted_with_its_hash_key_and_one_without_our_labels_is_not() {
    let (world, _fake, operator) = running("restore").await;
    world.hub_says("demo", condition::READY, "True", "Serving").await;
    let secrets = world.api::<Secret>();
    let backup = backed_up(secrets.get("demo-auth").await.expect("a Secret"));
    world.delete::<Hub>("demo").await;
    world.gone::<Hub>("demo").await;
    // Another cluster does not have it.
    world.delete::<Secret>("demo-auth").await;
    world.gone::<Secret>("demo-auth").await;

    let restored = secrets.create(&PostParams::default(), &backup).await.expect("restored");
    let hub = world.hub("demo", given()).await;
    world.hub_says("demo", condition::DEGRADED, "False", "Healthy").await;

    let adopted = secrets.get("demo-auth").await.expect("a Secret");
    assert_eq!(adopted.uid(), restored.uid());
    assert_eq!(adopted.data, backup.data);
    assert!(adopted.owner_references().is_empty(), "it outlives this Hub, too");
    assert_eq!(adopted.annotations().get("alkhub.dev/hub-uid"), hub.uid().as_ref());

    // A Secret of the user's own that only has the name.
    world.secret("other-auth", "hash-key", "theirs").await;
    world.hub("other", given()).await;
    let refused = world
        .hub_says("other", condition::DEGRADED, "True", "ApplyFailed")
        .await;
    assert!(message(&refused, condition::DEGRADED).contains("Secret `other-auth`"));
    let theirs = secrets.get("other-auth").await.expect("still there");
    assert!(theirs.owner_references().is_empty());

    drop(operator);
    world.end().await;
}

#[tokio::test]
#[ignore = "needs a cluster: make harness"]
async fn a_change_of_the_settings_leaves_a_hub_ready_while_its_pods_are_replaced() {
    let (world, _fake, operator) = running("rolling").await;
    world.hub_says("demo", condition::READY, "True", "Serving").await;
    world.hub_says("demo", condition::PROGRESSING, "False", "Stable").await;

    world
        .patch::<Hub>(
            "demo",
            json!({"spec": {"config": {"calls": {"default-timeout": "7s"}}}}),
        )
        .await;
    world
        .hub_says("demo", condition::PROGRESSING, "True", "RollingOut")
        .await;
    world.hub_says("demo", condition::PROGRESSING, "False", "Stable").await;

    world.was_ready_all_the_time().await;
    drop(operator);
    world.end().await;
}

#[tokio::test]
#[ignore = "needs a cluster: make harness"]
async fn a_spoke_deleted_while_its_hub_is_at_0_says_what_it_waits_for_and_goes_with_the_hub() {
    let (world, fake, operator) = running("stopped").await;
    world.spoke("builder", json!({"hubRef": {"name": "demo"}})).await;
    phase(&world, "builder", SpokePhase::Ready).await;
    world.patch::<Hub>("demo", json!({"spec": {"replicas": 0}})).await;
    world.hub_says("demo", condition::READY, "False", "Stopped").await;
    fake.away(true);

    world.delete::<Spoke>("builder").await;
    world.spoke_tells("builder", "scaled to 0").await;
    world.delete::<Hub>("demo").await;
    world.gone::<Spoke>("builder").await;
    drop(operator);
    world.end().await;
}

#[tokio::test]
#[ignore = "needs a cluster: make harness"]
async fn keys_of_a_hub_that_were_edited_roll_its_pods_and_broken_ones_are_told_and_roll_nothing() {
    let (world, _fake, operator) = running("edited").await;
    world.hub_says("demo", condition::READY, "True", "Serving").await;
    let before = world.another_revision(None).await;
    world
        .patch::<Secret>("demo-auth", json!({"stringData": {"hash-key": "short"}}))
        .await;
    let hub = world.hub_says("demo", condition::DEGRADED, "True", "ApplyFailed").await;
    let said = message(&hub, condition::DEGRADED);
    assert!(
        said.contains("demo-auth") && said.contains("64 hexadecimal digits"),
        "{said}"
    );
    assert_eq!(world.another_revision(None).await, before);

    let other = "0123456789abcdef".repeat(4);
    world
        .patch::<Secret>("demo-auth", json!({"stringData": {"hash-key": other}}))
        .await;
    world.another_revision(Some(&before)).await;
    world.hub_says("demo", condition::DEGRADED, "False", "Healthy").await;
    drop(operator);
    world.end().await;
}

#[tokio::test]
#[ignore = "needs a cluster: make harness"]
async fn a_hub_is_stopped_when_its_pods_are_gone_and_then_nobody_is_connected() {
    let (world, fake, operator) = running("paused").await;
    fake.connect("one", 1);
    let connected = |hub: &Hub| hub.status.as_ref().and_then(|status| status.spokes) == Some(1);
    world.until::<Hub>("demo", "a spoke is connected", connected).await;

    // Asked for no pods and refused at the same time: the pods keep running.
    let refused = json!({"spec": {"replicas": 0, "config": {"calls": {"no-such": "7s"}}}});
    world.patch::<Hub>("demo", refused).await;
    let runs = |hub: &Hub| {
        let status = hub.status.clone().unwrap_or_default();
        let says = |kind: &str| condition::find(&status.conditions, kind).map(|c| c.reason.clone());
        status.observed_generation == hub.metadata.generation
            && says(condition::READY).as_deref() == Some("Serving")
            && says(condition::DEGRADED).as_deref() == Some("Healthy")
            && status.pods.as_deref() == Some("1/1")
    };
    world.until::<Hub>("demo", "its pods are shown", runs).await;
    let (_, metrics) = operator.get("/metrics").await.expect("metrics");
    assert!(metrics.contains(r#"alkhub_operator_hubs{ready="true"} 1"#), "{metrics}");

    world.patch::<Hub>("demo", json!({"spec": {"config": null}})).await;
    let empty = |hub: &Hub| {
        let status = hub.status.clone().unwrap_or_default();
        let reason = condition::find(&status.conditions, condition::READY).map(|c| c.reason.clone());
        let is_empty = status.balance.is_none() && status.hub_pods.is_empty();
        is_empty && (reason.as_deref(), status.spokes) == (Some("Stopped"), Some(0))
    };
    world.until::<Hub>("demo", "it is stopped and empty", empty).await;
    let moved: Hub = world.patch("demo", json!({"spec": {"channelPrefix": "moved:"}})).await;
    assert_eq!(moved.spec.channel_prefix.as_deref(), Some("moved:"));
    drop(operator);
    world.end().await;
}
