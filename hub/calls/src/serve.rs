//! The holding hub's side of the relay, and the way of answers back to the caller's hub.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use alkhub_hub_cluster::{Inbound, Undelivered};
use alkhub_protocol::frame::Requested;
use alkhub_protocol::{CallError, Code, Delivered, HubId};
use bytes::Bytes;
use parking_lot::Mutex;

use crate::call::{Call, Clock, Leg, Origin, To};
use crate::core::Core;
use crate::directory::Instance;
use crate::dispatch::{NotPlaced, split};
use crate::input::{Input, bare_bytes};
use crate::lane::{Arrival, Lane};
use crate::late::LateEnd;
use crate::metrics::Direction;
use crate::relay::{Asked, Destination, Message, Return};
use crate::sink::{End, Sink};

impl Core {
    /// Takes what other hubs say until the end. Everything passes here: what costs more than a look into a table is done
    /// beside it.
    pub(crate) async fn follow_inbox(self: Arc<Self>) {
        let mut inbox = self.cluster.inbox();
        let mut undeliverable = self.cluster.undeliverable();
        loop {
            tokio::select! {
                () = self.stop.cancelled() => return,
                Some(inbound) = inbox.recv() => match inbound {
                    Inbound::Message(message) => {
                        self.metrics.relayed(Direction::Received);
                        self.relayed(&message);
                    }
                    Inbound::Missed => self.relay.missed.notify_one(),
                },
                Some(undelivered) = undeliverable.recv() => self.came_back(undelivered),
                else => return,
            }
        }
    }

    fn relayed(self: &Arc<Self>, message: &Bytes) {
        match Message::decode(message) {
            Ok(Message::Call { asked, to, requested }) => self.serve(&asked, &to, *requested),
            Ok(Message::Abort { from, key }) => {
                let local = self.inbound.get(&(from, key)).map(|local| *local);
                if let Some(local) = local {
                    self.end(local, End::Silent, Some("the caller ended the call"));
                }
            }
            Ok(Message::Answer {
                said,
                items,
                is_end,
                frame,
            }) => {
                let known = self.arrives(&said, Arrival::Answer { items, frame });
                if !known && !is_end {
                    self.relay.stray(&said);
                }
            }
            Ok(Message::Mark { said, items }) => {
                self.arrives(&said, Arrival::Mark { items });
            }
            Ok(Message::Unknown { said }) => {
                self.arrives(&said, Arrival::Unknown);
            }
            // It looks at every running call: beside this loop.
            Ok(Message::Known { from, known }) => {
                let core = Arc::clone(self);
                self.tasks.spawn(async move { core.compare(&from, &known) });
            }
            Ok(Message::Moved { said }) => {
                let sent_there = self.call_at(&said.hub, said.key);
                let sent_there = sent_there.filter(|(call, _)| call.is_attempt(said.attempt));
                if let Some((call, instance)) = sent_there {
                    self.moved(&call, &instance);
                }
            }
            Err(error) => tracing::warn!(%error, "a message of another hub was not understood"),
        }
    }

    /// Takes what the holder says of a call of this hub; false when no such call was sent to it.
    fn arrives(self: &Arc<Self>, said: &Asked, arrival: Arrival) -> bool {
        let Some((call, _)) = self.call_at(&said.hub, said.key) else {
            return false;
        };
        self.arrived(call, said.attempt, arrival);
        true
    }

    /// A message that nobody received, or perhaps nobody.
    fn came_back(&self, undelivered: Undelivered) {
        let Undelivered {
            hub,
            message,
            delivered,
        } = undelivered;
        let surely_not = delivered == Delivered::No;
        match Message::decode(&message) {
            Ok(Message::Call { asked, .. }) if surely_not => {
                let sent_there = self.call_at(&hub, asked.key);
                let sent_there = sent_there.filter(|(call, _)| call.is_attempt(asked.attempt));
                if let Some((call, instance)) = sent_there {
                    self.reroute(&call, &instance);
                }
            }
            Ok(Message::Answer {
                said: Asked { key, .. },
                ..
            }) => {
                let local = self.inbound.get(&(hub.clone(), key)).map(|local| *local);
                let running = local.and_then(|local| self.pending.get(local));
                match running {
                    Some(call) if surely_not => {
                        self.lost_on_the_way(&call, Some("the link to the caller's hub broke"));
                    }
                    // Whether the item arrived is compared when the link is back.
                    Some(_) => {}
                    None => self.relay.keep(LateEnd { hub, key, message }),
                }
            }
            // What of these was lost is found when the hubs compare: whose link broke begins it when it is back.
            Ok(
                Message::Call { .. }
                | Message::Abort { .. }
                | Message::Moved { .. }
                | Message::Mark { .. }
                | Message::Unknown { .. }
                | Message::Known { .. },
            ) => {}
            Err(error) => tracing::warn!(%error, "a message that came back was not understood"),
        }
    }

    /// The call of this hub that runs on the given hub, and the registration that it was sent to.
    fn call_at(&self, hub: &HubId, key: u64) -> Option<(Arc<Call>, Arc<Instance>)> {
        let call = self.pending.get(key)?;
        let instance = match &call.leg.lock().to {
            To::Hub { instance } if instance.entry.hub == *hub => Arc::clone(instance),
            _ => return None,
        };
        Some((call, instance))
    }

    /// Sends another hub's call to a spoke of this one.
    fn serve(self: &Arc<Self>, asked: &Asked, to: &Destination, mut requested: Requested) {
        let back = || Return::new(&self.relay, asked);
        let held = self.directory.instance(&to.spoke, &to.instance);
        let held = held.filter(|held| held.link.is_some() && held.entry.generation == to.generation);
        let offered = held.and_then(|held| {
            let operation = self.specs.get(held.offers.get(&requested.operation)?)?;
            Some((held, operation))
        });
        let Some((instance, operation)) = offered else {
            return self.answer_moved(asked);
        };
        if self.inbound.len() >= self.config.relay_queue {
            return back().end(&End::Failed(overloaded(
                "the hub of the spoke runs as many calls as it may",
            )));
        }
        if !instance.load.reserve(instance.slots()) {
            return back().end(&End::Failed(overloaded(
                "the spoke runs as many calls as it takes at once",
            )));
        }
        let identity = requested.identity.take();
        let request = requested.into_request(0);
        let bytes = request.input_or_null().len() + bare_bytes(&request);
        let (request, input) = split(request);
        // To the caller's key, as if it had called here: no key takes what the others of its hub need.
        let payer = match &identity {
            Some(identity) => Arc::from(identity.id.as_str()),
            None => Arc::from(format!("hub {}", asked.hub)),
        };
        let (held, running) = match self.charge(&payer, bytes) {
            Ok(taken) => taken,
            Err(refused) => {
                instance.load.release();
                return back().end(&End::Failed(refused));
            }
        };
        let clock = Clock::start().until(request.timeout, request.idle_timeout);
        let call = Arc::new(Call {
            key: self.pending.key(),
            origin: Origin::Hub {
                hub: asked.hub.clone(),
                key: asked.key,
                attempt: asked.attempt,
                identity,
            },
            running,
            operation,
            request,
            input: Arc::new(Input::new(input, held)),
            clock,
            leg: Mutex::new(Leg::default()),
            sink: Mutex::new(Sink::Hub(back())),
            lane: Lane::default(),
            output_bytes: AtomicU64::new(0),
        });
        self.inbound.insert((asked.hub.clone(), asked.key), call.key);
        self.begin(&call);
        match self.place(&call, instance) {
            Ok(()) => {}
            Err(NotPlaced::Full) => {
                self.end(
                    call.key,
                    End::Failed(overloaded("the spoke does not read as fast as it is called")),
                    None,
                );
            }
            // Only an instance with a connection to this hub is placed here.
            Err(NotPlaced::Gone | NotPlaced::Unreachable) => {
                self.end(call.key, End::Silent, None);
                self.answer_moved(asked);
            }
        }
    }

    pub(crate) fn answer_moved(&self, asked: &Asked) {
        if let Err(reason) = self.relay.moved(asked) {
            tracing::warn!(
                hub.id = %asked.hub, call.key = asked.key, ?reason,
                "`moved` to another hub was lost: the hubs compare what they know as soon as they can"
            );
        }
    }
}

fn overloaded(message: &str) -> CallError {
    CallError::new(Code::Overloaded, message).retryable()
}
