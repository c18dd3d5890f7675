//! The model test: random sequences of registrations, calls, answers, aborts, closes, cuts and killed hubs on three
//! hubs, compared with a small model of what users are promised (`model.rs`).
//!
//! Everything goes over WebSockets and HTTP, as spokes and clients speak them; the test knows nothing about the inside
//! of the hubs. A seed determines a sequence, but how it interleaves is up to the machine: a seed that failed once may
//! need several plays to fail again.
//!
//! - `cargo test -p alkhub-tests --test model` plays 200 sequences, or `MODEL_SEQUENCES` of them, starting with the
//!   seed `MODEL_FIRST`. `make soak` plays 10,000.
//! - `SEED=17 cargo test -p alkhub-tests --test model` plays one sequence again and again; `KEEP=0,3,9` restricts it to
//!   these steps, in the form in which a failure prints them.
//!
//! For what it is known to find, and how soon, see docs/TESTING.md.

mod model;
mod peers;
mod play;
mod scene;
mod shrink;
mod steps;
mod world;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use alkhub_tests::console::{number, say, setting};
use anyhow::{Context as _, Result, bail};
use parking_lot::Mutex;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::play::{Outcome, play};
use crate::steps::{Step, is_linked, sequence};
use crate::world::World;

/// How many worlds play at the same time: sequences wait more than they work.
const WORLDS: usize = 4;
/// How many sequences a world plays before it is replaced, so that what persists in its database stays small.
const SEQUENCES_OF_A_WORLD: usize = 250;
/// How often a sequence is played if its seed is given.
const PLAYS: usize = 100;
/// How many sequences pass between two lines of progress.
const PROGRESS: usize = 500;
/// How many sequences are played by default.
const COUNT: u64 = 200;

/// What has to be played.
#[derive(Debug)]
struct Plan {
    seeds: Vec<u64>,
    keep: Option<Vec<usize>>,
}

/// The seeds that are played in worlds of one kind.
#[derive(Debug)]
struct Queue {
    is_linked: bool,
    seeds: Vec<u64>,
    next: AtomicUsize,
}

/// What the worlds share.
#[derive(Debug)]
struct Run {
    plan: Plan,
    /// The seeds of the plan: those for hubs without links from pod to pod, then those for hubs with links.
    queues: [Queue; 2],
    begun: AtomicUsize,
    stop: CancellationToken,
    tally: Mutex<BTreeMap<String, u64>>,
}

#[tokio::test(flavor = "multi_thread")]
async fn random_sequences_keep_what_users_are_promised() -> Result<()> {
    let begun = Instant::now();
    let plan = Plan::from_environment()?;
    let run = Arc::new(Run {
        queues: [false, true].map(|linked| plan.queue(linked)),
        plan,
        begun: AtomicUsize::new(0),
        stop: CancellationToken::new(),
        tally: Mutex::default(),
    });
    let tasks = TaskTracker::new();
    let worlds: Vec<_> = (0..WORLDS)
        .map(|place| tasks.spawn(Arc::clone(&run).work(place)))
        .collect();
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

    fn queue(&self, linked: bool) -> Queue {
        let seeds = self.seeds.iter().copied();
        Queue {
            is_linked: linked,
            seeds: seeds.filter(|seed| is_linked(*seed) == linked).collect(),
            next: AtomicUsize::new(0),
        }
    }

    /// The steps of a sequence, and the positions of those that are played.
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

// === impl Queue ===

impl Queue {
    fn take(&self) -> Option<u64> {
        let place = self.next.fetch_add(1, Ordering::Relaxed);
        self.seeds.get(place).copied()
    }

    fn is_empty(&self) -> bool {
        self.next.load(Ordering::Relaxed) >= self.seeds.len()
    }
}

// === impl Run ===

impl Run {
    /// Plays sequences until none is left, or one of them has broken a promise.
    async fn work(self: Arc<Self>, place: usize) -> Result<()> {
        while let Some(queue) = self.queue(place) {
            let mut world = World::start(queue.is_linked).await.context("a world starts")?;
            for number in 0..SEQUENCES_OF_A_WORLD {
                let Some(seed) = queue.take() else { break };
                let place = self.begun.fetch_add(1, Ordering::Relaxed);
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

    /// What the next world of a place should play. The first place takes the sequences with links as long as there are
    /// any, and the others take the rest; after that, each takes whatever is left.
    fn queue(&self, place: usize) -> Option<&Queue> {
        let [without, with] = &self.queues;
        let order = if place == 0 { [with, without] } else { [without, with] };
        let mut left = order.into_iter().filter(|queue| !queue.is_empty());
        left.next().filter(|_| !self.stop.is_cancelled())
    }
}

/// Reports a sequence that broke a promise, and the shortest such sequence found in it.
async fn report(seed: u64, sequence: &[Step], kept: Vec<usize>, outcome: Outcome) -> Result<()> {
    say(&format!(
        "seed {seed} broke a promise:\n  {}",
        outcome.broken.join("\n  ")
    ));
    say("what happened:");
    outcome.history.iter().for_each(|line| say(line));
    say("fewer steps are tried ...");
    let shrunk = shrink::shrink((sequence, is_linked(seed)), kept, outcome).await?;
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
