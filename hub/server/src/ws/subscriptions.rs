//! The subscriber's and the publisher's side of a connection: `__subscribe`, `__unsubscribe`, events.
//!
//! Invariants
//! - `__subscribed` is sent when the transport has confirmed: an event published after it is seen.
//! - All subscriptions of a connection share one queue; what overflows is told by a `__gap` in its place.
//! - `call.*`, `hub.*` and `__*` never enter the bus; [`Topic`] and [`TopicFilter`] cannot hold them.

use std::collections::HashMap;
use std::future::Future as _;
use std::task::{Context, Poll, Waker};

use alkhub_budget::{Held, Kept};
use alkhub_calls::Caller;
use alkhub_edge::error::missing_scope;
use alkhub_edge::topics::{cost, not_published, not_subscribed, queue_limits};
use alkhub_events::{Bus, Deliveries, Item, Lag, Mailbox, SubscribeError, Subscription};
use alkhub_protocol::frame::encode;
use alkhub_protocol::{CallError, Code, Envelope, Topic, TopicFilter};

use super::conversation::Conversation;
use super::pending::{Done, Refusal};

/// Topics that one connection may subscribe to.
const MOST: usize = 10_000;

/// What a connection is subscribed to.
#[derive(Default)]
pub(crate) struct Subscriptions {
    queue: Option<(Mailbox, Deliveries)>,
    topics: HashMap<TopicFilter, Wanted>,
    last: u64,
}

struct Wanted {
    state: State,
    _held: Held,
}

enum State {
    /// Asked for, with the number of the asking.
    Asked(u64),
    Confirmed {
        _subscription: Subscription,
    },
}

/// How a subscription that was asked for came out.
pub(crate) struct Confirmation {
    filter: TopicFilter,
    number: u64,
    result: Result<Subscription, SubscribeError>,
}

// === impl Subscriptions ===

impl Subscriptions {
    pub(super) fn poll_event(&mut self, cx: &mut Context<'_>) -> Poll<Item> {
        match &mut self.queue {
            Some((_, deliveries)) => match deliveries.poll_next(cx) {
                Poll::Ready(Some(item)) => Poll::Ready(item),
                Poll::Ready(None) | Poll::Pending => Poll::Pending,
            },
            None => Poll::Pending,
        }
    }
}

// === impl Conversation ===

impl Conversation {
    /// `__subscribe`; a second one for the same topic is confirmed and changes nothing.
    pub(super) fn subscribe(&mut self, filter: TopicFilter) {
        if let Err(refusal) = self.may_subscribe(&filter) {
            return self.refuse(&refusal, Some(&filter.to_string()));
        }
        match self.subscriptions.topics.get(&filter) {
            Some(Wanted {
                state: State::Confirmed { .. },
                ..
            }) => return self.say(encode::topic_control("__subscribed", &filter)),
            Some(_) => return,
            None => {}
        }
        let held = match self.budget.take(Kept::Subscriptions, cost(&filter)) {
            Ok(held) => held,
            Err(exhausted) => return self.refuse(&exhausted.into(), Some(&filter.to_string())),
        };
        let limits = queue_limits(&self.app.config.events);
        let subscriptions = &mut self.subscriptions;
        subscriptions.last += 1;
        let number = subscriptions.last;
        let wanted = Wanted {
            state: State::Asked(number),
            _held: held,
        };
        subscriptions.topics.insert(filter.clone(), wanted);
        let (mailbox, _) = subscriptions
            .queue
            .get_or_insert_with(|| alkhub_events::mailbox(limits, Lag::DropOldest));
        let (mailbox, bus) = (mailbox.clone(), self.app.bus.clone());
        self.pending.add(async move {
            let result = bus.subscribe(filter.clone(), &mailbox).await;
            Done::Subscribed(Confirmation { filter, number, result })
        });
    }

    fn may_subscribe(&self, filter: &TopicFilter) -> Result<(), CallError> {
        self.key
            .caller()
            .scopes
            .require_subscribe(filter)
            .map_err(|scope| missing_scope(&scope))?;
        let topics = &self.subscriptions.topics;
        if topics.len() >= MOST && !topics.contains_key(filter) {
            let message = format!("a connection can subscribe to {MOST} topics at most");
            return Err(CallError::new(Code::Overloaded, message));
        }
        Ok(())
    }

    /// A subscription came back; one that was given up meanwhile is dropped.
    pub(super) fn subscribed(&mut self, confirmation: Confirmation) {
        let Confirmation { filter, number, result } = confirmation;
        let wanted = match self.subscriptions.topics.get_mut(&filter) {
            Some(wanted) if matches!(wanted.state, State::Asked(asked) if asked == number) => wanted,
            Some(_) | None => return,
        };
        match result {
            Ok(subscription) => {
                wanted.state = State::Confirmed {
                    _subscription: subscription,
                };
                self.say(encode::topic_control("__subscribed", &filter));
            }
            Err(error) => {
                tracing::debug!(%error, "a subscription was not confirmed");
                self.subscriptions.topics.remove(&filter);
                self.refuse(&not_subscribed(&error), Some(&filter.to_string()));
            }
        }
    }

    /// Ends the subscriptions that the key does not allow any more, and says so of each.
    pub(super) fn end_forbidden(&mut self, caller: &Caller) {
        let scopes = &caller.scopes;
        let topics = self.subscriptions.topics.keys();
        let forbidden = topics.filter_map(|filter| Some((filter.clone(), scopes.require_subscribe(filter).err()?)));
        for (filter, scope) in forbidden.collect::<Vec<_>>() {
            self.subscriptions.topics.remove(&filter);
            self.refuse(&missing_scope(&scope), Some(&filter.to_string()));
        }
    }

    /// `__unsubscribe`; confirmed whether or not there was a subscription.
    pub(super) fn unsubscribe(&mut self, filter: &TopicFilter) {
        self.subscriptions.topics.remove(filter);
        self.say(encode::topic_control("__unsubscribed", filter));
    }

    /// An event from the peer. It is on its way before the next message is read, so that a connection's events keep
    /// their order; only a failure is answered.
    pub(super) fn publish(&mut self, event: Envelope, bytes: usize) {
        let topic = match self.may_publish(&event) {
            Ok(topic) => topic,
            Err(refusal) => {
                return self.refuse(&refusal, Some(&format!("{}:{}", event.kind, event.id)));
            }
        };
        let held = match self.budget.take(Kept::Publications, bytes) {
            Ok(held) => held,
            Err(exhausted) => return self.refuse(&exhausted.into(), Some(&topic.to_string())),
        };
        let bus: Bus = self.app.bus.clone();
        let publication = async move {
            let _held = held;
            let result = bus.publish(&topic, event.payload).await;
            Done::Published(result.map(|_| ()).map_err(|failed| {
                Box::new(Refusal {
                    error: not_published(&failed),
                    topic: topic.to_string(),
                })
            }))
        };
        let mut publication = Box::pin(publication);
        match publication.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(done) => self.done(done),
            Poll::Pending => self.pending.add_boxed(publication),
        }
    }

    fn may_publish(&self, event: &Envelope) -> Result<Topic, CallError> {
        let topic = Topic::new(&event.kind, &event.id).map_err(|e| CallError::new(Code::BadRequest, e.to_string()))?;
        self.key
            .caller()
            .scopes
            .require_publish(&topic)
            .map_err(|scope| missing_scope(&scope))?;
        Ok(topic)
    }
}
