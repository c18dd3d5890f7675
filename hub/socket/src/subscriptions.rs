//! The topics that one connection is subscribed to, and the one queue of their events.
//!
//! Invariants
//! - All subscriptions of a connection share one queue; what overflows is replaced by a `__gap`.
//! - A confirmation counts for the request that it answers: that of a request given up meanwhile is dropped.
//! - When a subscription begins again, no event is sent before its gap, which may be the gap before that very event.

use std::collections::{HashMap, HashSet};
use std::task::{Context, Poll};

use alkhub_budget::Held;
use alkhub_calls::Caller;
use alkhub_events::{Deliveries, Item, Limits, Mailbox, SubscribeError, Subscription};
use alkhub_protocol::TopicFilter;

/// Topics that one connection may subscribe to.
const MOST: usize = 10_000;

/// The subscriptions of a connection.
#[derive(Default)]
pub(crate) struct TopicSubscriptions {
    queue: Option<(Mailbox, Deliveries)>,
    topics: HashMap<TopicFilter, Wanted>,
    /// Requests for subscriptions that begin again and are not settled yet.
    again: HashSet<u64>,
    last: u64,
}

/// The state of a topic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Standing {
    /// Not requested.
    Absent,
    /// Requested, and not confirmed yet.
    Asked,
    /// Events arrive.
    Confirmed,
}

/// The result of a request for a subscription.
pub(crate) struct Confirmation {
    pub(crate) filter: TopicFilter,
    /// The number of the request.
    pub(crate) number: u64,
    pub(crate) result: Result<Subscription, SubscribeError>,
}

/// How a subscription begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Begun {
    /// Its peer has asked for it.
    Anew,
    /// It came from another hub: events may be missing.
    Again,
}

struct Wanted {
    state: State,
    _held: Held,
}

enum State {
    /// Requested, with the number of the request.
    Asked(u64, Begun),
    Confirmed {
        _subscription: Subscription,
    },
}

// === impl TopicSubscriptions ===

impl TopicSubscriptions {
    /// The state of a topic.
    pub(crate) fn standing(&self, filter: &TopicFilter) -> Standing {
        match self.topics.get(filter).map(|wanted| &wanted.state) {
            None => Standing::Absent,
            Some(State::Asked(_, Begun::Anew)) => Standing::Asked,
            // Its peer was told so on the hub from which it came.
            Some(State::Asked(_, Begun::Again) | State::Confirmed { .. }) => Standing::Confirmed,
        }
    }

    /// Whether there is room for a topic.
    pub(crate) fn has_room_for(&self, filter: &TopicFilter) -> bool {
        self.topics.len() < MOST || self.topics.contains_key(filter)
    }

    /// The most topics of one connection.
    pub(crate) const fn most() -> usize {
        MOST
    }

    /// Notes that a topic is requested; returns the number of the request, and where its events go.
    pub(crate) fn ask(&mut self, filter: TopicFilter, begun: Begun, held: Held, limits: Limits) -> (u64, Mailbox) {
        self.last += 1;
        if begun == Begun::Again {
            self.again.insert(self.last);
        }
        let state = State::Asked(self.last, begun);
        let wanted = Wanted { state, _held: held };
        self.topics.insert(filter, wanted);
        let queue = || alkhub_events::mailbox(limits);
        let (mailbox, _) = self.queue.get_or_insert_with(queue);
        (self.last, mailbox.clone())
    }

    /// Takes over the result of a request; `None` for one that was given up meanwhile.
    pub(crate) fn settle(
        &mut self,
        confirmation: Confirmation,
    ) -> Option<(TopicFilter, Result<Begun, SubscribeError>)> {
        let Confirmation { filter, number, result } = confirmation;
        self.again.remove(&number);
        let wanted = self.topics.get_mut(&filter)?;
        let begun = match wanted.state {
            State::Asked(asked, begun) if asked == number => begun,
            State::Asked(..) | State::Confirmed { .. } => return None,
        };
        let result = match result {
            Ok(subscription) => {
                wanted.state = State::Confirmed {
                    _subscription: subscription,
                };
                Ok(begun)
            }
            Err(error) => {
                self.topics.remove(&filter);
                Err(error)
            }
        };
        Some((filter, result))
    }

    /// The topics that are subscribed to, or requested; their subscriptions end.
    pub(crate) fn into_topics(self) -> Vec<String> {
        self.topics.into_keys().map(|filter| filter.to_string()).collect()
    }

    /// Ends a subscription, if there is one.
    pub(crate) fn remove(&mut self, filter: &TopicFilter) {
        self.topics.remove(filter);
    }

    /// Ends the subscriptions that a key no longer allows; returns each with the scope that it lacks.
    pub(crate) fn remove_forbidden(&mut self, caller: &Caller) -> Vec<(TopicFilter, String)> {
        let topics = self.topics.keys();
        let forbidden =
            topics.filter_map(|filter| Some((filter.clone(), caller.scopes.require_subscribe(filter).err()?)));
        let forbidden: Vec<_> = forbidden.collect();
        for (filter, _) in &forbidden {
            self.topics.remove(filter);
        }
        forbidden
    }

    /// The next event, gap or overflow; also `Pending` if there is no subscription, and until those that begin again
    /// are settled.
    pub(crate) fn poll_event(&mut self, cx: &mut Context<'_>) -> Poll<Item> {
        if !self.again.is_empty() {
            return Poll::Pending;
        }
        match &mut self.queue {
            Some((_, deliveries)) => match deliveries.poll_next(cx) {
                Poll::Ready(Some(item)) => Poll::Ready(item),
                Poll::Ready(None) | Poll::Pending => Poll::Pending,
            },
            None => Poll::Pending,
        }
    }
}
