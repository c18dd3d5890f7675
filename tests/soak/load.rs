//! What goes on all the time: spokes that come and go, callers, and publishers with their subscribers.

use std::future::pending;
use std::time::Duration;

use alkhub_protocol::Delivered;
use alkhub_tests::http::{Http, Sse};
use alkhub_tests::wire::{Peer, operation};
use anyhow::{Context as _, Result, bail};
use fastrand::Rng;
use serde_json::{Value, json};
use tokio::time::timeout;

use crate::Run;

/// The time between two calls of a caller, and between two events of a topic.
const PACE: Duration = Duration::from_millis(10);
/// How long a peer whose hub is away waits before it tries again.
const RETRY: Duration = Duration::from_millis(200);
/// The longest that an event accepted by the hub may take to arrive; faults are shorter.
const DELIVERY: Duration = Duration::from_secs(20);
/// How many events a topic has before its subscriber and its publisher change hubs.
const EVENTS: u64 = 300;

/// Lets time pass; `false` once the run ends.
pub(crate) async fn pause(run: &Run, time: Duration) -> bool {
    let passed = timeout(time, pending::<()>());
    tokio::select! {
        () = run.stop.cancelled() => false,
        _ = passed => true,
    }
}

/// A spoke that connects to some hub, answers some calls, vanishes without a word, and comes back.
pub(crate) async fn spoke(run: Run, seed: u64) {
    let mut chance = Rng::with_seed(seed);
    while !run.stop.is_cancelled() {
        let hub = chance.usize(..run.hubs.count());
        let calls = chance.u32(50..3_000);
        let life = tokio::select! {
            () = run.stop.cancelled() => return,
            life = serve(&run, hub, calls) => life,
        };
        match life {
            Ok(()) => run.ledger.count("spokes vanished"),
            Err(_) => run.ledger.count("spokes were closed or refused"),
        }
        if !pause(&run, RETRY).await {
            return;
        }
    }
}

async fn serve(run: &Run, hub: usize, calls: u32) -> Result<()> {
    let mut peer = Peer::connect(&run.hubs.url(hub), run.hubs.key()).await?;
    let operations = json!([
        operation("soak", "echo", "query"),
        operation("soak", "once", "mutation")
    ]);
    peer.register("soak", operations).await?;
    run.ledger.count("registrations");
    for _ in 0..calls {
        let asked = loop {
            match peer.next_or_closed().await? {
                Ok(asked) if asked["type"] == "call.requested" => break asked["payload"].clone(),
                Ok(_) => {}
                Err((code, reason)) => bail!("closed with {code} {reason}"),
            }
        };
        if let Some(number) = asked["input"]["mutation"].as_u64() {
            run.ledger.ran(number);
        }
        let answer = json!({ "requestId": asked["requestId"], "output": asked["input"] });
        peer.send("call.responded", "", answer).await?;
    }
    Ok(())
}

/// A caller at any of the hubs, with one call at a time.
pub(crate) async fn caller(run: Run, seed: u64) {
    let mut chance = Rng::with_seed(seed);
    let clients: Vec<Http> = (0..run.hubs.count()).map(|hub| run.hubs.http(hub)).collect();
    while pause(&run, PACE).await {
        let http = &clients[chance.usize(..clients.len())];
        if chance.bool() {
            let input = json!({ "n": chance.u64(..), "text": "x".repeat(chance.usize(..2_000)) });
            match http.call("soak.echo", &input).await {
                Ok(answer) => {
                    run.ledger.judge("soak.echo", &input, &answer);
                }
                Err(_) => run.ledger.count("calls without an answer"),
            }
        } else {
            let number = run.ledger.mutation();
            let input = json!({ "mutation": number });
            let told = match http.call("soak.once", &input).await {
                Ok(answer) => run.ledger.judge("soak.once", &input, &answer),
                Err(_) => {
                    run.ledger.count("calls without an answer");
                    Delivered::Maybe
                }
            };
            run.ledger.told(number, told);
        }
    }
}

/// A topic: its publisher on one hub and its subscriber on another, until either loses its hub.
pub(crate) async fn topic(run: Run, seed: u64, name: u64) {
    let mut chance = Rng::with_seed(seed);
    for epoch in 0_u64.. {
        let (from, to) = (chance.usize(..run.hubs.count()), chance.usize(..run.hubs.count()));
        let id = format!("{name}-{epoch}");
        let life = tokio::select! {
            () = run.stop.cancelled() => return,
            life = publish(&run, from, to, &id) => life,
        };
        run.ledger.count(match life {
            Ok(()) => "topics ended whole",
            Err(_) => "topics lost a hub",
        });
        if !pause(&run, RETRY).await {
            return;
        }
    }
}

async fn publish(run: &Run, from: usize, to: usize, id: &str) -> Result<()> {
    let mut reader = run
        .hubs
        .http(to)
        .sse("GET", &format!("/v1/events?topic=soak.event:{id}"), None)
        .await?;
    let http = run.hubs.http(from);
    for number in 0..EVENTS {
        let answer = http
            .send("POST", &format!("/v1/events/soak.event/{id}"), Some(&json!(number)))
            .await?;
        if answer.status != 202 {
            run.ledger.count(format!("events refused {}", answer.body["code"]));
            bail!("not taken: {answer:?}");
        }
        run.ledger.count("events taken");
        receive(run, &mut reader, number, id).await?;
        if !pause(run, PACE).await {
            return Ok(());
        }
    }
    Ok(())
}

/// Expects the event that was just accepted to be the next one, or a gap, or the end of the stream.
async fn receive(run: &Run, reader: &mut Sse, number: u64, id: &str) -> Result<()> {
    let Ok(next) = timeout(DELIVERY, reader.next()).await else {
        run.ledger
            .broken(format!("event {number} of {id} was taken and did not come, nor a gap"));
        bail!("lost");
    };
    let event = next?.context("the stream ended")?;
    if event.event == "gap" {
        run.ledger.count("gaps");
        bail!("a gap");
    }
    let data: Value = serde_json::from_str(&event.data).unwrap_or_default();
    if data["payload"] != number {
        run.ledger.broken(format!(
            "{} came where event {number} of {id} was due: {event:?}",
            event.data
        ));
        bail!("out of order");
    }
    run.ledger.count("events delivered");
    Ok(())
}
