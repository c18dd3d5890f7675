//! `--visible`: whether a spoke whose registration is acknowledged can be called through every other hub at once.
//!
//! Several lanes work side by side. In each, a spoke registers at one hub, and as soon as that is acknowledged its
//! operation is called several times, each time through another hub chosen at random. A call that fails is counted by
//! its code and called again, to see how long it takes to succeed; it breaks a promise unless the answer to the
//! registration named the hub.
//!
//! The hubs have links from pod to pod. With `--faults` a hub is killed, a hub is drained and Redis is killed, in turn
//! and over and over, while the lanes continue. Calls to a spoke whose own hub is in trouble are counted separately,
//! because the spoke is gone with its hub.
//!
//! Of the calls that no fault touches from beginning to end, 99 % take at most 100 ms from the acknowledgement to the
//! output. How long the others take is printed, as is how many calls are in neither figure.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use alkhub_tests::http::Http;
use alkhub_tests::hubs::Hubs;
use alkhub_tests::wire::{Peer, operation};
use anyhow::{Context as _, Result, bail};
use fastrand::Rng;
use futures::future::try_join_all;
use nix::sys::signal::Signal;
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::load::pause;
use crate::{Run, say};

/// The time between two tries of a call that failed.
const AGAIN: Duration = Duration::from_millis(2);

/// A call that has not succeeded after this long never will.
const LONGEST: Duration = Duration::from_secs(60);

/// What 99 % of the calls take at most while nothing fails.
const P99: Duration = Duration::from_millis(100);

/// How long a killed process stays away.
const AWAY: Duration = Duration::from_millis(1_500);

/// The time between two faults.
const REST: Duration = Duration::from_secs(3);

/// How many registrations pass between two lines of progress.
const PROGRESS: usize = 1_000;

/// What is to be done.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Plan {
    /// How many spokes register in total.
    pub(crate) registrations: usize,
    /// How many calls follow each registration.
    pub(crate) calls: usize,
    /// How many registrations run side by side.
    pub(crate) lanes: usize,
    /// Whether hubs and Redis fail in the meantime.
    pub(crate) faults: bool,
}

/// What the lanes share.
#[derive(Debug)]
struct Work {
    run: Run,
    plan: Plan,
    clients: Vec<Http>,
    next: AtomicUsize,
    /// A counter for each hub: odd while the hub is in trouble, and different after each trouble.
    troubles: Vec<AtomicU64>,
    /// The same for the whole: odd while anything is in trouble.
    faults: AtomicU64,
    times: Mutex<Times>,
}

/// How long things took, and how often that does not count.
#[derive(Debug, Default)]
struct Times {
    /// From the `hub.register` message to its answer.
    registered: Vec<Duration>,
    /// From that answer to the output of a call through another hub, while nothing failed ...
    calm: Vec<Duration>,
    /// ... and while a fault was under way.
    disturbed: Vec<Duration>,
    /// How many calls were made.
    made: usize,
    /// How many went through hubs that the answer to the registration named.
    named: usize,
    /// How many were to spokes whose own hub was in trouble.
    homeless: usize,
    /// How many had no answer because the called hub was in trouble.
    unanswered: usize,
}

/// A spoke that is registered.
#[derive(Debug)]
struct Registered {
    home: usize,
    /// The trouble counter of its hub when it registered.
    troubles: u64,
    operation: String,
    /// The hub's answer.
    answer: Value,
}

#[derive(Clone, Copy, Debug)]
enum Fault {
    Kill,
    Drain,
    Redis,
}

/// Registers and calls according to the plan; the seed decides which hubs are called and which fail.
pub(crate) async fn visible(run: &Run, plan: Plan, seed: u64) -> Result<()> {
    let count = run.hubs.count();
    let work = Arc::new(Work {
        run: run.clone(),
        plan,
        clients: (0..count).map(|hub| run.hubs.http(hub)).collect(),
        next: AtomicUsize::new(0),
        troubles: (0..count).map(|_| AtomicU64::new(0)).collect(),
        faults: AtomicU64::new(0),
        times: Mutex::default(),
    });
    let done = CancellationToken::new();
    let lanes = try_join_all((0..plan.lanes).map(|lane| work.lane(seed.wrapping_add(lane as u64))));
    let (lanes, faults) = tokio::join!(
        async {
            let lanes = lanes.await;
            done.cancel();
            lanes
        },
        work.fail(&done, Rng::with_seed(seed)),
    );
    lanes?;
    faults?;
    let times = std::mem::take(&mut *work.times.lock());
    if let Some(broken) = times.report() {
        run.ledger.broken(broken);
    }
    Ok(())
}

// === impl Times ===

impl Times {
    /// Prints everything; returns what is not as it should be.
    fn report(mut self) -> Option<String> {
        for times in [&mut self.registered, &mut self.calm, &mut self.disturbed] {
            times.sort_unstable();
        }
        say(&format!("register to answer: {}", shown(&self.registered)));
        say(&format!("answer to output, nothing failing: {}", shown(&self.calm)));
        say(&format!("answer to output, during a fault: {}", shown(&self.disturbed)));
        let left_out = self.made.saturating_sub(self.calm.len() + self.disturbed.len());
        say(&format!(
            "{left_out} of {} calls are left out ({:.2} %): {} through a hub that was named, {} of a spoke whose hub was in \
             trouble, {} without an answer of a hub in trouble, the others given up with their spokes",
            self.made,
            100.0 * left_out as f64 / self.made.max(1) as f64,
            self.named,
            self.homeless,
            self.unanswered,
        ));
        if self.calm.len() < self.made / 10 {
            return Some(format!(
                "no more than {} of {} calls were made while nothing failed",
                self.calm.len(),
                self.made
            ));
        }
        let p99 = part(&self.calm, 99);
        (p99 > P99).then(|| format!("99 of 100 calls took {p99:.1?} while nothing failed, not {P99:?}"))
    }
}

// === impl Work ===

impl Work {
    async fn lane(&self, seed: u64) -> Result<()> {
        let mut chance = Rng::with_seed(seed);
        loop {
            let number = self.next.fetch_add(1, Ordering::Relaxed);
            if number >= self.plan.registrations {
                return Ok(());
            }
            if number > 0 && number.is_multiple_of(PROGRESS) {
                say(&format!("{number} of {} registrations begun", self.plan.registrations));
            }
            let Some(home) = self.pick(&mut chance, None) else {
                bail!("no hub is there");
            };
            if let Err(error) = self.register_and_call(number, home, &mut chance).await {
                self.run
                    .ledger
                    .count("registrations that were lost with their hub or with Redis");
                if !self.plan.faults {
                    return Err(error);
                }
                pause(&self.run, AGAIN).await;
            }
        }
    }

    /// Picks a hub that is not in trouble and is not `not`.
    fn pick(&self, chance: &mut Rng, not: Option<usize>) -> Option<usize> {
        let is_there = |hub: &usize| Some(*hub) != not && self.troubles(*hub).is_multiple_of(2);
        let there: Vec<usize> = (0..self.troubles.len()).filter(is_there).collect();
        chance.choice(there)
    }

    fn troubles(&self, hub: usize) -> u64 {
        self.troubles[hub].load(Ordering::SeqCst)
    }

    async fn register_and_call(&self, number: usize, home: usize, chance: &mut Rng) -> Result<()> {
        let run = &self.run;
        let (troubles, name) = (self.troubles(home), format!("visible-{number}"));
        let mut peer = Peer::connect(&run.hubs.url(home), run.hubs.key()).await?;
        let began = Instant::now();
        let answer = peer.register(&name, json!([operation(&name, "echo", "query")])).await?;
        self.times.lock().registered.push(began.elapsed());
        run.ledger.count("registrations");
        let registered = Registered {
            home,
            troubles,
            operation: format!("{name}.echo"),
            answer,
        };
        let hubs: Vec<usize> = (0..self.plan.calls)
            .filter_map(|_| self.pick(chance, Some(home)))
            .collect();
        let calling = hubs.into_iter().map(|hub| self.call(&registered, hub));
        tokio::select! {
            called = try_join_all(calling) => drop(called?),
            ended = echo(&mut peer) => if self.is_well(&registered) { ended? },
        }
        Ok(())
    }

    /// Whether the spoke's hub has had no trouble since the spoke registered.
    fn is_well(&self, registered: &Registered) -> bool {
        registered.troubles.is_multiple_of(2) && self.troubles(registered.home) == registered.troubles
    }

    /// Repeats a call until it is answered, or the spoke may be gone.
    async fn call(&self, registered: &Registered, hub: usize) -> Result<()> {
        let (began, ledger) = (Instant::now(), &self.run.ledger);
        let (operation, may_fail) = (&registered.operation, registered.is_lagging(hub));
        let (before, faults) = (self.troubles(hub), self.faults.load(Ordering::SeqCst));
        let mut is_first = true;
        self.times.lock().made += 1;
        while began.elapsed() < LONGEST {
            let answer = self.clients[hub].call(operation, &json!(operation)).await;
            let is_well = self.is_well(registered);
            let answer = match answer {
                Ok(answer) => answer,
                // Only trouble at the called hub excuses a missing answer; it says nothing about what that hub knew.
                Err(error) if self.troubles(hub) == before && before.is_multiple_of(2) => return Err(error),
                Err(_) => {
                    ledger.count("calls without an answer, of a hub in trouble");
                    self.times.lock().unanswered += 1;
                    return Ok(());
                }
            };
            let code = answer.body["code"].as_str().unwrap_or("OK");
            match (is_first, may_fail, is_well) {
                (true, _, false) => ledger.count(format!("calls whose spoke's hub was in trouble: {code}")),
                (true, false, true) => ledger.count(format!("calls: {code}")),
                (true, true, true) => ledger.count(format!("calls through a hub that was named: {code}")),
                (false, ..) => {}
            }
            if answer.status == 200 || !is_well {
                let is_calm = faults.is_multiple_of(2) && self.faults.load(Ordering::SeqCst) == faults;
                let mut times = self.times.lock();
                match (is_well, may_fail, is_calm) {
                    (false, ..) => times.homeless += 1,
                    (true, true, _) => times.named += 1,
                    (true, false, true) => times.calm.push(began.elapsed()),
                    (true, false, false) => times.disturbed.push(began.elapsed()),
                }
                return Ok(());
            }
            if is_first && !may_fail {
                ledger.broken(format!("{operation} through hub {hub}: {answer:?}"));
            }
            is_first = false;
            pause(&self.run, AGAIN).await;
        }
        bail!("{operation} cannot be called through hub {hub}")
    }

    /// Injects one fault after another until the lanes are done; the last one is healed too.
    async fn fail(&self, done: &CancellationToken, mut chance: Rng) -> Result<()> {
        let resting = || done.run_until_cancelled(pause(&self.run, REST));
        if !self.plan.faults {
            return Ok(());
        }
        for fault in [Fault::Kill, Fault::Drain, Fault::Redis].into_iter().cycle() {
            if resting().await.is_none() {
                return Ok(());
            }
            let hub = chance.usize(..self.troubles.len());
            self.run.ledger.count(format!("faults {fault:?}"));
            self.faults.fetch_add(1, Ordering::SeqCst);
            self.fault(fault, hub)
                .await
                .with_context(|| format!("{fault:?} of hub {hub}"))?;
            self.faults.fetch_add(1, Ordering::SeqCst);
        }
        Ok(())
    }

    async fn fault(&self, fault: Fault, hub: usize) -> Result<()> {
        let hubs = &self.run.hubs;
        let signal = match fault {
            Fault::Kill => Signal::SIGKILL,
            Fault::Drain => Signal::SIGTERM,
            Fault::Redis => {
                let mut redis = hubs.redis.lock().await;
                redis.kill().await;
                pause(&self.run, AWAY).await;
                redis.launch().await;
                for hub in 0..hubs.count() {
                    hubs.ready(hub).await;
                }
                return Ok(());
            }
        };
        self.troubles[hub].fetch_add(1, Ordering::SeqCst);
        hubs.end(hub, signal).await?;
        pause(&self.run, AWAY).await;
        hubs.launch(hub).await?;
        hubs.ready(hub).await;
        self.troubles[hub].fetch_add(1, Ordering::SeqCst);
        Ok(())
    }
}

// === impl Registered ===

impl Registered {
    /// Whether the answer to the registration said that this hub may not know it yet.
    fn is_lagging(&self, hub: usize) -> bool {
        let pod = format!("{}-", Hubs::pod(hub));
        let lagging = self.answer["laggingHubs"].as_array().into_iter().flatten();
        lagging.filter_map(Value::as_str).any(|hub| hub.starts_with(&pod))
    }
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

/// A percentile of sorted times.
fn part(times: &[Duration], part: usize) -> Duration {
    let at = (times.len() * part).div_ceil(100).saturating_sub(1);
    times.get(at).copied().unwrap_or_default()
}

fn shown(times: &[Duration]) -> String {
    let [p50, p99, max] = [50, 99, 100].map(|share| part(times, share));
    format!("p50 {p50:.1?}, p99 {p99:.1?}, max {max:.1?} of {}", times.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn times(calm_ms: &[u64], disturbed_ms: &[u64]) -> Times {
        let of = |times: &[u64]| times.iter().map(|ms| Duration::from_millis(*ms)).collect();
        Times {
            calm: of(calm_ms),
            disturbed: of(disturbed_ms),
            ..Times::default()
        }
    }

    #[test]
    fn only_slow_calls_that_no_fault_met_break_the_promise() {
        let mut slow = vec![5; 98];
        slow.extend([400, 400]);

        assert_eq!(times(&[], &[400]).report(), None);
        assert_eq!(times(&[5, 80, 100], &[400]).report(), None);
        assert!(times(&slow, &[]).report().is_some());
    }
}
