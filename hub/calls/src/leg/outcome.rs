//! The outcome of a call, and of one item, as its caller sees it.

use alkhub_budget::Exhausted;
use alkhub_protocol::{CallError, Code, Delivered, RawJson};

use crate::CallAnswer;

/// How much of a subscription may wait.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bounds {
    pub(crate) items: usize,
    pub(crate) bytes: usize,
}

/// How a call ends, from its caller's point of view.
#[derive(Clone, Debug)]
pub(crate) enum End {
    /// With the output of a query or a mutation.
    Output(RawJson),
    /// A subscription's regular end.
    Completed,
    Failed(CallError),
    /// The spoke gave up.
    Aborted,
    /// The caller stopped it for this reason, and gets a message once that is done.
    Stopped(&'static str),
    /// The caller has left and wants no answer.
    Silent,
}

/// What became of an item.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ItemPush {
    Item,
    /// The reader is too slow.
    Overflow(Overflow),
    /// The reader has left.
    Gone,
}

/// Where there was no room for an item.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Overflow {
    /// What waits of its subscription is at its bound.
    Subscription,
    /// What waits for the reader's connection is at its bound.
    Connection,
    /// A budget is used up.
    Budget(Exhausted),
    /// Too much waits on the way to the reader's hub.
    Hub,
}

/// The error of a query or a mutation whose spoke sent `call.completed` without an output.
pub(crate) fn no_output() -> CallError {
    CallError::new(Code::UnknownError, "the spoke completed the call without an output").delivered(Delivered::Yes)
}

/// The error of a call whose spoke sent `call.aborted`.
pub(crate) fn given_up() -> CallError {
    CallError::new(Code::Aborted, "the spoke ended the call").delivered(Delivered::Yes)
}

// === impl End ===

impl End {
    /// The same for a call that was sent again after a loss: the lost spoke may have got it, whatever happened to it
    /// later.
    pub(crate) fn after_loss(mut self) -> Self {
        if let Self::Failed(error) = &mut self
            && error.delivered == Delivered::No
        {
            error.delivered = Delivered::Maybe;
        }
        self
    }

    pub(crate) fn into_answer(self) -> Option<CallAnswer> {
        match self {
            Self::Output(output) => Some(CallAnswer::Item(output)),
            Self::Completed => Some(CallAnswer::Completed),
            Self::Failed(error) => Some(CallAnswer::Failed(error)),
            Self::Aborted => Some(CallAnswer::Failed(given_up())),
            Self::Stopped(_) | Self::Silent => None,
        }
    }
}

// === impl Overflow ===

impl Overflow {
    /// Why the subscription ends, for its reader and for the spoke; names the settings of the bound.
    pub(crate) fn reason(self) -> String {
        let bound = match self {
            Self::Subscription => "`calls.subscription-items`, `calls.subscription-bytes`".to_owned(),
            Self::Connection => "`server.outbox-messages`, `server.outbox-bytes`, `budget.key-bytes`".to_owned(),
            Self::Budget(exhausted) => exhausted.to_string(),
            Self::Hub => "too much waits for the hub of the reader".to_owned(),
        };
        format!("items are not read as fast as they come: {bound}")
    }
}
