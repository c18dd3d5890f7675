//! Why an event was not published everywhere, or a topic not subscribed.

use alkhub_protocol::Delivered;
use alkhub_redis::Unconfirmed;

/// The event was not handed to every hub, or may not have been. It may be published again.
#[derive(Debug, thiserror::Error)]
#[error("event was not published everywhere")]
pub struct PublishError {
    /// `no`: nobody got it. `maybe`: subscribers of this hub did, or Redis may have it.
    pub delivered: Delivered,
    /// Why.
    pub source: alkhub_redis::Error,
}

/// Redis did not confirm a subscription, so there is none. It may be asked for again.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub struct SubscribeError(#[from] pub alkhub_redis::Error);

// === impl PublishError ===

impl From<Unconfirmed> for PublishError {
    fn from(Unconfirmed { delivered, source }: Unconfirmed) -> Self {
        Self { delivered, source }
    }
}
