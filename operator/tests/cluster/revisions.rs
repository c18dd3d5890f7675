//! What a Hub's pods run: images that worked and images that did not, settings of each revision, and why pods are missing.

use alkhub_crds::{Hub, condition};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{ConfigMap, Service};
use kube::ResourceExt as _;
use kube::api::ListParams;
use serde_json::{Value, json};

use crate::fake::{Fake, ending_image, image, waiting_image};
use crate::harness::{IMAGE, Operator, World, eventually, given, world};

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

fn runs(deployment: &Deployment) -> Option<&str> {
    let pod = deployment.spec.as_ref()?.template.spec.as_ref()?;
    pod.containers.first()?.image.as_deref()
}

fn mounts(deployment: &Deployment) -> Option<String> {
    let pod = deployment.spec.as_ref()?.template.spec.as_ref()?;
    let volumes = pod.volumes.iter().flatten();
    let mut sources = volumes.filter_map(|volume| volume.projected.as_ref()?.sources.as_ref());
    sources
        .next()?
        .iter()
        .find_map(|source| Some(source.config_map.as_ref()?.name.clone()))
}

async fn settles_on(world: &World, image: &str) {
    let there =
        |d: &Deployment| runs(d) == Some(image) && d.status.as_ref().is_some_and(|s| s.ready_replicas == Some(1));
    world.until::<Deployment>("demo", "the image that works", there).await;
    world.hub_says("demo", condition::PROGRESSING, "False", "Stable").await;
    let kept = |hub: &Hub| hub.status.as_ref().and_then(|status| status.image.as_deref()) == Some(image);
    world.until::<Hub>("demo", "the status has it", kept).await;
}

#[tokio::test]
#[ignore = "needs a cluster: make harness"]
async fn neither_a_hand_at_the_deployment_nor_an_image_that_was_taken_back_stays() {
    let (world, _fake, operator) = ready("image").await;
    settles_on(&world, IMAGE).await;

    // As `kubectl set image` does.
    let api = world.api::<Deployment>();
    let mut theirs = api.get("demo").await.expect("a Deployment");
    let pod = theirs.spec.as_mut().and_then(|spec| spec.template.spec.as_mut());
    pod.expect("a template").containers[0].image = Some(NOWHERE.to_owned());
    theirs.metadata.managed_fields = None;
    let by = kube::api::PostParams {
        field_manager: Some("kubectl-set".to_owned()),
        ..Default::default()
    };
    api.replace("demo", &by, &theirs).await.expect("replaced");
    settles_on(&world, IMAGE).await;

    for spec in [json!({"image": NOWHERE}), json!({"version": "no-such"})] {
        world.patch::<Hub>("demo", json!({"spec": spec})).await;
        world
            .until::<Deployment>("demo", "the image that was asked for", |d| runs(d) != Some(IMAGE))
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
async fn a_default_that_never_worked_is_left_and_one_that_did_outlives_the_deployment_and_an_upgrade() {
    let world = world("default").await;
    image();
    let address = Fake::default().serve().await;
    let bad = world
        .operator(&address, &["--hub-image", NOWHERE, "--lease-duration", "10s"])
        .await;
    world.servers().await;
    world.hub("demo", given()).await;
    world
        .until::<Deployment>("demo", "the bad default", |d| runs(d) == Some(NOWHERE))
        .await;

    drop(bad);
    let good = world.operator(&address, &["--lease-duration", "10s"]).await;
    settles_on(&world, IMAGE).await;

    drop(good);
    world.delete::<Deployment>("demo").await;
    world.gone::<Deployment>("demo").await;
    let upgraded = world
        .operator(&address, &["--hub-image", NOWHERE, "--lease-duration", "10s"])
        .await;
    settles_on(&world, IMAGE).await;
    drop(upgraded);
    world.end().await;
}

#[tokio::test]
#[ignore = "needs a cluster: make harness"]
async fn pods_of_an_older_revision_keep_their_settings_until_the_newest_is_ready() {
    let (world, _fake, operator) = ready("settings").await;
    let configs = || async {
        let all = world.api::<ConfigMap>().list(&ListParams::default()).await;
        let all = all.map_err(|error| error.to_string())?.items;
        let ours = all
            .into_iter()
            .filter(|config| config.name_any().starts_with("demo-config-"));
        Ok::<_, String>(ours.collect::<Vec<_>>())
    };
    let first = mounts(&world.api::<Deployment>().get("demo").await.expect("a Deployment")).expect("settings");
    let before = configs().await.expect("ConfigMaps");
    assert!(
        before.len() == 1 && before[0].name_any() == first && before[0].immutable == Some(true),
        "{before:?}"
    );

    world
        .patch::<Hub>(
            "demo",
            json!({"spec": {"image": NOWHERE, "config": {"calls": {"default-timeout": "7s"}}}}),
        )
        .await;
    let other = |d: &Deployment| mounts(d).is_some_and(|name| name != first);
    world.until::<Deployment>("demo", "other settings", other).await;
    operator.reconciles(3.0).await;
    let both = configs().await.expect("ConfigMaps");
    assert!(
        both.len() == 2 && both.iter().any(|config| *config == before[0]),
        "{both:?}"
    );

    world
        .patch::<Hub>("demo", json!({"spec": {"image": null, "config": null}}))
        .await;
    let back = |d: &Deployment| mounts(d).as_deref() == Some(&*first);
    world.until::<Deployment>("demo", "the first settings", back).await;
    eventually("the settings that never worked go", || async {
        match configs().await?.as_slice() {
            [one] if one.name_any() == first => Ok(()),
            more => Err(format!("{more:?}")),
        }
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
    let plain = |d: &Deployment| {
        let template = &d.spec.as_ref().expect("a spec").template;
        let labels = template.metadata.as_ref().and_then(|meta| meta.labels.as_ref());
        let nodes = template.spec.as_ref().and_then(|pod| pod.node_selector.as_ref());
        labels.is_some_and(|labels| !labels.contains_key("colour"))
            && nodes.is_none_or(std::collections::BTreeMap::is_empty)
    };
    world
        .until::<Deployment>("demo", "no label and no node selector", plain)
        .await;
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
