//! One session of a spoke: its registration and the calls that run on it.
//!
//! Invariants
//! - Each call gets exactly one end: a value, a failure, or nothing once it was aborted.
//! - No handler outlives its session, since its answer could reach nobody; but it does outlive a connection of the
//!   session.

use std::collections::HashMap;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use alkhub_protocol::call::Identity;
use alkhub_protocol::frame::{Requested, encode};
use alkhub_protocol::register::RegisterOutput;
use alkhub_protocol::{CallError, CallRequest, Code, Delivered, Dialect, Frame, RawJson, RequestId};
use bytes::Bytes;
use futures::{FutureExt as _, StreamExt as _};
use parking_lot::Mutex;
use serde::Deserialize;
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use super::attachment::{Asked, Attachment};
use super::operation::{Outcome, Run};
use super::{Context, Failure, NoRoom, Shared};
use crate::Error;
use crate::outbox::{Gone, Outbox};

/// One session.
pub(super) struct Session {
    shared: Arc<Shared>,
    /// Which of the spoke's sessions it is.
    attachment: Arc<Attachment>,
    outbox: Outbox,
    /// The request that waits for the hub's answer, before the session is registered.
    asked: Mutex<Option<Asked>>,
    running: Arc<Mutex<HashMap<RequestId, Running>>>,
}

/// A call that runs.
struct Running {
    aborted: CancellationToken,
    /// Whether it is answered with a stream.
    is_stream: bool,
}

/// A call's place among the running ones; dropping it wakes the drain.
struct Seat {
    shared: Arc<Shared>,
    running: Arc<Mutex<HashMap<RequestId, Running>>>,
    request_id: RequestId,
}

// === impl Session ===

impl Session {
    pub(super) fn new(shared: Arc<Shared>, attachment: Arc<Attachment>, outbox: Outbox) -> Self {
        Self {
            shared,
            attachment,
            outbox,
            asked: Mutex::default(),
            running: Arc::default(),
        }
    }

    /// Asks the hub to register the session; its answer comes through the returned channel.
    pub(super) fn ask(
        &self,
        message: impl FnOnce(&RequestId) -> Bytes,
    ) -> oneshot::Receiver<Result<RegisterOutput, Error>> {
        let (sender, answer) = oneshot::channel();
        let id = crate::client::new_id();
        let message = message(&id);
        // Set before the hub can answer.
        *self.asked.lock() = Some((id, sender));
        self.outbox.push(message);
        answer
    }

    /// Takes one message, without waiting.
    pub(super) fn received(&self, message: &Bytes) {
        match Frame::decode(message) {
            Ok((Frame::Requested(call), _)) => self.requested(call),
            Ok((Frame::Aborted { request_id }, _)) => self.aborted(&request_id),
            Ok((Frame::Responded { request_id, output }, _)) => self.answered(&request_id, registration(&output)),
            Ok((Frame::Failed { request_id, error }, _)) => self.answered(&request_id, Err(error.into())),
            Ok((Frame::Refused(error), _)) => tracing::warn!(%error, "the hub refused a message"),
            Ok(_) => {}
            Err(error) => {
                tracing::debug!(%error, "the hub sent something that this spoke does not read");
                if let Some(named) = error.call.as_ref().filter(|named| named.asks) {
                    // Nobody waits for a call that cannot be read.
                    let refusal = error.to_call_error();
                    self.outbox
                        .refuse(encode::call_error(Dialect::Id, named.request_id.as_str(), &refusal));
                }
            }
        }
    }

    /// Waits while calls run whose answers can go over the other session, where there is one with a connection, and
    /// this one is not told to end. Streams are stopped, because no hub takes the rest of one from another session.
    pub(super) async fn answers_elsewhere(&self, which: usize) {
        let Some(other) = self.shared.other(which) else { return };
        let streams = |call: &&Running| call.is_stream;
        let stop = |call: &Running| call.aborted.cancel();
        self.running.lock().values().filter(streams).for_each(stop);
        let mut calls = self.shared.running.subscribe();
        let finished = async {
            loop {
                let is_idle = self.running.lock().values().all(|call| call.is_stream);
                if is_idle || calls.changed().await.is_err() {
                    return;
                }
            }
        };
        tokio::select! {
            () = finished => {}
            () = self.shared.wait_for(|| other.output().is_none()) => {}
            () = self.outbox.closed() => {}
        }
    }

    /// Notes the hub's answer to a request about the registration.
    fn answered(&self, request_id: &RequestId, result: Result<RegisterOutput, Error>) {
        let asked = self.asked.lock().take_if(|(id, _)| id == request_id);
        match asked {
            // Nobody waits if the connection is ending.
            Some((_, waiting)) => drop(waiting.send(result)),
            None => self.attachment.answered(request_id, result),
        }
    }

    fn aborted(&self, request_id: &RequestId) {
        if let Some(call) = self.running.lock().get(request_id) {
            call.aborted.cancel();
        }
    }

    fn requested(&self, mut call: Requested) {
        let identity = call.identity.take().map(|identity| *identity);
        let request = call.into_request(crate::client::now_ms());
        match self.admit(&request) {
            Ok((run, seat, aborted)) => {
                let (outbox, request_id) = (self.outbox.clone(), request.request_id.clone());
                self.shared.tasks.spawn(async move {
                    // If the connection is gone, the answer is of no use.
                    let _ = answer(run, request, identity, aborted, &outbox).await;
                    drop(seat);
                    tracing::trace!(call.id = %request_id, "call ended");
                });
            }
            Err(error) => self
                .outbox
                .refuse(encode::call_error(Dialect::Id, request.request_id.as_str(), &error)),
        }
    }

    /// Accepts a call, or says why not: in that case it was not delivered to a handler.
    fn admit(&self, request: &CallRequest) -> Result<(Run, Seat, CancellationToken), CallError> {
        let refuse = |code: Code, message: &str| CallError::new(code, message).delivered(Delivered::No);
        let Some(run) = self.shared.offers.run(&request.operation) else {
            return Err(refuse(
                Code::OperationNotFound,
                "this spoke does not offer the operation",
            ));
        };
        let mut running = self.running.lock();
        self.shared.begin().map_err(|no_room| match no_room {
            NoRoom::Full => refuse(Code::Overloaded, "the spoke runs as many calls as it takes at once").retryable(),
            NoRoom::Closed => refuse(Code::Unavailable, "the spoke is shutting down").retryable(),
        })?;
        let aborted = self.shared.stop.child_token();
        let call = Running {
            aborted: aborted.clone(),
            is_stream: run.is_stream(),
        };
        running.insert(request.request_id.clone(), call);
        let seat = Seat {
            shared: self.shared.clone(),
            running: self.running.clone(),
            request_id: request.request_id.clone(),
        };
        Ok((run, seat, aborted))
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        for call in self.running.lock().values() {
            call.aborted.cancel();
        }
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.running.lock().remove(&self.request_id);
        self.shared.running.send_modify(|calls| *calls -= 1);
    }
}

/// Runs the handler until it ends, is aborted or runs out of time.
async fn answer(
    run: Run,
    request: CallRequest,
    identity: Option<Identity>,
    aborted: CancellationToken,
    outbox: &Outbox,
) -> Result<(), Gone> {
    let CallRequest {
        request_id,
        operation,
        input,
        timeout,
        parent,
        traceparent,
        metadata,
        ..
    } = request;
    let deadline = timeout.map(|left| Instant::now() + left);
    let context = Context {
        request_id,
        operation,
        deadline,
        parent,
        traceparent,
        metadata,
        identity,
        aborted: aborted.clone(),
    };
    let request_id = context.request_id.clone();
    let input = input.unwrap_or_else(RawJson::null);
    let work = AssertUnwindSafe(work(run, input, context, outbox)).catch_unwind();
    let failure = tokio::select! {
        biased;
        () = aborted.cancelled() => return Ok(()),
        done = work => match done {
            Ok(Ok(())) => return Ok(()),
            Ok(Err(Stopped::Gone)) => return Err(Gone),
            Ok(Err(Stopped::Failed(failure))) => failure,
            Err(_) => Failure::new(Code::ExecutionError.as_str(), "the handler panicked"),
        },
        () = until(deadline) => Failure::new(Code::Timeout.as_str(), "the deadline passed while the handler ran"),
    };
    aborted.cancel();
    outbox
        .send(encode::call_error(
            Dialect::Id,
            request_id.as_str(),
            &failure.into_call_error(),
        ))
        .await
}

/// Why a handler's work stopped before its end.
enum Stopped {
    Failed(Failure),
    Gone,
}

async fn work(run: Run, input: RawJson, context: Context, outbox: &Outbox) -> Result<(), Stopped> {
    let request_id = context.request_id.clone();
    let id = request_id.as_str();
    match run.start(input, context).await.map_err(Stopped::Failed)? {
        Outcome::One(output) => {
            let frame = encode::call_responded(Dialect::Id, id, &output);
            outbox.send(frame).await.map_err(|Gone| Stopped::Gone)
        }
        Outcome::Many(mut items) => {
            while let Some(item) = items.next().await {
                let frame = encode::call_responded(Dialect::Id, id, &item.map_err(Stopped::Failed)?);
                outbox.send(frame).await.map_err(|Gone| Stopped::Gone)?;
            }
            outbox
                .send(encode::call_completed(Dialect::Id, id))
                .await
                .map_err(|Gone| Stopped::Gone)
        }
    }
}

async fn until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}

fn registration(output: &RawJson) -> Result<RegisterOutput, Error> {
    #[derive(Deserialize)]
    struct Envelope {
        data: RegisterOutput,
    }
    let envelope: Envelope = output
        .to()
        .map_err(|e| Error::decode("the answer to hub.register", e))?;
    Ok(envelope.data)
}
