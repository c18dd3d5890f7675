//! A call whose end has still to be sent to its peer.

use crate::session::outbox::Outbox;

/// The outbox that the answers of one call go to. Until this is dropped, the call is under way for the peer.
#[derive(Debug)]
pub(crate) struct AwaitedEnd(Outbox);

// === impl AwaitedEnd ===

impl AwaitedEnd {
    pub(super) fn new(outbox: Outbox) -> Self {
        outbox.call_begins();
        Self(outbox)
    }

    pub(super) fn outbox(&self) -> &Outbox {
        &self.0
    }
}

impl Drop for AwaitedEnd {
    fn drop(&mut self) {
        self.0.call_ended();
    }
}
