//! Whether a new connection is welcome: decided once a second, asked at every upgrade.
//!
//! Only peers that a load balancer brings are put to the question. A peer that was told where to go is always taken.
//!
//! A load balancer may send a peer to the same pod for ever. So a peer that has come back often enough is taken, and if
//! most refused peers come back, the door stays open: they have nowhere else to go.

use std::time::Duration;

use crate::rule::Rule;

/// The answer to an upgrade.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Upgrade {
    /// The peer is welcome.
    Accept,
    /// Another pod should have it: 503, before anything about it is looked up.
    Refuse {
        /// The value of `Retry-After`, in whole seconds, drawn anew for each peer.
        retry_after: Duration,
    },
}

/// What the last look found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sign {
    /// Everybody is welcome.
    Open,
    /// New connections should rather go to the other pods.
    Shut,
    /// The pod is going away.
    Leaving,
}

/// Two refusals of a peer count as consecutive if they are at most this far apart; the counts of refusals are evaluated
/// as often.
const ROW: Duration = Duration::from_mins(1);
/// For how long the door stays open after refusing has turned out to be of no use.
const OF_NO_USE: Duration = Duration::from_mins(10);
/// Refusing is of no use only if at least this many peers have come back, and at least one in this many of all that
/// were refused.
const RETURNED: u32 = 4;
/// Slots for refused peers. A peer whose slot is taken by another is not counted until that other one's row is over.
const PLACES: usize = 4_096;

/// One refused peer: which one, how often, and when last.
#[derive(Clone, Copy, Debug, Default)]
struct Refused {
    source: u64,
    times: u8,
    at: Duration,
}

/// What a hub remembers at its door.
#[derive(Debug)]
pub(crate) struct Entrance {
    sign: Sign,
    /// When the sign was made.
    at: Duration,
    /// Empty until the first one is refused.
    refused: Vec<Refused>,
    /// How many peers were refused in the last minutes, and how many of those came back until they were taken.
    turned_away: u32,
    returned: u32,
    counted: Duration,
    open_until: Duration,
}

// === impl Entrance ===

impl Entrance {
    pub(crate) fn new() -> Self {
        Self {
            sign: Sign::Open,
            at: Duration::ZERO,
            refused: Vec::new(),
            turned_away: 0,
            returned: 0,
            counted: Duration::ZERO,
            open_until: Duration::ZERO,
        }
    }

    /// Puts up the sign.
    pub(crate) fn set(&mut self, now: Duration, sign: Sign) {
        (self.at, self.sign) = (now, sign);
        if now >= self.counted + ROW {
            self.turned_away /= 2;
            self.returned /= 2;
            self.counted = now;
        }
    }

    /// Whether refused peers keep coming back, so that letting go of any is of no use.
    pub(crate) fn is_in_vain(&self, now: Duration) -> bool {
        now < self.open_until
    }

    /// Answers an upgrade of the peer that `source` identifies.
    pub(crate) fn admit(&mut self, now: Duration, source: u64, rule: &Rule, random: &mut fastrand::Rng) -> Upgrade {
        let known = now <= self.at + rule.fresh;
        let accept = match self.sign {
            Sign::Open => true,
            Sign::Leaving => !known,
            Sign::Shut => !known || self.is_in_vain(now) || !self.is_patient(now, source, rule),
        };
        if accept {
            return Upgrade::Accept;
        }
        Upgrade::Refuse {
            retry_after: Duration::from_secs(random.u64(1..=rule.retry_after.max(1))),
        }
    }

    /// Counts a refusal; false once the peer has been refused often enough.
    fn is_patient(&mut self, now: Duration, source: u64, rule: &Rule) -> bool {
        self.refused.resize(PLACES, Refused::default());
        let place = &mut self.refused[usize::try_from(source % PLACES as u64).unwrap_or(0)];
        let taken = place.times > 0 && now < place.at + ROW;
        if taken && place.source != source {
            return true;
        }
        if !taken {
            *place = Refused {
                source,
                times: 1,
                at: now,
            };
            self.turned_away = self.turned_away.saturating_add(1);
            return true;
        }
        if place.times < rule.patience {
            place.times += 1;
            place.at = now;
            return true;
        }
        place.times = 0;
        self.returned = self.returned.saturating_add(1);
        if self.returned >= RETURNED && self.returned * RETURNED >= self.turned_away {
            self.open_until = now + OF_NO_USE;
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_comes_back_slowly_is_taken_in_the_end_too() {
        let (rule, mut random) = (Rule::default(), fastrand::Rng::with_seed(1));
        let mut entrance = Entrance::new();
        let mut refused = 0;

        for knock in 0..u32::from(rule.patience) {
            let now = Duration::from_secs(45) * knock;
            entrance.set(now, Sign::Shut);
            refused += u8::from(entrance.admit(now, 7, &rule, &mut random) != Upgrade::Accept);
        }
        let now = Duration::from_secs(45) * u32::from(rule.patience);
        entrance.set(now, Sign::Shut);

        assert_eq!(refused, rule.patience);
        assert_eq!(entrance.admit(now, 7, &rule, &mut random), Upgrade::Accept);
    }
}
