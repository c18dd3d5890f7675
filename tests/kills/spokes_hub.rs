//! The hub of the spoke is lost, with calls from another hub's callers on it.

use std::time::Duration;

use alkhub_test_support::Proxy;
use anyhow::{Result, ensure};
use nix::sys::signal::Signal;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::stage::{AT_ONCE, HUNG, LEASE, Spoke, Stage, USUAL_LEASE};

/// A load balancer in front of hubs, and its address.
async fn balancer(stage: &Stage, hubs: &[usize]) -> Result<(Proxy, String)> {
    let proxy = Proxy::start(stage.hubs.address(hubs[0])).await?;
    proxy.spread_over(hubs.iter().map(|hub| stage.hubs.address(*hub)));
    let url = format!("http://{}", proxy.address());
    Ok((proxy, url))
}

/// A spoke with two sessions, on the second and third of three hubs, and the proxy that leads there.
async fn with_two_sessions(stage: &Stage) -> Result<(Spoke, Proxy)> {
    let (balancer, url) = balancer(stage, &[1, 2]).await?;
    let spoke = stage.offer("t", &url, 2).await?;
    stage.know(&[0, 1, 2], 2, AT_ONCE).await;
    Ok((spoke, balancer))
}

/// Makes one call after another through a hub, each of which must be answered; returns how many, once it is told to
/// end.
async fn calls_all_the_time(stage: &Stage, hub: usize, end: &CancellationToken) -> Result<usize> {
    for number in 0.. {
        if end.is_cancelled() {
            return Ok(number);
        }
        let call = stage.call(hub, "t.set", &format!("all-the-time-{number}"));
        stage.told(call, Instant::now(), HUNG).await?.is_answered()?;
    }
    Ok(0)
}

/// An answer that is ready when the hub dies arrives through another hub. Once the hub is known to be gone, a running
/// mutation is lost, and a running query is sent again, to wherever the spoke is by then.
#[tokio::test(flavor = "multi_thread")]
async fn a_spoke_whose_hub_is_killed_brings_its_answer_to_another_and_of_what_runs_on_queries_run_again() -> Result<()>
{
    let stage = Stage::with_usual_leases(3).await?;
    let (balancer, url) = balancer(&stage, &[1]).await?;
    let spoke = stage.offer("t", &url, 1).await?;
    let ready = stage.call(0, "t.set", "hold-1");
    let [query, mutation] = [("t.get", "hold-2"), ("t.set", "hold-3")].map(|(name, word)| stage.call(0, name, word));
    spoke.runs(&["hold-1", "hold-2", "hold-3"]).await;

    balancer.lead_to(stage.hubs.address(2));
    // The answer is on its way to a hub that no longer reads.
    stage.hubs.signal(1, Signal::SIGSTOP).await?;
    spoke.finishes(&["hold-1"]).await?;
    let began = Instant::now();
    stage.hubs.end(1, Signal::SIGKILL).await?;

    stage.told(ready, began, USUAL_LEASE + AT_ONCE).await?.is_answered()?;
    // Its handlers ended together with its session.
    spoke.stops(&["hold-2", "hold-3"], USUAL_LEASE + AT_ONCE).await;
    spoke.release("hold-2")?;
    let told = stage.told(mutation, began, USUAL_LEASE + AT_ONCE).await?;
    told.is(502, "SPOKE_LOST", "maybe")?;
    let told = stage.told(query, began, USUAL_LEASE + AT_ONCE).await?;
    told.is_answered()?;
    ensure!(spoke.lines("runs", "hold-2") == 2, "it ran again");
    for hub in [0, 2] {
        stage.answers_within(hub, "t.set", began, USUAL_LEASE + AT_ONCE).await?;
    }
    stage.ran_as_told(&[&spoke])
}

#[tokio::test(flavor = "multi_thread")]
async fn a_spoke_with_two_sessions_is_called_over_the_other_one_when_a_hub_is_killed() -> Result<()> {
    let stage = Stage::linked(3).await?;
    let (spoke, balancer) = with_two_sessions(&stage).await?;
    let words: Vec<String> = (0..8).map(|number| format!("hold-{number}")).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let calls = words.iter().map(|word| stage.call(0, "t.set", word));
    let calls: Vec<_> = calls.collect();
    spoke.runs(&words).await;

    balancer.lead_to(stage.hubs.address(2));
    stage.hubs.signal(1, Signal::SIGSTOP).await?;
    spoke.finishes(&words).await?;
    let began = Instant::now();
    stage.hubs.end(1, Signal::SIGKILL).await?;
    for hub in [0, 2] {
        stage.answers_within(hub, "t.set", began, AT_ONCE).await?;
    }

    // Calls that ran over the dead hub are answered over the other session, before the dead hub's lease expires.
    for call in calls {
        stage.told(call, began, LEASE + AT_ONCE).await?.is_answered()?;
    }
    stage.answers(0, "t.set", "after").await?;
    stage.ran_as_told(&[&spoke])
}

/// What runs over the session of the dead hub runs on, and is answered over the other one.
#[tokio::test(flavor = "multi_thread")]
async fn calls_that_run_over_a_killed_hub_go_on_where_the_spoke_has_two_sessions() -> Result<()> {
    let stage = Stage::with_usual_leases(3).await?;
    let (spoke, balancer) = with_two_sessions(&stage).await?;
    let words: Vec<String> = (0..8).map(|number| format!("hold-{number}")).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let calls: Vec<_> = words.iter().map(|word| stage.call(0, "t.set", word)).collect();
    spoke.runs(&words).await;

    balancer.lead_to(stage.hubs.address(2));
    let began = Instant::now();
    stage.hubs.end(1, Signal::SIGKILL).await?;
    stage.answers_within(0, "t.set", began, AT_ONCE).await?;
    // Meanwhile the spoke has asked for its session, and there is none.
    for number in 0..16 {
        stage.answers(0, "t.set", &format!("meanwhile-{number}")).await?;
    }
    spoke.finishes(&words).await?;

    for call in calls {
        stage.told(call, began, USUAL_LEASE + AT_ONCE).await?.is_answered()?;
    }
    stage.ran_as_told(&[&spoke])
}

/// The spoke moves together with its running calls, and is called all the time.
#[tokio::test(flavor = "multi_thread")]
async fn a_hub_that_is_told_to_end_costs_its_spokes_no_call() -> Result<()> {
    let stage = Stage::linked(3).await?;
    let (balancer, url) = balancer(&stage, &[1]).await?;
    let spoke = stage.offer("t", &url, 1).await?;
    let running = stage.call(0, "t.set", "hold-1");
    spoke.runs(&["hold-1"]).await;
    balancer.lead_to(stage.hubs.address(2));
    let over = CancellationToken::new();

    let ending = async {
        let _over = over.clone().drop_guard();
        stage.hubs.signal(1, Signal::SIGTERM).await?;
        stage.hubs.shows(2, "\nalkhub_spokes_connected 1\n", AT_ONCE).await;
        spoke.release("hold-1")?;
        let told = stage.told(running, Instant::now(), AT_ONCE).await?;
        stage.hubs.ended(1).await?;
        spoke.has_run(20).await;
        told.is_answered()
    };
    let (ended, called) = tokio::join!(ending, calls_all_the_time(&stage, 0, &over));

    ended?;
    ensure!(called? > 0, "nothing was called");
    stage.answers(2, "t.set", "after").await?;
    stage.ran_as_told(&[&spoke])
}

/// Calls that the hub had when it stopped are lost, or answered over the other session; when it continues, nothing runs
/// twice.
#[tokio::test(flavor = "multi_thread")]
async fn a_spoke_with_two_sessions_is_called_over_the_other_one_when_a_hub_stands_still() -> Result<()> {
    const LOST: Duration = HUNG.saturating_add(AT_ONCE);
    let stage = Stage::linked(3).await?;
    let (spoke, balancer) = with_two_sessions(&stage).await?;
    let words = ["hold-1", "hold-2", "hold-3", "hold-4", "hold-5", "hold-6"];
    let calls = words.map(|word| stage.call(0, "t.set", word));
    spoke.runs(&words).await;

    balancer.lead_to(stage.hubs.address(2));
    let began = Instant::now();
    stage.hubs.signal(1, Signal::SIGSTOP).await?;
    // Until the stop is noticed, some calls are sent to where nobody reads; they end when it is.
    let new = [0, 0, 0, 0, 2, 2].map(|hub| (hub, began));
    let new: Vec<_> = new
        .iter()
        .enumerate()
        .map(|(number, (hub, _))| stage.call(*hub, "t.set", &format!("new-{number}")))
        .collect();
    for hub in [0, 2] {
        stage.answers_within(hub, "t.set", began, HUNG).await?;
    }
    for call in new {
        let told = stage.told(call, began, LOST).await?;
        let answered = told.is_answered();
        answered.or_else(|_| told.is(502, "SPOKE_LOST", "maybe"))?;
    }
    let mut answered = 0;
    for (word, call) in words.iter().zip(calls) {
        spoke.release(word)?;
        let told = stage.told(call, began, LOST).await?;
        match told.is_answered() {
            Ok(()) => answered += 1,
            Err(_) => told.is(502, "SPOKE_LOST", "maybe")?,
        }
    }
    stage.hubs.signal(1, Signal::SIGCONT).await?;

    ensure!(answered > 0, "those of the other session are not answered");
    let goes_on = Instant::now();
    stage.answers_within(1, "t.set", goes_on, HUNG).await?;
    stage.hubs.ready(1).await;
    stage.ran_as_told(&[&spoke])
}
