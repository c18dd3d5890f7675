//! What a subscriber reads.

use alkhub_protocol::frame::Gap;
use alkhub_protocol::{RawJson, Topic, TopicFilter};
use serde::de::DeserializeOwned;

use crate::Error;

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

/// The sign that events of a topic are missing.
pub(super) fn gap(filter: &TopicFilter, reason: &str, missed: Option<u64>) -> Delivery {
    Delivery::Gap(Gap {
        topic: filter.to_string(),
        reason: reason.to_owned(),
        missed,
    })
}
