//! Spokes: key, declaration, connection, suspension, and their end.

use alkhub_crds::{Condition, Hub, Spoke, SpokePhase, condition};
use alkhub_protocol::ApiKey;
use k8s_openapi::api::core::v1::Secret;
use kube::ResourceExt as _;
use serde_json::json;

use crate::fake::Fake;
use crate::harness::{World, eventually, given, world};

async fn token(world: &World, secret: &str) -> String {
    let data = world
        .api::<Secret>()
        .get(secret)
        .await
        .expect("a Secret")
        .data
        .expect("data");
    assert_eq!(data["token"], data["ALKHUB_TOKEN"]);
    assert_eq!(
        data["url"].0,
        format!("http://demo.{}.svc:7420", world.namespace).into_bytes()
    );
    String::from_utf8(data["token"].0.clone()).expect("text")
}

async fn phase(world: &World, name: &str, phase: SpokePhase) -> Spoke {
    let is = |spoke: &Spoke| spoke.status.as_ref().and_then(|status| status.phase) == Some(phase);
    world.until::<Spoke>(name, &format!("{name} is {phase:?}"), is).await
}

fn readiness(spoke: &Spoke) -> Condition {
    let conditions = &spoke.status.as_ref().expect("a status").conditions;
    condition::find(conditions, condition::READY).expect("there").clone()
}

#[tokio::test]
#[ignore = "needs a cluster: make harness"]
async fn a_spoke_gets_one_key_is_declared_once_and_shows_its_connection() {
    let world = world("spoke").await;
    let fake = Fake::default();
    let address = fake.serve().await;
    let operator = world.operator(&address, &[]).await;
    let spec = json!({"hubRef": {"name": "demo"}, "operations": ["text.*"], "scopes": ["call:text.*"], "labels": {"os": "linux"}});

    world.spoke("builder", spec).await;
    world
        .spoke_says("builder", condition::ACCEPTED, "False", "HubNotFound")
        .await;
    world
        .spoke_says("builder", condition::READY, "False", "HubNotFound")
        .await;
    world.demo().await;
    let spoke = phase(&world, "builder", SpokePhase::Ready).await;
    let ready = readiness(&spoke);
    let key = token(&world, "builder-key").await;

    assert_eq!(ready.status, "True");
    assert_eq!(ready.observed_generation, spoke.metadata.generation);
    assert!(ApiKey::parse(&key).is_ok());
    let puts = fake.puts();
    assert_eq!(puts.len(), 1, "{puts:?}");
    assert_eq!(
        (puts[0].uid.as_str(), puts[0].key.as_deref()),
        (spoke.uid().as_deref().expect("a uid"), Some(key.as_str()))
    );
    assert_eq!(
        (puts[0].operations.as_slice(), puts[0].labels["os"].as_str()),
        (["text.*".to_owned()].as_slice(), "linux")
    );

    fake.connect("builder", 2);
    let connected = phase(&world, "builder", SpokePhase::Connected)
        .await
        .status
        .expect("a status");
    assert_eq!(
        (connected.pod.as_deref(), connected.instances, connected.operations),
        (Some("pod-a"), 2, 1)
    );
    // The Hub shows them too; its counts are written a while later.
    let counted = |hub: &Hub| hub.status.as_ref().is_some_and(|status| status.spokes == Some(2));
    world.until::<Hub>("demo", "the Hub counts them", counted).await;
    operator.reconciles(3.0).await;
    let writes = operator.metric("alkhub_operator_api_writes_total").await;
    operator.reconciles(5.0).await;
    assert_eq!(
        operator.metric("alkhub_operator_api_writes_total").await,
        writes,
        "heartbeats write nothing"
    );
    fake.lose("builder", true);
    let away = phase(&world, "builder", SpokePhase::Reconnecting).await;
    assert_eq!(away.status.map(|status| status.instances), Some(2));
    world
        .spoke_says("builder", condition::CONNECTED, "False", "Reconnecting")
        .await;
    fake.lose("builder", false);
    phase(&world, "builder", SpokePhase::Connected).await;
    fake.connect("builder", 0);
    let left = phase(&world, "builder", SpokePhase::Disconnected).await;
    assert_eq!(readiness(&left), ready, "it may connect all the while");

    // Another operator finds everything as it should be and declares nothing again.
    drop(operator);
    let operator = world.operator(&address, &["--lease-duration", "3s"]).await;
    operator.leads().await;
    operator.reconciles(6.0).await;
    assert_eq!(fake.puts().len(), 1);
    assert_eq!(token(&world, "builder-key").await, key);

    declared_again(&world, &fake, &key).await;

    world.delete::<Spoke>("builder").await;
    world.gone::<Spoke>("builder").await;
    assert_eq!(
        fake.deletes().last().expect("a delete"),
        &("builder".to_owned(), spoke.uid().expect("a uid"))
    );
    world.gone::<Secret>("builder-key").await;
    world.end().await;
}

async fn declared_again(world: &World, fake: &Fake, key: &str) {
    // A change is declared with the same key; a hub that lost its rows is told again.
    world
        .patch::<Spoke>("builder", json!({"spec": {"suspended": true}}))
        .await;
    phase(world, "builder", SpokePhase::Suspended).await;
    eventually("the suspension is declared", || async {
        fake.puts()
            .iter()
            .any(|p| p.suspended)
            .then_some(())
            .ok_or_else(String::new)
    })
    .await;
    fake.forget();
    let told = fake.puts().len();
    eventually("it is declared again", || async {
        (fake.puts().len() > told).then_some(()).ok_or_else(String::new)
    })
    .await;
    assert!(fake.puts().iter().all(|put| put.key.as_deref() == Some(key)));

    // A key that somebody broke is made anew; everything else in the Secret stays.
    world
        .patch::<Secret>(
            "builder-key",
            json!({"stringData": {"token": "x", "ALKHUB_TOKEN": "y", "theirs": "z"}}),
        )
        .await;
    let whole = |secret: &Secret| {
        secret
            .data
            .as_ref()
            .is_some_and(|data| ApiKey::parse(&String::from_utf8_lossy(&data["token"].0)).is_ok())
    };
    let mended = world.until::<Secret>("builder-key", "a whole key", whole).await;
    assert_eq!(mended.data.expect("data")["theirs"].0, b"z");
    let key = &token(world, "builder-key").await;

    // A Secret that somebody deleted is made anew with another key.
    world.delete::<Secret>("builder-key").await;
    let other = |secret: &Secret| {
        secret
            .data
            .as_ref()
            .is_some_and(|data| data["token"].0 != key.as_bytes())
    };
    world.until::<Secret>("builder-key", "another key", other).await;
    let new = token(world, "builder-key").await;
    eventually("it is declared", || async {
        (fake.puts().last().and_then(|p| p.key.clone()) == Some(new.clone()))
            .then_some(())
            .ok_or_else(String::new)
    })
    .await;
}

#[tokio::test]
#[ignore = "needs a cluster: make harness"]
async fn a_hub_that_does_not_answer_keeps_its_spokes_and_one_that_is_gone_does_not() {
    let world = world("silent").await;
    let fake = Fake::default();
    let operator = world.operator(&fake.serve().await, &[]).await;
    world.demo().await;
    world.one_and_two(&fake).await;

    fake.away(true);
    let unsure = world
        .spoke_says("one", condition::CONNECTED, "Unknown", "HubUnreachable")
        .await;
    assert_eq!(
        unsure.status.and_then(|status| status.phase),
        Some(SpokePhase::Connected)
    );
    world
        .hub_says("demo", condition::DEGRADED, "Unknown", "HubUnreachable")
        .await;
    world.delete::<Spoke>("one").await;
    let says = |spoke: &Spoke| {
        spoke
            .status
            .as_ref()
            .is_some_and(|s| s.conditions.iter().any(|c| c.message.contains("cannot be ended")))
    };
    world.until::<Spoke>("one", "it says why it stays", says).await;
    assert!(fake.deletes().is_empty());
    assert_eq!(fake.delete_requests(), 0, "the poll asks for all");

    fake.away(false);
    world.gone::<Spoke>("one").await;
    assert_eq!(fake.deletes().len(), 1);
    fake.away(true);
    world.delete::<Hub>("demo").await;
    world
        .spoke_says("two", condition::ACCEPTED, "False", "HubNotFound")
        .await;
    world.delete::<Spoke>("two").await;
    world.gone::<Spoke>("two").await;
    assert_eq!(fake.deletes().len(), 1);
    drop(operator);
    world.end().await;
}

/// Its polls are answered, so each of its Spokes is tried.
#[tokio::test]
#[ignore = "needs a cluster: make harness"]
async fn a_hub_that_hangs_holds_up_no_spoke_of_another_hub() {
    const SPOKES: usize = 12;
    let world = world("hanging").await;
    let fake = Fake::default();
    fake.hang("hangs");
    let operator = world.operator(&fake.serve().await, &["--concurrency", "8"]).await;
    world.demo().await;
    let mut hangs = given();
    hangs["channelPrefix"] = json!("hangs:");
    world.hub("hangs", hangs).await;
    for number in 0..SPOKES {
        let spec = json!({"hubRef": {"name": "hangs"}});
        world.spoke(&format!("stuck-{number}"), spec).await;
    }
    eventually("it hangs", || async {
        (fake.hung() > 0).then_some(()).ok_or_else(String::new)
    })
    .await;

    for name in ["one", "two", "three"] {
        world.spoke(name, json!({"hubRef": {"name": "demo"}})).await;
        phase(&world, name, SpokePhase::Ready).await;
    }

    // A quarter of the workers; and as many requests again that were given up may not be gone yet.
    assert!(fake.hung() <= 4, "{} of 8 workers", fake.hung());
    drop(operator);
    world.end().await;
}

#[tokio::test]
#[ignore = "needs a cluster: make harness"]
async fn what_a_hub_refuses_is_shown_and_what_it_should_not_have_is_swept() {
    let world = world("refused").await;
    let fake = Fake::default();
    let operator = world.operator(&fake.serve().await, &[]).await;
    fake.refuse(Some("operations: `text.*` is not yours"));
    fake.plant("ghost", "uid-of-nobody");
    fake.plant("adhoc", "");
    world.demo().await;

    world.spoke("builder", json!({"hubRef": {"name": "demo"}})).await;
    let refused = world
        .spoke_says("builder", condition::ACCEPTED, "False", "RefusedByHub")
        .await;
    assert!(
        refused
            .status
            .expect("a status")
            .conditions
            .iter()
            .any(|c| c.message.contains("is not yours"))
    );
    eventually("the ghost is ended", || async {
        (!fake.deletes().is_empty()).then_some(()).ok_or_else(String::new)
    })
    .await;
    assert_eq!(fake.deletes(), [("ghost".to_owned(), "uid-of-nobody".to_owned())]);

    fake.refuse(None);
    world
        .patch::<Spoke>("builder", json!({"spec": {"concurrency": 3}}))
        .await;
    phase(&world, "builder", SpokePhase::Ready).await;
    drop(operator);
    world.end().await;
}
