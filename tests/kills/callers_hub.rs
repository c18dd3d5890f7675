//! The hub of the caller is lost, with calls that run on a spoke of another hub.

use std::time::Duration;

use alkhub_sdk::{Client, Delivered, Error};
use alkhub_test_support::{Proxy, within};
use anyhow::{Result, ensure};
use nix::sys::signal::Signal;
use tokio::time::Instant;

use crate::stage::{AT_ONCE, HUNG, LEASE, Stage};

/// How long a hub that ends lets calls run (`tests/src/hubs.rs`).
const DRAIN: Duration = Duration::from_secs(5);

/// How long it takes at most until a client of a dead hub knows its fate: the next hub looks for its session for up to
/// 3 s.
const KNOWN: Duration = Duration::from_secs(10);

async fn is_killed(stage: Stage) -> Result<()> {
    let spoke = stage.offer("t", &stage.hubs.url(1), 1).await?;
    let link = Proxy::start(stage.hubs.address(0)).await?;
    let client = Client::builder(format!("http://{}", link.address())).token(stage.hubs.key());
    let client = client.build()?;
    let calls = [stage.call(0, "t.get", "hold-1"), stage.call(0, "t.set", "hold-2")];
    let running = client.call::<_, String>("t.set", "hold-3");

    let killing = async {
        spoke.runs(&["hold-1", "hold-2", "hold-3"]).await;
        link.lead_to(stage.hubs.address(1));
        let began = Instant::now();
        stage.hubs.end(0, Signal::SIGKILL).await?;
        stage.answers(1, "t.set", "at-once").await?;
        spoke.stops(&["hold-1", "hold-2", "hold-3"], LEASE + AT_ONCE).await;
        anyhow::Ok(began)
    };
    let (lost, began) = within("the client is told", async { tokio::join!(running, killing) }).await;
    let began = began?;

    let told = began.elapsed();
    ensure!(told < KNOWN, "{told:?}");
    let lost = lost.expect_err("its hub is dead");
    ensure!(
        matches!(lost, Error::Lost) && lost.delivered() == Delivered::Maybe,
        "{lost}"
    );
    for call in calls {
        let told = stage.told(call, began, AT_ONCE + told).await?;
        ensure!(told.answer.is_none(), "a dead hub answers: {told:?}");
    }
    let next = within("the client goes on", client.call::<_, String>("t.set", "next")).await?;
    ensure!(next == "next", "{next}");
    stage.hubs.shows(1, "\nalkhub_calls_in_flight 0\n", AT_ONCE).await;
    ensure!(spoke.lines("runs", "hold-3") == 1, "it ran once");
    client.close().await;
    stage.ran_as_told(&[&spoke])
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_of_a_killed_hub_are_stopped_at_their_spoke_over_a_link() -> Result<()> {
    Box::pin(is_killed(Stage::linked(2).await?)).await
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_of_a_killed_hub_are_stopped_at_their_spoke_over_redis() -> Result<()> {
    Box::pin(is_killed(Stage::over_redis(2).await?)).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hub_that_is_told_to_end_lets_its_callers_calls_finish_and_tells_those_that_do_not() -> Result<()> {
    let stage = Stage::linked(2).await?;
    let spoke = stage.offer("t", &stage.hubs.url(1), 1).await?;
    let (finishes, does_not) = (stage.call(0, "t.set", "hold-1"), stage.call(0, "t.set", "hold-2"));
    spoke.runs(&["hold-1", "hold-2"]).await;

    let began = Instant::now();
    stage.hubs.signal(0, Signal::SIGTERM).await?;
    spoke.release("hold-1")?;
    stage.told(finishes, began, DRAIN).await?.is_answered()?;
    stage.answers(1, "t.set", "meanwhile").await?;
    let told = stage.told(does_not, began, DRAIN + AT_ONCE).await?;

    told.is(503, "UNAVAILABLE", "maybe")?;
    stage.hubs.ended(0).await?;
    spoke.stops(&["hold-2"], AT_ONCE).await;
    stage.answers(1, "t.set", "after").await?;
    stage.ran_as_told(&[&spoke])
}

/// When the hub continues, it reports what it no longer knows: its calls were ended at the spoke in the meantime.
#[tokio::test(flavor = "multi_thread")]
async fn a_hub_that_stands_still_is_given_up_by_the_others_and_tells_its_callers_when_it_goes_on() -> Result<()> {
    let stage = Stage::linked(2).await?;
    let spoke = stage.offer("t", &stage.hubs.url(1), 1).await?;
    let calls = [stage.call(0, "t.get", "hold-1"), stage.call(0, "t.set", "hold-2")];
    spoke.runs(&["hold-1", "hold-2"]).await;

    let began = Instant::now();
    stage.hubs.signal(0, Signal::SIGSTOP).await?;
    stage.answers(1, "t.set", "at-once").await?;
    spoke.stops(&["hold-1", "hold-2"], HUNG).await;
    ensure!(began.elapsed() < HUNG, "{:?}", began.elapsed());
    stage.answers(1, "t.set", "after").await?;
    stage.hubs.signal(0, Signal::SIGCONT).await?;

    let goes_on = Instant::now();
    for call in calls {
        let told = stage.told(call, goes_on, HUNG).await?;
        told.is(503, "UNAVAILABLE", "maybe")?;
    }
    stage.answers_within(0, "t.set", goes_on, HUNG).await?;
    stage.ran_as_told(&[&spoke])
}
