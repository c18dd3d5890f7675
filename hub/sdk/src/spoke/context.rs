//! What a handler may know about the call it answers.

use std::time::Duration;

use alkhub_protocol::call::{Identity, Metadata};
use alkhub_protocol::{OperationName, RawJson, RequestId};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// One call, as its handler sees it.
#[derive(Clone, Debug)]
pub struct Context {
    pub(super) request_id: RequestId,
    pub(super) operation: OperationName,
    pub(super) deadline: Option<Instant>,
    pub(super) parent: Option<RequestId>,
    pub(super) traceparent: Option<String>,
    pub(super) metadata: Option<Metadata>,
    pub(super) identity: Option<Identity>,
    pub(super) aborted: CancellationToken,
}

// === impl Context ===

impl Context {
    /// The hub's id for the call; pass it to nested calls as [`crate::CallOptions::parent`].
    pub fn request_id(&self) -> &RequestId {
        &self.request_id
    }

    /// The operation that was called.
    pub fn operation(&self) -> &OperationName {
        &self.operation
    }

    /// When the call ends by itself; `None` for subscriptions, which have no such time.
    pub fn deadline(&self) -> Option<Instant> {
        self.deadline
    }

    /// Time left until [`Context::deadline`].
    pub fn time_left(&self) -> Option<Duration> {
        self.deadline
            .map(|deadline| deadline.saturating_duration_since(Instant::now()))
    }

    /// The call during which this one was made.
    pub fn parent(&self) -> Option<&RequestId> {
        self.parent.as_ref()
    }

    /// The caller's W3C trace context.
    pub fn traceparent(&self) -> Option<&str> {
        self.traceparent.as_deref()
    }

    /// Everything that the caller sent besides the input, as a JSON object; it includes the trace context.
    pub fn metadata(&self) -> Option<&RawJson> {
        self.metadata.as_ref().map(Metadata::raw)
    }

    /// Who calls, as the hub states it from the caller's key: the key's id, and those of its scopes that the operation
    /// requires. `None` from a hub that does not send it.
    pub fn identity(&self) -> Option<&Identity> {
        self.identity.as_ref()
    }

    /// Cancelled when the call is aborted, its deadline passes or the connection is lost. The handler's own future is
    /// dropped then; this is for whatever it spawned.
    pub fn aborted(&self) -> &CancellationToken {
        &self.aborted
    }
}
