//! Where the answers of a call go.

use alkhub_protocol::{CallError, RawJson};
use tokio::sync::mpsc;

use crate::Outbox;

/// Where a surface wants the answers to go.
#[derive(Debug)]
pub enum Reply {
    /// To a channel of at least two items. A call of a query or a mutation gets one [`CallAnswer::Item`] or one
    /// [`CallAnswer::Failed`]; a subscription any number of items, then [`CallAnswer::Completed`] or [`CallAnswer::Failed`].
    /// A subscription whose channel is full ends with `OVERLOADED`.
    Channel(mpsc::Sender<CallAnswer>),
    /// To a peer, as `call.responded`, `call.completed`, `call.error` and `call.aborted`. A session whose queue cannot take
    /// an answer is closed.
    Outbox(Outbox),
}

/// One answer of a call.
#[derive(Clone, Debug, PartialEq)]
pub enum CallAnswer {
    /// The output, or one item of a subscription: `{data, meta}`.
    Item(RawJson),
    /// A subscription has ended regularly.
    Completed,
    /// The call has failed; nothing follows.
    Failed(CallError),
}
