//! A running call in the hands of whoever made it.
//!
//! Invariants
//! - A call loses its caller only once: whoever waits for it, or reads its items, is lost to it by going away. A
//!   [`Ticket`] by itself keeps nothing alive.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use alkhub_protocol::{CallError, Delivered, RawJson};

use crate::caller::Caller;
use crate::directory::router;
use crate::leg::missed::Missed;
use crate::leg::outcome::End;
use crate::leg::sink::ItemQueue;
use crate::leg::table::CallTable;

/// A running call as its caller holds it. Dropping the ticket does nothing: the call runs on.
#[derive(Clone, Debug)]
pub struct Ticket {
    pub(crate) table: Arc<CallTable>,
    pub(crate) key: u64,
}

/// The items of a subscription. Dropping it ends the subscription at the spoke.
#[derive(Debug)]
pub struct Items {
    pub(crate) queue: Arc<ItemQueue>,
    pub(crate) ticket: Ticket,
}

/// The waiting caller of a call: dropping it means that the call has lost its caller.
pub(crate) struct WaitingCaller(pub(crate) Ticket);

// === impl Ticket ===

impl Ticket {
    /// Says that the caller is lost and gets no further answer: the call is aborted at the spoke, or goes on without
    /// its caller if that was asked for ([`on_disconnect`](alkhub_protocol::CallRequest::on_disconnect)). Returns
    /// whether this aborted it; if the call had already ended, its end is on its way.
    pub fn caller_lost(&self, reason: &str) -> bool {
        self.table.caller_lost(self.key, reason)
    }

    /// Ends the call for its caller, who gets `call.aborted`, as the end of a stream if there were items. Returns false
    /// if the call had already ended: then its end is on its way.
    pub fn cancel(&self, reason: &'static str) -> bool {
        self.table.end_once(self.key, End::Stopped(reason), Some(reason))
    }

    /// Takes note that the caller's rights have changed. A subscription that it may no longer call ends with
    /// `ACCESS_DENIED`; a call that still waits is admitted by the new rights.
    pub fn recheck(&self, caller: &Caller) {
        let waits = |missed: &mut Option<Box<Missed>>| {
            if let Some(missed) = missed {
                missed.caller = Arc::new(caller.clone());
            }
        };
        // `Some(None)`: the call waits, and will be admitted by what the caller may do now.
        let found = self.table.look(|| match self.table.missed().on(self.key, waits) {
            Some(()) => Some(None),
            None => self.table.get(self.key).map(Some),
        });
        let Some(call) = found.flatten() else { return };
        call.rights_changed();
        if !call.operation.is_subscription() {
            return;
        }
        if let Err(denied) = router::allow(&caller.scopes, &call.operation) {
            let denied = denied.delivered(Delivered::Yes);
            let reason = "the caller may not call the operation any more";
            self.table.end(self.key, End::Failed(denied), Some(reason));
        }
    }

    /// Whether the call has ended; a surface that keeps tickets by request id prunes them by this.
    pub fn is_done(&self) -> bool {
        !self.table.is_open(self.key)
    }
}

// === impl WaitingCaller ===

impl Drop for WaitingCaller {
    fn drop(&mut self) {
        // This does nothing if the call has ended.
        self.0.caller_lost("the caller does not wait any more");
    }
}

// === impl Items ===

impl Items {
    /// The subscription's ticket, for whoever has to end it.
    pub fn ticket(&self) -> Ticket {
        self.ticket.clone()
    }
}

impl futures::Stream for Items {
    type Item = Result<RawJson, CallError>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.queue.poll_next(cx).map(|next| next.map(|charged| charged.item))
    }
}

impl Drop for Items {
    fn drop(&mut self) {
        self.ticket.caller_lost("the reader left");
    }
}
