//! What a Hub's pods run: images that worked and images that did not, settings of each revision, and why pods are
//! missing.

use alkhub_crds::{Hub, condition};
use k8s_openapi::api::apps::v1::{ControllerRevision, ReplicaSet};
use k8s_openapi::api::core::v1::{ConfigMap, Service};
use kube::ResourceExt as _;
use kube::api::{DeleteParams, ListParams};
use serde_json::{Value, json};

use crate::fake::{Fake, ending_image, image, waiting_image};
use crate::harness::{IMAGE, Operator, World, eventually, given, revision, world};

/// An image that no node finds.
const NOWHERE: &str = "alkhub/nowhere:bad";

async fn ready(namespace: &str) -> (World, Fake, Operator) {
    let world = world(namespace).await;
    let fake = Fake::default();
    let operator = world.operator(&fake.serve().await, &[]).await;
    world.demo().await;
    world.hub_says("demo", condition::READY, "True", "Serving").await;
    (world, fake, operator)
}

fn runs(set: &ReplicaSet) -> Option<&str> {
    let pod = set.spec.as_ref()?.template.as_ref()?.spec.as_ref()?;
    pod.containers.first()?.image.as_deref()
}

/// The names of the objects of a kind that the Hub `demo` has.
async fn names<K>(world: &World) -> Result<Vec<String>, String>
where
    K: kube::Resource<Scope = k8s_openapi::NamespaceResourceScope>
        + serde::de::DeserializeOwned
        + Clone
        + std::fmt::Debug,
    K::DynamicType: Default,
{
    let all = world.of_demo::<K>().await?;
    let mut names: Vec<_> = all.iter().map(kube::ResourceExt::name_any).collect();
    names.sort();
    Ok(names)
}

async fn settles_on(world: &World, image: &str) {
    let there =
        |set: &ReplicaSet| runs(set) == Some(image) && set.status.as_ref().is_some_and(|s| s.ready_replicas == Some(1));
    world.until_set("the image that works", there).await;
    world.hub_says("demo", condition::PROGRESSING, "False", "Stable").await;
    let kept = |hub: &Hub| hub.status.as_ref().and_then(|status| status.image.as_deref()) == Some(image);
    world.until::<Hub>("demo", "the status has it", kept).await;
}

#[tokio::test]
#[ignore = "needs a cluster: make harness"]
async fn neither_a_hand_at_the_replica_set_nor_an_image_that_was_taken_back_stays() {
    let (world, _fake, operator) = ready("image").await;
    settles_on(&world, IMAGE).await;

    // As `kubectl set image` does.
    let api = world.api::<ReplicaSet>();
    let mut theirs = world.until_set("the one that runs", |_| true).await;
    let name = theirs.name_any();
    let template = theirs.spec.as_mut().and_then(|spec| spec.template.as_mut());
    let pod = template.and_then(|template| template.spec.as_mut());
    pod.expect("a template").containers[0].image = Some(NOWHERE.to_owned());
    theirs.metadata.managed_fields = None;
    let by = kube::api::PostParams {
        field_manager: Some("kubectl-set".to_owned()),
        ..Default::default()
    };
    api.replace(&name, &by, &theirs).await.expect("replaced");
    settles_on(&world, IMAGE).await;

    for spec in [json!({"image": NOWHERE}), json!({"version": "no-such"})] {
        world.patch::<Hub>("demo", json!({"spec": spec})).await;
        world
            .until_set("the image that was asked for", |set| runs(set) != Some(IMAGE))
            .await;
        world
            .patch::<Hub>("demo", json!({"spec": {"image": null, "version": null}}))
            .await;
        settles_on(&world, IMAGE).await;
    }
    drop(operator);
    world.end().await;
}

#[tokio::test]
#[ignore = "needs a cluster: make harness"]
async fn a_default_that_never_worked_is_left_and_one_that_did_outlives_its_replica_set_and_an_upgrade() {
    let world = world("default").await;
    image();
    let address = Fake::default().serve().await;
    let bad = world
        .operator(&address, &["--hub-image", NOWHERE, "--lease-duration", "10s"])
        .await;
    world.servers().await;
    world.hub("demo", given()).await;
    world
        .until_set("the bad default", |set| runs(set) == Some(NOWHERE))
        .await;

    drop(bad);
    let good = world.operator(&address, &["--lease-duration", "10s"]).await;
    settles_on(&world, IMAGE).await;

    drop(good);
    let all = ListParams::default();
    let sets = world.api::<ReplicaSet>();
    sets.delete_collection(&DeleteParams::background(), &all)
        .await
        .expect("deleted");
    eventually("they are gone", || async {
        let left = world.sets().await?;
        left.is_empty().then_some(()).ok_or_else(|| format!("{left:?}"))
    })
    .await;
    let upgraded = world
        .operator(&address, &["--hub-image", NOWHERE, "--lease-duration", "10s"])
        .await;
    settles_on(&world, IMAGE).await;
    drop(upgraded);
    world.end().await;
}

#[tokio::test]
#[ignore = "needs a cluster: make harness"]
async fn a_change_that_is_taken_back_goes_back_to_the_pods_that_worked_and_two_old_revisions_are_kept() {
    let (world, _fake, operator) = ready("settings").await;
    world.hub_says("demo", condition::PROGRESSING, "False", "Stable").await;
    let first = world.another_revision(None).await;
    let settings = world.of_demo::<ConfigMap>().await.expect("ConfigMaps");
    assert!(
        settings.len() == 1 && settings[0].immutable == Some(true),
        "{settings:?}"
    );
    let pod = world.pods().await.expect("pods").remove(0);

    let bad = json!({"spec": {"image": NOWHERE, "config": {"calls": {"default-timeout": "7s"}}}});
    world.patch::<Hub>("demo", bad).await;
    world
        .until_set("a pod that never works", |set| runs(set) == Some(NOWHERE))
        .await;
    operator.reconciles(3.0).await;
    let both = world.of_demo::<ConfigMap>().await.expect("ConfigMaps");
    assert!(both.len() == 2 && both.contains(&settings[0]), "{both:?}");
    world
        .patch::<Hub>("demo", json!({"spec": {"image": null, "config": null}}))
        .await;
    let is_first = |hub: &Hub| revision(hub) == Some(&*first);
    world.until::<Hub>("demo", "the first revision", is_first).await;
    world.hub_says("demo", condition::PROGRESSING, "False", "Stable").await;
    let pods = world.pods().await.expect("pods");
    assert!(pods.len() == 1 && pods[0].uid() == pod.uid(), "{pods:?}");
    world.was_ready_all_the_time().await;

    for timeout in ["8s", "9s", "10s"] {
        let before = world.until::<Hub>("demo", "it is there", |_| true).await;
        let config = json!({"calls": {"default-timeout": timeout}});
        world.patch::<Hub>("demo", json!({"spec": {"config": config}})).await;
        world.another_revision(revision(&before)).await;
        world.hub_says("demo", condition::PROGRESSING, "False", "Stable").await;
    }
    eventually("the newest and two old revisions", || async {
        let sets = names::<ReplicaSet>(&world).await?;
        let revisions = names::<ControllerRevision>(&world).await?;
        let settings = names::<ConfigMap>(&world).await?;
        let is_kept = sets.len() == 3 && sets == revisions && settings.len() == 3;
        is_kept
            .then_some(())
            .ok_or_else(|| format!("{sets:?} {revisions:?} {settings:?}"))
    })
    .await;
    drop(operator);
    world.end().await;
}

#[tokio::test]
#[ignore = "needs a cluster: make harness"]
async fn what_a_spec_no_longer_has_goes_from_what_was_created_with_it() {
    let world = world("fields").await;
    image();
    let operator = world.operator(&Fake::default().serve().await, &[]).await;
    world.servers().await;
    let mut spec = given();
    spec["service"] = json!({"annotations": {"first": "1", "second": "2"}});
    spec["template"] = json!({"labels": {"colour": "green"}, "nodeSelector": {"kubernetes.io/os": "linux"}});
    world.hub("demo", spec).await;
    world.hub_says("demo", condition::READY, "True", "Serving").await;
    assert!(
        world
            .api::<Service>()
            .get("demo")
            .await
            .expect("a Service")
            .annotations()
            .contains_key("first")
    );

    world
        .patch::<Hub>(
            "demo",
            json!({"spec": {"service": {"annotations": {"first": null}}, "template": null}}),
        )
        .await;

    let without =
        |service: &Service| !service.annotations().contains_key("first") && service.annotations()["second"] == "2";
    world.until::<Service>("demo", "one annotation", without).await;
    let plain = |set: &ReplicaSet| {
        let template = set
            .spec
            .as_ref()
            .and_then(|spec| spec.template.as_ref())
            .expect("a template");
        let labels = template.metadata.as_ref().and_then(|meta| meta.labels.as_ref());
        let nodes = template.spec.as_ref().and_then(|pod| pod.node_selector.as_ref());
        labels.is_some_and(|labels| !labels.contains_key("colour"))
            && nodes.is_none_or(std::collections::BTreeMap::is_empty)
    };
    world.until_set("no label and no node selector", plain).await;
    drop(operator);
    world.end().await;
}

#[tokio::test]
#[ignore = "needs a cluster: make harness"]
async fn what_keeps_pods_from_being_ready_is_a_condition_in_their_own_words() {
    let (world, _fake, operator) = ready("words").await;
    let says = |words: &'static str| {
        move |hub: &Hub| {
            let conditions = hub.status.as_ref().map(|status| status.conditions.as_slice());
            let degraded = condition::find(conditions.unwrap_or_default(), condition::DEGRADED);
            degraded.is_some_and(|c| c.status == "True" && c.reason == "PodsFailing" && c.message.contains(words))
        }
    };
    for (image, words) in [
        (ending_image(), "the hash key is no key"),
        (waiting_image(), "Postgres: permission denied for database shop"),
    ] {
        world.patch::<Hub>("demo", json!({"spec": {"image": image}})).await;
        world.until::<Hub>("demo", words, says(words)).await;
        world.hub_says("demo", condition::READY, "True", "Serving").await;
    }

    world.patch::<Hub>("demo", json!({"spec": {"image": null}})).await;
    world.hub_says("demo", condition::DEGRADED, "False", "Healthy").await;
    drop(operator);
    world.end().await;
}

#[tokio::test]
#[ignore = "needs a cluster: make harness"]
async fn a_hub_that_grows_and_shrinks_is_never_shown_as_not_ready() {
    let (world, _fake, operator) = ready("growing").await;
    let pods =
        |count: &'static str| move |hub: &Hub| hub.status.as_ref().and_then(|s| s.pods.as_deref()) == Some(count);

    for (replicas, shown) in [(3, "3/3"), (1, "1/1")] {
        let spec: Value = json!({"spec": {"replicas": replicas}});
        world.patch::<Hub>("demo", spec).await;
        world.until::<Hub>("demo", shown, pods(shown)).await;
        world.hub_says("demo", condition::PROGRESSING, "False", "Stable").await;
    }

    world.was_ready_all_the_time().await;
    drop(operator);
    world.end().await;
}
