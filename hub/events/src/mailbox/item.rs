//! What goes into a mailbox and what comes out of it.

use std::sync::Arc;

use alkhub_protocol::TopicFilter;
use alkhub_protocol::frame::Gap;

use crate::publication::Publication;

/// What a reader gets.
#[derive(Clone, Debug)]
pub enum Item {
    /// An event.
    Event(Arc<Publication>),
    /// Events of a topic are missing here.
    Gap(Gap),
}

/// Why events are missing: the closed set behind [`Gap::reason`] and the metric's label.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reason {
    /// The reader was too slow.
    Overflow,
    /// The link to Redis was away.
    Reconnected,
    /// A message on the channel was not an envelope.
    Malformed,
}

/// What is known of a loss.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Loss {
    pub(crate) reason: Reason,
    /// `None`: unknown how many.
    pub(crate) missed: Option<u64>,
}

/// The result of one push.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Pushed {
    /// Whether it waits for the reader now.
    pub(crate) queued: bool,
    /// Events that were dropped, this one or older ones.
    pub(crate) dropped: usize,
    /// How many additional gaps the reader will see because of it.
    pub(crate) gaps: usize,
}

// === impl Loss ===

impl Loss {
    pub(super) fn add(&mut self, other: Self) {
        self.missed = self.missed.zip(other.missed).map(|(a, b)| a + b);
    }

    pub(super) fn item(self, filter: &TopicFilter) -> Item {
        Item::Gap(Gap {
            topic: filter.to_string(),
            reason: self.reason.as_str().to_owned(),
            missed: self.missed,
        })
    }
}

// === impl Reason ===

impl Reason {
    pub(crate) const ALL: [Self; 3] = [Self::Overflow, Self::Reconnected, Self::Malformed];

    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Overflow => "overflow",
            Self::Reconnected => "reconnected",
            Self::Malformed => "malformed",
        }
    }
}
