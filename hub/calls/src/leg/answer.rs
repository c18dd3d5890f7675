//! The way back of a call: its spoke's answer, checked and handed to its caller.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use alkhub_protocol::{CallError, Code, Delivered, Frame, PAYLOAD_LIMIT_BYTES, RawJson};

use crate::leg::call::Call;
use crate::leg::envelope;
use crate::leg::outcome::{self, Bounds, End, ItemPush};
use crate::leg::table::CallTable;

/// Takes answers.
#[derive(Debug)]
pub(crate) struct Answers {
    pub(crate) table: Arc<CallTable>,
    /// What may wait of a subscription.
    pub(crate) bounds: Bounds,
}

// === impl Answers ===

impl Answers {
    /// Takes an answer from whoever the call was sent to, in this attempt; without one, in an earlier attempt than the
    /// present one.
    pub(crate) fn take(&self, call: &Arc<Call>, frame: Frame, attempt: Option<u8>) {
        match frame {
            Frame::Responded { output, .. } => self.responded(call, output, attempt),
            Frame::Completed { .. } => {
                let regular = call.operation.is_subscription() || call.is_relayed();
                let end = if regular {
                    End::Completed
                } else {
                    End::Failed(outcome::no_output())
                };
                self.table.answered(call.key, end, attempt);
            }
            Frame::Failed { error, .. } => {
                let error = call.operation.declare(error);
                self.table.answered(call.key, End::Failed(error), attempt);
            }
            Frame::Aborted { .. } => self.table.answered(call.key, End::Aborted, attempt),
            _ => {}
        }
    }

    fn responded(&self, call: &Arc<Call>, output: RawJson, attempt: Option<u8>) {
        call.output_bytes.fetch_add(output.len() as u64, Ordering::Relaxed);
        if output.len() > PAYLOAD_LIMIT_BYTES {
            let message = format!("the output is larger than {PAYLOAD_LIMIT_BYTES} bytes");
            // The spoke is at fault, not the caller, whose own payload was accepted.
            let error = CallError::new(Code::OutputInvalid, message);
            return self.invalid(call, error, "an item is too large", attempt);
        }
        let output = match checked(call, output) {
            Ok(output) => output,
            Err(error) => return self.invalid(call, error, "an item breaks its schema", attempt),
        };
        if call.operation.is_subscription() {
            self.item(call, output);
        } else {
            self.table.answered(call.key, End::Output(output), attempt);
        }
    }

    /// Ends a call because of what its spoke answered; a subscription still runs there, so its spoke gets the reason.
    fn invalid(&self, call: &Call, error: CallError, reason: &str, attempt: Option<u8>) {
        let end = End::Failed(error.delivered(Delivered::Yes));
        if call.operation.is_subscription() {
            self.table.end(call.key, end, Some(reason));
        } else {
            self.table.answered(call.key, end, attempt);
        }
    }

    fn item(&self, call: &Arc<Call>, item: RawJson) {
        call.times.hear();
        let pushed = {
            let mut sink = call.sink.lock();
            if sink.wants_one() {
                drop(sink);
                let reason = Some("the caller wanted one item");
                return self.table.end(call.key, End::Output(item), reason);
            }
            sink.item(&call.request.request_id, item, self.bounds)
        };
        match pushed {
            ItemPush::Item => {}
            ItemPush::Overflow(overflow) => {
                let reason = overflow.reason();
                let error = CallError::new(Code::Overloaded, reason.clone())
                    .delivered(Delivered::Yes)
                    .retryable();
                self.table.end(call.key, End::Failed(error), Some(&reason));
            }
            ItemPush::Gone => {
                self.table.caller_lost(call.key, "the reader left");
            }
        }
    }
}

/// The output as the caller gets it; if the caller is on another hub, that hub checks it.
fn checked(call: &Call, output: RawJson) -> Result<RawJson, CallError> {
    if call.is_relayed() {
        return Ok(output);
    }
    let operation = &call.operation;
    match envelope::checked(&operation.name, &operation.output, output) {
        Ok(checked) if call.sink.lock().reads_void() => Ok(checked.into_sent()),
        Ok(checked) => Ok(checked.into_whole()),
        Err(violation) => {
            let message = format!("output of `{}` {violation}", operation.name);
            Err(CallError::new(Code::OutputInvalid, message).details(violation.details()))
        }
    }
}
