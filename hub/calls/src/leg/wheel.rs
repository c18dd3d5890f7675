//! One wheel of deadlines for all calls of a shard: no timer per call.
//!
//! A key is put into the slot of its tick and never taken out early: when the slot comes up, the owner looks whether
//! the call still runs and is due. A key that is due more than one turn from now waits in an earlier slot, on a coarse
//! tick. So ended calls leave the wheel within one turn, and far deadlines cause few wake-ups.

use std::time::Duration;

/// How exact a deadline is.
pub(crate) const TICK: Duration = Duration::from_millis(20);

/// The ticks of one turn.
const SLOTS: u64 = 256;

/// Deadlines more than one turn away are looked at on multiples of this many ticks.
const COARSE: u64 = 32;

/// Keys by the tick at which they must be looked at.
#[derive(Debug)]
pub(crate) struct Wheel {
    slots: Vec<Vec<u64>>,
    /// The last tick that was taken.
    now: u64,
}

// === impl Wheel ===

impl Wheel {
    pub(crate) fn new() -> Self {
        Self {
            slots: (0..SLOTS).map(|_| Vec::new()).collect(),
            now: 0,
        }
    }

    /// Puts a key in, to be looked at at `tick` or earlier; returns when.
    pub(crate) fn put(&mut self, key: u64, tick: u64) -> u64 {
        let last = self.now + SLOTS - 1;
        let tick = if tick > last {
            last - last % COARSE
        } else {
            tick.max(self.now + 1)
        };
        self.slots[slot(tick)].push(key);
        tick
    }

    /// Takes out every key of the ticks up to `now`.
    pub(crate) fn advance(&mut self, now: u64, keys: &mut Vec<u64>) {
        let ticks = now.saturating_sub(self.now).min(SLOTS);
        for tick in now + 1 - ticks..=now {
            keys.append(&mut self.slots[slot(tick)]);
        }
        self.now = self.now.max(now);
    }

    /// The next tick that has keys.
    pub(crate) fn next(&self) -> Option<u64> {
        (self.now + 1..self.now + SLOTS).find(|&tick| !self.slots[slot(tick)].is_empty())
    }
}

fn slot(tick: u64) -> usize {
    usize::try_from(tick % SLOTS).expect("less than the number of slots")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn advance(wheel: &mut Wheel, now: u64) -> Vec<u64> {
        let mut keys = Vec::new();
        wheel.advance(now, &mut keys);
        keys
    }

    #[test]
    fn a_key_comes_up_at_its_tick() {
        let mut wheel = Wheel::new();
        wheel.put(7, 3);

        assert_eq!(wheel.next(), Some(3));
        assert!(advance(&mut wheel, 2).is_empty());
        assert_eq!(advance(&mut wheel, 3), [7]);
        assert_eq!(wheel.next(), None);
    }

    #[test]
    fn a_far_key_comes_up_within_one_turn_on_a_coarse_tick() {
        let mut wheel = Wheel::new();

        let looked_at = wheel.put(7, 100_000);

        assert!(looked_at < SLOTS && looked_at.is_multiple_of(COARSE), "{looked_at}");
        assert_eq!(advance(&mut wheel, SLOTS), [7]);
    }

    #[test]
    fn a_past_tick_comes_up_at_the_next_one() {
        let mut wheel = Wheel::new();
        advance(&mut wheel, 1_000);

        assert_eq!(wheel.put(7, 10), 1_001);
        assert_eq!(advance(&mut wheel, 1_001), [7]);
    }

    #[test]
    fn a_pause_of_many_turns_loses_no_key() {
        let mut wheel = Wheel::new();
        for key in 0..SLOTS - 1 {
            wheel.put(key, key + 1);
        }

        let mut keys = advance(&mut wheel, 1_000_000);

        keys.sort_unstable();
        assert_eq!(keys, (0..SLOTS - 1).collect::<Vec<_>>());
    }
}
