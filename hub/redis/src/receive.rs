//! The receivers of what comes from Redis, which the crates above give to the link.
//!
//! Invariants
//! - The link calls these from its own tasks, in the order of what it received. None of them may wait: slow work must
//!   not hold up what comes behind it.

use std::fmt;

use alkhub_protocol::{Delivered, HubId, TopicFilter};
use bytes::Bytes;

/// The topics that this hub has subscribers for. The link keeps Redis subscribed to exactly these entries.
pub trait TopicTable: fmt::Debug + Send + Sync {
    /// A new incarnation begins: nothing is confirmed any more. Returns every filter that has an entry.
    fn begin(&self) -> Vec<TopicFilter>;

    /// The incarnation that confirmed an entry, or 0 if none did; `None`: there is no such entry.
    fn incarnation(&self, filter: &TopicFilter) -> Option<u64>;

    /// Redis confirmed an entry in an incarnation.
    fn mark(&self, filter: &TopicFilter, incarnation: u64);

    /// The stream of messages has reached the confirmation of an entry: what is received from here on is complete.
    fn resumed(&self, filter: &TopicFilter);

    /// The grace period of an entry without subscribers has passed.
    fn expire(&self, idle: &Idle) -> Expiry;

    /// A message on the channel of a topic, with the topic as the channel spells it.
    fn event(&self, topic: &str, message: &Bytes);
}

/// Receives what the hubs send each other.
pub trait HubReceiver: fmt::Debug + Send + Sync {
    /// A message for this hub.
    fn relayed(&self, message: Bytes);

    /// A change of the directory.
    fn directory_changed(&self, message: Bytes);

    /// A change of keys.
    fn keys_changed(&self, message: Bytes);

    /// A message of this hub was received by its destination.
    fn delivered(&self);

    /// A message of this hub comes back.
    fn undelivered(&self, undelivered: Undelivered);
}

/// An entry that no longer has a subscriber.
#[derive(Clone, Debug)]
pub struct Idle {
    /// What it asked for.
    pub filter: TopicFilter,
    /// Changes whenever the entry gets a subscriber after it had none.
    pub revision: u64,
}

/// What happened to an entry at the end of its grace period.
#[derive(Clone, Debug)]
pub enum Expiry {
    /// It is gone.
    Removed,
    /// It was wanted in between and is idle again: its grace period begins anew.
    Again(Idle),
    /// Somebody wants it.
    Wanted,
}

/// A message for another hub that came back.
#[derive(Clone, Debug)]
pub struct Undelivered {
    /// The hub that it was for.
    pub hub: HubId,
    /// The message.
    pub message: Bytes,
    /// `No`: nobody received it. `Maybe`: the link broke while it was on its way, as
    /// [`LinkState::Down`](crate::LinkState) showed.
    pub delivered: Delivered,
    /// Whether it came back because nobody listens for that hub, which is then dead or has lost its own link. Never
    /// said when the link of this hub has just come back: then others may not listen yet.
    pub nobody_listens: bool,
}

/// Stands in for a receiver that was not given: nothing is subscribed, and whatever arrives is dropped.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Nobody;

// === impl Nobody ===

impl TopicTable for Nobody {
    fn begin(&self) -> Vec<TopicFilter> {
        Vec::new()
    }

    fn incarnation(&self, _: &TopicFilter) -> Option<u64> {
        None
    }

    fn mark(&self, _: &TopicFilter, _: u64) {}

    fn resumed(&self, _: &TopicFilter) {}

    fn expire(&self, _: &Idle) -> Expiry {
        Expiry::Removed
    }

    fn event(&self, _: &str, _: &Bytes) {}
}

impl HubReceiver for Nobody {
    fn relayed(&self, _: Bytes) {}

    fn directory_changed(&self, _: Bytes) {}

    fn keys_changed(&self, _: Bytes) {}

    fn delivered(&self) {}

    fn undelivered(&self, _: Undelivered) {}
}
