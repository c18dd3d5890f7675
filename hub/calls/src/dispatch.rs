//! The way of a call out: admitted, entered, sent.

use std::sync::Arc;

use alkhub_protocol::{CallError, CallRequest, Code};

use crate::admission::{Admission, AdmittedCall};
use crate::builtin::{BuiltinReply, Builtins};
use crate::call::{Call, CallSource, CallTimes};
use crate::call_id::{CallId, LegIds};
use crate::caller::Caller;
use crate::directory::{Directory, Pool};
use crate::input::Input;
use crate::journal::Journal;
use crate::names::{Missed, UnknownNames};
use crate::outcome::End;
use crate::placement::Placement;
use crate::sink::Sink;
use crate::table::CallTable;

/// Routes the calls of this hub's callers.
#[derive(Debug)]
pub(crate) struct Dispatch {
    pub(crate) admission: Arc<Admission>,
    pub(crate) builtins: Builtins,
    pub(crate) directory: Arc<Directory>,
    pub(crate) names: Arc<UnknownNames>,
    pub(crate) placement: Arc<Placement>,
    pub(crate) table: Arc<CallTable>,
    pub(crate) legs: LegIds,
    pub(crate) journal: Journal,
}

// === impl Dispatch ===

impl Dispatch {
    /// Routes one call; the key of its entry, or one that no call has where there is nothing to end.
    pub(crate) fn call(&self, caller: &Arc<Caller>, request: CallRequest, sink: Sink) -> Result<u64, CallError> {
        if !request.operation.is_reserved() {
            return self.route(caller, request, sink);
        }
        let times = CallTimes::start();
        let outcome = self.builtins.call(caller, &request);
        match outcome.inspect_err(|error| self.refused(caller, &request, &times, error))? {
            BuiltinReply::Output(output) => {
                self.journal.answered_here(caller, &request, &times, output.len());
                let mut sink = sink;
                sink.end(&request.request_id, End::Output(output));
                Ok(self.table.key())
            }
            BuiltinReply::Call(inner) => self.route(caller, *inner, sink),
        }
    }

    fn route(&self, caller: &Arc<Caller>, request: CallRequest, sink: Sink) -> Result<u64, CallError> {
        let times = CallTimes::start();
        let admitted = self.admission.admit(caller, &request);
        let is_unknown = matches!(&admitted, Err(error) if error.code == Code::OperationNotFound);
        if is_unknown && self.names.may_have_forgotten(&request.operation) {
            self.names.refuse_after_look(Missed {
                caller: Arc::clone(caller),
                request,
                times,
                sink,
            });
            return Ok(self.table.key());
        }
        let AdmittedCall { pool, operation, place } =
            admitted.inspect_err(|error| self.refused(caller, &request, &times, error))?;
        let has_no_deadline = operation.is_subscription() && !sink.wants_one();
        let times = self.admission.limited(times, &request, has_no_deadline);
        let (request, input) = Input::of(request, place.held);
        let id = CallId::mint(times.started_at, self.parent(&request).as_ref());
        let call = Arc::new(Call::new(
            (self.table.key(), id),
            CallSource::Caller(Arc::clone(caller)),
            operation,
            (request, input),
            (times, place.running),
            sink,
        ));
        self.table.begin(&call);
        match self.placement.send(&call, &pool, None) {
            Err(error) if self.table.withdraw(&call) => {
                self.refused(caller, &call.request, &call.times, &error);
                Err(error)
            }
            // Where it was not sent, its deadline was faster and has ended it for the caller.
            Ok(()) | Err(_) => Ok(call.key),
        }
    }

    /// The running call of a spoke of this hub in whose course this one is made, as its caller says.
    fn parent(&self, request: &CallRequest) -> Option<CallId> {
        let key = self.legs.key(request.parent.as_ref()?)?;
        self.table.get(key).map(|call| call.id)
    }

    fn refused(&self, caller: &Caller, request: &CallRequest, times: &CallTimes, error: &CallError) {
        let pool = self.directory.pool(&request.operation);
        let series = pool.as_deref().and_then(Pool::series);
        self.journal.refused(caller, request, times, &error.code, series);
    }
}
