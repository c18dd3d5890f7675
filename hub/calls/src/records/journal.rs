//! Counts and records the outcomes of calls.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use alkhub_protocol::{CallRequest, CallStatus, Code, HubId, SpokeName};

use crate::caller::Caller;
use crate::leg::call::{Call, CallTimes};
use crate::leg::call_id::CallId;
use crate::leg::outcome::End;
use crate::metrics::{Metrics, Series, is_by_hub};
use crate::records::{Ended, Records};

/// Counts and records. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Journal {
    hub: HubId,
    metrics: Arc<Metrics>,
    records: Arc<Records>,
}

/// Why a call was not sent.
#[derive(Clone, Copy, Debug)]
pub(crate) struct CallRefusal<'a> {
    pub(crate) code: &'a Code,
    /// The series of the call's operation, if that is known.
    pub(crate) series: Option<&'a Series>,
    /// Whether nobody was found only because a hub has just let go of a spoke that will come back by itself.
    pub(crate) is_let_go: bool,
}

// === impl CallRefusal ===

impl CallRefusal<'_> {
    /// Whether the hubs are to blame. They are not if a spoke without a session changes hubs: it is away for a moment,
    /// whatever they do.
    fn is_by_hub(&self) -> bool {
        is_by_hub(self.code) && !self.is_let_go
    }
}

// === impl Journal ===

impl Journal {
    pub(crate) fn new(hub: HubId, metrics: Arc<Metrics>, records: Arc<Records>) -> Self {
        Self { hub, metrics, records }
    }

    /// Notes that a call which was sent to a spoke has ended.
    pub(crate) fn ended(&self, call: &Call, caller: &Caller, spoke: Option<&SpokeName>, end: &End) {
        let (status, code) = match end {
            End::Output(_) | End::Completed => (CallStatus::Completed, None),
            End::Failed(error) => (CallStatus::Failed, Some(&error.code)),
            End::Aborted | End::Stopped(_) | End::Silent => (CallStatus::Aborted, Some(&Code::Aborted)),
        };
        let duration = call.times.started.elapsed();
        let is_by_hub = code.is_some_and(is_by_hub);
        self.metrics
            .ended(&call.operation.series, code, duration.as_secs_f64(), is_by_hub);
        self.records.add(Ended {
            id: call.id,
            request: &call.request,
            caller,
            hub: &self.hub,
            spoke,
            status,
            code,
            started_at: call.times.started_at,
            duration,
            input_bytes: call.input.bytes,
            output_bytes: call.output_bytes.load(Ordering::Relaxed),
        });
    }

    /// Notes that a call was refused before it was sent. It is counted, and recorded too unless it was refused for its
    /// rights or for a limit: such refusals can come at any rate, and say nothing about the work of an operation.
    pub(crate) fn refused(&self, caller: &Caller, request: &CallRequest, times: &CallTimes, refusal: &CallRefusal<'_>) {
        let code = refusal.code;
        let duration = times.started.elapsed();
        let series = refusal.series.unwrap_or_else(|| self.metrics.other());
        let is_by_hub = refusal.is_by_hub();
        self.metrics
            .ended(series, Some(code), duration.as_secs_f64(), is_by_hub);
        let tells_nothing = matches!(
            code,
            Code::AccessDenied | Code::OperationNotFound | Code::RateLimited | Code::Overloaded
        );
        if !tells_nothing {
            self.records.add(Ended {
                status: CallStatus::Failed,
                code: Some(code),
                ..self.here(caller, request, times, duration)
            });
        }
    }

    /// Notes that the hub itself has answered a call.
    pub(crate) fn answered_here(&self, caller: &Caller, request: &CallRequest, times: &CallTimes, output_bytes: usize) {
        let duration = times.started.elapsed();
        let series = self.metrics.series(&request.operation, None);
        self.metrics.ended(&series, None, duration.as_secs_f64(), false);
        self.records.add(Ended {
            output_bytes: output_bytes as u64,
            ..self.here(caller, request, times, duration)
        });
    }

    fn here<'a>(
        &'a self,
        caller: &'a Caller,
        request: &'a CallRequest,
        times: &CallTimes,
        duration: Duration,
    ) -> Ended<'a> {
        Ended {
            id: CallId::mint(times.started_at, None),
            request,
            caller,
            hub: &self.hub,
            spoke: None,
            status: CallStatus::Completed,
            code: None,
            started_at: times.started_at,
            duration,
            input_bytes: request.input_or_null().len(),
            output_bytes: 0,
        }
    }
}
