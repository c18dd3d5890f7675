//! The stream of a topic's events.

use std::pin::Pin;
use std::task::{Context, Poll};

use alkhub_protocol::TopicFilter;
use futures::Stream;

use super::Client;
use super::event::{Delivery, gap};
use super::link::Seat;
use crate::Error;
use crate::queue::{Popped, Receiver};

/// The events of one topic, or of all ids of one type.
///
/// It ends after an error: the hub refused the topic for good, or the client was closed. A refusal that may be tried
/// again (a hub that has no link to Redis) does not end a stream that was confirmed before: the topic is asked for
/// again, and the stream gets a gap.
#[derive(Debug)]
#[must_use = "a stream does nothing unless it is read"]
pub struct Events {
    filter: TopicFilter,
    queue: Receiver<Result<Delivery, Error>>,
    _seat: Seat,
    _client: Client,
}

// === impl Events ===

impl Events {
    pub(super) fn new(queue: Receiver<Result<Delivery, Error>>, seat: Seat, client: Client) -> Self {
        Self {
            filter: seat.filter().clone(),
            queue,
            _seat: seat,
            _client: client,
        }
    }
}

impl Stream for Events {
    type Item = Result<Delivery, Error>;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = self.get_mut();
        Poll::Ready(match std::task::ready!(this.queue.poll_next(context)) {
            Popped::Item(item) => Some(item),
            Popped::Lost(missed) => Some(Ok(gap(&this.filter, "overflow", Some(missed)))),
            Popped::End => None,
        })
    }
}
