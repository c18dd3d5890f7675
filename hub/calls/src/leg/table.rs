//! The calls that run here: each is entered once and ended once, whoever ends it.
//!
//! Whatever ends a call takes out its entry, and only one can: the answer, the deadline, the loss of its caller, or the
//! loss of the spoke or of its hub. The other side gets `call.aborted`.
//!
//! Invariants
//! - An entry leaves by [`CallTable::end`] or by its deadline. The only other way is [`CallTable::withdraw`], for a
//!   call that nobody got: it is refused, or waits again.
//! - A caller that calls again as soon as it is answered finds its place, and the instance's slot, free.

use std::sync::Arc;

use alkhub_protocol::frame::encode;
use alkhub_protocol::{CallError, CloseCode, Code, Delivered, HubId, OnDisconnect, SpokeName};
use alkhub_queue::Full;
use dashmap::DashMap;

use crate::directory::Instance;
use crate::leg::call::{Call, CallSource, To};
use crate::leg::call_id::LegIds;
use crate::leg::missed::{Missed, MissedCalls};
use crate::leg::outcome::End;
use crate::leg::pending::Pending;
use crate::leg::sink::Sink;
use crate::metrics::{CallTotals, Metrics};
use crate::records::journal::{CallRefusal, Journal};
use crate::relay::{Relay, RemoteCall};
use crate::session::Session;

/// The calls that run on this hub.
#[derive(Debug)]
pub(crate) struct CallTable {
    calls: Pending<Call>,
    /// The calls of other hubs' callers, by that hub and its key.
    inbound: DashMap<(HubId, u64), u64>,
    /// The calls that may be entered later, under keys of this table.
    missed: MissedCalls,
    relay: Arc<Relay>,
    legs: LegIds,
    journal: Journal,
    metrics: Arc<Metrics>,
}

/// A call that was taken out to be ended.
enum Found {
    Waits(Box<Missed>),
    Runs(Arc<Call>),
}

/// Which holder of a call is told that it has ended.
#[derive(Clone, Copy)]
enum Stop<'a> {
    Nobody,
    /// Whoever has it, for this reason.
    Holder(&'a str),
    /// Whoever has it after a loss, unless that is the attempt that has answered it; without one, an earlier one has.
    HolderBut(Option<u8>),
}

// === impl CallTable ===

impl CallTable {
    pub(crate) fn new(relay: Arc<Relay>, legs: LegIds, journal: Journal, metrics: Arc<Metrics>) -> Self {
        Self {
            calls: Pending::new(),
            inbound: DashMap::new(),
            missed: MissedCalls::default(),
            relay,
            legs,
            journal,
            metrics,
        }
    }

    /// A key that no call has had.
    pub(crate) fn key(&self) -> u64 {
        self.calls.key()
    }

    pub(crate) fn len(&self) -> usize {
        self.calls.len()
    }

    /// How many calls other hubs' callers have here.
    pub(crate) fn inbound(&self) -> usize {
        self.inbound.len()
    }

    pub(crate) fn get(&self, key: u64) -> Option<Arc<Call>> {
        self.calls.get(key)
    }

    pub(crate) fn contains(&self, key: u64) -> bool {
        self.calls.contains(key)
    }

    pub(crate) fn totals(&self) -> CallTotals {
        self.metrics.totals()
    }

    /// The calls that wait and may be entered later.
    pub(crate) fn missed(&self) -> &MissedCalls {
        &self.missed
    }

    /// Whether a call waits or runs.
    pub(crate) fn is_open(&self, key: u64) -> bool {
        let found = || (self.missed.contains(key) || self.contains(key)).then_some(());
        self.look(found).is_some()
    }

    /// How many calls wait or run; never less than the true number.
    pub(crate) fn count(&self) -> usize {
        let mut most = 0;
        self.look(|| {
            most = most.max(self.missed.len() + self.len());
            None::<()>
        });
        most
    }

    pub(crate) fn keys(&self) -> Vec<u64> {
        let mut keys = Vec::new();
        self.look(|| {
            keys.extend(self.missed.keys());
            keys.extend(self.select(|_| true).iter().map(|call| call.key));
            None::<()>
        });
        keys
    }

    /// Looks for a call wherever it may be: `look` tries the waiting calls first, because from there a call comes to
    /// the running ones. If one has gone the other way meanwhile, it tries again.
    pub(crate) fn look<R>(&self, mut look: impl FnMut() -> Option<R>) -> Option<R> {
        loop {
            let back = self.missed.came_back();
            let found = look();
            if found.is_some() || self.missed.came_back() == back {
                return found;
            }
        }
    }

    /// The calls that fulfil a condition. It goes through all of them, so only for rare events.
    pub(crate) fn select(&self, wanted: impl Fn(&Call) -> bool) -> Vec<Arc<Call>> {
        self.calls.select(wanted)
    }

    /// The call of another hub's caller, by that hub and its key.
    pub(crate) fn of_hub(&self, hub: &HubId, key: u64) -> Option<u64> {
        self.inbound.get(&(hub.clone(), key)).map(|local| *local)
    }

    /// The call that a spoke means by an id, if it was sent over this very session.
    pub(crate) fn on(&self, session: &Arc<Session>, key: u64) -> Option<Arc<Call>> {
        self.attempt_on(session, key).map(|(call, _)| call)
    }

    /// The same, with its attempt.
    pub(crate) fn attempt_on(&self, session: &Arc<Session>, key: u64) -> Option<(Arc<Call>, u8)> {
        let call = self.calls.get(key)?;
        let attempt = {
            let leg = call.leg.lock();
            let sent_there = matches!(&leg.to, To::Spoke { instance, .. } if instance.is_of(session));
            sent_there.then_some(leg.resent)?
        };
        Some((call, attempt))
    }

    pub(crate) fn begin(&self, call: &Arc<Call>) {
        if let CallSource::Hub { call: remote, .. } = &call.source {
            self.inbound.insert((remote.hub.clone(), remote.key), call.key);
        }
        self.metrics.in_flight.inc();
        self.calls.insert(call.key, Arc::clone(call));
    }

    /// Ends a call, unless it has ended; with `stop` its spoke gets an abort.
    pub(crate) fn end(&self, key: u64, end: End, stop: Option<&str>) {
        self.end_once(key, end, stop);
    }

    /// Ends a call as it was answered in this attempt; without one, in an earlier attempt than the present one. Another
    /// spoke that has got the call after a loss is told to stop.
    pub(crate) fn answered(&self, key: u64, end: End, attempt: Option<u8>) {
        self.end_by(key, end, Stop::HolderBut(attempt));
    }

    /// The same; false if it had already ended.
    pub(crate) fn end_once(&self, key: u64, end: End, stop: Option<&str>) -> bool {
        self.end_by(key, end, stop.map_or(Stop::Nobody, Stop::Holder))
    }

    fn end_by(&self, key: u64, end: End, stop: Stop<'_>) -> bool {
        let found = self.look(|| match self.missed.take(key) {
            Some(missed) => Some(Found::Waits(missed)),
            None => self.calls.remove(key).map(Found::Runs),
        });
        match found {
            Some(Found::Waits(missed)) => self.end_missed(*missed, end),
            Some(Found::Runs(call)) => self.finish(&call, end, stop),
            None => return false,
        }
        true
    }

    /// The same for a call that is known to run or to have run. Unlike the others, this may also be called while
    /// routing a call that waited: it never waits for that one.
    pub(crate) fn end_running(&self, call: &Arc<Call>, end: End) {
        if self.calls.remove(call.key).is_some() {
            self.finish(call, end, Stop::Nobody);
        }
    }

    /// The caller of a call, or the caller's hub, is lost: the call is aborted, or goes on without it if that was asked
    /// for. Returns whether this aborted it.
    pub(crate) fn caller_lost(&self, key: u64, reason: &str) -> bool {
        let found = self.look(|| match self.missed.on(key, lose_caller) {
            Some(lost) => Some(Err(lost)),
            None => self.calls.get(key).map(Ok),
        });
        let call = match found {
            Some(Ok(call)) => call,
            Some(Err((missed, before))) => {
                drop(before);
                return missed.is_some_and(|missed| {
                    self.end_missed(*missed, End::Silent);
                    true
                });
            }
            None => return false,
        };
        match call.request.on_disconnect {
            OnDisconnect::Abort => self.end_once(key, End::Silent, Some(reason)),
            // What waits for the caller is dropped outside the lock.
            OnDisconnect::Detach => {
                let before = call.sink.lock().detach();
                drop(before);
                false
            }
        }
    }

    /// Ends calls at their deadlines, or after too long a silence, until the future is dropped.
    pub(crate) async fn watch(&self) {
        self.calls.watch(|call| self.expire(&call)).await;
    }

    /// Takes back a call that could not be sent; false if it has already ended. Nothing is sent to anybody.
    pub(crate) fn withdraw(&self, call: &Call) -> bool {
        if self.calls.remove(call.key).is_none() {
            return false;
        }
        call.leg.lock().to = To::Ended;
        self.metrics.in_flight.dec();
        call.running.free();
        self.forget(&call.source);
        true
    }

    /// Gives back what a leg held.
    pub(crate) fn release(to: &To, key: u64) {
        let Some(instance) = to.instance() else { return };
        instance.load.release();
        if let Some(session) = &instance.session {
            session.remove(key);
        }
    }

    fn expire(&self, call: &Arc<Call>) {
        let reason = if call.times.is_past_deadline() {
            "the deadline has passed"
        } else {
            "no item came for the subscription's idle timeout"
        };
        let error = undecided(call, Code::Timeout, reason.to_owned());
        self.finish(call, End::Failed(error), Stop::Holder(reason));
    }

    /// Ends a running call that was taken out.
    fn finish(&self, call: &Arc<Call>, end: End, stop: Stop<'_>) {
        let (to, present) = {
            let mut leg = call.leg.lock();
            (std::mem::replace(&mut leg.to, To::Ended), leg.resent)
        };
        let end = if call.was_lost() { end.after_loss() } else { end };
        call.input.let_go();
        match stop {
            Stop::Holder(reason) => self.stop_leg(&to, call, reason),
            Stop::HolderBut(attempt) if call.was_lost() && attempt != Some(present) => {
                self.stop_leg(&to, call, "an earlier attempt has answered the call");
            }
            Stop::Nobody | Stop::HolderBut(_) => {}
        }
        Self::release(&to, call.key);
        if let To::Spoke { instance, .. } = &to {
            self.tell_of_end(instance, call);
        }
        self.metrics.in_flight.dec();
        call.running.free();
        self.forget(&call.source);
        if let CallSource::Caller(caller) = &call.source {
            let spoke = to.instance().map(|instance| &instance.entry.spoke);
            let spoke = spoke.or_else(|| call.lost_with());
            self.journal.ended(call, caller, spoke, &end);
        }
        call.sink.lock().end(&call.request.request_id, end);
    }

    /// Ends a waiting call that was taken out.
    fn end_missed(&self, mut missed: Missed, end: End) {
        let code = match &end {
            End::Failed(error) => &error.code,
            End::Output(_) | End::Completed | End::Aborted | End::Stopped(_) | End::Silent => &Code::Aborted,
        };
        let Missed {
            caller, request, times, ..
        } = &missed;
        let refusal = CallRefusal {
            code,
            series: None,
            is_let_go: false,
        };
        self.journal.refused(caller, request, times, &refusal);
        missed.sink.end(&missed.request.request_id, end);
    }

    /// Tells a hub that goes on with the session of a spoke that a call of it is over here.
    fn tell_of_end(&self, instance: &Instance, call: &Call) {
        let session = instance.session.as_ref().filter(|session| session.outbox.is_away());
        if let Some(session) = session {
            session.outbox.leg_ended(&call.leg_id(&self.legs));
        }
    }

    fn forget(&self, source: &CallSource) {
        if let CallSource::Hub {
            call: RemoteCall { hub, key, .. },
            place,
            ..
        } = source
        {
            self.inbound.remove(&(hub.clone(), *key));
            place.free();
        }
    }

    /// Asks the other end of a leg to stop.
    fn stop_leg(&self, to: &To, call: &Call, reason: &str) {
        let (instance, number) = match to {
            To::Spoke { instance, number } => (instance, *number),
            To::Hub { instance } => return self.relay.abort(&instance.entry.hub, call.key),
            To::Nobody | To::Ended => return,
        };
        let Some(outbox) = instance.session.as_ref().map(|session| &session.outbox) else {
            return;
        };
        let message = encode::call_aborted(outbox.dialect(), &call.leg_id(&self.legs), Some(reason));
        let pushed = outbox.push_abort(message, number);
        if pushed == Err(Full::Queue) {
            let reason = "calls are not read as fast as they come";
            outbox.close(CloseCode::Slow, reason);
        }
    }
}

/// Takes a waiting call whose caller is lost, unless it is to go on without it; in that case, takes where its answers
/// went.
fn lose_caller(missed: &mut Option<Box<Missed>>) -> (Option<Box<Missed>>, Option<Sink>) {
    match missed {
        Some(call) if call.request.on_disconnect == OnDisconnect::Detach => (None, call.sink.detach()),
        _ => (missed.take(), None),
    }
}

/// The error for a call that its spoke may have got, or surely did if it answered something.
pub(crate) fn undecided(call: &Call, code: Code, message: String) -> CallError {
    let delivered = if call.has_output() {
        Delivered::Yes
    } else {
        Delivered::Maybe
    };
    let mut error = CallError::new(code, message).delivered(delivered);
    error.retryable = call.operation.spec.may_repeat();
    error
}

/// The error for a call whose spoke is lost.
pub(crate) fn spoke_lost(call: &Call, spoke: &SpokeName) -> CallError {
    undecided(
        call,
        Code::SpokeLost,
        format!("spoke `{spoke}` left before it answered"),
    )
}
