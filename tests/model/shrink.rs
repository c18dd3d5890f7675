//! Removes steps from a sequence that broke a promise, as long as it still breaks one.
//!
//! This is a short implementation of our own rather than `proptest-state-machine`, which drives a synchronous system of
//! its own for each case, and believes that a case that passes once always passes. Here one world of hubs serves many
//! sequences, and what a sequence does depends on when messages cross: a sequence that passes is played again before it
//! is believed.

use std::time::Duration;

use anyhow::Result;
use tokio::time::Instant;

use crate::play::{Outcome, play};
use crate::steps::Step;
use crate::world::World;

/// How often a shorter sequence is played before it counts as one that breaks nothing.
const PLAYS: usize = 4;
/// The time for the whole search.
const LIMIT: Duration = Duration::from_secs(120);

/// A sequence that breaks a promise.
#[derive(Debug)]
pub(crate) struct Shrunk {
    /// Its steps, by their positions in the whole sequence.
    pub(crate) kept: Vec<usize>,
    /// What its last play that broke a promise has shown.
    pub(crate) outcome: Outcome,
}

/// Shrinks the steps `kept` of a sequence that broke a promise with this outcome, in worlds of its kind.
///
/// # Errors
/// A world does not start.
pub(crate) async fn shrink(
    (sequence, is_linked): (&[Step], bool),
    kept: Vec<usize>,
    outcome: Outcome,
) -> Result<Shrunk> {
    let end = Instant::now() + LIMIT;
    let mut found = Shrunk { kept, outcome };
    let mut size = found.kept.len().div_ceil(2);
    while size > 0 && Instant::now() < end {
        let mut at = 0;
        while at < found.kept.len() && Instant::now() < end {
            let mut fewer = found.kept.clone();
            fewer.drain(at..(at + size).min(fewer.len()));
            match breaks(sequence, is_linked, &fewer).await? {
                Some(outcome) => found = Shrunk { kept: fewer, outcome },
                None => at += size,
            }
        }
        size /= 2;
    }
    Ok(found)
}

async fn breaks(sequence: &[Step], is_linked: bool, kept: &[usize]) -> Result<Option<Outcome>> {
    let steps: Vec<Step> = kept.iter().map(|&at| sequence[at]).collect();
    let mut world = World::start(is_linked).await?;
    for number in 0..PLAYS {
        let outcome = play(&mut world, number, &steps).await;
        if !outcome.broken.is_empty() {
            return Ok(Some(outcome));
        }
    }
    world.end().await;
    Ok(None)
}
