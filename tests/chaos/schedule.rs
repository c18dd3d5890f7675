//! What goes wrong in a run, when, and for how long: derived from a seed.

use std::fmt;
use std::time::Duration;

use alkhub_test_support::Direction;
use fastrand::Rng;

/// The number of hubs in a world.
pub(crate) const HUBS: usize = 3;
/// The number of programs that offer operations.
pub(crate) const SPOKES: usize = 4;
/// The number of programs that call them.
pub(crate) const CALLERS: usize = 3;

/// The time from the first trouble to the beginning of the last, in milliseconds.
const LENGTH: u64 = 4_000;
/// One in this many seeds has trouble that lasts longer than anything waits: sessions, links, leases.
const LASTING: u64 = 4;

/// Whose connections are affected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Line {
    /// A spoke's, to any hub.
    Spoke(usize),
    /// A caller's, to any hub.
    Caller(usize),
    /// A hub's, to Redis.
    Redis(usize),
    /// Those that other hubs have dialled to this hub.
    Peer(usize),
}

/// What happens to connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// They end, and new ones are refused until it is over.
    Cut,
    /// They end, and new ones can be made at once.
    Blink,
    /// Nothing passes.
    Stall,
    /// Nothing passes in one direction.
    Deaf(Direction),
    /// The servers do not notice that the clients are gone, and get what was under way when the fault is over.
    HalfOpen,
    /// Each connection delays what passes by a time of its own, so that messages overtake each other.
    Reorder,
}

/// One trouble.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Trouble {
    Line(Line, Fault),
    /// A hub ends without a word, and another one takes its place.
    KillHub(usize),
    /// A hub is told to end.
    DrainHub(usize),
    /// A spoke vanishes and comes back as the same instance.
    KillSpoke(usize),
    /// A spoke is told to end.
    EndSpoke(usize),
    /// A caller vanishes, with its calls and streams.
    KillCaller(usize),
}

/// A trouble, when it begins and how long it lasts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Planned {
    pub(crate) at: Duration,
    pub(crate) trouble: Trouble,
    pub(crate) lasts: Duration,
}

impl fmt::Display for Planned {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (at, lasts) = (self.at.as_millis(), self.lasts.as_millis());
        write!(f, "{at:>5} ms  {:?}, {lasts} ms", self.trouble)
    }
}

/// The schedule of a seed, in chronological order.
pub(crate) fn schedule(seed: u64) -> Vec<Planned> {
    let mut chance = Rng::with_seed(seed);
    let count = chance.usize(6..16);
    let mut times: Vec<u64> = (0..count).map(|_| chance.u64(..LENGTH)).collect();
    times.sort_unstable();
    let most = if seed.is_multiple_of(LASTING) { 5_000 } else { 1_500 };
    // Only one hub is away at a time: losing two of three is not what this test is about.
    let mut whole_from = 0;
    let planned = times.into_iter().map(|at| {
        let lasts = chance.u64(20..most);
        let trouble = trouble(&mut chance, at >= whole_from);
        if matches!(trouble, Trouble::KillHub(_) | Trouble::DrainHub(_)) {
            whole_from = at + lasts + 1;
        }
        Planned {
            at: Duration::from_millis(at),
            trouble,
            lasts: Duration::from_millis(lasts),
        }
    });
    planned.collect()
}

fn trouble(chance: &mut Rng, may_lose_a_hub: bool) -> Trouble {
    let hub = chance.usize(..HUBS);
    match chance.u8(..100) {
        0..10 if may_lose_a_hub => Trouble::KillHub(hub),
        10..17 if may_lose_a_hub => Trouble::DrainHub(hub),
        17..25 => Trouble::KillSpoke(chance.usize(..SPOKES)),
        25..30 => Trouble::EndSpoke(chance.usize(..SPOKES)),
        30..37 => Trouble::KillCaller(chance.usize(..CALLERS)),
        _ => Trouble::Line(line(chance, hub), fault(chance)),
    }
}

fn line(chance: &mut Rng, hub: usize) -> Line {
    match chance.u8(..4) {
        0 => Line::Spoke(chance.usize(..SPOKES)),
        1 => Line::Caller(chance.usize(..CALLERS)),
        2 => Line::Redis(hub),
        _ => Line::Peer(hub),
    }
}

fn fault(chance: &mut Rng) -> Fault {
    match chance.u8(..7) {
        0 => Fault::Cut,
        1 => Fault::Blink,
        2 => Fault::Stall,
        3 => Fault::Deaf(Direction::ToServer),
        4 => Fault::Deaf(Direction::ToClient),
        5 => Fault::HalfOpen,
        _ => Fault::Reorder,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_makes_one_schedule_and_seeds_make_every_trouble() {
        assert_eq!(schedule(7), schedule(7));
        assert_ne!(schedule(7), schedule(8));
        let all: Vec<String> = (0..200)
            .flat_map(schedule)
            .map(|planned| format!("{:?}", planned.trouble))
            .collect();
        for name in [
            "KillHub",
            "DrainHub",
            "KillSpoke",
            "EndSpoke",
            "KillCaller",
            "Spoke",
            "Caller",
            "Redis",
            "Peer",
            "Cut",
            "Blink",
            "Stall",
            "ToServer",
            "ToClient",
            "HalfOpen",
            "Reorder",
        ] {
            assert!(all.iter().any(|trouble| trouble.contains(name)), "{name}");
        }
    }

    #[test]
    fn one_hub_at_a_time_is_away() {
        for seed in 0..200 {
            let mut until = Duration::ZERO;
            for planned in schedule(seed) {
                if matches!(planned.trouble, Trouble::KillHub(_) | Trouble::DrainHub(_)) {
                    assert!(planned.at >= until, "seed {seed}");
                    until = planned.at + planned.lasts;
                }
            }
        }
    }
}
