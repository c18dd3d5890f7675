//! What a call may ask for.

use std::time::Duration;

use alkhub_protocol::{RawJson, RequestId, SpokeName};

/// What a call or a subscription may ask for besides its operation and input.
#[derive(Clone, Debug, Default)]
pub struct CallOptions {
    /// Calls: time until it fails and is aborted at the spoke; the client's own when absent.
    pub timeout: Option<Duration>,
    /// Subscriptions: longest silence between two items; absent: no limit.
    pub idle_timeout: Option<Duration>,
    /// Only this spoke may answer.
    pub target: Option<SpokeName>,
    /// The call in whose course this one is made, from [`crate::Context::request_id`].
    pub parent: Option<RequestId>,
    /// W3C trace context.
    pub traceparent: Option<String>,
    /// A JSON object of at most 16 KiB that reaches the handler as it is, see [`crate::Context::metadata`].
    pub metadata: Option<RawJson>,
    /// Sends no input, whatever is given: an operation of the origin's may distinguish that from `null`.
    pub without_input: bool,
}
