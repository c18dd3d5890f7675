//! The messages between the hub of a caller and the hub that holds the spoke.
//!
//! A message is one line with a header and, except for `moved`, a frame of the protocol: payloads are copied as
//! they are and parsed by nobody. Both ends name a call by the caller's hub and that hub's key. The frame of a call says
//! who asks, as the caller's hub knows it from the key.
//!
//! Invariants
//! - A call is forwarded once: a holder without the instance, or with another generation of it, answers `moved`.
//! - Nothing waits here but the ends of calls ([`Late`]): any other message that cannot be queued is told to whoever
//!   sent it.
//! - What goes back tells how many items were sent before it, so that a missing one is noticed, and for which attempt
//!   it is: what is late says nothing of a call that was sent again.
//! - What of these waits for no answer (aborts, `moved`, what the comparison says) and finds the queue full is repaired
//!   by a comparison as soon as it can be sent.

mod message;

use std::sync::Arc;

use alkhub_hub_cluster::Cluster;
use alkhub_protocol::frame::encode;
use alkhub_protocol::{Dialect, HubId, RawJson};
use bytes::Bytes;
use tokio::sync::Notify;

use crate::call::Call;
use crate::directory::Instance;
use crate::late::{Late, LateEnd};
use crate::metrics::{Direction, Metrics};
use crate::sink::{End, Took};
use crate::strays::Strays;
pub(crate) use message::{Asked, Destination, Known, Message, answer};
use message::{Header, Way, encoded};

/// Sends to other hubs.
#[derive(Debug)]
pub(crate) struct Relay {
    cluster: Cluster,
    hub: HubId,
    metrics: Arc<Metrics>,
    /// Ends that could not leave.
    pub(crate) late: Late,
    /// Messages were lost in this hub: the hubs compare what they know.
    pub(crate) missed: Notify,
    /// Calls of which something came back that nobody here waits for.
    strays: Strays,
}

/// The way back of a relayed call.
#[derive(Debug)]
pub(crate) struct Return {
    relay: Arc<Relay>,
    asked: Asked,
    /// Items sent so far.
    items: u64,
}

/// Why a message did not leave this hub.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NotSent {
    /// Too much waits to be sent.
    Full,
    /// The link to the other hubs is down.
    Unreachable,
}

// === impl Relay ===

impl Relay {
    pub(crate) fn new(cluster: Cluster, hub: HubId, metrics: Arc<Metrics>) -> Self {
        Self {
            cluster,
            hub,
            metrics,
            late: Late::default(),
            missed: Notify::new(),
            strays: Strays::default(),
        }
    }

    /// Sends a call to the hub that holds the instance; it had been sent again `attempt` times before. Where its caller gave no
    /// input it has none: what the spoke gets then is for that hub to say.
    pub(crate) fn call(
        &self,
        call: &Call,
        attempt: u8,
        input: Option<&RawJson>,
        instance: &Instance,
    ) -> Result<(), NotSent> {
        let entry = &instance.entry;
        let destination = Destination {
            spoke: entry.spoke.clone(),
            instance: entry.instance.clone(),
            generation: entry.generation,
        };
        let identity = call.identity();
        let options = call.options(identity.as_ref());
        let id = call.key.to_string();
        let frame = encode::call_requested(Dialect::Payload, &id, &call.operation.name, input, &options);
        let header = Header {
            to: Some(destination),
            attempt: Some(attempt),
            ..self.header(call.key, Way::Out)
        };
        self.send(&entry.hub, &header, &frame)
    }

    /// Tells the holder to end a call.
    pub(crate) fn abort(&self, to: &HubId, key: u64, reason: &str) -> Result<(), NotSent> {
        let frame = encode::call_aborted(Dialect::Payload, &key.to_string(), Some(reason));
        self.state(to, &self.header(key, Way::Out), &frame)
    }

    /// Something came back of a call that this hub does not know: its holder is told to end it, not more often than it
    /// needs.
    pub(crate) fn stray(&self, said: &Asked) {
        if self.strays.tell(&said.hub, said.key) {
            // What of it was lost is found by a comparison.
            let _ = self.abort(&said.hub, said.key, "the caller's hub does not know the call");
        }
    }

    /// Tells the caller's hub that the registration is not here.
    pub(crate) fn moved(&self, asked: &Asked) -> Result<(), NotSent> {
        self.state(&asked.hub, &self.about(asked, Way::Moved), &[])
    }

    /// Tells the caller's hub that no such call runs here.
    pub(crate) fn unknown(&self, asked: &Asked) -> Result<(), NotSent> {
        self.state(&asked.hub, &self.about(asked, Way::Unknown), &[])
    }

    /// Tells another hub which calls between it and this one are known here.
    pub(crate) fn known(&self, to: &HubId, known: Known) -> Result<(), NotSent> {
        let header = Header {
            known: Some(Box::new(known)),
            ..self.header(0, Way::Known)
        };
        self.state(to, &header, &[])
    }

    /// Keeps an end that did not arrive, to send it again. One that cannot be kept is found by a comparison.
    pub(crate) fn keep(&self, end: LateEnd) {
        let (hub, key) = (end.hub.clone(), end.key);
        if !self.late.keep(end) {
            self.missed.notify_one();
            tracing::warn!(hub.id = %hub, call.key = key, "an answer to another hub was lost: the link was down for too long, or too much waits");
        }
    }

    /// Sends an end again.
    pub(crate) fn send_late(&self, end: LateEnd) {
        if self.post(&end.hub, end.message.clone()).is_err() {
            self.keep(end);
        }
    }

    fn header(&self, key: u64, way: Way) -> Header {
        Header {
            from: self.hub.clone(),
            key,
            way,
            attempt: None,
            end: false,
            items: 0,
            to: None,
            known: None,
        }
    }

    fn about(&self, asked: &Asked, way: Way) -> Header {
        Header {
            attempt: asked.attempt,
            ..self.header(asked.key, way)
        }
    }

    /// Sends what nobody waits for: where the queue is full, a comparison repairs it.
    fn state(&self, to: &HubId, header: &Header, frame: &[u8]) -> Result<(), NotSent> {
        let sent = self.send(to, header, frame);
        if sent == Err(NotSent::Full) {
            self.missed.notify_one();
        }
        sent
    }

    fn send(&self, to: &HubId, header: &Header, frame: &[u8]) -> Result<(), NotSent> {
        self.post(to, encoded(header, frame))
    }

    fn post(&self, to: &HubId, message: Bytes) -> Result<(), NotSent> {
        self.metrics.relayed(Direction::Sent);
        self.cluster.send(to, message).map_err(|error| {
            tracing::debug!(hub.id = %to, %error, "a message to another hub was not queued");
            match error {
                alkhub_hub_cluster::Error::Full => NotSent::Full,
                _ => NotSent::Unreachable,
            }
        })
    }
}

// === impl Return ===

impl Return {
    pub(crate) fn new(relay: &Arc<Relay>, asked: &Asked) -> Self {
        Self {
            relay: Arc::clone(relay),
            asked: asked.clone(),
            items: 0,
        }
    }

    /// Hands an item back.
    pub(crate) fn item(&mut self, item: &RawJson) -> Took {
        let frame = encode::call_responded(Dialect::Payload, &self.asked.key.to_string(), item);
        match self.relay.send(&self.asked.hub, &self.header(Way::Back), &frame) {
            Ok(()) => {
                self.items += 1;
                Took::Item
            }
            Err(NotSent::Full) => Took::Overflow,
            Err(NotSent::Unreachable) => Took::Unreachable,
        }
    }

    /// Tells how many items were sent. Where it cannot be told, the comparison begins anew when it can.
    pub(crate) fn mark(&self) {
        let _ = self.relay.state(&self.asked.hub, &self.header(Way::Mark), &[]);
    }

    /// Hands the end back; where it cannot leave now, it is sent again.
    pub(crate) fn end(&self, end: &End) {
        let id = self.asked.key.to_string();
        let frame = match end {
            End::Output(output) => encode::call_responded(Dialect::Payload, &id, output),
            End::Completed => encode::call_completed(Dialect::Payload, &id),
            End::Failed(error) => encode::call_error(Dialect::Payload, &id, error),
            End::Aborted => encode::call_aborted(Dialect::Payload, &id, None),
            End::Stopped(_) | End::Silent => return,
        };
        let header = Header {
            end: true,
            ..self.header(Way::Back)
        };
        let message = encoded(&header, &frame);
        let Asked { hub, key, .. } = &self.asked;
        if self.relay.post(hub, message.clone()).is_err() {
            let (hub, key) = (hub.clone(), *key);
            self.relay.keep(LateEnd { hub, key, message });
        }
    }

    fn header(&self, way: Way) -> Header {
        Header {
            items: self.items,
            ..self.relay.about(&self.asked, way)
        }
    }
}

#[cfg(test)]
mod tests;
