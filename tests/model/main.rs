//! The model test: random sequences of registrations, calls, answers, aborts, closes, cuts and killed hubs over three hubs,
//! held against a small model of what users are promised (`model.rs`).
//!
//! Everything goes over WebSockets and HTTP, as spokes and clients speak them; the test knows nothing of the hubs' insides.
//! A seed makes a sequence. Its interleaving is the machine's: a seed that failed once may need some plays to fail again.
//!
//! - `cargo test -p alkhub-tests --test model` plays 200 sequences, `MODEL_SEQUENCES` of them from the seed `MODEL_FIRST`
//!   on. `make soak` plays 10,000.
//! - `SEED=17 cargo test -p alkhub-tests --test model` plays one sequence again and again; `KEEP=0,3,9` only these of its
//!   steps, as a failure prints them.
//!
//! What it has been seen to find, and how soon, is in docs/TESTING.md.

mod model;
mod peers;
mod play;
mod scene;
mod shrink;
mod steps;
mod world;

use std::collections::BTreeMap;
use std::io::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::{Context as _, Result, bail};
use parking_lot::Mutex;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::play::{Outcome, play};
use crate::steps::{Step, sequence};
use crate::world::World;

/// Worlds that play at the same time: sequences wait more than they work.
const WORLDS: usize = 4;
/// Sequences that a world plays before another one takes its place: what lasts in its database stays small.
const SEQUENCES_OF_A_WORLD: usize = 250;
/// Plays of one sequence when its seed is given.
const PLAYS: usize = 100;
/// Sequences between two lines about how far a run is.
const PROGRESS: usize = 500;
/// Sequences without any setting.
const COUNT: u64 = 200;

/// What is to be played.
#[derive(Debug)]
struct Plan {
    seeds: Vec<u64>,
    keep: Option<Vec<usize>>,
}

/// What the worlds share.
#[derive(Debug)]
struct Run {
    plan: Plan,
    next: AtomicUsize,
    stop: CancellationToken,
    tally: Mutex<BTreeMap<String, u64>>,
}

#[tokio::test(flavor = "multi_thread")]
async fn random_sequences_keep_what_users_are_promised() -> Result<()> {
    let begun = Instant::now();
    let run = Arc::new(Run {
        plan: Plan::from_environment()?,
        next: AtomicUsize::new(0),
        stop: CancellationToken::new(),
        tally: Mutex::default(),
    });
    let tasks = TaskTracker::new();
    let worlds: Vec<_> = (0..WORLDS).map(|_| tasks.spawn(Arc::clone(&run).work())).collect();
    for world in worlds {
        world.await??;
    }
    for (what, count) in &*run.tally.lock() {
        say(&format!("{count:>9}  {what}"));
    }
    let (count, first) = (run.plan.seeds.len(), run.plan.seeds[0]);
    say(&format!(
        "{count} sequences from seed {first} on in {:.1?}",
        begun.elapsed()
    ));
    Ok(())
}

// === impl Plan ===

impl Plan {
    fn from_environment() -> Result<Self> {
        let keep = setting("KEEP").map(|places| {
            let places = places.split(',').map(str::trim).filter(|place| !place.is_empty());
            places.map(str::parse).collect::<Result<Vec<usize>, _>>()
        });
        let seeds = match number("SEED")? {
            Some(seed) => vec![seed; PLAYS],
            None => {
                let first = number("MODEL_FIRST")?.unwrap_or(1);
                (first..first + number("MODEL_SEQUENCES")?.unwrap_or(COUNT).max(1)).collect()
            }
        };
        Ok(Self {
            seeds,
            keep: keep.transpose().context("KEEP has places of steps")?,
        })
    }

    /// The steps of a sequence, and the places of those that are played.
    fn steps(&self, seed: u64) -> (Vec<Step>, Vec<usize>) {
        let steps = sequence(seed);
        let all = 0..steps.len();
        let kept = match &self.keep {
            Some(keep) => all.filter(|place| keep.contains(place)).collect(),
            None => all.collect(),
        };
        (steps, kept)
    }
}

fn setting(name: &str) -> Option<String> {
    let text = std::env::var_os(name)?.into_string().ok()?;
    Some(text).filter(|text| !text.is_empty())
}

fn number(name: &str) -> Result<Option<u64>> {
    setting(name)
        .map(|number| number.parse().with_context(|| format!("{name} is a number")))
        .transpose()
}

// === impl Run ===

impl Run {
    /// Plays sequences until there is none left, or one of them broke a promise.
    async fn work(self: Arc<Self>) -> Result<()> {
        while self.has_more() {
            let mut world = World::start().await.context("a world starts")?;
            for number in 0..SEQUENCES_OF_A_WORLD {
                let place = self.next.fetch_add(1, Ordering::Relaxed);
                let Some(&seed) = self.plan.seeds.get(place) else { break };
                if place > 0 && place.is_multiple_of(PROGRESS) {
                    say(&format!("{place} of {} sequences begun", self.plan.seeds.len()));
                }
                let (sequence, kept) = self.plan.steps(seed);
                let steps: Vec<Step> = kept.iter().map(|&place| sequence[place]).collect();
                let outcome = play(&mut world, number, &steps).await;
                if self.stop.is_cancelled() {
                    return Ok(());
                }
                if !outcome.broken.is_empty() {
                    self.stop.cancel();
                    return report(seed, &sequence, kept, outcome).await;
                }
                let mut tally = self.tally.lock();
                outcome
                    .tally
                    .into_iter()
                    .for_each(|what| *tally.entry(what).or_default() += 1);
            }
            world.end().await;
        }
        Ok(())
    }

    fn has_more(&self) -> bool {
        !self.stop.is_cancelled() && self.next.load(Ordering::Relaxed) < self.plan.seeds.len()
    }
}

/// Tells of a sequence that broke a promise, and of the shortest one found in it.
async fn report(seed: u64, sequence: &[Step], kept: Vec<usize>, outcome: Outcome) -> Result<()> {
    say(&format!(
        "seed {seed} broke a promise:\n  {}",
        outcome.broken.join("\n  ")
    ));
    say("what happened:");
    outcome.history.iter().for_each(|line| say(line));
    say("fewer steps are tried ...");
    let shrunk = shrink::shrink(sequence, kept, outcome).await?;
    say("what happened with the fewest steps that still broke a promise:");
    shrunk.outcome.history.iter().for_each(|line| say(line));
    let steps = shrunk
        .kept
        .iter()
        .map(|&place| format!("  {place:>3} {:?}", sequence[place]));
    let places: Vec<String> = shrunk.kept.iter().map(usize::to_string).collect();
    bail!(
        "seed {seed} broke a promise:\n  {}\nwith these steps:\n{}\nplay them again:\n  SEED={seed} KEEP={} cargo test \
         -p alkhub-tests --test model",
        shrunk.outcome.broken.join("\n  "),
        steps.collect::<Vec<_>>().join("\n"),
        places.join(",")
    )
}

/// One line for the person who watches; the test harness would keep what is printed to itself.
fn say(line: &str) {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{line}")
        .and_then(|()| out.flush())
        .expect("standard output is open");
}
