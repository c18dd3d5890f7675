//! Chaos on three hubs: connections of spokes and callers, between hubs, and to Redis are cut, stalled, half open or
//! delayed; hubs, spokes and callers are killed, and hubs drain; all the while calls, subscriptions, events and
//! registrations go on. What was seen is compared with what users are promised (`ledger.rs`), and in the end nothing
//! may be left on any hub.
//!
//! Unlike the model test (`tests/model`), which knows the outcome of each step, this one includes the SDK, with
//! sessions that come back, and nothing waits for what was begun before.
//!
//! A seed determines the schedule; how messages cross is up to the machine. A seed that failed once may need several
//! plays to fail again.
//!
//! - `cargo test -p alkhub-tests --test chaos` plays 20 seeds, or `CHAOS_SEEDS` of them, starting with `CHAOS_FIRST`.
//!   `make soak` plays 200.
//! - `SEED=17 cargo test -p alkhub-tests --test chaos` plays one seed again and again.

mod callers;
mod ledger;
mod play;
mod run;
mod schedule;
mod spokes;
mod world;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use alkhub_tests::console::{number, say};
use anyhow::{Context as _, Result, bail};
use parking_lot::Mutex;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::play::{Outcome, play};
use crate::schedule::schedule;
use crate::world::World;

/// How many worlds play at the same time: runs wait more than they work.
const WORLDS: usize = 4;
/// How many runs a world has, so that what persists in its database stays small.
const RUNS_OF_A_WORLD: usize = 50;
/// How many seeds are played by default.
const COUNT: u64 = 20;
/// How often a given seed is played.
const PLAYS: usize = 10;

/// What the worlds share.
#[derive(Debug)]
struct Plan {
    seeds: Vec<u64>,
    next: AtomicUsize,
    stop: CancellationToken,
    seen: Mutex<Tally>,
}

/// What all runs have shown.
#[derive(Debug, Default)]
struct Tally {
    counts: BTreeMap<String, u64>,
    callable: Vec<Duration>,
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_fails_meanwhile_users_get_what_they_are_promised() -> Result<()> {
    let begun = Instant::now();
    let plan = Arc::new(Plan {
        seeds: seeds()?,
        next: AtomicUsize::new(0),
        stop: CancellationToken::new(),
        seen: Mutex::default(),
    });
    let tasks = TaskTracker::new();
    let worlds: Vec<_> = (0..WORLDS.min(plan.seeds.len()))
        .map(|_| tasks.spawn(Arc::clone(&plan).work()))
        .collect();
    for world in worlds {
        world.await??;
    }
    plan.report(begun.elapsed());
    Ok(())
}

fn seeds() -> Result<Vec<u64>> {
    Ok(match number("SEED")? {
        Some(seed) => vec![seed; PLAYS],
        None => {
            let first = number("CHAOS_FIRST")?.unwrap_or(1);
            (first..first + number("CHAOS_SEEDS")?.unwrap_or(COUNT).max(1)).collect()
        }
    })
}

// === impl Plan ===

impl Plan {
    /// Plays seeds until none is left, or one of them has broken a promise.
    async fn work(self: Arc<Self>) -> Result<()> {
        while self.has_more() {
            let mut world = World::start().await.context("a world starts")?;
            for number in 0..RUNS_OF_A_WORLD {
                let place = self.next.fetch_add(1, Ordering::Relaxed);
                let Some(&seed) = self.seeds.get(place) else { break };
                let outcome = play(&mut world, number, seed).await?;
                if self.stop.is_cancelled() {
                    return Ok(());
                }
                if !outcome.broken.is_empty() {
                    self.stop.cancel();
                    return told(seed, &outcome);
                }
                self.seen.lock().adds(outcome);
            }
            world.end().await;
        }
        Ok(())
    }

    fn has_more(&self) -> bool {
        !self.stop.is_cancelled() && self.next.load(Ordering::Relaxed) < self.seeds.len()
    }

    fn report(&self, took: Duration) {
        let mut seen = self.seen.lock();
        seen.callable.sort_unstable();
        for (what, count) in &seen.counts {
            say(&format!("{count:>9}  {what}"));
        }
        let at = |part: usize| {
            seen.callable
                .get(seen.callable.len() * part / 100)
                .or_else(|| seen.callable.last())
        };
        say(&format!(
            "every operation through every hub after the last trouble: p50 {:.1?}, p90 {:.1?}, max {:.1?}",
            at(50).copied().unwrap_or_default(),
            at(90).copied().unwrap_or_default(),
            at(100).copied().unwrap_or_default(),
        ));
        let (count, first) = (self.seeds.len(), self.seeds[0]);
        say(&format!("{count} seeds from {first} on in {took:.1?}"));
    }
}

// === impl Tally ===

impl Tally {
    fn adds(&mut self, outcome: Outcome) {
        for (what, count) in outcome.counts {
            *self.counts.entry(what).or_default() += count;
        }
        self.callable.push(outcome.callable);
    }
}

/// Reports a seed that broke a promise.
fn told(seed: u64, outcome: &Outcome) -> Result<()> {
    say(&format!("what happened with seed {seed}:"));
    outcome.history.iter().for_each(|line| say(line));
    let schedule: Vec<String> = schedule(seed).iter().map(|planned| format!("  {planned}")).collect();
    bail!(
        "seed {seed} broke a promise:\n  {}\nits schedule:\n{}\nplay it again:\n  SEED={seed} cargo test -p alkhub-tests --test \
         chaos",
        outcome.broken.join("\n  "),
        schedule.join("\n"),
    )
}
