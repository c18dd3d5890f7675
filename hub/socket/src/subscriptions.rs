//! The topics that one connection is subscribed to, and the one queue of their events.
//!
//! Invariants
//! - All subscriptions of a connection share one queue; what overflows is replaced by a `__gap`.
//! - A confirmation counts for the request that it answers: that of a request given up meanwhile is dropped.
//! - No event is sent before the gap of a subscription that begins again, which may be the gap before that very event.

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
    /// The askings for what begins again that are not settled.
    again: HashSet<u64>,
    last: u64,
}

/// How it stands with a topic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Standing {
    /// Not asked for.
    Absent,
    /// Asked for, and not confirmed yet.
    Asked,
    /// Events come in.
    Confirmed,
}

/// How a subscription that was asked for came out.
pub(crate) struct Confirmation {
    pub(crate) filter: TopicFilter,
    /// The number of the asking.
    pub(crate) number: u64,
    pub(crate) result: Result<Subscription, SubscribeError>,
}

/// How a subscription begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Begun {
    /// Its peer has asked for it.
    Anew,
    /// It has come from another hub: events may be missing.
    Again,
}

struct Wanted {
    state: State,
    _held: Held,
}

enum State {
    /// Asked for, with the number of the asking.
    Asked(u64, Begun),
    Confirmed {
        _subscription: Subscription,
    },
}

// === impl TopicSubscriptions ===

impl TopicSubscriptions {
    /// How it stands with a topic.
    pub(crate) fn standing(&self, filter: &TopicFilter) -> Standing {
        match self.topics.get(filter).map(|wanted| &wanted.state) {
            None => Standing::Absent,
            Some(State::Asked(_, Begun::Anew)) => Standing::Asked,
            // Its peer was told so on the hub from which it has come.
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

    /// Notes that a topic is asked for: the number of the asking, and where its events go.
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

    /// Takes over how an asking came out; `None` for one that was given up meanwhile.
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

    /// The topics that are subscribed to, or asked for; their subscriptions end.
    pub(crate) fn into_topics(self) -> Vec<String> {
        self.topics.into_keys().map(|filter| filter.to_string()).collect()
    }

    /// Ends a subscription, if there is one.
    pub(crate) fn remove(&mut self, filter: &TopicFilter) {
        self.topics.remove(filter);
    }

    /// Ends the subscriptions that a key does not allow any more: each with the scope that it lacks.
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

    /// The next event, gap or overflow; `Pending` also when there is no subscription, and until what begins again is settled.
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
