//! One fault after another, and after each the proof that all is well again.

use std::time::Duration;

use alkhub_test_support::until_within;
use alkhub_tests::hubs::RECOVERY;
use alkhub_tests::wire::{Peer, operation};
use anyhow::Result;
use fastrand::Rng;
use nix::sys::signal::Signal;
use serde_json::json;
use tokio::time::Instant;

use crate::load::pause;
use crate::{Run, say};

/// What can go wrong.
#[derive(Clone, Copy, Debug)]
enum Fault {
    /// A hub dies without a word and comes back.
    KillHub,
    /// A hub is told to end and comes back, as in a roll-out.
    EndHub,
    /// A hub stands still for some seconds.
    FreezeHub,
    /// Redis dies and comes back empty.
    KillRedis,
    /// Redis stands still for some seconds.
    FreezeRedis,
    /// Many spokes register and vanish at once.
    Storm,
}

const FAULTS: [Fault; 6] = [
    Fault::KillHub,
    Fault::EndHub,
    Fault::FreezeHub,
    Fault::KillRedis,
    Fault::FreezeRedis,
    Fault::Storm,
];
/// How many spokes a storm has.
const STORM: usize = 20;

/// Waits until every hub answers a call to a spoke.
pub(crate) async fn all_answer(run: &Run) {
    for number in 0..run.hubs.count() {
        let http = run.hubs.http(number);
        until_within(&format!("hub {number} answers calls"), RECOVERY, || async {
            let answer = http.call("soak.echo", &json!("well?")).await;
            let answer = answer.map_err(|error| format!("{error:#}"))?;
            if answer.body["data"] == "well?" {
                Ok(())
            } else {
                Err(format!("{answer:?}"))
            }
        })
        .await;
    }
}

/// Injects faults until the time is up; the last one is healed too.
pub(crate) async fn inject(run: &Run, chance: &mut Rng, end: Instant) {
    let begun = Instant::now();
    while Instant::now() < end && pause(run, Duration::from_millis(chance.u64(1_000..5_000))).await {
        let fault = FAULTS[chance.usize(..FAULTS.len())];
        let hub = chance.usize(..run.hubs.count());
        let time = Duration::from_millis(chance.u64(100..6_000));
        say(&format!(
            "{:>6.1} s  {fault:?} hub {hub}, {time:?}",
            begun.elapsed().as_secs_f64()
        ));
        run.ledger.count(format!("faults {fault:?}"));
        if let Err(error) = one(run, fault, hub, time).await {
            run.ledger.broken(format!("{fault:?}: {error:#}"));
        }
        run.hubs.ready(hub).await;
        all_answer(run).await;
    }
}

async fn one(run: &Run, fault: Fault, hub: usize, time: Duration) -> Result<()> {
    match fault {
        Fault::KillHub => come_back(run, hub, time, Signal::SIGKILL).await,
        Fault::EndHub => come_back(run, hub, time, Signal::SIGTERM).await,
        Fault::FreezeHub => {
            run.hubs.signal(hub, Signal::SIGSTOP).await?;
            pause(run, time).await;
            run.hubs.signal(hub, Signal::SIGCONT).await
        }
        Fault::KillRedis => {
            let mut redis = run.hubs.redis.lock().await;
            redis.kill().await;
            pause(run, time).await;
            redis.launch().await;
            Ok(())
        }
        Fault::FreezeRedis => {
            let redis = run.hubs.redis.lock().await;
            redis.freeze();
            pause(run, time).await;
            redis.thaw();
            Ok(())
        }
        Fault::Storm => storm(run, hub).await,
    }
}

async fn come_back(run: &Run, hub: usize, time: Duration, signal: Signal) -> Result<()> {
    run.hubs.end(hub, signal).await?;
    pause(run, time).await;
    run.hubs.launch(hub).await
}

/// Registers spokes under other names, so that no call waits for one of them.
async fn storm(run: &Run, hub: usize) -> Result<()> {
    let one = |number: usize| async move {
        let mut peer = Peer::connect(&run.hubs.url(hub), run.hubs.key()).await?;
        let name = format!("storm-{number}");
        peer.register(&name, json!([operation(&name, "nothing", "query")]))
            .await
    };
    let all = futures::future::join_all((0..STORM).map(one)).await;
    for registered in all {
        registered?;
        run.ledger.count("registrations of storms");
    }
    Ok(())
}
