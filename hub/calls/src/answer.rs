//! The way of a call back: answered, checked, ended.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use alkhub_protocol::frame::encode;
use alkhub_protocol::{
    CallError, CallRequest, CallStatus, Code, Delivered, Dialect, Frame, PAYLOAD_LIMIT_BYTES, RawJson,
};

use crate::call::{Call, Clock, Origin, To};
use crate::core::Core;
use crate::envelope;
use crate::link::Link;
use crate::outbox::Full;
use crate::records::Ended;
use crate::sink::{Bounds, End, Took};
use crate::{Caller, sink};

/// Close code for a spoke that does not read.
const CLOSE_SLOW: u16 = 4429;

impl Core {
    /// Takes an answer from whoever the call was sent to.
    pub(crate) fn answered(&self, call: &Arc<Call>, frame: Frame) {
        match frame {
            Frame::Responded { output, .. } => self.responded(call, output),
            Frame::Completed { .. } => {
                let regular = call.operation.is_subscription() || call.is_relayed();
                let end = if regular {
                    End::Completed
                } else {
                    End::Failed(sink::no_output())
                };
                self.end(call.key, end, None);
            }
            Frame::Failed { error, .. } => {
                self.end(call.key, End::Failed(call.operation.declare(error)), None);
            }
            Frame::Aborted { .. } => self.end(call.key, End::Aborted, None),
            _ => {}
        }
    }

    fn responded(&self, call: &Arc<Call>, output: RawJson) {
        call.output_bytes.fetch_add(output.len() as u64, Ordering::Relaxed);
        let operation = &call.operation;
        if output.len() > PAYLOAD_LIMIT_BYTES {
            let message = format!("the output is larger than {PAYLOAD_LIMIT_BYTES} bytes");
            // The fault is the spoke's: the caller's own payload was taken.
            let error = CallError::new(Code::OutputInvalid, message).delivered(Delivered::Yes);
            let running = operation.is_subscription().then_some("an item is too large");
            return self.end(call.key, End::Failed(error), running);
        }
        let output = if call.is_relayed() {
            output // The caller's hub checks it.
        } else {
            match envelope::checked(&operation.name, &operation.output, output) {
                Ok(checked) if call.sink.lock().reads_void() => checked.into_sent(),
                Ok(checked) => checked.into_whole(),
                Err(violation) => {
                    let message = format!("output of `{}` {violation}", operation.name);
                    let error = CallError::new(Code::OutputInvalid, message)
                        .details(violation.details())
                        .delivered(Delivered::Yes);
                    let running = operation.is_subscription().then_some("an item breaks its schema");
                    return self.end(call.key, End::Failed(error), running);
                }
            }
        };
        if operation.is_subscription() {
            self.item(call, output);
        } else {
            self.end(call.key, End::Output(output), None);
        }
    }

    fn item(&self, call: &Arc<Call>, item: RawJson) {
        call.clock.hear();
        let bounds = Bounds {
            items: self.config.subscription_items,
            bytes: self.config.subscription_bytes,
        };
        let took = {
            let mut sink = call.sink.lock();
            if sink.wants_one() {
                drop(sink);
                return self.end(call.key, End::Output(item), Some("the caller wanted one item"));
            }
            sink.item(&call.request.request_id, item, bounds)
        };
        match took {
            Took::Item => {}
            Took::Overflow => {
                let error = CallError::new(Code::Overloaded, "items are not read as fast as they come")
                    .delivered(Delivered::Yes)
                    .retryable();
                self.end(
                    call.key,
                    End::Failed(error),
                    Some("items are not read as fast as they come"),
                );
            }
            Took::Gone => self.end(call.key, End::Silent, Some("the reader left")),
            Took::Unreachable => self.lost_on_the_way(call, Some("the link to the caller's hub broke")),
        }
    }

    /// Ends a call, unless it has ended; with `stop` its spoke is told.
    pub(crate) fn end(&self, key: u64, end: End, stop: Option<&str>) {
        self.end_once(key, end, stop);
    }

    /// The same; false when it had ended before.
    pub(crate) fn end_once(&self, key: u64, end: End, stop: Option<&str>) -> bool {
        let Some(call) = self.pending.remove(key) else {
            return false;
        };
        self.finish(&call, end, stop);
        true
    }

    /// Ends a call whose deadline, or longest silence, has passed.
    pub(crate) fn expire(&self, call: &Arc<Call>) {
        let reason = if call.clock.is_past_deadline() {
            "the deadline has passed"
        } else {
            "no item came for the subscription's idle timeout"
        };
        let delivered = if call.has_output() {
            Delivered::Yes
        } else {
            Delivered::Maybe
        };
        let mut error = CallError::new(Code::Timeout, reason).delivered(delivered);
        error.retryable = call.operation.spec.may_repeat();
        self.finish(call, End::Failed(error), Some(reason));
    }

    /// Ends a call that was taken out of the table.
    fn finish(&self, call: &Arc<Call>, end: End, stop: Option<&str>) {
        let to = std::mem::replace(&mut call.leg.lock().to, To::Ended);
        if let Some(reason) = stop {
            self.stop_leg(&to, call.key, reason);
        }
        // A caller that calls again as soon as it is answered finds the slot free.
        self.release(&to, call.key);
        self.metrics.in_flight.dec();
        call.running.fetch_sub(1, Ordering::AcqRel);
        match &call.origin {
            Origin::Caller(caller) => {
                self.record(call, caller, &to, &end);
            }
            Origin::Hub { hub, key, .. } => {
                self.inbound.remove(&(hub.clone(), *key));
            }
        }
        call.sink.lock().end(&call.request.request_id, end);
    }

    /// Tells the other end of a leg to stop.
    fn stop_leg(&self, to: &To, key: u64, reason: &str) {
        let Some(instance) = to.instance() else { return };
        let Some(link) = &instance.link else {
            if self.relay.abort(&instance.entry.hub, key, reason).is_err() {
                tracing::warn!(hub.id = %instance.entry.hub, call.key = key, "an abort to another hub was lost");
            }
            return;
        };
        let connection = &link.connection;
        let message = encode::call_aborted(connection.dialect, &self.leg_id(key), Some(reason));
        // The origin's processes take calls and aborts by different ways, and forget an abort that comes before its call.
        let pushed = match connection.dialect {
            Dialect::Payload => connection.outbox.push_last(message),
            Dialect::Id => connection.outbox.push(message),
        };
        if pushed == Err(Full::Queue) {
            connection
                .outbox
                .close(CLOSE_SLOW, "calls are not read as fast as they come");
        }
    }

    /// The error of a call whose spoke may have got it.
    pub(crate) fn spoke_lost(&self, call: &Call, spoke: &alkhub_protocol::SpokeName) -> CallError {
        let delivered = if call.has_output() {
            Delivered::Yes
        } else {
            Delivered::Maybe
        };
        let message = format!("spoke `{spoke}` left before it answered");
        let mut error = CallError::new(Code::SpokeLost, message).delivered(delivered);
        error.retryable = call.operation.spec.may_repeat();
        error
    }

    /// The call that a spoke means, when it was sent to this very connection.
    pub(crate) fn call_on(&self, link: &Arc<Link>, key: u64) -> Option<Arc<Call>> {
        let call = self.pending.get(key)?;
        let sent_there = matches!(&call.leg.lock().to, To::Spoke { instance, .. } if instance.is_on(link));
        sent_there.then_some(call)
    }

    fn record(&self, call: &Call, caller: &Caller, to: &To, end: &End) {
        let (status, code) = match end {
            End::Output(_) | End::Completed => (CallStatus::Completed, None),
            End::Failed(error) => (CallStatus::Failed, Some(&error.code)),
            End::Aborted | End::Stopped(_) | End::Silent => (CallStatus::Aborted, Some(&Code::Aborted)),
        };
        let duration = call.clock.started.elapsed();
        self.metrics.ended(&call.operation.series, code, duration.as_secs_f64());
        self.records.add(Ended {
            request: &call.request,
            caller,
            hub: &self.hub,
            spoke: to.instance().map(|instance| &instance.entry.spoke),
            status,
            code,
            started_at: call.clock.started_at,
            duration,
            input_bytes: call.input.bytes,
            output_bytes: call.output_bytes.load(Ordering::Relaxed),
        });
    }

    /// Counts a call that was refused before it was sent, and records it: unless it was refused for rights or for a
    /// limit, which can be had at any rate and tells of no operation's work.
    pub(crate) fn refused(&self, caller: &Caller, request: &CallRequest, clock: &Clock, error: &CallError) {
        let duration = clock.started.elapsed();
        let pool = self.directory.pool(&request.operation);
        let operation = pool.as_ref().and_then(|pool| pool.operation.as_ref());
        let series = operation.map_or_else(|| self.metrics.other(), |operation| &operation.series);
        self.metrics.ended(series, Some(&error.code), duration.as_secs_f64());
        if matches!(
            error.code,
            Code::AccessDenied | Code::OperationNotFound | Code::RateLimited | Code::Overloaded
        ) {
            return;
        }
        self.records.add(Ended {
            request,
            caller,
            hub: &self.hub,
            spoke: None,
            status: CallStatus::Failed,
            code: Some(&error.code),
            started_at: clock.started_at,
            duration,
            input_bytes: request.input_or_null().len(),
            output_bytes: 0,
        });
    }
}
