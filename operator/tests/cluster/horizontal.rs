//! Kubernetes' own autoscaler scales a Hub by the load of its pods: the selector of the scale subresource selects those
//! that serve, of every revision, and nothing else.

use alkhub_crds::{Hub, condition};
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::autoscaling::v2::HorizontalPodAutoscaler;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::events::v1::Event;
use kube::ResourceExt;
use kube::api::{ListParams, PostParams};
use serde_json::{Value, json};

use crate::fake::{Fake, image};
use crate::fleet::{marked, settled};
use crate::harness::{Operator, World, eventually, given, world};
use crate::metrics_api::{METRIC, MetricsApi};

/// The load of a pod that does not belong to the Hub: anybody who counts it wants as many pods as allowed.
const FOREIGN: u64 = 1_000;

/// A Hub `demo` of one pod, next to its own Redis and Postgres and another Hub, whose pods would count if they were
/// selected.
async fn among_others(fake: &Fake) -> (World, Operator) {
    let world = world("horizontal").await;
    image();
    let address = fake.serve().await;
    let operator = world.operator(&address, &["--lease-duration", "10s"]).await;
    world.servers().await;
    world.hub("other", given()).await;
    let redis = json!({"managed": true, "storage": {"ephemeral": true}});
    let spec = json!({"replicas": 1, "redis": redis, "postgres": {"managed": true, "storage": {"ephemeral": true}}});
    world.hub("demo", spec).await;
    for name in ["demo-redis", "demo-postgres"] {
        let ready = |set: &StatefulSet| set.status.as_ref().and_then(|status| status.ready_replicas) == Some(1);
        world.until::<StatefulSet>(name, "ready", ready).await;
    }
    world.hub_says("other", condition::PROGRESSING, "False", "Stable").await;
    settled(&world, 1).await;

    let ours = names(&world).await;
    let all = world.api::<Pod>().list(&ListParams::default()).await.expect("pods");
    let others = all.iter().map(ResourceExt::name_any).filter(|pod| !ours.contains(pod));
    let others: Vec<_> = others.inspect(|pod| fake.pod(pod, FOREIGN)).collect();
    assert_eq!(others.len(), 3, "{others:?}");
    (world, operator)
}

/// Ten connections for each pod, and five pods at most.
async fn scale_by_connections(world: &World) {
    let target = json!({"apiVersion": "alkhub.dev/v1alpha1", "kind": "Hub", "name": "demo"});
    let average = json!({"type": "AverageValue", "averageValue": "10"});
    let scaler = json!({
        "metadata": {"name": "demo"},
        "spec": {
            "scaleTargetRef": target, "minReplicas": 1, "maxReplicas": 5,
            "metrics": [{"type": "Pods", "pods": {"metric": {"name": METRIC}, "target": average}}],
            "behavior": down_after(300),
        },
    });
    let scaler: HorizontalPodAutoscaler = serde_json::from_value(scaler).expect("an autoscaler");
    world
        .api::<HorizontalPodAutoscaler>()
        .create(&PostParams::default(), &scaler)
        .await
        .expect("created");
}

fn down_after(seconds: u32) -> Value {
    json!({"scaleDown": {"stabilizationWindowSeconds": seconds}})
}

/// Waits until the autoscaler has seen this average, and wants this many pods.
async fn sees(world: &World, average: &str, pods: i32) -> HorizontalPodAutoscaler {
    let is = |scaler: &HorizontalPodAutoscaler| {
        let status = scaler.status.clone().unwrap_or_default();
        let seen = status
            .current_metrics
            .unwrap_or_default()
            .pop()
            .and_then(|metric| metric.pods);
        let seen = seen.and_then(|pods| pods.current.average_value);
        seen.is_some_and(|seen| seen.0 == average) && status.desired_replicas == pods
    };
    world
        .until("demo", &format!("{average} on average, {pods} pods"), is)
        .await
}

/// The pods of the Hub `demo` that are not being deleted, by name.
async fn names(world: &World) -> Vec<String> {
    let pods = world.pods().await.expect("pods");
    let mut names: Vec<_> = pods.iter().map(ResourceExt::name_any).collect();
    names.sort();
    names
}

/// Gives each pod of the Hub `demo` its number of connections.
async fn give<const N: usize>(world: &World, fake: &Fake, connections: [u64; N]) {
    let names = names(world).await;
    assert_eq!(names.len(), N, "{names:?}");
    for (pod, connections) in names.iter().zip(connections) {
        fake.pod(pod, connections);
    }
}

/// The average load of these pods, as a quantity.
fn average(fake: &Fake, pods: &[String]) -> String {
    let all: u64 = pods.iter().map(|pod| fake.connections(pod)).sum();
    match all * 1_000 / pods.len() as u64 {
        whole if whole % 1_000 == 0 => (whole / 1_000).to_string(),
        thousandths => format!("{thousandths}m"),
    }
}

/// Waits until the autoscaler was told of exactly these pods.
async fn counts(metrics: &MetricsApi, pods: &[String]) {
    eventually("these are counted", || async {
        let last = metrics.looks().pop();
        let is = last.as_ref().is_some_and(|look| look.pods == pods);
        is.then_some(()).ok_or_else(|| format!("{last:?}, and not {pods:?}"))
    })
    .await;
}

/// The numbers of pods to which the autoscaler has scaled, the smallest first.
async fn sizes(world: &World) -> Vec<String> {
    let events = world.api::<Event>().list(&ListParams::default()).await.expect("events");
    let scaled = events
        .into_iter()
        .filter(|event| event.reason.as_deref() == Some("SuccessfulRescale"));
    let notes = scaled.filter_map(|event| Some(event.note?.split_once(';')?.0.to_owned()));
    let mut sizes: Vec<_> = notes.collect();
    sizes.sort();
    sizes
}

/// While a new pod serves next to old ones and one of these is about to go, the mean is over those that stay.
async fn roll_out(world: &World, fake: &Fake, metrics: &MetricsApi) {
    give(world, fake, [9, 8, 8]).await;
    let before = names(world).await;
    let change = |value: Value| json!({"spec": {"template": {"annotations": {"again": value}}}});

    world.patch::<Hub>("demo", change("1".into())).await;
    let victim = marked(world).await.name_any();
    let all = names(world).await;
    let stay: Vec<_> = all.iter().filter(|pod| **pod != victim).cloned().collect();
    assert!(before.contains(&victim) && all.len() == 4, "{victim} of {all:?}");
    let lasting = sees(world, &average(fake, &stay), 3).await;

    assert!(names(world).await.contains(&victim), "it is there, and not counted");
    counts(metrics, &stay).await;
    let scale = world.api::<Hub>().get_scale("demo").await.expect("a scale");
    assert_eq!(scale.status.map(|status| status.replicas), Some(3));
    let conditions = lasting.status.and_then(|status| status.conditions).unwrap_or_default();
    let held = conditions
        .iter()
        .any(|c| c.reason.as_deref() == Some("ScaleDownStabilized"));
    assert!(
        held,
        "two would do by what is counted, and the window keeps three: {conditions:?}"
    );

    world.patch::<Hub>("demo", change(Value::Null)).await;
    sees(world, "8333m", 3).await;
    settled(world, 3).await;
    assert_eq!(names(world).await, before, "the mark is off, and it is counted again");
}

/// The load of a pod that is about to go changes nothing.
async fn scale_down(world: &World, fake: &Fake, metrics: &MetricsApi) {
    give(world, fake, [7, 6, 5]).await;
    let at_once = json!({"spec": {"behavior": down_after(0)}});

    world.patch::<HorizontalPodAutoscaler>("demo", at_once).await;
    let victim = marked(world).await.name_any();
    let mut stay = names(world).await;
    stay.retain(|pod| *pod != victim);
    let mean = average(fake, &stay);
    sees(world, &mean, 2).await;
    fake.pod(&victim, FOREIGN);
    metrics.more_looks(3).await;
    sees(world, &mean, 2).await;
    assert!(names(world).await.contains(&victim), "it was there all the time");
    fake.pod(&victim, 0);

    world.gone::<Pod>(&victim).await;
    settled(world, 2).await;
    sees(world, &mean, 2).await;
}

#[tokio::test]
#[ignore = "needs a cluster: make harness"]
async fn a_horizontal_pod_autoscaler_averages_the_pods_that_serve_and_no_others() {
    let fake = Fake::default();
    let (world, operator) = among_others(&fake).await;
    let metrics = MetricsApi::serve(&world, &fake).await;
    give(&world, &fake, [25]).await;

    scale_by_connections(&world).await;
    sees(&world, "8333m", 3).await;
    settled(&world, 3).await;
    counts(&metrics, &names(&world).await).await;
    roll_out(&world, &fake, &metrics).await;
    scale_down(&world, &fake, &metrics).await;
    let mut left = names(&world).await;
    left.sort_by_key(|pod| fake.connections(pod));
    fake.pod(&left[0], 0);
    settled(&world, 1).await;
    sees(&world, &average(&fake, &left[1..]), 1).await;

    assert_eq!(sizes(&world).await, ["New size: 1", "New size: 2", "New size: 3"]);
    let hub = world.api::<Hub>().get("demo").await.expect("a Hub");
    let selector = hub.status.and_then(|status| status.selector).expect("a selector");
    let looks = metrics.looks();
    assert!(
        looks.iter().all(|look| look.selector == selector),
        "{selector}: {looks:?}"
    );
    drop(metrics);
    drop(operator);
    world.end().await;
}
