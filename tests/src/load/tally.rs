//! What callers and spokes see, from one moment to the next.

use std::collections::{BTreeSet, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use alkhub_protocol::Delivered;
use parking_lot::Mutex;
use tokio::time::Instant;

use crate::promise;

/// The kind of a spoke.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// One that uses the SDK, with sessions.
    Sdk,
    /// One that speaks the origin's wire and knows of no sessions.
    Plain,
}

/// The target of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Aim {
    /// One spoke that uses the SDK, and no other.
    Sdk,
    /// Any plain spoke that offers the operation.
    AnyPlain,
    /// One plain spoke, and no other.
    OnePlain,
}

/// A call that is over.
#[derive(Clone, Debug)]
pub struct Ended {
    /// Its number.
    pub number: u64,
    /// Its target.
    pub aim: Aim,
    /// When it was due.
    pub due: Instant,
    /// When it ended.
    pub at: Instant,
    /// How long it took from when it was due, minus the time that the spoke worked.
    pub late: Duration,
    /// How it failed, if it did.
    pub failed: Option<Box<Failed>>,
    /// How often it reached a spoke.
    pub ran: u8,
}

/// What a caller was told of a call that failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failed {
    /// The code; for errors without one, what happened.
    pub code: String,
    /// Whether a spoke got it.
    pub delivered: Delivered,
    /// The whole error, for whoever looks for the cause.
    pub message: String,
}

/// For a caller that lost its own connection: no hub told it what became of the call.
pub(super) const LOST: &str = "(session lost)";
pub(super) const UNCONNECTED: &str = "(no connection)";

/// A period in which a spoke had no connection on which it was registered.
#[derive(Clone, Copy, Debug)]
pub struct Away {
    /// The spoke.
    pub spoke: usize,
    /// Its kind.
    pub kind: Kind,
    /// When it began.
    pub at: Instant,
    /// How long it lasted.
    pub lasted: Duration,
}

/// A new connection of a spoke to a hub.
#[derive(Clone, Debug)]
pub struct Arrival {
    /// The spoke.
    pub spoke: usize,
    /// Its kind.
    pub kind: Kind,
    /// When.
    pub at: Instant,
    /// The hub's id, which begins with its pod's name.
    pub hub: String,
}

/// Everything that was seen between two moments.
#[derive(Debug, Default)]
pub struct Window {
    /// Calls that ended.
    pub ended: Vec<Ended>,
    /// Periods without a connection that are over.
    pub away: Vec<Away>,
    /// New connections.
    pub arrivals: Vec<Arrival>,
}

/// What is seen.
#[derive(Debug, Default)]
pub struct Tally {
    next: AtomicU64,
    over: AtomicU64,
    seen: Mutex<Seen>,
}

#[derive(Debug, Default)]
struct Seen {
    /// How often each call reached a spoke, by its number.
    runs: Vec<u8>,
    /// Calls that are not over.
    running: BTreeSet<u64>,
    /// Spokes that are registered; and since when the others that once were are not.
    here: HashMap<usize, Kind>,
    gone: HashMap<usize, (Kind, Instant)>,
    window: Window,
}

// === impl Tally ===

impl Tally {
    /// The number of a call that is to be made.
    pub(super) fn number(&self) -> u64 {
        self.next.fetch_add(1, Ordering::Relaxed)
    }

    /// Call `number` reached a spoke.
    pub(super) fn ran(&self, number: u64) {
        let Ok(number) = usize::try_from(number) else { return };
        let mut seen = self.seen.lock();
        if number < seen.runs.len() {
            seen.runs[number] = seen.runs[number].saturating_add(1);
        }
    }

    /// Call `number` is about to be made.
    pub(super) fn called(&self, number: u64) {
        let mut seen = self.seen.lock();
        seen.running.insert(number);
        let Ok(number) = usize::try_from(number) else { return };
        if seen.runs.len() <= number {
            seen.runs.resize(number + 1, 0);
        }
    }

    /// A call is over.
    pub(super) fn ended(&self, ended: Ended) {
        let mut seen = self.seen.lock();
        seen.running.remove(&ended.number);
        seen.window.ended.push(ended);
        self.over.fetch_add(1, Ordering::Release);
    }

    /// Calls that are not over.
    pub(super) fn running(&self) -> usize {
        // In this order, so that a call that begins and ends in between does not count as over before it began.
        let over = self.over.load(Ordering::Acquire);
        let running = self.next.load(Ordering::Acquire) - over;
        usize::try_from(running).unwrap_or(usize::MAX)
    }

    /// How many calls were made until now.
    pub(super) fn made(&self) -> u64 {
        self.next.load(Ordering::Acquire)
    }

    /// How many of the first `made` calls are not over.
    pub(super) fn running_of(&self, made: u64) -> usize {
        self.seen.lock().running.range(..made).count()
    }

    /// Notes that a spoke has a connection on which it is registered; it may have had none.
    pub(super) fn here(&self, spoke: usize, kind: Kind) {
        let mut seen = self.seen.lock();
        seen.here.insert(spoke, kind);
        if let Some((kind, at)) = seen.gone.remove(&spoke) {
            let lasted = at.elapsed();
            seen.window.away.push(Away {
                spoke,
                kind,
                at,
                lasted,
            });
        }
    }

    /// Notes that a spoke has none any more.
    pub(super) fn gone(&self, spoke: usize) {
        let mut seen = self.seen.lock();
        if let Some(kind) = seen.here.remove(&spoke) {
            seen.gone.insert(spoke, (kind, Instant::now()));
        }
    }

    /// Notes a new connection of a spoke to a hub.
    pub(super) fn arrived(&self, spoke: usize, kind: Kind, hub: &str) {
        let (at, hub) = (Instant::now(), hub.to_owned());
        self.seen.lock().window.arrivals.push(Arrival { spoke, kind, at, hub });
    }

    /// Spokes that are registered now.
    pub fn connected(&self) -> usize {
        self.seen.lock().here.len()
    }

    /// New connections since the last [`Tally::take`].
    pub fn arrivals(&self) -> usize {
        self.seen.lock().window.arrivals.len()
    }

    /// Calls that have ended since then.
    pub fn calls(&self) -> usize {
        self.seen.lock().window.ended.len()
    }

    /// Everything that was seen since the last call of this. A spoke that is still away counts with the time until now,
    /// and once more when it is back.
    pub fn take(&self) -> Window {
        let mut seen = self.seen.lock();
        let mut window = std::mem::take(&mut seen.window);
        window.away.extend(seen.gone.iter().map(|(&spoke, &(kind, at))| Away {
            spoke,
            kind,
            at,
            lasted: at.elapsed(),
        }));
        for ended in &mut window.ended {
            let number = usize::try_from(ended.number).unwrap_or(usize::MAX);
            ended.ran = seen.runs.get(number).copied().unwrap_or(0);
        }
        window
    }
}

// === impl Ended ===

impl Ended {
    /// Whether it ran more often than its caller was told that it may have.
    pub fn breaks_a_promise(&self) -> bool {
        let told = self.failed.as_ref().map_or(Delivered::Yes, |failed| failed.delivered);
        !promise::holds(told, usize::from(self.ran))
    }
}

// === impl Failed ===

impl Failed {
    /// Whether a hub or a spoke gave the reason; otherwise the caller says what it saw.
    pub fn is_told(&self) -> bool {
        !self.code.starts_with('(')
    }

    /// Whether trouble explains it: a code that stands for trouble, or the loss of the caller's own connection.
    pub fn is_trouble(&self) -> bool {
        promise::TROUBLE.contains(&&*self.code) || [LOST, UNCONNECTED].contains(&&*self.code)
    }
}

// === impl Window ===

impl Window {
    /// The calls that were for these spokes and failed.
    pub fn failed(&self, aim: Aim) -> impl Iterator<Item = (&Ended, &Failed)> {
        let of = self.ended.iter().filter(move |ended| ended.aim == aim);
        of.filter_map(|ended| Some((ended, &**ended.failed.as_ref()?)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ended(number: u64, failed: Option<Delivered>) -> Ended {
        let failed = failed.map(|delivered| {
            let (code, message) = ("SPOKE_LOST".to_owned(), String::new());
            Box::new(Failed {
                code,
                delivered,
                message,
            })
        });
        Ended {
            number,
            aim: Aim::Sdk,
            due: Instant::now(),
            at: Instant::now(),
            late: Duration::ZERO,
            failed,
            ran: 0,
        }
    }

    #[test]
    fn a_call_that_ran_although_its_caller_was_told_no_breaks_a_promise() {
        let tally = Tally::default();
        for (told, runs) in [
            (None, 1),
            (None, 2),
            (Some(Delivered::No), 0),
            (Some(Delivered::No), 1),
            (Some(Delivered::Maybe), 1),
        ] {
            let number = tally.number();
            tally.called(number);
            (0..runs).for_each(|_| tally.ran(number));
            tally.ended(ended(number, told));
        }

        let window = tally.take();

        let broken: Vec<bool> = window.ended.iter().map(Ended::breaks_a_promise).collect();
        assert_eq!(broken, [false, true, false, true, false]);
        assert!(tally.take().ended.is_empty());
    }

    #[test]
    fn a_spoke_is_away_from_its_loss_until_it_is_registered_again() {
        let tally = Tally::default();
        tally.here(3, Kind::Plain);
        tally.here(4, Kind::Sdk);
        tally.gone(3);
        tally.gone(3);

        let before = (tally.connected(), tally.take().away.len());
        tally.here(3, Kind::Plain);

        assert_eq!(before, (1, 1), "it is away still");
        let away = tally.take().away;
        assert_eq!((tally.connected(), away.len()), (2, 1));
        assert_eq!((away[0].spoke, away[0].kind), (3, Kind::Plain));
    }
}
