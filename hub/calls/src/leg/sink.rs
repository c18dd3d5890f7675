//! The inner side of a reply: takes items and one end, never waits, and never loses the end.

mod awaited;
mod items;

use std::sync::Arc;

use alkhub_protocol::frame::encode;
use alkhub_protocol::{CallError, CloseCode, Code, Dialect, RawJson, RequestId};
use alkhub_queue::Full;
use tokio::sync::{mpsc, oneshot};

use crate::leg::outcome::{Bounds, End, ItemPush, Overflow, given_up, no_output};
use crate::leg::reply::{CallAnswer, Reply};
use crate::relay::Return;
use crate::session::outbox::Backlog;
use crate::session::outbox::Outbox;

use awaited::AwaitedEnd;
pub(crate) use items::ItemQueue;

/// Where the answers of one call go.
#[derive(Debug)]
pub(crate) enum Sink {
    /// To a surface; one place of the channel is kept for the end.
    Channel {
        sender: mpsc::Sender<CallAnswer>,
        end: mpsc::OwnedPermit<CallAnswer>,
    },
    /// To a peer.
    Outbox {
        awaited: AwaitedEnd,
        /// Made by the first item.
        backlog: Option<Arc<Backlog>>,
    },
    /// To a waiting [`crate::Calls::call`]: the first item or the failure.
    Once(oneshot::Sender<Result<RawJson, CallError>>),
    /// To a [`crate::Items`].
    Queue(Arc<ItemQueue>),
    /// To whoever waits for the look at a call's name, and makes the call afterwards.
    Look(oneshot::Sender<Result<(), CallError>>),
    /// To the hub that sent the call.
    Hub(Return),
    /// To nobody: the caller is lost, and the call goes on without it.
    Detached {
        /// Whether its caller wanted the first item only.
        wants_one: bool,
    },
    /// The end has been sent.
    Ended,
}

// === impl Sink ===

impl Sink {
    /// The sink of a surface's reply.
    pub(crate) fn new(reply: Reply) -> Result<Self, CallError> {
        Ok(match reply {
            Reply::Channel(sender) => {
                let end = sender
                    .clone()
                    .try_reserve_owned()
                    .map_err(|_| CallError::new(Code::Overloaded, "the caller's channel has no place for an answer"))?;
                Self::Channel { sender, end }
            }
            Reply::Outbox(outbox) => Self::Outbox {
                awaited: AwaitedEnd::new(outbox),
                backlog: None,
            },
        })
    }

    /// Takes one item of a subscription.
    pub(crate) fn item(&mut self, id: &RequestId, item: RawJson, bounds: Bounds) -> ItemPush {
        match self {
            Self::Channel { sender, .. } => match sender.try_send(CallAnswer::Item(item)) {
                Ok(()) => ItemPush::Item,
                Err(mpsc::error::TrySendError::Full(_)) => ItemPush::Overflow(Overflow::Subscription),
                Err(mpsc::error::TrySendError::Closed(_)) => ItemPush::Gone,
            },
            Self::Outbox { awaited, backlog } => {
                let outbox = awaited.outbox();
                let message = encode::call_responded(outbox.dialect(), id.as_str(), &item);
                let backlog = &*backlog.get_or_insert_default();
                if !backlog.has_room(message.len(), bounds.items, bounds.bytes) {
                    return ItemPush::Overflow(Overflow::Subscription);
                }
                pushed(outbox.push_item(message, backlog))
            }
            Self::Queue(queue) => queue.push(item, bounds),
            Self::Hub(back) => back.item(&item),
            Self::Detached { .. } => ItemPush::Item,
            // A call that waits for its first item gets it by `end`.
            Self::Once(_) | Self::Look(_) | Self::Ended => ItemPush::Gone,
        }
    }

    /// Sends the end. Nothing follows.
    pub(crate) fn end(&mut self, id: &RequestId, end: End) {
        match std::mem::replace(self, Self::Ended) {
            Self::Channel { end: permit, .. } => {
                if let Some(answer) = end.into_answer() {
                    permit.send(answer);
                }
            }
            Self::Outbox { awaited, backlog } => end_on(awaited.outbox(), id, &end, backlog.is_some()),
            Self::Once(sender) => {
                let result = match end {
                    End::Output(output) => Ok(output),
                    End::Completed => Err(no_output()),
                    End::Failed(error) => Err(error),
                    End::Aborted => Err(given_up()),
                    End::Stopped(_) | End::Silent => return,
                };
                // The receiver may have left; then nobody wants the answer.
                drop(sender.send(result));
            }
            Self::Look(sender) => {
                if let End::Failed(error) = end {
                    drop(sender.send(Err(error)));
                }
            }
            Self::Queue(queue) => queue.end(end),
            Self::Hub(back) => back.end(&end),
            Self::Detached { .. } | Self::Ended => {}
        }
    }

    /// Tells whoever waits only for the look that it is over; false if the call itself is to be sent now.
    pub(crate) fn looked(&mut self) -> bool {
        if !matches!(self, Self::Look(_)) {
            return false;
        }
        if let Self::Look(sender) = std::mem::replace(self, Self::Ended) {
            // The receiver may have left.
            drop(sender.send(Ok(())));
        }
        true
    }

    /// Lets the call go on without its caller; returns where its answers went until now. A call whose end has been sent
    /// is left as it is.
    #[must_use]
    pub(crate) fn detach(&mut self) -> Option<Self> {
        let wants_one = self.wants_one();
        let has_ended = matches!(self, Self::Ended);
        (!has_ended).then(|| std::mem::replace(self, Self::Detached { wants_one }))
    }

    /// Whether the caller reads an envelope without `data`: the origin's processes do, since that is how they write
    /// `undefined`.
    pub(crate) fn reads_void(&self) -> bool {
        matches!(self, Self::Outbox { awaited, .. } if awaited.outbox().dialect() == Dialect::Payload)
    }

    /// Whether the caller wants the first item only.
    pub(crate) fn wants_one(&self) -> bool {
        matches!(self, Self::Once(_) | Self::Detached { wants_one: true })
    }
}

fn pushed(result: Result<(), Full>) -> ItemPush {
    match result {
        Ok(()) => ItemPush::Item,
        Err(Full::Queue) => ItemPush::Overflow(Overflow::Connection),
        Err(Full::Ended) => ItemPush::Gone,
    }
}

/// Queues the end of a call; `after_items` when it ends a stream.
fn end_on(outbox: &Outbox, id: &RequestId, end: &End, after_items: bool) {
    let (dialect, id) = (outbox.dialect(), id.as_str());
    let message = match end {
        End::Output(output) => encode::call_responded(dialect, id, output),
        End::Completed => encode::call_completed(dialect, id),
        End::Failed(error) => encode::call_error(dialect, id, error),
        End::Aborted => encode::call_aborted(dialect, id, Some("the spoke ended the call")),
        End::Stopped(reason) => encode::call_aborted(dialect, id, Some(*reason)),
        End::Silent => return,
    };
    // The origin's processes handle items and ends on different paths, so that an end which arrives in one read with
    // items overtakes them.
    let pushed = outbox.push_end(message, id, after_items && dialect == Dialect::Payload);
    if pushed == Err(Full::Queue) {
        outbox.close(CloseCode::Slow, "answers are not read as fast as they come");
    }
}
