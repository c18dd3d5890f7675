//! The way of a call out: admitted, placed, sent.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use alkhub_budget::{Held, Kept};
use alkhub_protocol::frame::encode::{self, RequestOptions};
use alkhub_protocol::{CallError, CallRequest, Code, Dialect, PAYLOAD_LIMIT_BYTES, RawJson};
use parking_lot::Mutex;

use crate::call::{Call, Clock, Leg, Origin, To};
use crate::calls::Ticket;
use crate::core::Core;
use crate::directory::{Instance, Pool};
use crate::input::{Input, bare_bytes};
use crate::lane::Lane;
use crate::names::Missed;
use crate::operation::Operation;
use crate::outbox::Full;
use crate::relay::NotSent;
use crate::router::{self, Wanted};
use crate::sink::Sink;
use crate::{Caller, builtin};

/// Instances that are tried for one call whose queues are full or closed.
const PLACES: usize = 4;

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

impl From<NotSent> for NotPlaced {
    fn from(reason: NotSent) -> Self {
        match reason {
            NotSent::Full => Self::Full,
            NotSent::Unreachable => Self::Unreachable,
        }
    }
}

/// A call that may be made.
struct Admitted {
    pool: Arc<Pool>,
    operation: Arc<Operation>,
    running: Arc<AtomicUsize>,
    held: Held,
}

impl Core {
    /// Routes one call of a caller of this hub.
    pub(crate) fn dispatch(
        self: &Arc<Self>,
        caller: &Arc<Caller>,
        request: CallRequest,
        sink: Sink,
    ) -> Result<Ticket, CallError> {
        if request.operation.is_reserved() {
            return builtin::dispatch(self, caller, &request, sink);
        }
        let clock = Clock::start();
        let admitted = self.admit(caller, &request);
        let is_unknown = matches!(&admitted, Err(error) if error.code == Code::OperationNotFound);
        if is_unknown && self.may_have_forgotten(&request.operation) {
            let caller = Arc::clone(caller);
            self.refuse_after_look(Missed {
                caller,
                request,
                clock,
                sink,
            });
            // No call: there is nothing to abort.
            return Ok(Ticket::new(self, self.pending.key()));
        }
        let Admitted {
            pool,
            operation,
            running,
            held,
        } = admitted.inspect_err(|error| self.refused(caller, &request, &clock, error))?;
        let (request, input) = split(request);
        let clock = self.limited(clock, &request, operation.is_subscription() && !sink.wants_one());
        let call = Arc::new(Call {
            key: self.pending.key(),
            origin: Origin::Caller(Arc::clone(caller)),
            running,
            operation,
            request,
            input: Arc::new(Input::new(input, held)),
            clock,
            leg: Mutex::new(Leg::default()),
            sink: Mutex::new(sink),
            lane: Lane::default(),
            output_bytes: AtomicU64::new(0),
        });
        self.begin(&call);
        match self.send(&call, &pool, None) {
            Err(error) if self.pending.remove(call.key).is_some() => {
                self.withdraw(&call, &error);
                return Err(error);
            }
            // Where it was not sent, its deadline was faster and has told the caller.
            Ok(()) | Err(_) => {}
        }
        Ok(Ticket::new(self, call.key))
    }

    /// Enters a call into the table.
    pub(crate) fn begin(&self, call: &Arc<Call>) {
        self.metrics.in_flight.inc();
        self.pending.insert(call.key, Arc::clone(call));
    }

    /// Everything that can refuse a call before it is placed.
    fn admit(&self, caller: &Caller, request: &CallRequest) -> Result<Admitted, CallError> {
        router::allow_call(&caller.scopes, &request.operation)?;
        let pool = self.directory.pool(&request.operation);
        let pool = pool.ok_or_else(|| router::not_found(&request.operation))?;
        // Without a specification nobody can be chosen: the router says why.
        let Some(operation) = pool.operation.clone() else {
            return Err(router::refusal(&pool, Wanted::default()));
        };
        router::allow_operation(&caller.scopes, &operation)?;
        let input = request.input_or_null();
        if input.len() > PAYLOAD_LIMIT_BYTES {
            let message = format!("the input is larger than {PAYLOAD_LIMIT_BYTES} bytes");
            return Err(CallError::new(Code::PayloadTooLarge, message));
        }
        operation.input.check(input.as_bytes()).map_err(|violation| {
            CallError::new(Code::ValidationError, format!("input {violation}")).details(violation.details())
        })?;
        if request.timeout.is_some_and(|timeout| timeout.is_zero()) {
            return Err(CallError::new(
                Code::Timeout,
                "the deadline had passed when the call arrived",
            ));
        }
        if self.pending.len() >= self.config.max_in_flight {
            let message = "the hub runs as many calls as it may";
            return Err(CallError::new(Code::Overloaded, message).retryable());
        }
        let (held, running) = self.charge(&caller.key_id, input.len() + bare_bytes(request))?;
        Ok(Admitted {
            pool,
            operation,
            running,
            held,
        })
    }

    /// Charges a call to a key: the bytes that it makes the hub keep, and its place among the key's running calls.
    pub(crate) fn charge(&self, key: &Arc<str>, bytes: usize) -> Result<(Held, Arc<AtomicUsize>), CallError> {
        let held = self.budgets.key(key).take(Kept::Calls, bytes)?;
        let running = self.quota.take(key, self.config.max_in_flight_per_key)?;
        Ok((held, running))
    }

    /// A call has a deadline always, a subscription only where its caller sets one.
    fn limited(&self, clock: Clock, request: &CallRequest, subscription: bool) -> Clock {
        if subscription {
            return clock.until(request.timeout, request.idle_timeout);
        }
        let timeout = request.timeout.unwrap_or(self.config.default_timeout);
        clock.until(Some(timeout.min(self.config.max_timeout)), None)
    }

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

    /// The instances that offer the operation now, by the specification that the input was checked against.
    pub(crate) fn same_pool(&self, call: &Call) -> Result<Arc<Pool>, CallError> {
        let same = |operation: &Arc<Operation>| operation.hash == call.operation.hash;
        let pool = self.directory.pool(&call.operation.name);
        let pool = pool.filter(|pool| pool.operation.as_ref().is_some_and(same));
        pool.ok_or_else(|| {
            let message = format!("no instance offers the same `{}` now", call.operation.name);
            CallError::new(Code::NoProvider, message).retryable()
        })
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

    /// Queues the call, sent again `attempt` times before; answers its number in the outbox of the spoke's connection, if
    /// that is here.
    fn hand_over(&self, call: &Call, attempt: u8, instance: &Instance) -> Result<Option<u64>, NotPlaced> {
        // It is sent again only while nobody surely has it.
        let input = call.input.json().ok_or(NotPlaced::Gone)?;
        let Some(link) = &instance.link else {
            let input = call.input.is_given.then_some(&input);
            let sent = self.relay.call(call, attempt, input, instance);
            return sent.map(|()| None).map_err(NotPlaced::from);
        };
        if !link.add(call.key) {
            return Err(NotPlaced::Gone);
        }
        let identity = call.identity();
        let options = RequestOptions {
            spelled: Some(&call.operation.spelled),
            ..call.options(identity.as_ref())
        };
        let connection = &link.connection;
        let id = self.leg_id(call.key);
        let origin = connection.dialect == Dialect::Payload;
        let left_out = origin && call.operation.nothing.leaves_out(&input, call.input.is_given);
        let input = Some(&input).filter(|_| !left_out);
        let message = encode::call_requested(connection.dialect, &id, &call.operation.name, input, &options);
        connection
            .outbox
            .push_call(message, &call.input)
            .map(Some)
            .map_err(|full| {
                link.remove(call.key);
                match full {
                    Full::Queue => NotPlaced::Full,
                    Full::Closed => NotPlaced::Gone,
                }
            })
    }

    /// Gives back what a leg held.
    pub(crate) fn release(&self, to: &To, key: u64) {
        let Some(instance) = to.instance() else { return };
        instance.load.release();
        if let Some(link) = &instance.link {
            link.remove(key);
        }
    }

    /// Takes back a call that could not be sent; its caller gets the error from `dispatch`.
    fn withdraw(&self, call: &Call, error: &CallError) {
        call.leg.lock().to = To::Ended;
        self.metrics.in_flight.dec();
        if let Origin::Caller(caller) = &call.origin {
            call.running.fetch_sub(1, Ordering::AcqRel);
            self.refused(caller, &call.request, &call.clock, error);
        }
    }
}

/// Takes the input out of a request: it is kept for a shorter time.
pub(crate) fn split(mut request: CallRequest) -> (CallRequest, Option<RawJson>) {
    let input = request.input.take();
    (request, input)
}
