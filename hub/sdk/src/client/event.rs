//! What a subscriber reads: events and gaps.

use alkhub_protocol::frame::Gap;
use alkhub_protocol::{RawJson, Topic, TopicFilter};
use serde::de::DeserializeOwned;

use crate::Error;

/// One thing that a subscriber reads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Delivery {
    /// An event.
    Event(Event),
    /// Something is missing at this point.
    Gap(Gap),
}

/// One event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// The topic it was published to.
    pub topic: Topic,
    /// What was published; `None` if there was no payload, which differs from `null`.
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

/// The mark that events of a topic are missing.
pub(super) fn gap(filter: &TopicFilter, reason: &str, missed: Option<u64>) -> Delivery {
    Delivery::Gap(Gap {
        topic: filter.to_string(),
        reason: reason.to_owned(),
        missed,
    })
}
