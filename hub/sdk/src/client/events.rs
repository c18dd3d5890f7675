//! Events: what a subscriber reads, and the subscriptions of one connection.
//!
//! Invariants
//! - The hub is asked once for each topic, however many streams follow it.
//! - A stream is told of a reconnect before it gets anything that came after it.

use std::collections::{HashMap, VecDeque};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use alkhub_protocol::frame::Gap;
use alkhub_protocol::frame::encode::topic_control;
use alkhub_protocol::{Envelope, RawJson, Topic, TopicFilter};
use futures::Stream;
use serde::de::DeserializeOwned;
use tokio::sync::oneshot;

use super::Client;
use super::link::Link;
use crate::Error;
use crate::queue::{Limits, Popped, Receiver, Sender, queue};
use crate::socket::Outbox;

/// What one stream may leave unread; over it the oldest make room and a gap says so.
const LIMITS: Limits = Limits {
    items: 4_096,
    bytes: 8 * 1024 * 1024,
};

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
/// It ends after an error: the hub refused the topic, or the client was closed.
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

/// The subscriptions of one client, kept over reconnects.
#[derive(Debug, Default)]
pub(super) struct Followed {
    topics: HashMap<TopicFilter, Followers>,
    next: u64,
}

/// Who follows one topic.
#[derive(Debug, Default)]
struct Followers {
    streams: HashMap<u64, Follower>,
    /// `__subscribe`s sent on this connection.
    asked: u64,
    /// Of those, answered, or given up: what was given up before its confirmation is never confirmed.
    answered: u64,
    /// For each `__unsubscribe` that is not answered, how many had been asked before it.
    left: VecDeque<u64>,
}

#[derive(Debug)]
struct Follower {
    sender: Sender<Result<Delivery, Error>>,
    /// Resolved by the answer of this number.
    waits: Option<(u64, oneshot::Sender<Result<(), Error>>)>,
    /// A reconnect that the stream has not been told of.
    gap: bool,
}

/// A new stream's queue and its confirmation.
#[derive(Debug)]
pub(super) struct Joined {
    pub(super) follower: u64,
    pub(super) queue: Receiver<Result<Delivery, Error>>,
    pub(super) confirmed: oneshot::Receiver<Result<(), Error>>,
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

// === impl Followed ===

impl Followed {
    /// Adds a stream; asks the hub when it is the first of its topic. A confirmation that is on its way counts.
    /// Without a connection the next one asks.
    pub(super) fn join(&mut self, filter: &TopicFilter, outbox: Option<&Outbox>) -> Joined {
        let (sender, queue) = queue(LIMITS);
        let (confirm, confirmed) = oneshot::channel();
        let id = self.next;
        self.next += 1;
        let followers = self.topics.entry(filter.clone()).or_default();
        if followers.streams.is_empty() {
            followers.asked += 1;
            if let Some(outbox) = outbox {
                outbox.push(topic_control("__subscribe", filter));
            }
        }
        let mut follower = Follower {
            sender,
            waits: Some((followers.asked, confirm)),
            gap: false,
        };
        if followers.answered >= followers.asked {
            follower.confirm();
        }
        followers.streams.insert(id, follower);
        Joined {
            follower: id,
            queue,
            confirmed,
        }
    }

    /// Takes a stream away; tells the hub when it was the last of its topic.
    pub(super) fn leave(&mut self, filter: &TopicFilter, id: u64, outbox: Option<&Outbox>) {
        let Some(followers) = self.topics.get_mut(filter) else {
            return;
        };
        let was_there = followers.streams.remove(&id).is_some();
        if let Some(outbox) = outbox.filter(|_| was_there && followers.streams.is_empty()) {
            outbox.push(topic_control("__unsubscribe", filter));
            followers.left.push_back(followers.asked);
        }
        self.forget(filter);
    }

    /// Forgets a topic that nobody follows and of which no answer is on its way.
    fn forget(&mut self, filter: &TopicFilter) {
        let over = |f: &Followers| f.streams.is_empty() && f.answered >= f.asked && f.left.is_empty();
        if self.topics.get(filter).is_some_and(over) {
            self.topics.remove(filter);
        }
    }

    /// Asks a new connection for everything that is followed.
    pub(super) fn resume(&mut self, outbox: &Outbox) {
        self.topics.retain(|_, followers| !followers.streams.is_empty());
        for (filter, followers) in &mut self.topics {
            (followers.asked, followers.answered) = (1, 0);
            followers.left.clear();
            outbox.push(topic_control("__subscribe", filter));
            for follower in followers.streams.values_mut() {
                match &mut follower.waits {
                    Some((number, _)) => *number = 1,
                    None => follower.gap = true,
                }
            }
        }
    }

    /// The hub confirmed a topic.
    pub(super) fn confirmed(&mut self, topic: &str) {
        let Ok(filter) = topic.parse::<TopicFilter>() else {
            return;
        };
        let Some(followers) = self.topics.get_mut(&filter) else {
            return;
        };
        followers.answered += 1;
        let answered = followers.answered;
        for follower in followers.streams.values_mut() {
            follower.tell_gap(&filter);
            if follower.waits.as_ref().is_some_and(|(number, _)| *number <= answered) {
                follower.confirm();
            }
        }
        self.forget(&filter);
    }

    /// The hub confirmed that a topic was given up: of what was asked before that, nothing more is answered.
    pub(super) fn unsubscribed(&mut self, topic: &str) {
        let Ok(filter) = topic.parse::<TopicFilter>() else {
            return;
        };
        let Some(followers) = self.topics.get_mut(&filter) else {
            return;
        };
        if let Some(asked) = followers.left.pop_front() {
            followers.answered = followers.answered.max(asked);
        }
        self.forget(&filter);
    }

    /// The hub refused a topic: its streams end.
    pub(super) fn refused(&mut self, topic: &str, error: &Error) {
        let Ok(filter) = topic.parse::<TopicFilter>() else {
            return;
        };
        for follower in self
            .topics
            .remove(&filter)
            .into_iter()
            .flat_map(|f| f.streams.into_values())
        {
            follower.fail(error.clone());
        }
    }

    /// Everything ends.
    pub(super) fn fail(&mut self, error: &Error) {
        for follower in self.topics.drain().flat_map(|(_, f)| f.streams.into_values()) {
            follower.fail(error.clone());
        }
    }

    /// Hands an event to those who follow its topic or all ids of its type.
    pub(super) fn deliver(&mut self, envelope: Envelope) {
        let Ok(topic) = Topic::new(&envelope.kind, &envelope.id) else {
            return;
        };
        let bytes = envelope.payload.as_ref().map_or(0, RawJson::len) + topic.as_str().len();
        let event = Event {
            topic,
            payload: envelope.payload,
        };
        let all = TopicFilter::AllOf(event.topic.event_type().into());
        for filter in [TopicFilter::One(event.topic.clone()), all] {
            let Some(followers) = self.topics.get_mut(&filter) else {
                continue;
            };
            for follower in followers.streams.values_mut() {
                follower.tell_gap(&filter);
                follower.sender.push_over(Ok(Delivery::Event(event.clone())), bytes);
            }
        }
    }

    /// Hands on a loss that the hub reports.
    pub(super) fn lost(&mut self, gap: &Gap) {
        let Ok(filter) = gap.topic.parse::<TopicFilter>() else {
            return;
        };
        for follower in self
            .topics
            .get_mut(&filter)
            .into_iter()
            .flat_map(|f| f.streams.values_mut())
        {
            follower
                .sender
                .push_over(Ok(Delivery::Gap(gap.clone())), gap.topic.len());
        }
    }
}

// === impl Follower ===

impl Follower {
    fn confirm(&mut self) {
        if let Some((_, confirm)) = self.waits.take() {
            // The stream's maker may have given up; its stream leaves by itself.
            let _ = confirm.send(Ok(()));
        }
    }

    fn tell_gap(&mut self, filter: &TopicFilter) {
        if std::mem::take(&mut self.gap) {
            self.sender.push_over(Ok(gap(filter, "reconnected", None)), 0);
        }
    }

    fn fail(self, error: Error) {
        match self.waits {
            Some((_, confirm)) => drop(confirm.send(Err(error))),
            None => self.sender.end_with(Err(error)),
        }
    }
}

#[cfg(test)]
mod tests;
