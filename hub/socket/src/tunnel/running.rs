//! The calls that run through one tunnel, with what they take up on this hub: slots of the spoke's instance for those
//! that the spoke runs for the other hub, and bytes of the session's key for what is known of each. Both are given back
//! as each call ends, and all of them when the tunnel closes; from then on no call is entered.

use std::collections::HashSet;

use alkhub_budget::{Budget, Exhausted, Held, Kept};
use alkhub_calls::OccupiedSlots;

/// How much a hub keeps of a call besides its id, roughly, in bytes.
pub(super) const CALL_BYTES: usize = 64;

/// The calls in one tunnel.
#[derive(Debug, Default)]
pub(super) struct RunningCalls {
    /// Calls that the spoke runs for the other hub.
    legs: HashSet<String>,
    /// Calls that the peer has made there.
    calls: HashSet<String>,
    /// The slots for `legs`, once the spoke is registered here.
    slots: Option<OccupiedSlots>,
    /// What is known of all of them, in bytes.
    bytes: usize,
    /// The charge for that, once there is one.
    held: Option<Held>,
    /// Nothing passes any more.
    closed: bool,
}

// === impl RunningCalls ===

impl RunningCalls {
    /// What runs when the session arrives; nothing is charged yet.
    pub(super) fn new(legs: &[String], calls: &[String]) -> Self {
        let (legs, calls): (HashSet<_>, HashSet<_>) = (legs.iter().cloned().collect(), calls.iter().cloned().collect());
        let bytes = legs.iter().chain(&calls).map(|id| bytes_of(id)).sum();
        Self {
            legs,
            calls,
            bytes,
            ..Self::default()
        }
    }

    /// Charges what is known of the calls to a budget, now and as they come and go.
    ///
    /// # Errors
    /// There is no room for those of now. Later ones are charged nevertheless.
    pub(super) fn charge(&mut self, budget: &Budget) -> Result<(), Exhausted> {
        if self.closed {
            return Ok(());
        }
        self.held.insert(budget.nothing(Kept::Moves)).resize(self.bytes)
    }

    /// The spoke is registered here: its calls occupy these slots.
    pub(super) fn settle(&mut self, slots: OccupiedSlots) {
        if !self.closed {
            self.slots = Some(slots);
            self.occupy();
        }
    }

    /// Enters a call that the spoke is to run for the other hub.
    ///
    /// # Errors
    /// There is no room for it, and it is not entered.
    pub(super) fn begin_leg(&mut self, leg: &str) -> Result<(), Exhausted> {
        if self.closed || self.legs.contains(leg) {
            return Ok(());
        }
        let bytes = self.bytes + bytes_of(leg);
        if let Some(held) = &mut self.held {
            held.resize(bytes)?;
        }
        self.bytes = bytes;
        self.legs.insert(leg.to_owned());
        self.occupy();
        Ok(())
    }

    /// A call that the spoke ran is over.
    pub(super) fn end_leg(&mut self, leg: &str) {
        if self.legs.remove(leg) {
            self.give_back(bytes_of(leg));
            self.occupy();
        }
    }

    /// A call that the peer made is over.
    pub(super) fn end_call(&mut self, call: &str) {
        if self.calls.remove(call) {
            self.give_back(bytes_of(call));
        }
    }

    /// Whether the spoke runs this call.
    pub(super) fn has_leg(&self, leg: &str) -> bool {
        self.legs.contains(leg)
    }

    /// Whether the peer made this call, and it is running.
    pub(super) fn has_call(&self, call: &str) -> bool {
        self.calls.contains(call)
    }

    /// The calls that the spoke runs.
    pub(super) fn legs(&self) -> Vec<String> {
        self.legs.iter().cloned().collect()
    }

    /// The calls that the peer made.
    pub(super) fn calls(&self) -> Vec<String> {
        self.calls.iter().cloned().collect()
    }

    /// Whether there are calls that the peer made.
    pub(super) fn has_calls(&self) -> bool {
        !self.calls.is_empty()
    }

    /// Forgets the calls that the peer made, and returns them.
    pub(super) fn take_calls(&mut self) -> Vec<String> {
        let calls: Vec<_> = std::mem::take(&mut self.calls).into_iter().collect();
        self.give_back(calls.iter().map(|call| bytes_of(call)).sum());
        calls
    }

    /// Calls in both directions.
    pub(super) fn count(&self) -> usize {
        self.legs.len() + self.calls.len()
    }

    /// Whether nothing passes any more.
    pub(super) fn is_closed(&self) -> bool {
        self.closed
    }

    /// Lets nothing pass from now on; returns what was running, unless it was closed already.
    pub(super) fn close(&mut self) -> Option<Self> {
        let closed = Self {
            closed: true,
            ..Self::default()
        };
        let before = std::mem::replace(self, closed);
        (!before.closed).then_some(before)
    }

    fn give_back(&mut self, bytes: usize) {
        self.bytes -= bytes;
        if let Some(held) = &mut self.held {
            held.shrink(self.bytes);
        }
    }

    fn occupy(&mut self) {
        let legs = u32::try_from(self.legs.len()).unwrap_or(u32::MAX);
        if let Some(slots) = &mut self.slots {
            slots.occupy(legs);
        }
    }
}

/// How much is known of a call with this id.
fn bytes_of(id: &str) -> usize {
    id.len() + CALL_BYTES
}
