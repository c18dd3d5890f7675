//! Redis or Postgres is lost, by being killed or by standing still. Hubs and spokes live.

use std::time::Duration;

use alkhub_test_support::{until, until_within};
use anyhow::{Result, ensure};
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::stage::{AT_ONCE, LEASE, Stage};

/// How long it takes until a silent link to Redis or to Postgres is noticed.
const NOTICED: Duration = Duration::from_secs(20);

/// Waits until `/readyz` of each hub says this about one of its dependencies, and returns the last answer.
async fn each_says(stage: &Stage, of: &str, wanted: &str) -> (u16, Value) {
    let mut last = (0, Value::Null);
    for hub in 0..stage.hubs.count() {
        let what = format!("hub {hub} says that {of} is {wanted}");
        last = until_within(&what, NOTICED, || async {
            let (status, body) = stage.hubs.readiness(hub).await?;
            if body[of]["state"] == wanted {
                Ok((status, body))
            } else {
                Err(body.to_string())
            }
        })
        .await;
    }
    last
}

/// Plays the loss and return of Redis, with a spoke on the second of two hubs and a call from a caller on each.
async fn goes_on_without_redis(freezes: bool) -> Result<()> {
    let stage = Stage::linked(2).await?;
    let spoke = stage.offer("t", &stage.hubs.url(1), 1).await?;
    let calls = [stage.call(0, "t.set", "hold-1"), stage.call(1, "t.set", "hold-2")];
    spoke.runs(&["hold-1", "hold-2"]).await;

    let mut redis = stage.hubs.redis.lock().await;
    if freezes {
        redis.freeze();
    } else {
        redis.kill().await;
    }
    for hub in [0, 1] {
        stage.answers(hub, "t.set", &format!("at-once-{hub}")).await?;
    }
    let (status, body) = each_says(&stage, "redis", "down").await;
    ensure!(status == 200 && body["status"] == "degraded", "{status} {body}");
    for hub in [0, 1] {
        stage.answers(hub, "t.set", &format!("down-{hub}")).await?;
    }
    let late = stage.plain("late", 0).await?;
    stage.answers(0, "late.set", "here").await?;
    let there = stage.call(1, "late.set", "there");
    let told = stage.told(there, Instant::now(), AT_ONCE).await?;
    // The operation's name is known if it is already in the database.
    let known = told.is(503, "NO_PROVIDER", "no");
    known.or_else(|_| told.is(503, "UNAVAILABLE", "no"))?;
    for word in ["hold-1", "hold-2"] {
        spoke.release(word)?;
    }
    let released = Instant::now();
    for call in calls {
        stage.told(call, released, AT_ONCE).await?.is_answered()?;
    }
    if freezes {
        redis.thaw();
    } else {
        redis.launch().await;
    }

    let back = Instant::now();
    stage.answers_within(1, "late.set", back, NOTICED).await?;
    let (status, body) = each_says(&stage, "redis", "up").await;
    ensure!(status == 200 && body["status"] == "ok", "{status} {body}");
    for hub in [0, 1] {
        stage.answers(hub, "t.set", &format!("up-{hub}")).await?;
    }
    stage.ran_as_told(&[&spoke, &late])
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_of_linked_hubs_go_on_while_redis_is_dead_and_what_registers_meanwhile_is_known_later() -> Result<()> {
    Box::pin(goes_on_without_redis(false)).await
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_of_linked_hubs_go_on_while_redis_stands_still_and_what_registers_meanwhile_is_known_later() -> Result<()>
{
    Box::pin(goes_on_without_redis(true)).await
}

/// Only Redis connects the hubs: calls that run from one to the other may have run, later ones did not.
#[tokio::test(flavor = "multi_thread")]
async fn calls_between_hubs_without_a_link_end_with_redis_and_their_callers_are_told_the_truth() -> Result<()> {
    let stage = Stage::over_redis(2).await?;
    let spoke = stage.offer("t", &stage.hubs.url(1), 1).await?;
    let (near, far) = (stage.call(1, "t.set", "hold-1"), stage.call(0, "t.set", "hold-2"));
    spoke.runs(&["hold-1", "hold-2"]).await;

    let began = Instant::now();
    let mut redis = stage.hubs.redis.lock().await;
    redis.kill().await;
    let (status, body) = each_says(&stage, "redis", "down").await;
    ensure!(status == 200 && body["status"] == "degraded", "{status} {body}");
    let late = stage.call(0, "t.set", "late");
    let late = stage.told(late, Instant::now(), AT_ONCE).await?;
    late.is(503, "UNAVAILABLE", "no")?;
    stage.answers(1, "t.set", "near").await?;
    redis.launch().await;
    each_says(&stage, "redis", "up").await;
    for word in ["hold-1", "hold-2"] {
        spoke.release(word)?;
    }

    stage.told(near, Instant::now(), AT_ONCE).await?.is_answered()?;
    let far = stage.told(far, began, NOTICED + LEASE).await?;
    if far.is_answered().is_err() {
        far.is(503, "UNAVAILABLE", "maybe")?;
    }
    stage.answers_within(0, "t.set", Instant::now(), NOTICED).await?;
    stage.ran_as_told(&[&spoke])
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_go_on_while_postgres_is_dead_and_their_records_come_when_it_is_back() -> Result<()> {
    let stage = Stage::with_own_postgres(2).await?;
    let spoke = stage.offer("t", &stage.hubs.url(1), 1).await?;
    let calls = [stage.call(0, "t.set", "hold-1"), stage.call(1, "t.get", "hold-2")];
    spoke.runs(&["hold-1", "hold-2"]).await;

    stage.hubs.kill_postgres().await?;
    for hub in [0, 1] {
        stage.answers(hub, "t.set", &format!("at-once-{hub}")).await?;
    }
    let (status, body) = each_says(&stage, "postgres", "down").await;
    ensure!(status == 200 && body["status"] == "degraded", "{status} {body}");
    let mut late = stage.plain("late", 0).await?;
    stage.answers(0, "late.set", "here").await?;
    // Its specification comes from Postgres.
    let there = stage.call(1, "late.set", "there");
    let told = stage.told(there, Instant::now(), AT_ONCE).await?;
    told.is(503, "UNAVAILABLE", "no")?;
    for word in ["hold-1", "hold-2"] {
        spoke.release(word)?;
    }
    let released = Instant::now();
    for call in calls {
        stage.told(call, released, AT_ONCE).await?.is_answered()?;
    }
    stage.hubs.restart_postgres().await?;
    stage.answers_within(1, "late.set", Instant::now(), NOTICED).await?;
    late.end(Signal::SIGKILL).await?;

    let (status, body) = each_says(&stage, "postgres", "up").await;
    ensure!(status == 200 && body["status"] == "ok", "{status} {body}");
    let http = stage.hubs.http(0);
    until("the calls of the outage are recorded", || async {
        let calls = http
            .send("GET", "/v1/calls", None)
            .await
            .map_err(|error| error.to_string())?;
        let listed = calls.body["data"].as_array().cloned().unwrap_or_default();
        let of = |operation: &str| {
            listed
                .iter()
                .filter(|call| call["operation"] == json!(operation))
                .count()
        };
        if of("t.set") >= 3 && of("t.get") >= 1 && of("late.set") >= 1 {
            Ok(())
        } else {
            Err(calls.body.to_string())
        }
    })
    .await;
    stage.ran_as_told(&[&spoke, &late])
}
