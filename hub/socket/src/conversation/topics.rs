//! The subscriber's and the publisher's side of a socket: `__subscribe`, `__unsubscribe`, events.
//!
//! Invariants
//! - `__subscribed` is sent once the transport has confirmed: an event published after it is seen.
//! - `call.*`, `hub.*` and `__*` never enter the bus; [`Topic`] and [`TopicFilter`] cannot hold them.

use std::future::Future as _;
use std::task::{Context, Poll, Waker};

use alkhub_budget::Kept;
use alkhub_calls::Caller;
use alkhub_edge::topics::{cost, not_published, not_subscribed};
use alkhub_events::Bus;
use alkhub_protocol::frame::{Gap, encode, kind};
use alkhub_protocol::{CallError, Code, Envelope, Topic, TopicFilter};

use super::Conversation;
use crate::pending::{Done, Refusal};
use crate::subscriptions::{Begun, Confirmation, Standing, TopicSubscriptions};

/// The reason for the gap in a subscription that has come from another hub.
const MOVED: &str = "reconnected";

impl Conversation {
    /// Acts on `__subscribe`; a second one for the same topic is confirmed and changes nothing.
    pub(super) fn subscribe(&mut self, filter: TopicFilter) {
        if let Err(refusal) = self.may_subscribe(&filter) {
            return self.refuse(&refusal, Some(&filter.to_string()));
        }
        match self.subscriptions.standing(&filter) {
            Standing::Confirmed => self.say(encode::topic_control(kind::SUBSCRIBED, &filter)),
            Standing::Asked => {}
            Standing::Absent => self.ask_for(filter, Begun::Anew),
        }
    }

    /// Asks for a topic. If the subscription begins again, the peer knows of it from another hub; it is told that
    /// events may be missing.
    fn ask_for(&mut self, filter: TopicFilter, begun: Begun) {
        let held = match self.budget.take(Kept::Subscriptions, cost(&filter)) {
            Ok(held) => held,
            Err(exhausted) => return self.refuse(&exhausted.into(), Some(&filter.to_string())),
        };
        let limits = self.sockets.event_limits();
        let (number, mailbox) = self.subscriptions.ask(filter.clone(), begun, held, limits);
        let bus = self.sockets.bus().clone();
        self.pending.add(async move {
            let result = bus.subscribe(filter.clone(), &mailbox).await;
            Done::Subscribed(Confirmation { filter, number, result })
        });
    }

    /// Subscribes again to a topic that has come from another hub; the key may no longer allow it.
    pub(super) fn subscribe_again(&mut self, filter: TopicFilter) {
        match may_read(&self.allowed, &filter) {
            Ok(()) => self.ask_for(filter, Begun::Again),
            Err(refusal) => self.refuse(&refusal, Some(&filter.to_string())),
        }
    }

    fn may_subscribe(&self, filter: &TopicFilter) -> Result<(), CallError> {
        may_read(&self.key.caller(), filter)?;
        if !self.subscriptions.has_room_for(filter) {
            let most = TopicSubscriptions::most();
            let message = format!("a connection can subscribe to {most} topics at most");
            return Err(CallError::new(Code::Overloaded, message));
        }
        Ok(())
    }

    /// A subscription was confirmed or refused.
    pub(super) fn subscribed(&mut self, confirmation: Confirmation) {
        match self.subscriptions.settle(confirmation) {
            Some((filter, Ok(Begun::Anew))) => self.say(encode::topic_control(kind::SUBSCRIBED, &filter)),
            Some((filter, Ok(Begun::Again))) => self.say(encode::gap(&Gap {
                topic: filter.to_string(),
                reason: MOVED.to_owned(),
                missed: None,
            })),
            Some((filter, Err(error))) => {
                tracing::debug!(%error, "a subscription was not confirmed");
                self.refuse(&not_subscribed(&error), Some(&filter.to_string()));
            }
            None => {}
        }
    }

    /// Ends the subscriptions that the key no longer allows, and tells the peer about each.
    pub(super) fn end_forbidden(&mut self, caller: &Caller) {
        for (filter, scope) in self.subscriptions.remove_forbidden(caller) {
            self.refuse(&CallError::missing_scope(&scope), Some(&filter.to_string()));
        }
    }

    /// Acts on `__unsubscribe`; confirmed whether or not there was a subscription.
    pub(super) fn unsubscribe(&mut self, filter: &TopicFilter) {
        self.subscriptions.remove(filter);
        self.say(encode::topic_control(kind::UNSUBSCRIBED, filter));
    }

    /// An event from the peer. It is handed on before the next message is read, so that a connection's events stay in
    /// order; only a failure is answered.
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
        let bus: Bus = self.sockets.bus().clone();
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
            .map_err(|scope| CallError::missing_scope(&scope))?;
        Ok(topic)
    }
}

/// Whether a caller may read events of a topic.
fn may_read(caller: &Caller, filter: &TopicFilter) -> Result<(), CallError> {
    let allowed = caller.scopes.require_subscribe(filter);
    allowed.map_err(|scope| CallError::missing_scope(&scope))
}
