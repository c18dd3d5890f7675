//! Sends calls to the hubs that hold their spokes, and answers back to the hubs of their callers.
//!
//! A message is a line that names the call, then a frame of the protocol where it has one: payloads are copied as they are
//! and parsed by nobody. The conduit between two hubs delivers each message once and in order, so that nothing here asks
//! whether one arrived.
//!
//! Invariants
//! - A call is forwarded once: a holder without the instance, or with another generation of it, answers `moved`.
//! - The frame of a call says who asks, as the caller's hub knows it from the key.

mod message;

use std::sync::Arc;

use alkhub_hub_cluster::{Class, Conduits, NotSent};
use alkhub_protocol::frame::encode::{self, RequestOptions};
use alkhub_protocol::{CallError, Code, Delivered, Dialect, HubId, OnDisconnect, OperationName, RawJson};

use crate::call_id::CallId;
use crate::metrics::{Direction, Metrics};
use crate::outcome::{End, ItemPush};
use message::Header;
pub(crate) use message::{Destination, RelayMessage, RemoteCall, answer};

/// Sends to other hubs.
#[derive(Debug)]
pub(crate) struct Relay {
    conduits: Conduits,
    metrics: Arc<Metrics>,
}

/// The way back of a relayed call.
#[derive(Debug)]
pub(crate) struct Return {
    relay: Arc<Relay>,
    call: RemoteCall,
}

// === impl Relay ===

impl Relay {
    pub(crate) fn new(conduits: Conduits, metrics: Arc<Metrics>) -> Self {
        Self { conduits, metrics }
    }

    /// Sends a call to the hub that holds an instance. Where its caller gave no input it has none: what the spoke gets then
    /// is for that hub to say.
    pub(crate) fn call(
        &self,
        (call, id): (&RemoteCall, CallId),
        (to, on_disconnect): (Destination, OnDisconnect),
        operation: &OperationName,
        input: Option<&RawJson>,
        options: &RequestOptions<'_>,
    ) -> Result<(), NotSent> {
        let RemoteCall { hub, key, attempt } = call;
        let frame = encode::call_requested(Dialect::Payload, &key.to_string(), operation, input, options);
        let header = Header::Call {
            key: *key,
            attempt: *attempt,
            id,
            to,
            on_disconnect,
        };
        self.send(hub, Class::Call, &header, &frame)
    }

    /// Asks the holder to end a call.
    pub(crate) fn abort(&self, to: &HubId, key: u64) {
        self.state(to, &Header::Abort { key });
    }

    /// Answers the caller's hub that the registration is not here.
    pub(crate) fn moved(&self, call: &RemoteCall) {
        let RemoteCall { hub, key, attempt } = call;
        self.state(
            hub,
            &Header::Moved {
                key: *key,
                attempt: *attempt,
            },
        );
    }

    /// A hub is gone: nothing that it still says is heard.
    pub(crate) fn forget(&self, hub: &HubId) {
        self.conduits.forget(hub);
    }

    fn state(&self, to: &HubId, header: &Header) {
        if self.send(to, Class::Control, header, &[]).is_err() {
            // Its conduit breaks for that, and with it the call ends.
            tracing::warn!(hub.id = %to, "too much waits for another hub");
        }
    }

    fn send(&self, to: &HubId, class: Class, header: &Header, frame: &[u8]) -> Result<(), NotSent> {
        self.metrics.relayed(Direction::Sent);
        self.conduits.send(to, class, &[&header.encode(), frame])
    }
}

// === impl Return ===

impl Return {
    pub(crate) fn new(relay: &Arc<Relay>, call: &RemoteCall) -> Self {
        Self {
            relay: Arc::clone(relay),
            call: call.clone(),
        }
    }

    /// Hands an item back.
    pub(crate) fn item(&self, item: &RawJson) -> ItemPush {
        let frame = encode::call_responded(Dialect::Payload, &self.call.key.to_string(), item);
        match self.send(Class::Item, &frame) {
            Ok(()) => ItemPush::Item,
            Err(NotSent::Full | NotSent::Unreachable) => ItemPush::Overflow,
        }
    }

    /// Hands the end back; a large one that has no room any more as an error.
    pub(crate) fn end(&self, end: &End) {
        let id = self.call.key.to_string();
        let frame = match end {
            End::Output(output) => encode::call_responded(Dialect::Payload, &id, output),
            End::Completed => encode::call_completed(Dialect::Payload, &id),
            End::Failed(error) => encode::call_error(Dialect::Payload, &id, error),
            End::Aborted => encode::call_aborted(Dialect::Payload, &id, None),
            End::Stopped(_) | End::Silent => return,
        };
        if self.send(Class::End, &frame).is_err() {
            let message = "the answer is lost: too much waits for the hub of the caller";
            let error = CallError::new(Code::Overloaded, message).delivered(Delivered::Yes);
            let frame = encode::call_error(Dialect::Payload, &id, &error);
            if self.send(Class::Control, &frame).is_err() {
                tracing::warn!(hub.id = %self.call.hub, call.key = self.call.key, "an answer to another hub was lost");
            }
        }
    }

    fn send(&self, class: Class, frame: &[u8]) -> Result<(), NotSent> {
        let header = Header::Answer {
            key: self.call.key,
            attempt: self.call.attempt,
        };
        self.relay.send(&self.call.hub, class, &header, frame)
    }
}
