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
use crate::leg::call::{Call, To};
use crate::leg::table::CallTable;

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
    /// An instance is lost with a call that it may have got: another instance gets it, if it may be sent again. If the
    /// call is no longer there, it is left to whoever has it.
    pub(crate) fn lost(&self, call: &Arc<Call>, from: &Arc<Instance>, not: Excluded<'_>) -> Result<(), NotAgain> {
        let mut leg = call.leg.lock();
        if leg.to.instance().is_none_or(|at| !Arc::ptr_eq(at, from)) {
            return Ok(());
        }
        // Whoever has taken it out of the table is about to end it.
        if leg.was_lost || !may_repeat(call) || !self.table.contains(call.key) {
            return Err(NotAgain::default());
        }
        if let Some(full) = call.input.no_room() {
            let setting = full.setting();
            let reason = format!("its input was not kept, as less than half of `{setting}` was free");
            return Err(NotAgain(Some(reason)));
        }
        let pool = self.pool_of(&call.operation)?;
        // This comes before anybody has it: the next spoke that gets it is the last one.
        call.input.stays_no_more();
        let mut to = To::Nobody;
        self.try_some(call, &pool, not, |instance| {
            let number = self.hand_over(call, leg.resent + 1, &instance);
            let number = number.inspect_err(|_| instance.load.release())?;
            to = To::at(instance, number);
            Ok(())
        })?;
        leg.resent += 1;
        leg.was_lost = true;
        let left = std::mem::replace(&mut leg.to, to);
        CallTable::release(&left, call.key);
        if let Some(session) = &from.session {
            self.is_not_there(call, session);
        }
        self.metrics.resent.inc();
        Ok(())
    }
}

/// Whether an error means that the hub which held a spoke lost the call with it. Whatever a spoke itself answers is
/// known to be from one that received the call ([`crate::session::spoken`]).
pub(crate) fn is_loss(error: &CallError) -> bool {
    error.code == Code::SpokeLost && error.delivered == Delivered::Maybe
}

/// Whether it does no harm to run a call a second time, and its caller still waits for it and may still make it.
fn may_repeat(call: &Call) -> bool {
    call.operation.spec.kind == OperationKind::Query
        && !call.is_relayed()
        && !call.has_output()
        && !call.has_other_rights()
        && !call.times.is_past_deadline()
}
