//! Sends a call to an instance; and to another one if it surely reached nobody, or if it is a query that was lost
//! ([`loss`]).
//!
//! Invariants
//! - Only the hub of its caller sends a call again: once, when its instance leaves this hub, when another hub did not
//!   receive it, or when it waits for a connection that is lost; up to [`comeback::MOST`] times, when other hubs give
//!   it back; and once, when it is a query and a hub says that it was lost with its spoke.
//! - Only four kinds of calls are sent again: those that never left a queue, those that a hub answered with `moved`,
//!   those that no hub received, and queries.
//! - The place of a call changes only under the lock of its leg.

mod comeback;
pub(crate) mod loss;
pub(crate) mod relief;

use std::fmt;
use std::sync::{Arc, OnceLock, Weak};

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
use crate::leg::call::{Call, To};
use crate::leg::call_id::LegIds;
use crate::leg::input::Input;
use crate::leg::table::CallTable;
use crate::metrics::Metrics;
use crate::relay::{Destination, Relay, RelayedCall, RemoteCall};
use crate::session::Session;
use crate::session::outbox::Outbox;

/// How many instances are tried for one call if their queues are full or closed.
const PLACES: usize = 4;

/// A way to queue a call: [`Outbox::push_call`] or [`Outbox::push_call_back`].
type PushCall = fn(&Outbox, Bytes, &str, &Arc<Input>) -> Result<u64, Full>;

/// Admits calls ([`crate::leg::dispatch`]).
pub(crate) trait Readmission: fmt::Debug + Send + Sync {
    /// Admits anew a call of this hub's caller that nobody got, unless it has ended; returns at once.
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
    /// Where calls are admitted anew; set once that exists.
    pub(crate) readmission: OnceLock<Weak<dyn Readmission>>,
}

/// Why an instance did not take a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NotPlaced {
    /// Its queue is full.
    Full,
    /// Its connection is gone.
    Gone,
    /// It is on another hub, and this one already keeps as many bytes as it may.
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
    /// Chooses instances, taking a slot of each, until one of them takes the call.
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
                // The next choice may by chance be another instance.
                NotPlaced::Full | NotPlaced::Exhausted => {}
                // It left after the directory was looked at.
                NotPlaced::Gone => fresh = Some(self.pool_of(&call.operation)?),
                NotPlaced::Unreachable => wanted.only_here = true,
            }
        }
        Err(nowhere(pool, last))
    }

    /// Sends the call to an instance, one of whose slots was taken for it.
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
        // Since the choice, its connection may have been lost, or another instance may have come: whoever then looked
        // through the waiting calls did not find this one.
        if let Some(session) = session.filter(|session| session.outbox.is_detached()) {
            self.relieve_one(call, &session);
        }
        Ok(())
    }

    /// The pool of an operation as it is offered now, if that is by the specification that a call's input was checked
    /// against.
    fn pool_of(&self, operation: &Operation) -> Result<Arc<Pool>, CallError> {
        let same = |offered: &Arc<Operation>| offered.hash == operation.hash;
        let pool = self.directory.pool(&operation.name);
        let pool = pool.filter(|pool| pool.operation.as_ref().is_some_and(same));
        pool.ok_or_else(|| nobody_offers_the_same(operation))
    }

    /// Queues the call, which was sent again `attempt` times before. Returns its number in the outbox of the spoke's
    /// session, if that is here.
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
            // In case the holder has to look for another instance.
            target: call.request.target.as_ref(),
            ..call.options(identity.as_ref())
        };
        let input = call.input.is_given.then_some(&input);
        let relayed = RelayedCall {
            remote,
            id: call.id,
            to,
            on_disconnect: call.request.on_disconnect,
            was_lost: call.was_lost(),
        };
        let sent = self.relay.call(relayed, &call.operation.name, input, &options);
        sent.map_err(NotPlaced::from)
    }

    fn hand_to_spoke(&self, call: &Call, session: &Session) -> Result<u64, NotPlaced> {
        self.queue(call, session, Outbox::push_call)
    }

    /// Queues a call for a spoke in one of the outbox's ways.
    fn queue(&self, call: &Call, session: &Session, push: PushCall) -> Result<u64, NotPlaced> {
        // Once the input is released, a spoke may have the call, and it is not sent again.
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
}

/// Why the instances that were tried did not take a call, as the last of them said.
fn nowhere(pool: &Pool, last: NotPlaced) -> CallError {
    let name = &pool.name;
    let (code, message) = match last {
        NotPlaced::Full => (
            Code::Overloaded,
            format!(
                "too much waits for each instance that offers `{name}`, or for the hub that it is on (for an instance: \
                 `server.outbox-messages`, `server.outbox-bytes`, `budget.key-bytes` of its key; for a hub: 16 MiB of calls, \
                 or what Redis takes)"
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
