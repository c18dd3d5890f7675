//! Counts and records what became of calls.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use alkhub_protocol::{CallRequest, CallStatus, Code, HubId, SpokeName};

use crate::call::{Call, CallTimes};
use crate::call_id::CallId;
use crate::caller::Caller;
use crate::metrics::{Metrics, Series};
use crate::outcome::End;
use crate::records::{Ended, Records};

/// Counts and records. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Journal {
    hub: HubId,
    metrics: Arc<Metrics>,
    records: Arc<Records>,
}

// === impl Journal ===

impl Journal {
    pub(crate) fn new(hub: HubId, metrics: Arc<Metrics>, records: Arc<Records>) -> Self {
        Self { hub, metrics, records }
    }

    /// A call that was sent to a spoke has ended.
    pub(crate) fn ended(&self, call: &Call, caller: &Caller, spoke: Option<&SpokeName>, end: &End) {
        let (status, code) = match end {
            End::Output(_) | End::Completed => (CallStatus::Completed, None),
            End::Failed(error) => (CallStatus::Failed, Some(&error.code)),
            End::Aborted | End::Stopped(_) | End::Silent => (CallStatus::Aborted, Some(&Code::Aborted)),
        };
        let duration = call.times.started.elapsed();
        self.metrics.ended(&call.operation.series, code, duration.as_secs_f64());
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

    /// A call was refused before it was sent; `series` is that of its operation, where that is known. It is counted, and
    /// recorded unless it was refused for rights or for a limit, which can be had at any rate and tells of no operation's
    /// work.
    pub(crate) fn refused(
        &self,
        caller: &Caller,
        request: &CallRequest,
        times: &CallTimes,
        code: &Code,
        series: Option<&Series>,
    ) {
        let duration = times.started.elapsed();
        let series = series.unwrap_or_else(|| self.metrics.other());
        self.metrics.ended(series, Some(code), duration.as_secs_f64());
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

    /// The hub itself has answered a call.
    pub(crate) fn answered_here(&self, caller: &Caller, request: &CallRequest, times: &CallTimes, output_bytes: usize) {
        let duration = times.started.elapsed();
        let series = self.metrics.series(&request.operation, None);
        self.metrics.ended(&series, None, duration.as_secs_f64());
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
