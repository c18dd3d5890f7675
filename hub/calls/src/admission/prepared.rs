//! A call that is admitted and not yet made, for a surface that must know the operation before it can answer.

use std::sync::Arc;

use alkhub_protocol::{CallRequest, OperationKind};

use crate::caller::Caller;
use crate::leg::call::CallTimes;

/// A call that its caller may make, and whose operation the hub knows; it is not made yet. Dropping it does nothing.
#[derive(Debug)]
pub struct PreparedCall {
    pub(crate) caller: Arc<Caller>,
    /// The call to make; for a `hub.call`, the one that it stands for.
    pub(crate) request: CallRequest,
    /// They count from its admission.
    pub(crate) times: CallTimes,
    pub(crate) kind: Option<OperationKind>,
    /// Whether it has already waited for its one look.
    pub(crate) was_looked_for: bool,
}

// === impl PreparedCall ===

impl PreparedCall {
    /// Whether it calls a query, a mutation or a subscription; `None` for the hub's own operations.
    pub fn kind(&self) -> Option<OperationKind> {
        self.kind
    }
}
