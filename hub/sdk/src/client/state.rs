//! What waits on the client's connection: calls for their answers, streams for their items and events.
//!
//! Invariants
//! - A call leaves `calls` by its answer, its ticket or the connection's end, and in no other way.

use std::collections::HashMap;
use std::time::Duration;

use alkhub_protocol::frame::encode;
use alkhub_protocol::{CallError, Code, Dialect, Envelope, RawJson, RequestId, TopicFilter};
use bytes::Bytes;
use serde::Deserialize;
use tokio::sync::oneshot;

use super::followed::Followed;
use crate::Error;
use crate::outbox::Outbox;
use crate::queue::Sender;

/// Everything that waits.
#[derive(Debug, Default)]
pub(super) struct State {
    pub(super) calls: HashMap<RequestId, Pending>,
    pub(super) followed: Followed,
    /// The connection that has been asked for everything in `followed`.
    pub(super) outbox: Option<Outbox>,
}

/// Who waits for an answer.
#[derive(Debug)]
pub(super) enum Pending {
    /// One value.
    Call(oneshot::Sender<Result<RawJson, Error>>),
    /// Items.
    Subscription(Sender<Result<RawJson, Error>>),
}

// === impl State ===

impl State {
    pub(super) fn connected(&mut self, outbox: &Outbox) {
        self.followed.resume(outbox);
        self.outbox = Some(outbox.clone());
    }

    /// The calls that nobody will answer any more.
    pub(super) fn disconnected(&mut self) -> Vec<Pending> {
        self.outbox = None;
        self.calls.drain().map(|(_, pending)| pending).collect()
    }

    pub(super) fn responded(&mut self, request_id: &RequestId, output: RawJson, outbox: &Outbox) {
        let lagged = match self.calls.get(request_id) {
            Some(Pending::Subscription(items)) => {
                let bytes = output.len();
                items.push(Ok(output), bytes).err()
            }
            Some(Pending::Call(_)) => {
                if let Some(Pending::Call(caller)) = self.calls.remove(request_id) {
                    // The caller may be gone by now; the call is over all the same.
                    let _ = caller.send(Ok(output));
                }
                None
            }
            None => None,
        };
        if let Some(lagged) = lagged {
            self.ended(request_id, Some(lagged));
            outbox.push(encode::call_aborted(
                Dialect::Id,
                request_id.as_str(),
                Some("the reader is too slow"),
            ));
        }
    }

    pub(super) fn ended(&mut self, request_id: &RequestId, error: Option<Error>) {
        let Some(pending) = self.calls.remove(request_id) else {
            return;
        };
        match (error, pending) {
            (Some(error), pending) => pending.fail(error),
            (None, Pending::Subscription(_)) => {}
            (None, call) => call.fail(CallError::new(Code::UnknownError, "the call ended without an output").into()),
        }
    }

    /// One of our frames was refused. A refused topic ends its streams, or is asked for again after a while; for
    /// anything else nobody waits.
    pub(super) fn refused(&mut self, message: &Bytes, error: CallError) -> Option<(TopicFilter, Duration)> {
        #[derive(Deserialize)]
        struct Refused {
            topic: String,
        }
        let payload = Envelope::decode(message).ok().and_then(|envelope| envelope.payload);
        match payload.and_then(|payload| payload.to::<Refused>().ok()) {
            Some(Refused { topic }) => self.followed.refused(&topic, &error.into()),
            None => {
                tracing::warn!(%error, "the hub refused a message");
                None
            }
        }
    }
}

// === impl Pending ===

impl Pending {
    pub(super) fn fail(self, error: Error) {
        match self {
            // The caller may be gone by now.
            Self::Call(caller) => drop(caller.send(Err(error))),
            Self::Subscription(items) => items.end_with(Err(error)),
        }
    }
}
