//! Whether a new connection is welcome: decided once a second, asked at every upgrade.
//!
//! Only peers that a load balancer brings are asked about. One that was told where to go is taken.
//!
//! A load balancer may send a peer to the same pod for ever. So a peer that came back often enough is taken, and where
//! most refused peers come back, the door stays open: they cannot go anywhere else.

use std::time::Duration;

use crate::rule::Rule;

/// What an upgrade is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Upgrade {
    /// The peer is welcome.
    Accept,
    /// Another pod should have it: 503, before anything is looked up.
    Refuse {
        /// What `Retry-After` says, in whole seconds, drawn anew for each peer.
        retry_after: Duration,
    },
}

/// What the last look found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sign {
    /// Everybody is welcome.
    Open,
    /// Others would rather have new connections.
    Shut,
    /// The pod goes.
    Leaving,
}

/// A refusal belongs to the one before of the same peer when it comes this soon; numbers of them are compared as often.
const ROW: Duration = Duration::from_mins(1);
/// For how long the door stays open when refusing was of no use.
const OF_NO_USE: Duration = Duration::from_mins(10);
/// So many peers must have come back before refusing can be of no use, and one in so many of all that were refused.
const RETURNED: u32 = 4;
/// Places for peers that were refused. Who finds another one in its place is not counted until that one's row is over.
const PLACES: usize = 4_096;

/// One peer that was refused: who, how often, when last.
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
    /// Peers that were refused, and those of them that came back until they were taken; of the last minutes.
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

    /// Puts the sign out.
    pub(crate) fn set(&mut self, now: Duration, sign: Sign) {
        (self.at, self.sign) = (now, sign);
        if now >= self.counted + ROW {
            self.turned_away /= 2;
            self.returned /= 2;
            self.counted = now;
        }
    }

    /// Whether peers that were refused have come back, so that letting go of any is of no use.
    pub(crate) fn is_in_vain(&self, now: Duration) -> bool {
        now < self.open_until
    }

    /// Answers an upgrade of a peer that is known by `source`.
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

    /// Counts a refusal; false when the peer has been refused often enough.
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
