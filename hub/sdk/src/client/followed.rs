//! Who follows which topic, across subscribing, refusals, losses and reconnects.
//!
//! Invariants
//! - The hub is asked once for each topic, however many streams follow it.
//! - A stream learns of a reconnect before it gets anything that came after it.
//! - Once confirmed, a stream is not ended by a refusal that may be tried again.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use alkhub_protocol::frame::Gap;
use alkhub_protocol::frame::encode::topic_control;
use alkhub_protocol::frame::kind;
use alkhub_protocol::{Envelope, RawJson, Topic, TopicFilter};
use alkhub_queue::Limits;
use alkhub_retry::Backoff;
use tokio::sync::oneshot;

use super::event::{Delivery, Event, gap};
use crate::Error;
use crate::endpoint::BACKOFF;
use crate::outbox::Outbox;
use crate::queue::{Receiver, Sender, queue};

/// How much one stream may leave unread; beyond that the oldest events are dropped, and a gap takes their place.
const LIMITS: Limits = Limits {
    items: 4_096,
    bytes: 8 * 1024 * 1024,
};

/// The subscriptions of one client, kept over reconnects.
#[derive(Debug, Default)]
pub(super) struct Followed {
    topics: HashMap<TopicFilter, Followers>,
    next: u64,
}

/// Who follows one topic.
#[derive(Debug)]
struct Followers {
    streams: HashMap<u64, Follower>,
    /// `__subscribe`s sent on this connection.
    asked: u64,
    /// How many of those were answered or given up: a request given up before its confirmation is never confirmed.
    answered: u64,
    /// For each unanswered `__unsubscribe`, how many requests had been sent before it.
    left: VecDeque<u64>,
    /// The last request was refused and is to be repeated.
    refused: bool,
    /// Somebody is already waiting to ask again.
    pause: bool,
    backoff: Backoff,
}

#[derive(Debug)]
struct Follower {
    sender: Sender<Result<Delivery, Error>>,
    /// Resolved by the answer with this number.
    waits: Option<(u64, oneshot::Sender<Result<(), Error>>)>,
    /// There was a reconnect that the stream has not seen yet.
    gap: bool,
}

/// A new stream's queue and its confirmation.
#[derive(Debug)]
pub(super) struct Joined {
    pub(super) follower: u64,
    pub(super) queue: Receiver<Result<Delivery, Error>>,
    pub(super) confirmed: oneshot::Receiver<Result<(), Error>>,
}

// === impl Followed ===

impl Followed {
    /// Adds a stream, and asks the hub if it is the first of its topic. A confirmation that is still on its way counts.
    /// If there is no connection, the topic is asked for on the next one.
    pub(super) fn join(&mut self, filter: &TopicFilter, outbox: Option<&Outbox>) -> Joined {
        let (sender, queue) = queue(LIMITS);
        let (confirm, confirmed) = oneshot::channel();
        let id = self.next;
        self.next += 1;
        let followers = self.topics.entry(filter.clone()).or_default();
        if followers.streams.is_empty() || followers.refused {
            followers.ask(filter, outbox);
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

    /// Removes a stream, and unsubscribes at the hub if it was the last of its topic.
    pub(super) fn leave(&mut self, filter: &TopicFilter, id: u64, outbox: Option<&Outbox>) {
        let Some(followers) = self.topics.get_mut(filter) else {
            return;
        };
        let was_there = followers.streams.remove(&id).is_some();
        if let Some(outbox) = outbox.filter(|_| was_there && followers.streams.is_empty()) {
            outbox.push(topic_control(kind::UNSUBSCRIBE, filter));
            followers.left.push_back(followers.asked);
        }
        self.forget(filter);
    }

    /// Forgets a topic that nobody follows and for which no answer is on its way.
    fn forget(&mut self, filter: &TopicFilter) {
        let over = |f: &Followers| f.streams.is_empty() && f.answered >= f.asked && f.left.is_empty();
        if self.topics.get(filter).is_some_and(over) {
            self.topics.remove(filter);
        }
    }

    /// Asks for everything that is followed on a new connection.
    pub(super) fn resume(&mut self, outbox: &Outbox) {
        self.topics.retain(|_, followers| !followers.streams.is_empty());
        for (filter, followers) in &mut self.topics {
            (followers.asked, followers.answered) = (1, 0);
            followers.left.clear();
            followers.refused = false;
            outbox.push(topic_control(kind::SUBSCRIBE, filter));
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
        followers.backoff.reset();
        let answered = followers.answered;
        for follower in followers.streams.values_mut() {
            follower.tell_gap(&filter);
            if follower.waits.as_ref().is_some_and(|(number, _)| *number <= answered) {
                follower.confirm();
            }
        }
        self.forget(&filter);
    }

    /// The hub confirmed an unsubscription: nothing asked before it is answered any more.
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

    /// The hub refused a topic: its streams end. If another try may help, those that were confirmed before go on, and
    /// the return value says what to ask for again, and when.
    pub(super) fn refused(&mut self, topic: &str, error: &Error) -> Option<(TopicFilter, Duration)> {
        let filter = topic.parse::<TopicFilter>().ok()?;
        if error.retryable()
            && let Some(followers) = self.topics.get_mut(&filter)
        {
            followers.turn_down(error);
            if !followers.streams.is_empty() {
                return followers.pause(error).map(|wait| (filter, wait));
            }
        }
        for follower in self
            .topics
            .remove(&filter)
            .into_iter()
            .flat_map(|f| f.streams.into_values())
        {
            follower.fail(error.clone());
        }
        None
    }

    /// Asks again for a topic that was refused, unless that has been done meanwhile.
    pub(super) fn ask_again(&mut self, filter: &TopicFilter, outbox: Option<&Outbox>) {
        let Some(followers) = self.topics.get_mut(filter) else {
            return;
        };
        followers.pause = false;
        // If there is no connection, the next one asks.
        if followers.refused && outbox.is_some() {
            followers.ask(filter, outbox);
        }
    }

    /// Ends all streams with this error.
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

    /// Hands on a gap that the hub reports.
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

// === impl Followers ===

impl Default for Followers {
    fn default() -> Self {
        Self {
            streams: HashMap::new(),
            asked: 0,
            answered: 0,
            left: VecDeque::new(),
            refused: false,
            pause: false,
            backoff: BACKOFF,
        }
    }
}

impl Followers {
    fn ask(&mut self, filter: &TopicFilter, outbox: Option<&Outbox>) {
        self.asked += 1;
        self.refused = false;
        if let Some(outbox) = outbox {
            outbox.push(topic_control(kind::SUBSCRIBE, filter));
        }
    }

    /// The last request was refused: streams that waited for it end, the others miss events from here on.
    fn turn_down(&mut self, error: &Error) {
        // A refusal that nobody asked for answers nothing.
        self.answered = self.asked.min(self.answered + 1);
        self.refused = true;
        let answered = self.answered;
        let waited = |follower: &Follower| follower.waits.as_ref().is_some_and(|(number, _)| *number <= answered);
        for (_, follower) in self.streams.extract_if(|_, follower| waited(follower)) {
            follower.fail(error.clone());
        }
        for follower in self.streams.values_mut() {
            follower.gap |= follower.waits.is_none();
        }
    }

    /// How long to wait before asking again; `None` if somebody is waiting already.
    fn pause(&mut self, error: &Error) -> Option<Duration> {
        if std::mem::replace(&mut self.pause, true) {
            return None;
        }
        Some(self.backoff.pause().max(error.retry_after().unwrap_or_default()))
    }
}

// === impl Follower ===

impl Follower {
    fn confirm(&mut self) {
        if let Some((_, confirm)) = self.waits.take() {
            // The creator of the stream may have given up; then the stream leaves by itself.
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
