//! Queries that were lost with their spokes: each is sent once more.
//!
//! Invariants
//! - Nothing else that a spoke may have got is sent to another one: no mutation, no subscription, and no query a third
//!   time.
//! - The caller's hub sends it again, once a hub says that the spoke is lost: the hub that held the spoke, or this one
//!   if that hub is gone. A spoke that answers `SPOKE_LOST` itself has received the call, and its error says so.
//! - The error names what kept a query from being sent again, except for the usual reason: nobody else offers it.

use std::sync::Arc;

use alkhub_protocol::{CallError, Code, Delivered, OperationKind};

use super::Placement;
use crate::directory::Instance;
use crate::directory::router::Excluded;
use crate::leg::call::Call;
use crate::leg::outcome::End;
use crate::leg::table::{self, CallTable};

/// A call that was lost with its spoke is not sent again; with the reason, if its caller is to be told.
#[derive(Debug, Default)]
pub(crate) struct NotAgain(Option<String>);

// === impl NotAgain ===

impl NotAgain {
    /// The error of the call, with the reason added.
    pub(crate) fn told(self, mut error: CallError) -> CallError {
        if let Some(reason) = self.0 {
            error.message.push_str("; it was not sent again: ");
            error.message.push_str(&reason);
        }
        error
    }
}

impl From<CallError> for NotAgain {
    fn from(refusal: CallError) -> Self {
        Self((refusal.code != Code::NoProvider).then_some(refusal.message))
    }
}

// === impl Placement ===

impl Placement {
    /// An instance is lost with a call that it may have got: another instance gets it, if it may be sent again, or it
    /// fails. If the call is no longer there, it is left to whoever has it.
    pub(crate) fn lost(&self, call: &Arc<Call>, from: &Arc<Instance>, not: Excluded<'_>) {
        if let Err(reason) = self.repeat(call, from, not) {
            let error = reason.told(table::spoke_lost(call, &from.entry.spoke));
            self.table.end(call.key, End::Failed(error), None);
        }
    }

    fn repeat(&self, call: &Arc<Call>, from: &Arc<Instance>, not: Excluded<'_>) -> Result<(), NotAgain> {
        if self.take_lost(call, from)? {
            self.send_again(call, not)?;
        }
        Ok(())
    }

    /// The same by the word of the hub that held the instance, which may come sooner than the directory hears that the
    /// same program has registered anew: the call waits for that a little. Without anybody who takes it, `end` gets the
    /// reason, possibly before this returns.
    pub(crate) fn lost_there(
        self: &Arc<Self>,
        call: &Arc<Call>,
        from: &Arc<Instance>,
        end: impl FnOnce(NotAgain) + Send + 'static,
    ) {
        match self.take_lost(call, from) {
            Ok(true) => {
                if let Err(refusal) = self.send_again(call, Excluded::Registration(from)) {
                    self.look_again(call, from, refusal, |refusal| end(refusal.into()));
                }
            }
            Ok(false) => {}
            Err(reason) => end(reason),
        }
    }

    /// Takes a call out of the place with which it is lost, to be sent again, and gives its slot back: the same program
    /// may come back to that very slot. False if it is not there any more; it stays if it may not be sent again.
    fn take_lost(&self, call: &Call, from: &Arc<Instance>) -> Result<bool, NotAgain> {
        let mut leg = call.leg.lock();
        if leg.to.instance().is_none_or(|at| !Arc::ptr_eq(at, from)) {
            return Ok(false);
        }
        // Whoever has taken it out of the table is about to end it.
        if call.was_lost() || !may_repeat(call) || !self.table.contains(call.key) {
            return Err(NotAgain::default());
        }
        if let Some(full) = call.input.no_room() {
            let setting = full.setting();
            let reason = format!("its input was not kept, as such inputs take up an eighth of `{setting}` at most");
            return Err(NotAgain(Some(reason)));
        }
        // This comes before anybody has it: the next spoke that gets it is the last one.
        call.input.stays_no_more();
        if let Some(session) = &from.session {
            self.is_not_there(call, session);
        }
        call.note_loss(&from.entry.spoke);
        leg.resent += 1;
        let left = std::mem::take(&mut leg.to);
        CallTable::release(&left, call.key);
        Ok(true)
    }
}

/// Whether an error comes from the hub that held the spoke, and says that the call was lost with it. An error that a
/// spoke itself answers says that the spoke has received the call ([`crate::session::spoken`]).
pub(crate) fn is_loss(error: &CallError) -> bool {
    error.code == Code::SpokeLost && error.delivered == Delivered::Maybe
}

/// Whether it does no harm to run a call a second time, and it is still due under the rights that it was admitted by.
/// Nobody need wait for it: one that goes on without its caller is sent again like any other.
fn may_repeat(call: &Call) -> bool {
    call.operation.spec.kind == OperationKind::Query
        && !call.is_relayed()
        && !call.has_output()
        && !call.has_other_rights()
        && !call.times.is_past_deadline()
}
