//! Why an event was not published everywhere, or a topic not subscribed.

use alkhub_protocol::Delivered;
use alkhub_redis::Unconfirmed;

/// An event that was not, or not surely, handed to every hub. The same may be published again.
#[derive(Debug, thiserror::Error)]
#[error("event was not published everywhere")]
pub struct PublishError {
    /// `no`: nobody got it. `maybe`: subscribers of this hub did, or Redis may have.
    pub delivered: Delivered,
    /// Why.
    pub source: alkhub_redis::Error,
}

/// A subscription that Redis did not confirm: there is none. The same may be asked for again.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub struct SubscribeError(#[from] pub alkhub_redis::Error);

// === impl PublishError ===

impl From<Unconfirmed> for PublishError {
    fn from(Unconfirmed { delivered, source }: Unconfirmed) -> Self {
        Self { delivered, source }
    }
}
