//! Messages that cannot be read: each is answered, and ends no call but the one that it names.

use alkhub_protocol::frame;
use bytes::Bytes;

use super::{Conversation, ForConnection};
use crate::spoke::SpokeMessage;

impl Conversation {
    /// Answers a message over the limit, of which only the beginning is left; or passes it to the hub that runs the
    /// call that it names.
    pub(crate) fn too_large(&mut self, head: &Bytes, size: usize) -> ForConnection {
        self.sockets.messages().received.inc();
        let error = frame::Error::too_large(head, size);
        let elsewhere = error
            .call
            .as_ref()
            .is_some_and(|named| !named.asks && self.too_large_elsewhere(&named.request_id, head, size));
        if elsewhere {
            return ForConnection::Counted;
        }
        self.broken(&error, head.len())
    }

    /// Answers a message that cannot be read, or passes it to the hub that runs the call that it names.
    pub(super) fn unreadable(&mut self, error: &frame::Error, data: &Bytes) -> ForConnection {
        let elsewhere = error.call.as_ref().is_some_and(|named| {
            let id = &named.request_id;
            !named.asks && (self.answer_elsewhere(id, data) || self.abort_elsewhere(id, data))
        });
        if elsewhere {
            return ForConnection::Counted;
        }
        self.broken(error, data.len())
    }

    /// Answers a message that cannot be read. If it names a call, nobody is left waiting for that call: the peer's own
    /// call ends with `call.error`, and a call that the peer should have answered ends on its caller's side.
    fn broken(&mut self, error: &frame::Error, bytes: usize) -> ForConnection {
        self.asked += 1;
        self.answer_broken(error, bytes);
        if error.counts {
            ForConnection::Counted
        } else {
            ForConnection::Uncounted
        }
    }

    fn answer_broken(&mut self, error: &frame::Error, bytes: usize) {
        let fault = error.to_call_error();
        let Some(named) = &error.call else {
            return self.refuse(&fault, error.topic.as_deref());
        };
        let id = &named.request_id;
        if let (true, Some(dialect)) = (named.asks, named.dialect) {
            self.outbox.speaks(dialect);
        }
        if named.asks && !self.is_running(id) {
            return self.fail(id, &fault);
        }
        if !named.asks && !self.is_running(id) {
            self.spoke
                .received(SpokeMessage::Broken(id.clone(), fault.clone()), bytes);
        }
        self.refuse_of_call(&fault, id);
    }
}
