//! Sends a call to an instance, and to another one when it surely reached nobody.
//!
//! Invariants
//! - A call is sent again once, and only by the hub of its caller.
//! - Only what never left a queue, what a hub answered with `moved`, or what no hub received is sent again.
//! - Where a call is changes under the lock of its leg only.

use std::sync::Arc;
use std::time::Duration;

use alkhub_hub_cluster::{Cluster, NotSent};
use alkhub_protocol::frame::encode::{self, RequestOptions};
use alkhub_protocol::{CallError, Code, Dialect};
use tokio_util::task::TaskTracker;

use crate::call::{Call, CallSource, To};
use crate::call_id::LegIds;
use crate::directory::{Directory, Instance, Pool};
use crate::metrics::Metrics;
use crate::operation::Operation;
use crate::outcome::End;
use crate::relay::{Destination, Relay, RemoteCall};
use crate::router::{self, Wanted};
use crate::session::Session;
use crate::table::CallTable;
use alkhub_queue::Full;

/// Instances that are tried for one call whose queues are full or closed.
const PLACES: usize = 4;

/// The directory may hear of a move a little later than the `moved` comes: it is looked at this often ...
const LOOKS: u32 = 25;

/// ... in this distance.
const LOOK_INTERVAL: Duration = Duration::from_millis(20);

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
}

/// An instance did not take a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NotPlaced {
    /// Its queue is full.
    Full,
    /// Its connection is gone.
    Gone,
    /// It is on another hub, and the link to the other hubs is down.
    Unreachable,
}

// === impl NotPlaced ===

impl From<NotSent> for NotPlaced {
    fn from(reason: NotSent) -> Self {
        match reason {
            NotSent::Full => Self::Full,
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
    pub(crate) fn send(&self, call: &Arc<Call>, pool: &Pool, not: Option<&Instance>) -> Result<(), CallError> {
        let draining = self.cluster.draining();
        let mut wanted = Wanted {
            target: call.request.target.as_ref(),
            not,
            only_here: false,
            draining: Some(&**draining).filter(|hubs| !hubs.is_empty()),
        };
        let mut fresh = None;
        for _ in 0..PLACES {
            let instance = router::choose(fresh.as_deref().unwrap_or(pool), wanted)?;
            match self.place(call, instance) {
                Ok(()) => return Ok(()),
                // By chance another one.
                Err(NotPlaced::Full) => {}
                // It left after the look into the directory.
                Err(NotPlaced::Gone) => fresh = Some(self.same_pool(call)?),
                Err(NotPlaced::Unreachable) => wanted.only_here = true,
            }
        }
        let message = format!("no instance that offers `{}` takes calls now", pool.name);
        Err(CallError::new(Code::Overloaded, message).retryable())
    }

    /// Sends the call to an instance whose slot was taken for it.
    pub(crate) fn place(&self, call: &Arc<Call>, instance: Arc<Instance>) -> Result<(), NotPlaced> {
        let mut leg = call.leg.lock();
        if matches!(leg.to, To::Ended) {
            instance.load.release();
            return Ok(());
        }
        match self.hand_over(call, leg.resent, &instance) {
            Ok(Some(number)) => leg.to = To::Spoke { instance, number },
            Ok(None) => leg.to = To::Hub { instance },
            Err(error) => {
                instance.load.release();
                return Err(error);
            }
        }
        Ok(())
    }

    /// An instance does not get the call any more: another one does, or it fails at once.
    pub(crate) fn reroute(&self, call: &Arc<Call>, from: &Arc<Instance>) {
        let Some(first_time) = take_back(call, from) else {
            return;
        };
        if let CallSource::Hub { call: remote, .. } = &call.source {
            // The caller's hub sends it again, this one never does.
            self.table.end(call.key, End::Silent, None);
            self.relay.moved(remote);
        } else if !first_time || self.send_again(call, from).is_err() {
            self.not_delivered(call, from);
        }
    }

    /// The holder says that the registration is not there any more: the call follows the spoke, or fails soon.
    pub(crate) fn moved(self: &Arc<Self>, call: &Arc<Call>, from: &Arc<Instance>) {
        let Some(first_time) = take_back(call, from) else {
            return;
        };
        if !first_time {
            return self.not_delivered(call, from);
        }
        if self.send_again(call, from).is_ok() {
            return;
        }
        let (placement, call, from) = (Arc::clone(self), Arc::clone(call), Arc::clone(from));
        self.tasks.spawn(async move {
            for _ in 0..LOOKS {
                tokio::time::sleep(LOOK_INTERVAL).await;
                if !placement.table.contains(call.key) || placement.send_again(&call, &from).is_ok() {
                    return;
                }
            }
            placement.not_delivered(&call, &from);
        });
    }

    /// The instances that offer the operation now, by the specification that the input was checked against.
    fn same_pool(&self, call: &Call) -> Result<Arc<Pool>, CallError> {
        let same = |operation: &Arc<Operation>| operation.hash == call.operation.hash;
        let pool = self.directory.pool(&call.operation.name);
        let pool = pool.filter(|pool| pool.operation.as_ref().is_some_and(same));
        pool.ok_or_else(|| {
            let message = format!("no instance offers the same `{}` now", call.operation.name);
            CallError::new(Code::NoProvider, message).retryable()
        })
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
        let options = call.options(identity.as_ref());
        let input = call.input.is_given.then_some(&input);
        let sent = self.relay.call(
            (&remote, call.id),
            (to, call.request.on_disconnect),
            &call.operation.name,
            input,
            &options,
        );
        sent.map_err(NotPlaced::from)
    }

    fn hand_to_spoke(&self, call: &Call, session: &Session) -> Result<u64, NotPlaced> {
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
        let id = self.legs.id(call.key);
        let message = encode::call_requested(outbox.dialect(), &id, &call.operation.name, input, &options);
        let pushed = outbox.push_call(message, &call.input);
        pushed.map_err(|full| {
            session.remove(call.key);
            full.into()
        })
    }

    fn send_again(&self, call: &Arc<Call>, from: &Instance) -> Result<(), CallError> {
        let pool = self.same_pool(call)?;
        self.send(call, &pool, Some(from))?;
        self.metrics.resent.inc();
        Ok(())
    }

    fn not_delivered(&self, call: &Call, from: &Instance) {
        let message = format!("spoke `{}` left before it got the call", from.entry.spoke);
        let error = CallError::new(Code::SpokeLost, message).retryable();
        self.table.end(call.key, End::Failed(error), None);
    }
}

/// Takes a call back from an instance; true when it was never sent again. `None` when it is not there.
fn take_back(call: &Call, from: &Arc<Instance>) -> Option<bool> {
    let mut leg = call.leg.lock();
    leg.to.instance().filter(|instance| Arc::ptr_eq(instance, from))?;
    let to = std::mem::take(&mut leg.to);
    CallTable::release(&to, call.key);
    leg.resent += 1;
    Some(leg.resent == 1)
}
