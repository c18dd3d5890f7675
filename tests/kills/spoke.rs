//! The spoke is lost: it is killed, told to end, or stands still. Hubs live.

use std::time::Duration;

use anyhow::Result;
use nix::sys::signal::Signal;
use tokio::time::Instant;

use crate::stage::{AT_ONCE, DEAD, RESUME, Stage};

/// Calls of both kinds through both hubs.
const CALLS: [(usize, &str, &str); 4] = [
    (0, "t.get", "hold-1"),
    (0, "t.set", "hold-2"),
    (1, "t.get", "hold-3"),
    (1, "t.set", "hold-4"),
];
const WORDS: [&str; 4] = ["hold-1", "hold-2", "hold-3", "hold-4"];
/// The words of those calls that are queries.
const QUERIES: [&str; 2] = ["hold-1", "hold-3"];

/// No session is left that could come back, so a mutation is lost, and a query goes to the other spoke.
#[tokio::test(flavor = "multi_thread")]
async fn mutations_that_a_killed_plain_spoke_had_are_lost_at_once_and_its_queries_run_again_elsewhere() -> Result<()> {
    let stage = Stage::linked(2).await?;
    let mut killed = stage.plain("t", 0).await?;
    let [get_0, set_0, get_1, set_1] = CALLS.map(|(hub, operation, word)| stage.call(hub, operation, word));
    killed.runs(&WORDS).await;
    let other = stage.plain("t", 1).await?;
    // Both hubs can call it.
    stage.know(&[0, 1], 2, AT_ONCE).await;

    let began = Instant::now();
    killed.end(Signal::SIGKILL).await?;

    for call in [set_0, set_1] {
        stage.told(call, began, AT_ONCE).await?.is(502, "SPOKE_LOST", "maybe")?;
    }
    other.runs(&QUERIES).await;
    for word in QUERIES {
        other.release(word)?;
    }
    for call in [get_0, get_1] {
        stage.told(call, began, 2 * AT_ONCE).await?.is_answered()?;
    }
    stage.know(&[0, 1], 1, AT_ONCE).await;
    for hub in [0, 1] {
        stage.answers(hub, "t.set", &format!("next-{hub}")).await?;
    }
    let (began, mut other) = (Instant::now(), other);
    other.end(Signal::SIGKILL).await?;
    stage.know(&[0, 1], 0, AT_ONCE).await;
    for (hub, operation, word) in [(0, "t.get", "late-1"), (0, "t.set", "late-2"), (1, "t.set", "late-3")] {
        let call = stage.call(hub, operation, word);
        stage.told(call, began, AT_ONCE).await?.is(503, "NO_PROVIDER", "no")?;
    }
    stage.ran_as_told(&[&killed, &other])
}

/// The killed spoke's session is kept for a while. The calls that it had are not given up before that time is over,
/// when queries go to the other spoke; calls that it never got wait for any spoke that comes.
#[tokio::test(flavor = "multi_thread")]
async fn calls_wait_for_a_killed_spoke_with_a_session_until_another_comes_or_its_time_is_up() -> Result<()> {
    let stage = Stage::linked(2).await?;
    let mut killed = stage.offer("t", &stage.hubs.url(0), 1).await?;
    let [get_0, set_0, get_1, set_1] = CALLS.map(|(hub, operation, word)| stage.call(hub, operation, word));
    killed.runs(&WORDS).await;

    let began = Instant::now();
    killed.end(Signal::SIGKILL).await?;
    stage.hubs.shows(0, "\nalkhub_spokes_reconnecting 1\n", AT_ONCE).await;
    let waiting = [stage.call(0, "t.set", "waits-1"), stage.call(1, "t.set", "waits-2")];
    stage.hubs.shows(0, "\nalkhub_calls_in_flight 6\n", AT_ONCE).await;
    let mut other = stage.offer("t", &stage.hubs.url(1), 1).await?;

    let came = Instant::now();
    for call in waiting {
        stage.told(call, came, AT_ONCE).await?.is_answered()?;
    }
    for call in [set_0, set_1] {
        let told = stage.told(call, began, RESUME + AT_ONCE).await?;
        told.is(502, "SPOKE_LOST", "maybe")?;
    }
    other.runs(&QUERIES).await;
    other.finishes(&QUERIES).await?;
    let finished = Instant::now();
    for call in [get_0, get_1] {
        stage.told(call, finished, AT_ONCE).await?.is_answered()?;
    }
    stage.answers(0, "t.set", "next").await?;
    let began = Instant::now();
    other.end(Signal::SIGKILL).await?;
    stage.hubs.shows(1, "\nalkhub_spokes_reconnecting 1\n", AT_ONCE).await;
    let in_vain = [stage.call(0, "t.set", "vain-1"), stage.call(1, "t.get", "vain-2")];
    for call in in_vain {
        let told = stage.told(call, began, RESUME + AT_ONCE).await?;
        told.is(502, "SPOKE_LOST", "no")?;
    }
    let none = stage.call(0, "t.set", "late");
    let told = stage.told(none, Instant::now(), AT_ONCE).await?;
    told.is(503, "NO_PROVIDER", "no")?;
    stage.ran_as_told(&[&killed, &other])
}

#[tokio::test(flavor = "multi_thread")]
async fn a_spoke_that_is_told_to_end_finishes_its_calls_and_gets_no_more() -> Result<()> {
    let stage = Stage::linked(2).await?;
    let mut ending = stage.offer("t", &stage.hubs.url(0), 1).await?;
    let calls = CALLS.map(|(hub, operation, word)| stage.call(hub, operation, word));
    ending.runs(&WORDS).await;

    ending.signal(Signal::SIGTERM)?;
    // Calls that were on their way when it withdrew are accepted and answered.
    for hub in [0, 1] {
        stage.is_withdrawn(hub, "t.set").await;
    }
    for word in WORDS {
        ending.release(word)?;
    }

    let released = Instant::now();
    for call in calls {
        stage.told(call, released, AT_ONCE).await?.is_answered()?;
    }
    ending.ended().await?;
    stage.ran_as_told(&[&ending])
}

/// A plain spoke counts as dead to its hub; one with a session is waited for, and comes back to its calls.
#[tokio::test(flavor = "multi_thread")]
async fn a_spoke_that_stands_still_costs_a_plain_one_its_calls_and_one_with_a_session_nothing() -> Result<()> {
    const NOTICED: Duration = DEAD.saturating_add(AT_ONCE);
    let stage = Stage::linked(2).await?;
    let plain = stage.plain("p", 0).await?;
    let spoke = stage.offer("s", &stage.hubs.url(0), 1).await?;
    let of_plain = [stage.call(0, "p.set", "hold-1"), stage.call(1, "p.set", "hold-2")];
    let of_spoke = [stage.call(0, "s.set", "hold-3"), stage.call(1, "s.set", "hold-4")];
    plain.runs(&["hold-1", "hold-2"]).await;
    spoke.runs(&["hold-3", "hold-4"]).await;

    let began = Instant::now();
    plain.signal(Signal::SIGSTOP)?;
    spoke.signal(Signal::SIGSTOP)?;
    for call in of_plain {
        stage.told(call, began, NOTICED).await?.is(502, "SPOKE_LOST", "maybe")?;
    }
    stage.hubs.shows(0, "\nalkhub_spokes_reconnecting 1\n", NOTICED).await;
    let waits = stage.call(1, "s.set", "waits");
    let none = stage.call(1, "p.set", "late");
    stage
        .told(none, Instant::now(), AT_ONCE)
        .await?
        .is(503, "NO_PROVIDER", "no")?;
    spoke.signal(Signal::SIGCONT)?;
    for word in ["hold-3", "hold-4"] {
        spoke.release(word)?;
    }

    let goes_on = Instant::now();
    for call in of_spoke {
        stage.told(call, goes_on, AT_ONCE).await?.is_answered()?;
    }
    stage.told(waits, goes_on, AT_ONCE).await?.is_answered()?;
    plain.signal(Signal::SIGCONT)?;
    stage.answers(0, "s.set", "next").await?;
    stage.ran_as_told(&[&plain, &spoke])
}
