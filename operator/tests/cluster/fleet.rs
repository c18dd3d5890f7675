//! The pods of a Hub while they are replaced, drained and wanted back, and while no operator runs.

use alkhub_crds::hub::HubPod;
use alkhub_crds::{Hub, condition};
use k8s_openapi::api::apps::v1::{ControllerRevision, ReplicaSet};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use kube::ResourceExt;
use kube::api::{ListParams, PostParams};
use serde_json::{Value, json};

use crate::fake::Fake;
use crate::harness::{Operator, World, eventually, is_ready, revision, world};

/// The mark of a pod that is to go.
const DRAIN: &str = "alkhub.dev/drain-since";

const SERVING: &str = "alkhub.dev/serving";

/// A Hub `demo` with this many pods, all ready.
async fn running(namespace: &str, pods: i32) -> (World, String, Operator) {
    let (world, address, _, operator) = told(namespace, pods).await;
    (world, address, operator)
}

/// The same with its admin API.
async fn told(namespace: &str, pods: i32) -> (World, String, Fake, Operator) {
    let world = world(namespace).await;
    let fake = Fake::default();
    let address = fake.serve().await;
    let operator = world.operator(&address, &["--lease-duration", "10s"]).await;
    world.demo().await;
    world.patch::<Hub>("demo", json!({"spec": {"replicas": pods}})).await;
    settled(&world, pods).await;
    (world, address, fake, operator)
}

/// The same with three connections on each pod, of which the operator knows.
async fn busy(namespace: &str, pods: i32) -> (World, Fake, Operator) {
    let (world, _address, fake, operator) = told(namespace, pods).await;
    for pod in world.pods().await.expect("pods") {
        fake.pod(&pod.name_any(), 3);
    }
    // The load of a pod is known before one is chosen.
    operator.reconciles(3.0).await;
    (world, fake, operator)
}

/// Waits until a Hub has exactly as many pods as it asks for.
pub(crate) async fn settled(world: &World, pods: i32) {
    let shown = format!("{pods}/{pods}");
    let has = |hub: &Hub| {
        let status = hub.status.clone().unwrap_or_default();
        let progressing = condition::find(&status.conditions, condition::PROGRESSING);
        status.pods.as_deref() == Some(&*shown)
            && status.observed_generation == hub.metadata.generation
            && progressing.is_some_and(|c| c.reason == "Stable")
    };
    world.until::<Hub>("demo", &shown, has).await;
}

fn uids(pods: &[Pod]) -> Vec<String> {
    let mut uids: Vec<_> = pods.iter().filter_map(ResourceExt::uid).collect();
    uids.sort();
    uids
}

/// Waits until a pod is marked.
pub(crate) async fn marked(world: &World) -> Pod {
    eventually("a pod is marked", || async {
        let pods = world.pods().await?;
        let found = pods.iter().find(|pod| pod.annotations().contains_key(DRAIN));
        found.cloned().ok_or_else(|| format!("{pods:?}"))
    })
    .await
}

#[tokio::test]
#[ignore = "needs a cluster: make harness"]
async fn pods_are_replaced_one_by_one_and_none_goes_before_another_is_ready() {
    let (world, _address, operator) = running("replaced", 2).await;
    let before = world.pods().await.expect("pods");
    let first = world.another_revision(None).await;

    world
        .patch::<Hub>("demo", json!({"spec": {"template": {"annotations": {"again": "1"}}}}))
        .await;
    world.another_revision(Some(&first)).await;
    eventually("every pod is another", || async {
        let pods = world.pods().await?;
        let ready = pods.iter().filter(|pod| is_ready(pod)).count();
        assert!(ready >= 2 && pods.len() <= 3, "{ready} are ready: {pods:?}");
        let is_new = pods.len() == 2 && uids(&pods).iter().all(|uid| !uids(&before).contains(uid));
        is_new.then_some(()).ok_or_else(|| format!("{pods:?}"))
    })
    .await;

    settled(&world, 2).await;
    world.was_ready_all_the_time().await;
    let numbers: Vec<_> = world
        .of_demo::<ControllerRevision>()
        .await
        .expect("revisions")
        .iter()
        .map(|r| r.revision)
        .collect();
    assert_eq!(numbers.len(), 2, "{numbers:?}");
    let now = world.pods().await.expect("pods").remove(0);
    let env = now.spec.expect("a spec").containers.remove(0).env.unwrap_or_default();
    let told = env.into_iter().find(|variable| variable.name == "ALKHUB_POD__REVISION");
    assert_eq!(
        told.and_then(|told| told.value),
        numbers.iter().max().map(ToString::to_string)
    );
    drop(operator);
    world.end().await;
}

#[tokio::test]
#[ignore = "needs a cluster: make harness"]
async fn more_pods_asked_for_during_a_drain_take_the_mark_back() {
    let (world, fake, operator) = busy("cancelled", 3).await;
    let before = uids(&world.pods().await.expect("pods"));

    world.patch::<Hub>("demo", json!({"spec": {"replicas": 2}})).await;
    let victim = marked(&world).await;
    operator.signal("-STOP");
    assert!(!victim.labels().contains_key(SERVING), "no autoscaler counts it");
    assert_eq!(
        victim.annotations()["controller.kubernetes.io/pod-deletion-cost"],
        i32::MIN.to_string()
    );
    fake.fail_undrains(1);
    world.patch::<Hub>("demo", json!({"spec": {"replicas": 3}})).await;
    operator.signal("-CONT");

    let unmarked = |pod: &Pod| {
        !pod.annotations().contains_key(DRAIN) && pod.labels().get(SERVING).is_some_and(|value| value == "true")
    };
    world.until::<Pod>(&victim.name_any(), "it is to stay", unmarked).await;
    settled(&world, 3).await;
    let keeps = format!("{}-0001", victim.name_any());
    assert_eq!(fake.undrains(), [keeps], "it is told until it knows");
    assert_eq!(uids(&world.pods().await.expect("pods")), before);
    drop(operator);
    world.end().await;
}

#[tokio::test]
#[ignore = "needs a cluster: make harness"]
async fn a_pod_that_is_to_go_is_told_to_give_its_connections_away_and_goes_when_it_has_none() {
    let (world, fake, operator) = busy("emptied", 2).await;

    world.patch::<Hub>("demo", json!({"spec": {"replicas": 1}})).await;
    let victim = marked(&world).await;
    let hub_id = format!("{}-0001", victim.name_any());
    let wanted = eventually("its hub is told", || async {
        let drains = fake.drains();
        let told = drains.iter().find(|(hub, _)| *hub == hub_id);
        told.map(|(_, drain)| drain.revision.clone())
            .ok_or_else(|| format!("{drains:?}"))
    })
    .await;
    assert_eq!(
        wanted.as_deref(),
        Some("1"),
        "the number of the revision that is wanted"
    );
    world.until::<Pod>(&victim.name_any(), "it is there", |_| true).await;
    fake.pod(&victim.name_any(), 0);

    world.gone::<Pod>(&victim.name_any()).await;
    settled(&world, 1).await;
    assert!(
        fake.drains().iter().all(|(hub, _)| *hub == hub_id),
        "{:?}",
        fake.drains()
    );
    drop(operator);
    world.end().await;
}

#[tokio::test]
#[ignore = "needs a cluster: make harness"]
async fn a_pod_that_somebody_wants_empty_is_told_so_until_they_do_not_and_an_order_to_rebalance_is_passed_on_once() {
    let (world, fake, operator) = busy("asked", 2).await;
    let pod = world.pods().await.expect("pods").remove(0).name_any();
    let hub_id = format!("{pod}-0001");
    let told = || fake.drains().iter().filter(|(hub, _)| *hub == hub_id).count();
    let asked = |value: &str| json!({"metadata": {"annotations": {"alkhub.dev/drain": value}}});

    world.patch::<Pod>(&pod, asked("now")).await;
    eventually("its hub is told again and again", || async {
        (told() >= 3).then_some(()).ok_or_else(|| told().to_string())
    })
    .await;
    let answered = |hub: &Hub| {
        let status = hub.status.clone().unwrap_or_default();
        let answer = |shown: &HubPod| shown.name == pod && shown.drain_order.as_deref() == Some("now");
        status.hub_pods.iter().any(answer)
    };
    world.until::<Hub>("demo", "the order is answered", answered).await;
    let kept = world.api::<Pod>().get(&pod).await.expect("it stays");
    assert!(!kept.annotations().contains_key(DRAIN), "{kept:?}");
    assert_eq!(fake.drains().len(), told(), "no other one is");
    world.patch::<Pod>(&pod, asked("false")).await;
    // A step that was decided earlier may still be under way.
    operator.reconciles(2.0).await;
    let last = told();

    let order = Timestamp::now().to_string();
    let annotated = json!({"metadata": {"annotations": {"alkhub.dev/rebalance": order}}});
    world.patch::<Hub>("demo", annotated).await;
    eventually("the order is passed on", || async {
        (fake.rebalances() > 0)
            .then_some(())
            .ok_or_else(|| "not yet".to_owned())
    })
    .await;
    let answer = |hub: &Hub| hub.status.clone().and_then(|status| status.rebalance_order);
    let answered = |hub: &Hub| answer(hub).as_ref() == Some(&order);
    world.until::<Hub>("demo", "the order is answered", answered).await;
    operator.reconciles(3.0).await;
    assert_eq!((told(), fake.rebalances()), (last, 1));
    drop(operator);
    world.end().await;
}

#[tokio::test]
#[ignore = "needs a cluster: make harness"]
async fn a_pod_that_the_report_does_not_have_is_not_taken_for_empty() {
    let (world, fake, operator) = busy("unknown", 2).await;

    world.patch::<Hub>("demo", json!({"spec": {"replicas": 1}})).await;
    let victim = marked(&world).await;
    fake.hide(&victim.name_any());

    let since: Timestamp = victim.annotations()[DRAIN].parse().expect("a time");
    let gone = eventually("its time is up", || async {
        let pod = world.api::<Pod>().get(&victim.name_any()).await;
        let pod = pod.map_err(|error| error.to_string())?;
        let grace = pod.metadata.deletion_grace_period_seconds;
        let end = pod.metadata.deletion_timestamp.as_ref().zip(grace);
        end.map(|(end, grace)| end.0 - SignedDuration::from_secs(grace))
            .ok_or_else(|| format!("{pod:?}"))
    })
    .await;
    let waited = gone.duration_since(since);
    // Kubernetes' times have no fractions of seconds.
    assert!(waited >= SignedDuration::from_secs(29), "it went after {waited}");
    settled(&world, 1).await;
    drop(operator);
    world.end().await;
}

#[tokio::test]
#[ignore = "needs a cluster: make harness"]
async fn a_roll_out_that_makes_calls_fail_pauses_until_it_is_taken_back_or_told_to_go_on() {
    let (world, address, fake, operator) = told("paused", 2).await;
    let before = uids(&world.pods().await.expect("pods"));
    let first = world.another_revision(None).await;
    let change = |value: Value| json!({"spec": {"template": {"annotations": {"again": value}}}});

    fake.calls(1_000, 20);
    world.patch::<Hub>("demo", change("1".into())).await;
    world
        .hub_says("demo", condition::PROGRESSING, "False", "RolloutPaused")
        .await;
    drop(operator);
    fake.calls(1_000, 0);
    let operator = world.operator(&address, &["--lease-duration", "10s"]).await;
    operator.reconciles(5.0).await;
    let paused = world
        .hub_says("demo", condition::PROGRESSING, "False", "RolloutPaused")
        .await;
    let pods = world.pods().await.expect("pods");
    assert!(
        pods.len() == 3 && before.iter().all(|uid| uids(&pods).contains(uid)),
        "{pods:?}"
    );
    assert!(
        pods.iter().all(|pod| !pod.annotations().contains_key(DRAIN)),
        "{pods:?}"
    );
    assert_eq!(operator.metric("alkhub_operator_hub_rollout_paused").await, 1.0);

    fake.calls(1_000, 500);
    world.patch::<Hub>("demo", change(Value::Null)).await;
    world
        .until::<Hub>("demo", "the first revision", |hub| revision(hub) == Some(&*first))
        .await;
    settled(&world, 2).await;
    assert_eq!(
        uids(&world.pods().await.expect("pods")),
        before,
        "it went back with the calls still failing"
    );

    let second = revision(&paused).expect("a revision").to_owned();
    world.patch::<Hub>("demo", change("1".into())).await;
    world
        .hub_says("demo", condition::PROGRESSING, "False", "RolloutPaused")
        .await;
    let go_on = json!({"metadata": {"annotations": {"alkhub.dev/resume-rollout": second}}});
    world.patch::<Hub>("demo", go_on).await;
    settled(&world, 2).await;
    assert!(
        uids(&world.pods().await.expect("pods"))
            .iter()
            .all(|uid| !before.contains(uid))
    );
    drop(operator);
    world.end().await;
}

#[tokio::test]
#[ignore = "needs a cluster: make harness"]
async fn how_the_connections_are_spread_is_shown_and_nothing_is_while_a_pod_is_not_known() {
    let (world, fake, operator) = busy("spread", 2).await;
    let pods: Vec<_> = world
        .pods()
        .await
        .expect("pods")
        .iter()
        .map(ResourceExt::name_any)
        .collect();
    world.hub_says("demo", condition::BALANCED, "True", "Even").await;

    fake.pod(&pods[0], 97);
    let uneven = world.hub_says("demo", condition::BALANCED, "False", "Uneven").await;
    let status = uneven.status.expect("a status");
    let balance = status.balance.expect("a balance");
    assert_eq!(
        (balance.total, balance.mean, balance.max, balance.ratio),
        (100, 50.0, 97, 1.94)
    );
    let shown = status
        .hub_pods
        .iter()
        .map(|pod| (pod.ready, pod.draining, pod.in_flight));
    assert_eq!(shown.collect::<Vec<_>>(), [(true, false, Some(0)); 2]);
    let full = status.hub_pods.iter().find(|pod| pod.name == pods[0]);
    assert_eq!(full.and_then(|pod| pod.connections), Some(97));
    assert_eq!(operator.metric("alkhub_operator_hub_balance_ratio").await, 1.94);

    fake.hide(&pods[1]);
    let unknown = world
        .hub_says("demo", condition::BALANCED, "Unknown", "FiguresMissing")
        .await;
    assert_eq!(unknown.status.expect("a status").balance, None);
    fake.away(true);
    world
        .hub_says("demo", condition::BALANCED, "Unknown", "HubUnreachable")
        .await;
    drop(operator);
    world.end().await;
}

#[tokio::test]
#[ignore = "needs a cluster: make harness"]
async fn a_new_leader_goes_on_with_a_drain_and_the_marked_pod_goes() {
    let (world, address, operator) = running("resumed", 3).await;

    world.patch::<Hub>("demo", json!({"spec": {"replicas": 2}})).await;
    let victim = marked(&world).await;
    operator.signal("-KILL");
    drop(operator);
    let operator = world.operator(&address, &["--lease-duration", "10s"]).await;

    world.gone::<Pod>(&victim.name_any()).await;
    settled(&world, 2).await;
    assert!(world.pods().await.expect("pods").iter().all(is_ready));
    drop(operator);
    world.end().await;
}

#[tokio::test]
#[ignore = "needs a cluster: make harness"]
async fn pods_that_are_lost_while_no_operator_runs_come_back() {
    let (world, _address, operator) = running("alone", 2).await;
    drop(operator);

    let lost = world.pods().await.expect("pods").remove(0);
    world.delete::<Pod>(&lost.name_any()).await;

    eventually("two pods are ready", || async {
        let pods = world.pods().await?;
        let is_back = pods.len() == 2 && pods.iter().all(is_ready) && pods.iter().all(|pod| pod.uid() != lost.uid());
        is_back.then_some(()).ok_or_else(|| format!("{pods:?}"))
    })
    .await;
    world.end().await;
}

/// As after an upgrade: the revision was made by an operator that makes a different template.
#[tokio::test]
#[ignore = "needs a cluster: make harness"]
async fn another_operator_restarts_no_pod_and_tells_whose_template_is_older() {
    let (world, address, operator) = running("upgraded", 1).await;
    world
        .hub_says("demo", condition::TEMPLATE_CURRENT, "True", "Current")
        .await;
    let first = world.another_revision(None).await;
    drop(operator);
    let kept = world.api::<ControllerRevision>();
    let name = format!("demo-{first}");
    let mut older = kept.get(&name).await.expect("a revision");
    world.delete::<ControllerRevision>(&name).await;
    let older_template = json!([{"name": "OLDER", "value": "yes"}]);
    let data = &mut older.data.as_mut().expect("data").0;
    data["template"]["spec"]["containers"][0]["env"] = older_template;
    older.metadata.resource_version = None;
    older.metadata.uid = None;
    older.metadata.managed_fields = None;
    kept.create(&PostParams::default(), &older).await.expect("a revision");
    let before = uids(&world.pods().await.expect("pods"));

    let operator = world.operator(&address, &["--lease-duration", "10s"]).await;
    world
        .hub_says("demo", condition::TEMPLATE_CURRENT, "False", "OlderOperator")
        .await;
    operator.reconciles(3.0).await;

    assert_eq!(uids(&world.pods().await.expect("pods")), before);
    let keeps = |set: &ReplicaSet| serde_json::to_string(&set.spec).expect("plain data").contains("OLDER");
    world.until_set("the kept template, as it stands", keeps).await;
    world
        .patch::<Hub>("demo", json!({"spec": {"template": {"annotations": {"again": "1"}}}}))
        .await;
    world
        .hub_says("demo", condition::TEMPLATE_CURRENT, "True", "Current")
        .await;
    settled(&world, 1).await;
    assert_ne!(uids(&world.pods().await.expect("pods")), before);
    drop(operator);
    world.end().await;
}

#[tokio::test]
#[ignore = "needs a cluster: make harness"]
async fn an_autoscaler_counts_the_pods_of_every_revision_and_another_secret_is_told_while_old_pods_run() {
    let (world, _address, operator) = running("counted", 1).await;
    world
        .hub_says("demo", condition::SECRETS_CURRENT, "True", "Unchanged")
        .await;
    let first = world.another_revision(None).await;

    let url = format!("redis://other.{}", world.namespace);
    let secret = json!({"stringData": {"url": url}});
    world.patch::<k8s_openapi::api::core::v1::Secret>("redis", secret).await;
    world
        .patch::<Hub>("demo", json!({"spec": {"image": "alkhub/nowhere:bad"}}))
        .await;
    // The other Secret is noticed a minute later.
    let told = world
        .hub_says("demo", condition::SECRETS_CURRENT, "False", "SecretChanged")
        .await;
    let conditions = told
        .status
        .as_ref()
        .map(|status| status.conditions.clone())
        .unwrap_or_default();
    let message = condition::find(&conditions, condition::SECRETS_CURRENT).map(|c| c.message.clone());
    assert!(
        message.as_ref().is_some_and(|message| message.contains("redis")),
        "{message:?}"
    );

    let newest = revision(&told).unwrap_or_default().to_owned();
    assert_ne!(newest, first);
    let selector = told.status.and_then(|status| status.selector).expect("a selector");
    eventually("pods of both revisions", || async {
        let pods = world.api::<Pod>().list(&ListParams::default().labels(&selector)).await;
        let pods = pods.map_err(|error| error.to_string())?.items;
        let of = |revision: &str| pods.iter().any(|pod| pod.labels()["alkhub.dev/revision"] == *revision);
        (of(&first) && of(&newest))
            .then_some(())
            .ok_or_else(|| format!("{pods:?}"))
    })
    .await;
    drop(operator);
    world.end().await;
}
