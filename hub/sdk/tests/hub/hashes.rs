//! A spoke that registers anew with a hub that knows its specifications, some of them, or none; and a change that is
//! sent alone.

use std::time::Duration;

use alkhub_config::HubConfig;
use alkhub_sdk::{Operation, Spoke, Status, spoke};
use alkhub_test_support::{Direction, until};
use alkhub_tests::cluster::Cluster;
use anyhow::{Result, ensure};
use serde_json::{Value, json};

use crate::frames::{UPDATE, Wire};
use crate::offers::{answer, nobody, ok};
use crate::stage::{Stage, soon, upper};

/// Operations of the spoke.
const OPERATIONS: usize = 50;

/// The size of a hash in a list, in bytes.
const NAMED: usize = 46;

/// `text.op{number}`.
fn operation(number: usize) -> Operation {
    let operation = Operation::query(&format!("text.op{number}"), upper);
    operation.description("An operation of about the usual size, which a person can read")
}

/// A spoke over the link that offers this many operations, with one session.
fn offering(stage: &Stage, operations: usize) -> spoke::Builder {
    let spoke = stage.spoke().sessions(1);
    (0..operations).fold(spoke, |spoke, number| spoke.operation(operation(number)))
}

fn generation(spoke: &Spoke) -> u64 {
    match &*spoke.status().borrow() {
        Status::Registered(output) => output.generation,
        Status::Connecting(_) | Status::Ended(_) => 0,
    }
}

/// Cuts the link of a spoke whose session does not survive that, and waits until the spoke has registered anew.
async fn registers_anew(stage: &Stage, spoke: &Spoke) -> Result<()> {
    let before = generation(spoke);
    stage.break_link();
    let mut status = spoke.status();
    let anew = |status: &Status| matches!(status, Status::Registered(output) if output.generation > before);
    soon("the spoke registers anew", status.wait_for(anew)).await?;
    Ok(())
}

/// A hub of another Hub, which accepts the same keys.
async fn elsewhere(stage: &Stage) -> Result<Cluster> {
    let auth = stage.cluster.config().auth;
    let mut other = Cluster::empty(None).await?;
    let change = |config: &mut HubConfig| {
        config.auth = auth;
        config.server.resume = Duration::ZERO;
    };
    other.add(change).await?;
    Ok(other)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_hub_has_told_the_hash_of_is_named_by_it_from_then_on() -> Result<()> {
    let stage = Stage::forgetful().await?;
    let wire = Wire::of(&stage.link);
    let spoke = offering(&stage, OPERATIONS).start().await?;

    registers_anew(&stage, &spoke).await?;

    let asked = wire.asked();
    ensure!(asked.len() == 2, "{asked:?}");
    let (whole, named) = (asked[0].offers(), asked[1].offers());
    assert_eq!((whole.len(), named.len()), (OPERATIONS, OPERATIONS));
    assert!(whole.iter().all(Value::is_object), "{whole:?}");
    assert!(named.iter().all(Value::is_string), "{named:?}");
    let whole: usize = whole.iter().map(|spec| spec.to_string().len()).sum();
    let by_hash = serde_json::to_string(named)?.len();
    assert!(by_hash <= NAMED * OPERATIONS + 1, "{by_hash}");
    assert!(by_hash * 5 < whole, "{by_hash} of {whole}");
    let last = format!("text.op{}", OPERATIONS - 1);
    assert_eq!(answer(&stage.http(), &last).await?, ok("AB"));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_hub_does_not_know_is_sent_whole_and_the_rest_is_not() -> Result<()> {
    let stage = Stage::forgetful().await?;
    let other = elsewhere(&stage).await?;
    // All but `text.op1`.
    let known = Spoke::builder(other.url(0)).token(stage.cluster.admin()).name("text");
    let known = known.operation(operation(0)).operation(operation(2)).start().await?;
    let wire = Wire::of(&stage.link);
    let spoke = offering(&stage, 3).start().await?;

    stage.link.lead_to(other.url(0).replacen("http://", "", 1));
    stage.break_link();
    let there = other.hubs[0].hub_id().to_string();
    let mut status = spoke.status();
    let is_there = |status: &Status| matches!(status, Status::Registered(output) if output.hub_id.as_str() == there);
    soon("it is registered there", status.wait_for(is_there)).await?;

    let asked = wire.asked();
    ensure!(asked.len() == 3, "{asked:?}");
    let (named, mixed) = (asked[1].offers(), asked[2].offers());
    assert!(named.iter().all(Value::is_string), "{named:?}");
    assert_eq!(
        (&mixed[0], &mixed[1]["name"], &mixed[2]),
        (&named[0], &json!("op1"), &named[2])
    );
    let unknown: Vec<_> = wire.spoken().into_iter().flat_map(|spoken| spoken.unknown).collect();
    assert_eq!(json!(unknown), json!([[named[1]]]), "what the hub asks for");
    // From now on it knows that one too.
    registers_anew(&stage, &spoke).await?;
    let asked = wire.asked();
    ensure!(asked.len() == 4, "{asked:?}");
    assert_eq!(asked[3].offers(), asked[1].offers(), "the hash is told anew");
    spoke.shutdown().await;
    known.shutdown().await;
    other.shutdown().await;
    Ok(())
}

/// Until the hub has heard of a change, it calls what was offered before.
#[tokio::test(flavor = "multi_thread")]
async fn a_change_is_told_alone_and_calls_of_before_are_answered_meanwhile() -> Result<()> {
    let stage = Stage::start().await?;
    let wire = Wire::of(&stage.link);
    let spoke = offering(&stage, 1).start().await?;
    let (http, input) = (stage.http(), json!("Ab"));

    stage.link.hold_one(Direction::ToServer);
    let changes = spoke.update(vec![operation(1)], vec!["text.op0".parse()?]);
    let heals = async {
        wire.asks(2).await;
        let answered = wire.shows("the call is answered", |spoken| {
            spoken.iter().any(|one| one.answers > 0)
        });
        let (called, ()) = tokio::join!(http.call("text.op0", &input), async {
            answered.await;
            stage.link.heal();
        });
        called
    };
    let (changed, called) = soon("the change", async { tokio::join!(changes, heals) }).await;

    changed?;
    let called = called?;
    assert_eq!((called.status, &called.body["data"]), (200, &json!("AB")));
    let asked = wire.asked();
    ensure!(asked.len() == 2, "{asked:?}");
    let (update, add) = (&asked[1], &asked[1].input["add"]);
    assert_eq!(
        (update.operation.as_str(), &update.input["remove"]),
        (UPDATE, &json!(["text.op0"]))
    );
    assert_eq!(
        (add.as_array().map(Vec::len), &add[0]["name"]),
        (Some(1), &json!("op1"))
    );
    assert_eq!(answer(&http, "text.op0").await?, nobody());
    assert_eq!(answer(&http, "text.op1").await?, ok("AB"));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_that_nobody_waits_for_is_told_all_the_same() -> Result<()> {
    let stage = Stage::start().await?;
    let wire = Wire::of(&stage.link);
    let spoke = offering(&stage, 1).start().await?;
    let http = stage.http();

    // It is given up before the hub has heard of it.
    stage.link.hold_one(Direction::ToServer);
    tokio::select! {
        told = spoke.add(operation(1)) => panic!("nobody has answered: {told:?}"),
        asked = wire.asks(2) => assert_eq!(asked[1].operation, UPDATE),
    }
    let asked = wire.asks(3).await;
    stage.link.heal();

    let named = asked[2].offers();
    assert!(named[0].is_string(), "{named:?}");
    assert_eq!(named[1]["name"], "op1");
    until("the hub knows", async || match answer(&http, "text.op1").await {
        Ok(answer) if answer == ok("AB") => Ok(()),
        other => Err(format!("{other:?}")),
    })
    .await;
    Ok(())
}
