//! Sends calls to the hubs that hold their spokes, and answers back to the hubs of their callers.
//!
//! A message is a line that names the call, followed by a frame of the protocol if there is one: payloads are copied as
//! they are, and nobody parses them. The conduit between two hubs delivers each message once and in order, so nothing
//! here checks whether one has arrived.
//!
//! Invariants
//! - A call is forwarded once: a holder that does not have the instance, or has another generation of it, answers
//!   `moved`.
//! - The frame of a call says who asks, as the caller's hub knows from the key.

pub(crate) mod arrival_queue;
pub(crate) mod arrivals;
mod checks;
pub(crate) mod late;
mod message;
pub(crate) mod peers;
pub(crate) mod visibility;

use std::sync::Arc;

use alkhub_budget::Exhausted;
use alkhub_hub_cluster::{Class, Conduits, NotSent};
use alkhub_protocol::frame::encode::{self, RequestOptions};
use alkhub_protocol::{CallError, Code, Delivered, Dialect, HubId, InstanceId, OperationName, RawJson, SpokeName};
use bytes::Bytes;

use crate::leg::outcome::{End, ItemPush, Overflow};
use crate::metrics::{Direction, Metrics};
use message::Header;
pub(crate) use message::{Destination, RegistrationStanding, RelayMessage, RelayedCall, RemoteCall, answer};

/// Sends to other hubs.
#[derive(Debug)]
pub(crate) struct Relay {
    conduits: Conduits,
    metrics: Arc<Metrics>,
}

/// The way back for the answers of a relayed call.
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

    /// Sends a call to the hub that holds an instance. If its caller gave no input, the message has none: that hub
    /// decides what the spoke gets instead.
    pub(crate) fn call(
        &self,
        call: RelayedCall,
        operation: &OperationName,
        input: Option<&RawJson>,
        options: &RequestOptions<'_>,
    ) -> Result<(), NotSent> {
        let RemoteCall { hub, key, attempt } = call.remote;
        let frame = encode::call_requested(Dialect::Payload, &key.to_string(), operation, input, options);
        let header = Header::Call {
            key,
            attempt,
            id: call.id,
            to: call.to,
            on_disconnect: call.on_disconnect,
            was_lost: call.was_lost,
        };
        self.send(&hub, Class::Call, &header, &frame)
    }

    /// Asks the holder to end a call.
    pub(crate) fn abort(&self, to: &HubId, key: u64) {
        self.state(to, &Header::Abort { key }, &[]);
    }

    /// Gives a call back to its caller's hub: the registration is not here, or somebody else is to take the call if
    /// anybody can.
    pub(crate) fn give_back(&self, call: &RemoteCall, standing: RegistrationStanding) {
        let RemoteCall { hub, key, attempt } = call;
        let header = Header::Moved {
            key: *key,
            attempt: *attempt,
        };
        self.state(hub, &header, standing.written());
    }

    /// Passes on what an instance of this hub answers to another hub's call, which it got from a hub that is now gone.
    pub(crate) fn late(&self, hub: &HubId, key: u64, (spoke, instance): (&SpokeName, &InstanceId), frame: &[u8]) {
        let (spoke, instance) = (spoke.clone(), instance.clone());
        let header = Header::Late { key, spoke, instance };
        // A spoke may say as much as it likes here, so the answers of calls that run on this hub come first.
        if self.send(hub, Class::Item, &header, frame).is_err() {
            tracing::warn!(hub.id = %hub, "a late answer was lost: too much waits for the hub of its caller");
        }
    }

    /// Sends a message that is not about a call: its line, and what follows it.
    pub(crate) fn say(&self, to: &HubId, class: Class, line: &[u8], rest: &[u8]) -> Result<(), NotSent> {
        self.metrics.relayed(Direction::Sent);
        self.conduits.send(to, class, &[line, rest])
    }

    /// Asks a hub to say when it can call one of this hub's registrations.
    pub(crate) fn ask(&self, hub: &HubId, key: u64, about: &Destination) {
        let about = about.clone();
        self.state(hub, &Header::Ask { key, about }, &[]);
    }

    /// Tells a hub whether this one can call its registration.
    pub(crate) fn answer_callable(&self, hub: &HubId, key: u64, can: bool) {
        self.state(hub, &Header::Callable { key, can }, &[]);
    }

    /// A hub is gone: nothing that it still sends is accepted. Returns the calls and claims that surely have not
    /// reached it.
    pub(crate) fn forget(&self, hub: &HubId) -> Vec<Bytes> {
        self.conduits.forget(hub)
    }

    /// The hubs that have not taken everything that was sent to them.
    pub(crate) fn busy(&self) -> Vec<HubId> {
        self.conduits.busy()
    }

    fn state(&self, to: &HubId, header: &Header, rest: &[u8]) {
        if self.send(to, Class::Control, header, rest).is_err() {
            // This breaks its conduit, which ends the call.
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

    pub(crate) fn item(&self, item: &RawJson) -> ItemPush {
        let frame = encode::call_responded(Dialect::Payload, &self.call.key.to_string(), item);
        match self.send(Class::Item, &frame) {
            Ok(()) => ItemPush::Item,
            Err(NotSent::Full | NotSent::Unreachable) => ItemPush::Overflow(Overflow::Hub),
            Err(NotSent::Exhausted) => ItemPush::Overflow(Overflow::Budget(Exhausted::Hub)),
        }
    }

    /// Hands the end back; if there is no room for a large one, an error in its place.
    pub(crate) fn end(&self, end: &End) {
        let id = self.call.key.to_string();
        let frame = match end {
            End::Output(output) => encode::call_responded(Dialect::Payload, &id, output),
            End::Completed => encode::call_completed(Dialect::Payload, &id),
            End::Failed(error) => encode::call_error(Dialect::Payload, &id, error),
            End::Aborted => encode::call_aborted(Dialect::Payload, &id, None),
            End::Stopped(_) | End::Silent => return,
        };
        if let Err(reason) = self.send(Class::End, &frame) {
            let message = match reason {
                NotSent::Full | NotSent::Unreachable => "the answer is lost: too much waits for the hub of the caller",
                NotSent::Exhausted => {
                    "the answer is lost: the hub of its spoke keeps as many bytes as it may (`budget.hub-bytes`)"
                }
            };
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
