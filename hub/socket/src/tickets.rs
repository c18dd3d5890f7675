//! The calls that one connection made and that may still run, by the peer's own request ids.
//!
//! A call's answer goes from the router to the outbox without passing here, so ended calls are found by asking: the
//! table is swept whenever it has doubled, which costs a constant amount per call.

use std::collections::HashMap;

use alkhub_calls::{Caller, Ticket};
use alkhub_protocol::RequestId;

/// The table is not swept below this size.
const SWEEP_FROM: usize = 64;

/// Calls under way.
#[derive(Debug, Default)]
pub(crate) struct Tickets {
    calls: HashMap<RequestId, Ticket>,
    sweep_at: usize,
}

// === impl Tickets ===

impl Tickets {
    /// Whether a call of that id runs.
    pub(crate) fn is_running(&self, id: &RequestId) -> bool {
        self.calls.get(id).is_some_and(|ticket| !ticket.is_done())
    }

    /// The calls that run.
    pub(crate) fn running(&self) -> impl Iterator<Item = &RequestId> {
        let running = self.calls.iter().filter(|(_, ticket)| !ticket.is_done());
        running.map(|(id, _)| id)
    }

    /// Enters a call.
    pub(crate) fn insert(&mut self, id: RequestId, ticket: Ticket) {
        if ticket.is_done() {
            return;
        }
        if self.calls.len() >= self.sweep_at.max(SWEEP_FROM) {
            self.sweep();
        }
        self.calls.insert(id, ticket);
    }

    /// Ends a call for its caller, who gets an answer; returns whether a call with this id was entered.
    pub(crate) fn cancel(&mut self, id: &RequestId, reason: &'static str) -> bool {
        // If the call has already ended, its end is on its way.
        self.calls.remove(id).is_some_and(|ticket| {
            ticket.cancel(reason);
            true
        })
    }

    /// Ends the subscriptions to operations that their caller may no longer call.
    pub(crate) fn recheck(&self, caller: &Caller) {
        self.calls.values().for_each(|ticket| ticket.recheck(caller));
    }

    /// The caller of all of them is lost; returns those that were aborted because of it.
    pub(crate) fn take_running(&mut self, reason: &str) -> Vec<RequestId> {
        self.sweep();
        let running = std::mem::take(&mut self.calls);
        // The end of a call that finished meanwhile is on its way to the peer, or was.
        let still = running.into_iter().filter(|(_, ticket)| ticket.caller_lost(reason));
        still.map(|(id, _)| id).collect()
    }

    fn sweep(&mut self) {
        self.calls.retain(|_, ticket| !ticket.is_done());
        self.sweep_at = 2 * self.calls.len();
        if self.calls.is_empty() {
            self.calls = HashMap::new();
        }
    }
}

impl Drop for Tickets {
    fn drop(&mut self) {
        self.take_running("the caller disconnected");
    }
}
