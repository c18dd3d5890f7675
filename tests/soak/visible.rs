//! `--visible`: whether what is acknowledged as registered can be called through every other hub at once.
//!
//! One registration after the other: a spoke registers at one hub, and as soon as it is told so its operation is called
//! through each of the others. A call that fails is counted by its code, and called again, so that it is seen how long it
//! takes; it breaks a promise unless the answer to the registration named the hub.

use std::time::Duration;

use alkhub_tests::http::Http;
use alkhub_tests::wire::{Peer, operation};
use anyhow::{Context as _, Result, bail};
use futures::future::try_join_all;
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::load::pause;
use crate::{Run, say};

/// Between two tries of a call that failed.
const AGAIN: Duration = Duration::from_millis(2);

/// A call that has not succeeded by then never will.
const LONGEST: Duration = Duration::from_secs(60);

/// How long a hub that was killed, and Redis, are away.
const AWAY: Duration = Duration::from_millis(1_500);

/// How long it took.
#[derive(Debug, Default)]
struct Times {
    /// From the message `hub.register` to its answer.
    registered: Vec<Duration>,
    /// From that answer to the first output through another hub.
    callable: Vec<Duration>,
}

/// Registers so many times. With `faults` a hub is killed when a third is done, and Redis when two are; both come back.
pub(crate) async fn visible(run: &Run, registrations: usize, faults: bool) -> Result<()> {
    let mut times = Times::default();
    let killed = run.hubs.count() - 1;
    let (hub_dies, redis_dies) = (registrations / 3, 2 * registrations / 3);
    let mut back = None;
    let clients: Vec<Http> = (0..run.hubs.count()).map(|hub| run.hubs.http(hub)).collect();
    for number in 0..registrations {
        if faults && number == hub_dies {
            run.hubs.end(killed, Signal::SIGKILL).await?;
            back = Some(Instant::now() + AWAY);
        }
        if back.take_if(|back| *back <= Instant::now()).is_some() {
            run.hubs.launch(killed).await?;
            run.hubs.ready(killed).await;
        }
        if faults && number == redis_dies {
            let mut redis = run.hubs.redis.lock().await;
            redis.kill().await;
            pause(run, AWAY).await;
            redis.launch().await;
        }
        let here: Vec<usize> = (0..run.hubs.count())
            .filter(|hub| back.is_none() || *hub != killed)
            .collect();
        register_and_call(run, &clients, (number, &here), &mut times).await?;
    }
    say(&format!("register to answer: {}", shown(times.registered)));
    say(&format!("answer to callable: {}", shown(times.callable)));
    Ok(())
}

async fn register_and_call(
    run: &Run,
    clients: &[Http],
    (number, hubs): (usize, &[usize]),
    times: &mut Times,
) -> Result<()> {
    let (home, name) = (hubs[number % hubs.len()], format!("visible-{number}"));
    let mut peer = Peer::connect(&run.hubs.url(home), run.hubs.key()).await?;
    let began = Instant::now();
    let answer = peer.register(&name, json!([operation(&name, "echo", "query")])).await?;
    times.registered.push(began.elapsed());
    run.ledger.count("registrations");
    let operation = format!("{name}.echo");
    let others = hubs.iter().filter(|hub| **hub != home);
    let calling = others.map(|hub| call(run, (*hub, &clients[*hub]), &operation, is_lagging(&answer, *hub)));
    tokio::select! {
        called = try_join_all(calling) => times.callable.extend(called?),
        ended = echo(&mut peer) => ended?,
    }
    Ok(())
}

/// Whether the hub of a registration said that another one may not have it.
fn is_lagging(answer: &Value, hub: usize) -> bool {
    let pod = format!("soak-{hub}-");
    let lagging = answer["laggingHubs"].as_array().into_iter().flatten();
    lagging.filter_map(Value::as_str).any(|hub| hub.starts_with(&pod))
}

/// Calls until it is answered; how long that took.
async fn call(run: &Run, (hub, http): (usize, &Http), operation: &str, may_fail: bool) -> Result<Duration> {
    let began = Instant::now();
    let mut is_first = true;
    while began.elapsed() < LONGEST {
        let answer = http.call(operation, &json!(operation)).await?;
        let code = answer.body["code"].as_str().unwrap_or("OK");
        match (is_first, may_fail) {
            (true, false) => run.ledger.count(format!("first call: {code}")),
            (true, true) => run
                .ledger
                .count(format!("first call through a hub that was named: {code}")),
            (false, _) => {}
        }
        if answer.status == 200 {
            return Ok(began.elapsed());
        }
        if is_first && !may_fail {
            run.ledger.broken(format!("{operation} through hub {hub}: {answer:?}"));
        }
        is_first = false;
        pause(run, AGAIN).await;
    }
    bail!("{operation} cannot be called through hub {hub}")
}

/// Answers every call with its input, until the connection ends.
async fn echo(peer: &mut Peer) -> Result<()> {
    loop {
        let asked = peer.next_or_closed().await?;
        let asked = asked.ok().context("the hub closed the connection")?;
        if asked["type"] == "call.requested" {
            let asked = &asked["payload"];
            let answer = json!({ "requestId": asked["requestId"], "output": asked["input"] });
            peer.send("call.responded", "", answer).await?;
        }
    }
}

fn shown(mut times: Vec<Duration>) -> String {
    times.sort_unstable();
    let at = |part: usize| times.get((times.len() * part).div_ceil(100).saturating_sub(1));
    let [p50, p99, max] = [at(50), at(99), times.last()].map(|time| time.copied().unwrap_or_default());
    format!("p50 {p50:.1?}, p99 {p99:.1?}, max {max:.1?} of {}", times.len())
}
