//! Sends a call to an instance, and to another one when it surely reached nobody.
//!
//! Invariants
//! - A call is sent again by the hub of its caller alone: once when its instance leaves this hub, or another hub did not receive
//!   it, or it waits for a connection that is lost, and up to [`MOST`] times when other hubs give it back.
//! - Only what never left a queue, what a hub answered with `moved`, or what no hub received is sent again.
//! - The place of a call changes only under the lock of its leg.

pub(crate) mod relief;

use std::fmt;
use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;

use alkhub_budget::Exhausted;
use alkhub_hub_cluster::{Cluster, NotSent};
use alkhub_protocol::frame::encode::{self, RequestOptions};
use alkhub_protocol::{CallError, Code, Dialect};
use alkhub_queue::Full;
use bytes::Bytes;
use tokio_util::task::TaskTracker;

use crate::directory::operation::Operation;
use crate::directory::router::{self, Excluded, Wanted};
use crate::directory::{Directory, Instance, Pool};
use crate::leg::call::{Call, CallSource, To};
use crate::leg::call_id::LegIds;
use crate::leg::input::Input;
use crate::leg::outcome::End;
use crate::leg::table::CallTable;
use crate::metrics::Metrics;
use crate::relay::{Destination, RegistrationStanding, Relay, RelayedCall, RemoteCall};
use crate::session::Session;
use crate::session::outbox::Outbox;

/// Instances that are tried for one call whose queues are full or closed.
const PLACES: usize = 4;

/// The directory may hear of a move a little later than the `moved` comes: it is looked at this often,
const LOOKS: u32 = 25;

/// at this interval.
const LOOK_INTERVAL: Duration = Duration::from_millis(20);

/// A call that has come back more often fails when another hub gives it back: its spoke may move twice in a row, and seldom more.
const MOST: u8 = 3;

/// How a call is queued: [`Outbox::push_call`], or [`Outbox::push_call_back`].
type PushCall = fn(&Outbox, Bytes, &str, &Arc<Input>) -> Result<u64, Full>;

/// Admits calls ([`crate::leg::dispatch`]).
pub(crate) trait Readmission: fmt::Debug + Send + Sync {
    /// Admits a call of this hub's caller anew, which nobody got, unless it has ended; returns at once.
    fn readmit(self: Arc<Self>, call: Arc<Call>);
}

/// Sends calls to instances.
#[derive(Debug)]
pub(crate) struct Placement {
    pub(crate) directory: Arc<Directory>,
    pub(crate) cluster: Cluster,
    pub(crate) relay: Arc<Relay>,
    pub(crate) table: Arc<CallTable>,
    pub(crate) legs: LegIds,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) tasks: TaskTracker,
    /// Who admits calls again; set once, when there is one.
    pub(crate) readmission: OnceLock<Weak<dyn Readmission>>,
}

/// An instance did not take a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NotPlaced {
    /// Its queue is full.
    Full,
    /// Its connection is gone.
    Gone,
    /// It is on another hub, and this one keeps as many bytes as it may.
    Exhausted,
    /// It is on another hub, and the link to the other hubs is down.
    Unreachable,
}

// === impl NotPlaced ===

impl From<NotSent> for NotPlaced {
    fn from(reason: NotSent) -> Self {
        match reason {
            NotSent::Full => Self::Full,
            NotSent::Exhausted => Self::Exhausted,
            NotSent::Unreachable => Self::Unreachable,
        }
    }
}

impl From<Full> for NotPlaced {
    fn from(full: Full) -> Self {
        match full {
            Full::Queue => Self::Full,
            Full::Ended => Self::Gone,
        }
    }
}

// === impl Placement ===

impl Placement {
    /// Chooses an instance and sends the call to it.
    pub(crate) fn send(&self, call: &Arc<Call>, pool: &Pool, not: Excluded<'_>) -> Result<(), CallError> {
        let draining = self.cluster.draining();
        let mut wanted = Wanted {
            target: call.request.target.as_ref(),
            not,
            only_here: false,
            draining: Some(&**draining).filter(|hubs| !hubs.is_empty()),
            connected: true,
        };
        let mut fresh = None;
        let mut last = NotPlaced::Full;
        for _ in 0..PLACES {
            let instance = router::choose(fresh.as_deref().unwrap_or(pool), wanted)?;
            let Err(reason) = self.place(call, instance) else {
                return Ok(());
            };
            last = reason;
            match reason {
                // By chance another one.
                NotPlaced::Full | NotPlaced::Exhausted => {}
                // It left after the look into the directory.
                NotPlaced::Gone => fresh = Some(self.pool_of(&call.operation)?),
                NotPlaced::Unreachable => wanted.only_here = true,
            }
        }
        Err(nowhere(pool, last))
    }

    /// Sends the call to an instance whose slot was taken for it.
    pub(crate) fn place(&self, call: &Arc<Call>, instance: Arc<Instance>) -> Result<(), NotPlaced> {
        let mut leg = call.leg.lock();
        if matches!(leg.to, To::Ended) {
            instance.load.release();
            return Ok(());
        }
        let number = self
            .hand_over(call, leg.resent, &instance)
            .inspect_err(|_| instance.load.release())?;
        let session = instance.session.clone();
        leg.to = To::at(instance, number);
        drop(leg);
        // Its connection may have been lost, or another one may have come, since it was chosen: who looked then at what waits
        // did not find this call.
        if let Some(session) = session.filter(|session| session.outbox.is_detached()) {
            self.relieve_one(call, &session);
        }
        Ok(())
    }

    /// An instance has left and does not get the call any more: another one does, or it fails at once.
    pub(crate) fn reroute(&self, call: &Arc<Call>, from: &Arc<Instance>) {
        let Some(first_time) = take_back(call, from).map(is_first) else {
            return;
        };
        if let CallSource::Hub { call: remote, .. } = &call.source {
            // The caller's hub sends it again, this one never does.
            self.table.end_running(call, End::Silent);
            self.relay.give_back(remote, RegistrationStanding::Gone);
        } else if let Err(refusal) = self.send_elsewhere(call, Excluded::Registration(from), first_time) {
            self.not_delivered(call, refusal, left(from));
        }
    }

    /// The hub of an instance did not receive the call: an instance on another hub gets it, or it fails at once. Whether the
    /// spoke has left nobody knows.
    pub(crate) fn came_back(&self, call: &Arc<Call>, from: &Arc<Instance>) {
        let Some(first_time) = take_back(call, from).map(is_first) else {
            return;
        };
        // What else is there is as far away.
        if let Err(refusal) = self.send_elsewhere(call, Excluded::Hub(&from.entry.hub), first_time) {
            self.not_delivered(call, refusal, cut_off(from));
        }
    }

    /// The holder gives the call back: the registration is not there any more, or somebody else is to take the call. It follows
    /// the spoke, goes back where it was, or fails soon.
    pub(crate) fn moved(self: &Arc<Self>, call: &Arc<Call>, from: &Arc<Instance>, standing: RegistrationStanding) {
        let Some(resent) = take_back(call, from) else {
            return;
        };
        // It may have been faster than the registration. Else it would wait at an instance whose connection is lost, and stay there.
        let target = call.request.target.as_ref();
        let goes_back = || standing == RegistrationStanding::Ready && self.send_back(call, from);
        if resent <= MOST && !self.has_another(&call.operation, target, from) && goes_back() {
            return;
        }
        let Err(refusal) = self.send_elsewhere(call, Excluded::Registration(from), resent <= MOST) else {
            return;
        };
        if resent > MOST {
            return self.not_delivered(call, refusal, left(from));
        }
        // While its connection is lost the call would only wait there; who has come the holder may know first.
        if goes_back() {
            return;
        }
        let (placement, call, from) = (Arc::clone(self), Arc::clone(call), Arc::clone(from));
        self.tasks.spawn(async move {
            let mut refusal = refusal;
            for _ in 0..LOOKS {
                tokio::time::sleep(LOOK_INTERVAL).await;
                if !placement.table.contains(call.key) {
                    return;
                }
                match placement.send_again(&call, Excluded::Registration(&from)) {
                    Ok(()) => return,
                    Err(error) => refusal = error,
                }
            }
            if standing == RegistrationStanding::Gone || !placement.send_back(&call, &from) {
                placement.not_delivered(&call, refusal, left(&from));
            }
        });
    }

    /// The instances that offer an operation now, by the specification that a call's input was checked against.
    fn pool_of(&self, operation: &Operation) -> Result<Arc<Pool>, CallError> {
        let same = |offered: &Arc<Operation>| offered.hash == operation.hash;
        let pool = self.directory.pool(&operation.name);
        let pool = pool.filter(|pool| pool.operation.as_ref().is_some_and(same));
        pool.ok_or_else(|| nobody_offers_the_same(operation))
    }

    /// Whether an operation is offered with another specification than a call's input was checked against.
    fn is_another_now(&self, operation: &Operation) -> bool {
        let another = |offered: &Arc<Operation>| offered.hash != operation.hash;
        let pool = self.directory.pool(&operation.name);
        pool.is_some_and(|pool| pool.operation.as_ref().is_some_and(another))
    }

    /// Queues the call, sent again `attempt` times before; answers its number in the outbox of the spoke's connection, if
    /// that is here.
    fn hand_over(&self, call: &Call, attempt: u8, instance: &Instance) -> Result<Option<u64>, NotPlaced> {
        match &instance.session {
            Some(session) => self.hand_to_spoke(call, session).map(Some),
            None => self.hand_to_hub(call, attempt, instance).map(|()| None),
        }
    }

    fn hand_to_hub(&self, call: &Call, attempt: u8, instance: &Instance) -> Result<(), NotPlaced> {
        let input = call.input.json().ok_or(NotPlaced::Gone)?;
        let entry = &instance.entry;
        let remote = RemoteCall {
            hub: entry.hub.clone(),
            key: call.key,
            attempt,
        };
        let to = Destination {
            spoke: entry.spoke.clone(),
            instance: entry.instance.clone(),
            generation: entry.generation,
        };
        let identity = call.identity();
        let options = RequestOptions {
            // Should the holder look for another instance.
            target: call.request.target.as_ref(),
            ..call.options(identity.as_ref())
        };
        let input = call.input.is_given.then_some(&input);
        let relayed = RelayedCall {
            remote,
            id: call.id,
            to,
            on_disconnect: call.request.on_disconnect,
        };
        let sent = self.relay.call(relayed, &call.operation.name, input, &options);
        sent.map_err(NotPlaced::from)
    }

    fn hand_to_spoke(&self, call: &Call, session: &Session) -> Result<u64, NotPlaced> {
        self.queue(call, session, Outbox::push_call)
    }

    /// Queues a call for a spoke, in one of the ways of its outbox.
    fn queue(&self, call: &Call, session: &Session, push: PushCall) -> Result<u64, NotPlaced> {
        // It is sent again only while nobody surely has it.
        let input = call.input.json().ok_or(NotPlaced::Gone)?;
        if !session.add(call.key) {
            return Err(NotPlaced::Gone);
        }
        let identity = call.identity();
        let options = RequestOptions {
            spelled: Some(&call.operation.spelled),
            ..call.options(identity.as_ref())
        };
        let outbox = &session.outbox;
        let is_origins = outbox.dialect() == Dialect::Payload;
        let left_out = is_origins && call.operation.nothing.leaves_out(&input, call.input.is_given);
        let input = Some(&input).filter(|_| !left_out);
        let id = call.leg_id(&self.legs);
        let message = encode::call_requested(outbox.dialect(), &id, &call.operation.name, input, &options);
        let pushed = push(outbox, message, &id, &call.input);
        pushed.map_err(|full| {
            session.remove(call.key);
            self.is_not_there(call, session);
            full.into()
        })
    }

    fn send_again(&self, call: &Arc<Call>, not: Excluded<'_>) -> Result<(), CallError> {
        let pool = self.pool_of(&call.operation)?;
        self.send(call, &pool, not)?;
        self.metrics.resent.inc();
        Ok(())
    }

    /// Sends a call that came back, if it may be sent again.
    fn send_elsewhere(&self, call: &Arc<Call>, not: Excluded<'_>, may_go: bool) -> Result<(), CallError> {
        if may_go {
            self.send_again(call, not)
        } else {
            Err(nobody_offers_the_same(&call.operation))
        }
    }

    /// A call that reached nobody is admitted anew where its operation is another one by now, and its caller may do what it might;
    /// else it fails by what stands in its
    /// way: the refusal of those who offer the operation besides, or, where nobody does, what became of the one that it was sent
    /// to.
    fn not_delivered(&self, call: &Arc<Call>, refusal: CallError, lost: CallError) {
        let is_another = refusal.code == Code::NoProvider && self.is_another_now(&call.operation);
        if is_another && !call.has_other_rights() {
            let readmission = self.readmission.get().and_then(Weak::upgrade);
            if let Some(readmission) = readmission {
                return readmission.readmit(Arc::clone(call));
            }
        }
        let error = if refusal.code == Code::NoProvider {
            lost
        } else {
            refusal
        };
        self.table.end_running(call, End::Failed(error));
    }
}

/// Why the instances that were tried did not take a call, by the last of them.
fn nowhere(pool: &Pool, last: NotPlaced) -> CallError {
    let name = &pool.name;
    let (code, message) = match last {
        NotPlaced::Full => (
            Code::Overloaded,
            format!(
                "too much waits for each instance that offers `{name}` (`server.outbox-messages`, `server.outbox-bytes`, \
                 `budget.key-bytes`)"
            ),
        ),
        NotPlaced::Exhausted => return Exhausted::Hub.into(),
        NotPlaced::Gone => (
            Code::NoProvider,
            format!("each instance that offered `{name}` left as it was chosen"),
        ),
        NotPlaced::Unreachable => return router::unreachable(pool),
    };
    CallError::new(code, message).retryable()
}

fn nobody_offers_the_same(operation: &Operation) -> CallError {
    let message = format!("no instance offers the same `{}` now", operation.name);
    CallError::new(Code::NoProvider, message).retryable()
}

/// The error of a call that its spoke did not get before it left.
fn left(from: &Instance) -> CallError {
    let message = format!("spoke `{}` left before it got the call", from.entry.spoke);
    CallError::new(Code::SpokeLost, message).retryable()
}

/// The error of a call that did not reach the hub of its spoke.
fn cut_off(from: &Instance) -> CallError {
    let message = format!("the hub of spoke `{}` did not receive the call", from.entry.spoke);
    CallError::new(Code::Unavailable, message).retryable()
}

/// Takes a call back from an instance; how often it has come back by now. `None` when it is not there.
fn take_back(call: &Call, from: &Arc<Instance>) -> Option<u8> {
    let mut leg = call.leg.lock();
    leg.to.instance().filter(|instance| Arc::ptr_eq(instance, from))?;
    let to = std::mem::take(&mut leg.to);
    CallTable::release(&to, call.key);
    leg.resent += 1;
    Some(leg.resent)
}

/// Whether a call that has come back was never sent again.
fn is_first(resent: u8) -> bool {
    resent == 1
}
