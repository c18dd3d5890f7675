//! The messages of other hubs: calls for spokes of this hub, answers to calls of its callers, and who can call which
//! registration.

use std::sync::Arc;

use alkhub_hub_cluster::{Cluster, PeerEvent};
use alkhub_protocol::frame::Requested;
use alkhub_protocol::{CallError, CallRequest, Code, HubId};
use bytes::Bytes;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::admission::Admission;
use crate::admission::quota::{KeyPlace, Quota};
use crate::directory::compiled::Specs;
use crate::directory::operation::Operation;
use crate::directory::{Directory, Instance};
use crate::leg::call::{self, Call, CallParts, CallSource, CallTimes, TimeLimits};
use crate::leg::departure::Departures;
use crate::leg::input::{Input, bare_bytes};
use crate::leg::outcome::End;
use crate::leg::placement::{NotPlaced, Placement};
use crate::leg::sink::Sink;
use crate::leg::table::CallTable;
use crate::metrics::{Direction, Metrics};
use crate::relay::arrival_queue::Arrival;
use crate::relay::arrivals::Arrivals;
use crate::relay::late::LateAnswers;
use crate::relay::visibility::Visibility;
use crate::relay::{Destination, RegistrationStanding, Relay, RelayMessage, RelayedCall, RemoteCall, Return};
use crate::session::Session;
use crate::session::moves::Moves;

/// The error of a call whose spoke already has as much waiting as it may.
const UNREAD: &str = "the spoke does not read as fast as it is called (`server.outbox-messages`, \
                      `server.outbox-bytes`, `budget.key-bytes`)";

/// Takes the messages of other hubs.
#[derive(Debug)]
pub(crate) struct Peers {
    pub(crate) cluster: Cluster,
    pub(crate) directory: Arc<Directory>,
    pub(crate) specs: Arc<Specs>,
    pub(crate) admission: Arc<Admission>,
    pub(crate) placement: Arc<Placement>,
    pub(crate) table: Arc<CallTable>,
    pub(crate) arrivals: Arc<Arrivals>,
    pub(crate) late: LateAnswers,
    pub(crate) departures: Arc<Departures>,
    pub(crate) relay: Arc<Relay>,
    pub(crate) moves: Moves,
    pub(crate) visibility: Arc<Visibility>,
    pub(crate) metrics: Arc<Metrics>,
    /// The calls of other hubs that run here, by their callers' keys.
    pub(crate) relayed: Quota,
    /// The most of them.
    pub(crate) limit: usize,
    pub(crate) tasks: TaskTracker,
    pub(crate) stop: CancellationToken,
}

// === impl Peers ===

impl Peers {
    /// Takes the messages of other hubs until the end. Every one of them passes here, so whatever costs more than a
    /// look into a table is done elsewhere.
    pub(crate) async fn run(self) {
        let mut incoming = self.cluster.incoming().expect("nobody else reads what hubs send");
        while let Some(event) = self.stop.run_until_cancelled(incoming.next()).await {
            let mut event = Some(event);
            while let Some(one) = event {
                self.take(one);
                event = incoming.ready();
            }
        }
    }

    fn take(&self, event: PeerEvent) {
        match event {
            PeerEvent::Message { from, payload } => {
                self.metrics.relayed(Direction::Received);
                self.relayed(from, &payload);
            }
            PeerEvent::Returned {
                to,
                payload,
                nobody_listens,
            } => self.departures.came_back(&to, &payload, nobody_listens),
            PeerEvent::Broken { hub, unsent } => self.departures.conduit_broke(&hub, &unsent),
        }
    }

    fn relayed(&self, from: HubId, message: &Bytes) {
        match RelayMessage::decode(from, message) {
            Ok(RelayMessage::Call { call, requested }) => self.serve(&call, *requested),
            Ok(RelayMessage::Abort { from, key }) => {
                if let Some(local) = self.table.of_hub(&from, key) {
                    self.table.end(local, End::Silent, Some("the caller ended the call"));
                }
            }
            // If the call has ended here, its holder learns of that by an abort, which is on its way.
            Ok(RelayMessage::Answer { call: remote, frame }) => {
                if let Some((call, _)) = self.call_at(&remote) {
                    let attempt = remote.attempt;
                    let arrival = Arrival {
                        attempt,
                        is_late: false,
                        frame,
                    };
                    self.arrivals.arrived(call, arrival);
                }
            }
            Ok(RelayMessage::Moved { call: remote, standing }) => {
                if let Some((call, instance)) = self.call_at(&remote) {
                    self.placement.moved(&call, &instance, standing);
                }
            }
            Ok(RelayMessage::Late {
                key,
                spoke,
                instance,
                frame,
            }) => self.late.arrived(key, (&spoke, &instance), frame),
            Ok(RelayMessage::Session { from, message }) => self.moves.received(from, message),
            Ok(RelayMessage::Ask { from, key, about }) => self.visibility.asked(from, key, about),
            Ok(RelayMessage::Callable { from, key, can }) => self.visibility.answered(&from, key, can),
            Err(error) => tracing::warn!(%error, "a message of another hub was not understood"),
        }
    }

    /// A call of this hub that runs on another one, and the registration to which it was sent.
    fn call_at(&self, remote: &RemoteCall) -> Option<(Arc<Call>, Arc<Instance>)> {
        let call = self.table.get(remote.key)?;
        let instance = call.at_hub(remote)?;
        Some((call, instance))
    }

    /// Sends another hub's call to a spoke of this one.
    fn serve(&self, relayed: &RelayedCall, requested: Requested) {
        let RelayedCall { remote, to, .. } = relayed;
        let back = Return::new(&self.relay, remote);
        let Some((instance, operation)) = self.offered(to, &requested) else {
            return self.not_here(remote, to, &requested);
        };
        let target = requested.target.as_ref();
        let gives_way = relayed.may_come_back() && self.gives_way(&instance);
        if gives_way && self.placement.has_another(&operation, target, &instance) {
            let standing = if instance.is_reconnecting() {
                RegistrationStanding::Reconnecting
            } else {
                RegistrationStanding::Ready
            };
            return self.relay.give_back(remote, standing);
        }
        let call = match self.enter(relayed, requested, operation, &instance) {
            Ok(call) => call,
            Err(refused) => return back.end(&End::Failed(refused)),
        };
        match self.placement.place(&call, instance) {
            Ok(()) => {}
            Err(NotPlaced::Full) => {
                let error = overloaded(UNREAD);
                self.table.end(call.key, End::Failed(error), None);
            }
            // Only instances with a connection to this hub are placed here.
            Err(NotPlaced::Gone | NotPlaced::Unreachable | NotPlaced::Exhausted) => {
                self.table.end(call.key, End::Silent, None);
                self.relay.give_back(remote, RegistrationStanding::Gone);
            }
        }
    }

    /// Gives back a call for a registration that is not here. If one is just being entered, that happens afterwards, so
    /// that the call can come again.
    fn not_here(&self, remote: &RemoteCall, to: &Destination, requested: &Requested) {
        let over = self.directory.entering.over(&to.spoke, &to.instance);
        let Some(over) = over else {
            // It may have been entered between the two looks.
            let is_here = self.offered(to, requested).is_some();
            let standing = if is_here {
                RegistrationStanding::Ready
            } else {
                RegistrationStanding::Gone
            };
            return self.relay.give_back(remote, standing);
        };
        let (relay, remote) = (Arc::clone(&self.relay), remote.clone());
        self.tasks.spawn(async move {
            over.cancelled().await;
            relay.give_back(&remote, RegistrationStanding::Ready);
        });
    }

    /// The registration that a call is for, if it is here, and the operation that it offers.
    fn offered(&self, to: &Destination, requested: &Requested) -> Option<(Arc<Instance>, Arc<Operation>)> {
        let held = self.directory.instance(&to.spoke, &to.instance)?;
        // The caller's hub may not know yet that the instance has registered anew, or has changed what it offers.
        if held.session.is_none() || !held.has_offered(&requested.operation, to.generation) {
            return None;
        }
        let operation = self.specs.get(held.offers.get(&requested.operation)?)?;
        Some((held, operation))
    }

    /// Whether a call is for somebody else, if anybody can take it. The caller's hub may not know that yet, and is told
    /// so once; it also knows only the slots that its own calls take.
    fn gives_way(&self, instance: &Instance) -> bool {
        let is_leaving = |session: &Arc<Session>| session.outbox.is_leaving();
        instance.is_reconnecting()
            || !instance.has_slot()
            || instance.session.as_ref().is_some_and(is_leaving)
            || self.cluster.draining().contains(&instance.entry.hub)
    }

    /// A place for one more call of another hub. A key has as many as it leaves free at most, so no key takes what the
    /// others of its hub need.
    fn place(&self, payer: &Arc<str>) -> Result<KeyPlace, CallError> {
        let free = self.limit.saturating_sub(self.table.inbound());
        self.relayed.take_below(payer, free).ok_or_else(|| match free {
            0 => overloaded("the hub of the spoke runs as many calls of other hubs as it may (`calls.relay-queue`)"),
            _ => overloaded(
                "the key has its share of the calls of other hubs that the hub of the spoke runs \
                 (`calls.relay-queue`)",
            ),
        })
    }

    /// Enters a call with a slot of its instance. It is charged to the caller's key as if it had been made here.
    fn enter(
        &self,
        relayed: &RelayedCall,
        mut requested: Requested,
        operation: Arc<Operation>,
        instance: &Instance,
    ) -> Result<Arc<Call>, CallError> {
        let identity = requested.identity.take();
        let payer = call::payer(&relayed.remote.hub, identity.as_deref());
        let inbound = self.place(&payer)?;
        if !instance.load.reserve(instance.slots()) {
            return Err(overloaded("the spoke runs as many calls as it takes at once"));
        }
        let request = CallRequest {
            on_disconnect: relayed.on_disconnect,
            ..requested.into_request(0)
        };
        let bytes = request.input_or_null().len() + bare_bytes(&request);
        let place = self
            .admission
            .charge(&payer, bytes)
            .inspect_err(|_| instance.load.release())?;
        let times = CallTimes::start().until(TimeLimits {
            timeout: request.timeout,
            idle: request.idle_timeout,
        });
        let (request, input) = Input::of(request, place.held);
        let call = Arc::new(Call::new(CallParts {
            key: self.table.key(),
            id: relayed.id,
            source: CallSource::Hub {
                call: relayed.remote.clone(),
                identity,
                may_come_back: relayed.may_come_back(),
                place: inbound,
            },
            operation,
            request,
            input,
            running: place.running,
            times,
            sink: Sink::Hub(Return::new(&self.relay, &relayed.remote)),
        }));
        self.table.begin(&call);
        Ok(call)
    }
}

fn overloaded(message: &str) -> CallError {
    CallError::new(Code::Overloaded, message).retryable()
}
