//! The way out of a call: admitted, entered, sent.
//!
//! Invariants
//! - A call that nobody got is admitted anew if its operation is now offered with another specification.
//! - A call that finds nobody waits for at most one look at its name. Then it is sent, or refused by what the hub
//!   knows.
//! - Its time counts from its admission, whatever it waits for; and it waits for nothing that its caller may not call.

use std::sync::{Arc, Weak};
use std::time::Duration;

use alkhub_protocol::{CallError, CallRequest, Code, OperationKind};
use tokio::sync::oneshot;
use tokio_util::task::TaskTracker;

use crate::admission::prepared::PreparedCall;
use crate::admission::{Admission, AdmittedCall};
use crate::builtin::{BuiltinReply, Builtins};
use crate::caller::Caller;
use crate::directory::names::{self, NameLooks};
use crate::directory::router::Excluded;
use crate::directory::{Directory, Pool};
use crate::leg::call::{Call, CallParts, CallSource, CallTimes};
use crate::leg::call_id::{CallId, LegIds};
use crate::leg::input::Input;
use crate::leg::missed::Missed;
use crate::leg::outcome::End;
use crate::leg::placement::{Placement, Readmission};
use crate::leg::sink::Sink;
use crate::leg::table::CallTable;
use crate::records::journal::{CallRefusal, Journal};

/// Routes the calls of this hub's callers.
#[derive(Debug)]
pub(crate) struct Dispatch {
    pub(crate) admission: Arc<Admission>,
    pub(crate) builtins: Builtins,
    pub(crate) directory: Arc<Directory>,
    pub(crate) names: Arc<NameLooks>,
    pub(crate) placement: Arc<Placement>,
    pub(crate) table: Arc<CallTable>,
    pub(crate) legs: LegIds,
    pub(crate) journal: Journal,
    pub(crate) tasks: TaskTracker,
}

/// The look that a call waits for before it is made: the key under which it waits, and the end of the look.
type PendingLook = (u64, oneshot::Receiver<Result<(), CallError>>);

/// A call that was not sent, and why.
struct Refused {
    error: CallError,
    call: Box<Missed>,
}

// === impl Dispatch ===

impl Dispatch {
    /// Routes one call. Returns the key of its entry, or, if there is nothing to end, a key that no call has.
    pub(crate) fn call(
        self: &Arc<Self>,
        caller: &Arc<Caller>,
        request: CallRequest,
        sink: Sink,
    ) -> Result<u64, CallError> {
        let times = CallTimes::start();
        let route = |request, times, sink| {
            let caller = Arc::clone(caller);
            let call = Missed {
                caller,
                request,
                times,
                sink,
            };
            self.route(Box::new(call), true)
        };
        if !request.operation.is_reserved() {
            return route(request, times, sink);
        }
        let outcome = self.builtins.call(caller, &request);
        match outcome.inspect_err(|error| self.note_refused(caller, &request, &times, error))? {
            BuiltinReply::Output(output) => {
                self.journal.answered_here(caller, &request, &times, output.len());
                let mut sink = sink;
                sink.end(&request.request_id, End::Output(output));
                Ok(self.table.key())
            }
            BuiltinReply::Call(inner) => route(*inner, times, sink),
        }
    }

    /// Finds out what a call is of. If that takes a look, also returns the key under which it waits, and the look's
    /// end.
    pub(crate) fn prepare(
        self: &Arc<Self>,
        caller: &Arc<Caller>,
        request: CallRequest,
    ) -> Result<(PreparedCall, Option<PendingLook>), CallError> {
        let times = CallTimes::start();
        let inner = self.builtins.inner(&request).transpose();
        let inner = inner.inspect_err(|error| self.note_refused(caller, &request, &times, error))?;
        let mut prepared = PreparedCall {
            caller: Arc::clone(caller),
            request: inner.unwrap_or(request),
            times,
            kind: None,
            was_looked_for: false,
        };
        let request = &prepared.request;
        if request.operation.is_reserved() {
            return Ok((prepared, None));
        }
        let error = match self.admission.find(caller, request) {
            Ok((_, operation)) => {
                prepared.kind = Some(operation.spec.kind);
                return Ok((prepared, None));
            }
            Err(error) => error,
        };
        let (key, (sender, looked)) = (self.table.key(), oneshot::channel());
        let waiting = Box::new(Missed {
            caller: Arc::clone(caller),
            request: request.clone(),
            times: prepared.times.anew(),
            sink: Sink::Look(sender),
        });
        match self.wait_for_look(key, waiting, &error) {
            Ok(()) => {
                prepared.was_looked_for = true;
                Ok((prepared, Some((key, looked))))
            }
            Err(call) => {
                self.refused(&call, &error);
                Err(error)
            }
        }
    }

    /// Finds out what a call is of that has waited for its look.
    pub(crate) fn looked(&self, mut prepared: PreparedCall) -> Result<PreparedCall, CallError> {
        let PreparedCall {
            caller, request, times, ..
        } = &prepared;
        let found = self.admission.find(caller, request);
        let (_, operation) = found.inspect_err(|error| self.note_refused(caller, request, times, error))?;
        prepared.kind = Some(operation.spec.kind);
        Ok(prepared)
    }

    /// Makes a call that was prepared.
    pub(crate) fn make(self: &Arc<Self>, prepared: PreparedCall, sink: Sink) -> Result<u64, CallError> {
        let PreparedCall {
            caller,
            request,
            times,
            was_looked_for,
            ..
        } = prepared;
        if request.operation.is_reserved() {
            return self.call(&caller, request, sink);
        }
        let call = Missed {
            caller,
            request,
            times,
            sink,
        };
        self.route(Box::new(call), !was_looked_for)
    }

    fn route(self: &Arc<Self>, call: Box<Missed>, may_wait: bool) -> Result<u64, CallError> {
        let key = self.table.key();
        let Err(refused) = self.send(key, call) else {
            return Ok(key);
        };
        let Refused { error, mut call } = refused;
        if may_wait {
            call = match self.wait_for_look(key, call, &error) {
                Ok(()) => return Ok(key),
                Err(call) => call,
            };
        }
        self.refused(&call, &error);
        Err(error)
    }

    /// Sends a call, or gives it back with the reason for its refusal.
    fn send(&self, key: u64, call: Box<Missed>) -> Result<(), Refused> {
        let AdmittedCall { pool, operation, place } = match self.admission.admit(&call.caller, &call.request) {
            Ok(admitted) => admitted,
            Err(error) => return Err(Refused { error, call }),
        };
        let limits = self.admission.limits(&call.request, call.is_endless(&operation));
        if call.is_late(limits.timeout) {
            let error = late();
            return Err(Refused { error, call });
        }
        let Missed {
            caller,
            request,
            times,
            sink,
        } = *call;
        let times = times.until(limits);
        let (request, mut input) = Input::of(request, place.held);
        if operation.spec.kind == OperationKind::Query {
            input = input.staying();
        }
        let id = CallId::mint(times.started_at, self.parent(&request).as_ref());
        let call = Arc::new(Call::new(CallParts {
            key,
            id,
            source: CallSource::Caller(Arc::clone(&caller)),
            operation,
            request,
            input,
            running: place.running,
            times,
            sink,
        }));
        self.table.begin(&call);
        match self.placement.send(&call, &pool, Excluded::Nobody) {
            Err(error) if self.table.withdraw(&call) => {
                let call = Box::new(Missed::of(&call, caller));
                Err(Refused { error, call })
            }
            // If the call was not sent, its deadline was faster, and has ended it for the caller.
            Ok(()) | Err(_) => Ok(()),
        }
    }

    /// Lets a call wait for a look at its name, if it is refused because nobody offers it; gives it back if there is
    /// nothing to wait for.
    fn wait_for_look(self: &Arc<Self>, key: u64, call: Box<Missed>, error: &CallError) -> Result<(), Box<Missed>> {
        if !self.is_miss(&call, error) {
            return Err(call);
        }
        let pool = self.directory.pool(&call.request.operation);
        let operation = pool.and_then(|pool| pool.operation.clone());
        let is_endless = operation.is_some_and(|operation| call.is_endless(&operation));
        let timeout = self.admission.limits(&call.request, is_endless).timeout;
        let longest = timeout.map_or(names::LONGEST, |timeout| timeout.min(names::LONGEST));
        // A call without any time left is answered by what the hub knows already.
        let looked_for = (!longest.is_zero()).then(|| self.names.begin(&call.request.operation));
        let Some(ended) = looked_for.flatten() else {
            return Err(call);
        };
        let until = call.times.started + longest;
        self.table.missed().add(key, call)?;
        let dispatch = Arc::clone(self);
        self.tasks.spawn(async move {
            let _ = tokio::time::timeout_at(until, ended.cancelled()).await;
            dispatch.send_missed(key, timeout);
        });
        Ok(())
    }

    /// Whether a call is refused because nobody was found, but a look might find somebody.
    fn is_miss(&self, call: &Missed, error: &CallError) -> bool {
        let is_loading = || {
            let pool = self.directory.pool(&call.request.operation);
            pool.is_some_and(|pool| pool.waits_for_spec)
        };
        matches!(error.code, Code::OperationNotFound | Code::NoProvider)
            || error.code == Code::Unavailable && is_loading()
    }

    /// Sends a call that has waited, and may take `timeout` in all, or refuses it by what the hub knows now.
    fn send_missed(&self, key: u64, timeout: Option<Duration>) {
        self.table.missed().on(key, |waiting| {
            let Some(mut call) = waiting.take() else { return };
            let refused = if call.is_late(timeout) {
                let error = late();
                Err(Refused { error, call })
            } else if call.sink.looked() {
                Ok(())
            } else {
                self.send(key, call)
            };
            if let Err(Refused { error, mut call }) = refused {
                self.refused(&call, &error);
                call.sink.end(&call.request.request_id, End::Failed(error));
            }
        });
    }

    /// Makes this the place where calls are admitted anew when they come back because their operation has changed.
    pub(crate) fn readmits(self: &Arc<Self>) {
        let dispatch: Weak<dyn Readmission> = Arc::downgrade(&(Arc::clone(self) as Arc<dyn Readmission>));
        // Nobody else sets it.
        drop(self.placement.readmission.set(dispatch));
    }

    /// The running call of a spoke of this hub in the course of which this one is made, according to its caller.
    fn parent(&self, request: &CallRequest) -> Option<CallId> {
        let key = self.legs.key(request.parent.as_ref()?)?;
        self.table.get(key).map(|call| call.id)
    }

    fn refused(&self, call: &Missed, error: &CallError) {
        self.note_refused(&call.caller, &call.request, &call.times, error);
    }

    fn note_refused(&self, caller: &Caller, request: &CallRequest, times: &CallTimes, error: &CallError) {
        let pool = self.directory.pool(&request.operation);
        let refusal = CallRefusal {
            code: &error.code,
            series: pool.as_deref().and_then(Pool::series),
            is_let_go: error.code == Code::NoProvider
                && self.directory.was_let_go(&request.operation, request.target.as_ref()),
        };
        self.journal.refused(caller, request, times, &refusal);
    }
}

// === impl Readmission ===

impl Readmission for Dispatch {
    fn readmit(self: Arc<Self>, call: Arc<Call>) {
        let CallSource::Caller(caller) = &call.source else {
            return;
        };
        let caller = Arc::clone(caller);
        // In a task, because whoever asks for this may be in the middle of routing this very call.
        let dispatch = Arc::clone(&self);
        self.tasks.spawn(async move {
            let is_endless = call.operation.is_subscription() && !call.sink.lock().wants_one();
            let timeout = dispatch.admission.limits(&call.request, is_endless).timeout;
            let take_back = || {
                let is_back = dispatch.table.withdraw(&call);
                is_back.then(|| Box::new(Missed::of(&call, caller)))
            };
            if dispatch.table.missed().add_again(call.key, take_back) {
                dispatch.send_missed(call.key, timeout);
            }
        });
    }
}

/// The error for a call whose time ran out before anybody had it.
fn late() -> CallError {
    let message = "the deadline has passed while the hub looked for somebody who offers the operation";
    CallError::new(Code::Timeout, message)
}
