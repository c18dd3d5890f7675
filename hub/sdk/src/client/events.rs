//! Events: what a subscriber reads, and the subscriptions of one connection.
//!
//! Invariants
//! - The hub is asked once for each topic, however many streams follow it.
//! - A stream learns of a reconnect before it gets anything that came after it.
//! - A stream that was confirmed once does not end by a refusal that may be tried again.

mod followed;

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use alkhub_protocol::frame::Gap;
use alkhub_protocol::{RawJson, Topic, TopicFilter};
use futures::Stream;
use serde::de::DeserializeOwned;

use super::Client;
use super::link::Link;
use crate::Error;
use crate::queue::{Popped, Receiver};
pub(super) use followed::{Followed, Joined};

/// What a subscriber reads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Delivery {
    /// An event.
    Event(Event),
    /// Something is missing here.
    Gap(Gap),
}

/// One event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// Where it was published.
    pub topic: Topic,
    /// What was published; `None` when nothing was, which differs from `null`.
    pub payload: Option<RawJson>,
}

/// The events of one topic, or of all ids of one type.
///
/// It ends after an error: the hub refused the topic for good, or the client was closed. A refusal that may be tried again
/// (a hub that has no link to Redis) ends no stream that was there before: it is asked again, and the stream gets a gap.
#[derive(Debug)]
#[must_use = "a stream does nothing unless it is read"]
pub struct Events {
    filter: TopicFilter,
    queue: Receiver<Result<Delivery, Error>>,
    _seat: Seat,
    _client: Client,
}

/// A stream's place among the followers of its topic; dropping it unsubscribes.
#[derive(Debug)]
pub(super) struct Seat {
    pub(super) link: Arc<Link>,
    pub(super) filter: TopicFilter,
    pub(super) follower: u64,
}

// === impl Event ===

impl Event {
    /// The payload as a type; an absent one reads as `null`.
    ///
    /// # Errors
    /// [`Error::Decode`].
    pub fn payload<T: DeserializeOwned>(&self) -> Result<T, Error> {
        let null = RawJson::null();
        let payload = self.payload.as_ref().unwrap_or(&null);
        payload
            .to()
            .map_err(|e| Error::decode(format!("the payload of `{}`", self.topic), e))
    }
}

// === impl Events ===

impl Events {
    pub(super) fn new(queue: Receiver<Result<Delivery, Error>>, seat: Seat, client: Client) -> Self {
        Self {
            filter: seat.filter.clone(),
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

impl Drop for Seat {
    fn drop(&mut self) {
        self.link.unfollow(&self.filter, self.follower);
    }
}

fn gap(filter: &TopicFilter, reason: &str, missed: Option<u64>) -> Delivery {
    Delivery::Gap(Gap {
        topic: filter.to_string(),
        reason: reason.to_owned(),
        missed,
    })
}
