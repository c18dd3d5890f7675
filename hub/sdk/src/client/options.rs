//! What a call may ask for.

use std::time::Duration;

use alkhub_protocol::{RawJson, RequestId, SpokeName};

/// What a call or a subscription may set besides its operation and input.
#[derive(Clone, Debug, Default)]
pub struct CallOptions {
    /// For calls: time until the call fails and is aborted at the spoke; if absent, the client's timeout.
    pub timeout: Option<Duration>,
    /// For subscriptions: the longest silence between two items; if absent, there is no limit.
    pub idle_timeout: Option<Duration>,
    /// Only this spoke may answer.
    pub target: Option<SpokeName>,
    /// The call during which this one is made, from [`crate::Context::request_id`].
    pub parent: Option<RequestId>,
    /// W3C trace context.
    pub traceparent: Option<String>,
    /// A JSON object of at most 16 KiB that reaches the handler as it is, see [`crate::Context::metadata`].
    pub metadata: Option<RawJson>,
    /// Sends no input, whatever is given: an operation of the origin may distinguish that from `null`.
    pub without_input: bool,
}
