//! The steps of a sequence, derived from a seed.
//!
//! A step names what it acts on by a number that counts among what there is when its turn comes ("the third running
//! call"), and does nothing if there is none. So a sequence remains a sequence when steps are removed, which is what
//! the shrinker needs.

use std::time::Duration;

use fastrand::Rng;

/// The number of hubs in a world.
pub(crate) const HUBS: usize = 3;
/// The spoke of each instance: two share the calls of the first spoke, and one is alone.
pub(crate) const SPOKE_OF: [usize; 3] = [0, 0, 1];
/// The number of spokes in a sequence.
pub(crate) const SPOKES: usize = 2;

/// The kinds of operations.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Query,
    Mutation,
    Subscription,
}

/// How a call enters a hub.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    /// Over the hub's one WebSocket for callers, which many calls share.
    Socket,
    /// In a request of its own; a subscription uses server-sent events.
    Http,
}

/// How a connection ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Leave {
    /// With a close frame.
    Close,
    /// The socket just vanishes.
    Vanish,
}

/// What a spoke says about a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reply {
    /// The output; for a subscription, its regular end.
    Good,
    /// This many items of a subscription; the output of anything else.
    Items(u64),
    /// An error of its own.
    Fault,
    /// `call.aborted`: the spoke stops on its own.
    GiveUp,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// An instance registers at a hub, over the connection that it has there or over a new one.
    Register { instance: usize, hub: usize, anew: bool },
    /// A call to a spoke's operation enters at a hub.
    Call {
        hub: usize,
        way: Way,
        spoke: usize,
        kind: Kind,
        limit: Option<Duration>,
    },
    /// The spoke answers one of the calls that it runs.
    Answer { pick: usize, reply: Reply },
    /// A spoke says something about a call that has ended for it.
    Late { pick: usize },
    /// A caller gives up one of its calls.
    Abort { pick: usize },
    /// A spoke's connection ends.
    LoseSpoke { pick: usize, leave: Leave },
    /// The WebSocket of a hub's callers ends, with all their calls.
    LoseCaller { hub: usize, leave: Leave },
    /// The links of a hub are cut: the one to Redis, and, if there are any, those that other hubs have dialled to it.
    Cut { hub: usize },
    /// The links of a hub pass nothing; if a cut follows, what they held is lost.
    Hold { hub: usize },
    /// The links of a hub become whole again; a hub that was killed is started again.
    Heal { hub: usize },
    /// A hub ends: like a process that dies, or like one that is told to end.
    Kill { hub: usize, drains: bool },
    /// Waits until everything that was begun has settled, unless something is cut or killed.
    Calm,
}

// === impl Step ===

impl Step {
    /// What kind of step it is, for the summary of a run.
    pub(crate) fn name(self) -> String {
        let shown = format!("{self:?}");
        let name = shown.split(' ').next().unwrap_or_default();
        format!("steps {name}")
    }

    fn is_fault(self) -> bool {
        matches!(self, Self::Cut { .. } | Self::Hold { .. } | Self::Kill { .. })
    }
}

/// Whether hubs have links from pod to pod in the sequence of a seed, which is so in a quarter of all.
pub(crate) fn is_linked(seed: u64) -> bool {
    seed.is_multiple_of(4)
}

/// The sequence of a seed.
pub(crate) fn sequence(seed: u64) -> Vec<Step> {
    let mut chance = Rng::with_seed(seed);
    // Not every sequence has faults: broken links take time, and it takes the others a lease to notice that a hub has
    // died.
    let faults = match chance.u8(..100) {
        0..50 => Faults::None,
        50..92 => Faults::Links,
        _ => Faults::Hubs,
    };
    let count = chance.usize(6..40);
    // Gives each spoke an instance to begin with.
    let mut steps: Vec<Step> = [0, 2].map(|instance| register(&mut chance, instance)).into();
    steps.push(Step::Calm);
    while steps.len() < count {
        let next = step(&mut chance, faults);
        if next.is_fault() && chance.bool() {
            // Begins calls that are running when the fault happens.
            (0..chance.usize(1..4)).for_each(|_| steps.push(call(&mut chance)));
            steps.push(Step::Calm);
        }
        steps.push(next);
    }
    steps
}

/// What may go wrong in a sequence besides its spokes and callers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Faults {
    None,
    Links,
    Hubs,
}

fn step(chance: &mut Rng, faults: Faults) -> Step {
    let hub = chance.usize(..HUBS);
    let pick = chance.usize(..16);
    match chance.u8(..100) {
        0..30 => call(chance),
        30..52 => answer(chance),
        52..55 => Step::Late { pick },
        55..63 => Step::Abort { pick },
        63..70 => {
            let instance = chance.usize(..SPOKE_OF.len());
            register(chance, instance)
        }
        70..74 => Step::LoseSpoke {
            pick,
            leave: leave(chance),
        },
        74..77 => Step::LoseCaller {
            hub,
            leave: leave(chance),
        },
        77..88 if faults != Faults::None => fault(chance, faults, hub),
        _ => Step::Calm,
    }
}

fn fault(chance: &mut Rng, faults: Faults, hub: usize) -> Step {
    match chance.u8(..8) {
        0..3 if faults == Faults::Hubs => Step::Kill {
            hub,
            drains: chance.bool(),
        },
        0..3 => Step::Cut { hub },
        3..5 => Step::Hold { hub },
        _ => Step::Heal { hub },
    }
}

fn register(chance: &mut Rng, instance: usize) -> Step {
    Step::Register {
        instance,
        hub: chance.usize(..HUBS),
        anew: chance.bool(),
    }
}

fn call(chance: &mut Rng) -> Step {
    let kind = match chance.u8(..5) {
        0 => Kind::Query,
        1..3 => Kind::Mutation,
        _ => Kind::Subscription,
    };
    let way = if chance.u8(..4) == 0 { Way::Http } else { Way::Socket };
    let limit = match (chance.u8(..6), way, kind) {
        // The end of server-sent events is where their reader sees it.
        (_, Way::Http, Kind::Subscription) => None,
        (0, ..) => Some(Duration::from_millis(chance.u64(20..400))),
        _ => None,
    };
    Step::Call {
        hub: chance.usize(..HUBS),
        way,
        spoke: chance.usize(..SPOKES),
        kind,
        limit,
    }
}

fn answer(chance: &mut Rng) -> Step {
    let reply = match chance.u8(..8) {
        0..3 => Reply::Good,
        3..6 => Reply::Items(chance.u64(1..6)),
        6 => Reply::Fault,
        _ => Reply::GiveUp,
    };
    Step::Answer {
        pick: chance.usize(..16),
        reply,
    }
}

fn leave(chance: &mut Rng) -> Leave {
    if chance.bool() { Leave::Close } else { Leave::Vanish }
}
