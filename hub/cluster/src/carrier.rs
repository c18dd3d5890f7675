//! What brings messages to other hubs.

use alkhub_protocol::HubId;
use alkhub_redis::{Error, Redis};
use bytes::Bytes;

/// Hands messages on in order, and loses some when it breaks: a closed set, which a link between pods joins later.
#[derive(Clone, Debug)]
pub(crate) enum Carrier {
    /// There is no other hub.
    Alone,
    /// Through the inboxes on Redis.
    Redis(Redis),
}

/// Why a message was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotSent {
    /// More waits for the other hub, or for the carrier, than may.
    #[error("too much waits for the other hub")]
    Full,
    /// There is no way to the other hub now.
    #[error("the other hub cannot be reached")]
    Unreachable,
}

// === impl Carrier ===

impl Carrier {
    /// Hands on a message for a hub. Never waits.
    pub(crate) fn send(&self, to: &HubId, message: Bytes) -> Result<(), NotSent> {
        match self {
            Self::Redis(redis) => Ok(redis.relay(to, message)?),
            Self::Alone => Err(NotSent::Unreachable),
        }
    }

    /// Whether nothing can be sent now.
    pub(crate) fn is_down(&self) -> bool {
        match self {
            Self::Redis(redis) => redis.incarnation().is_err(),
            Self::Alone => true,
        }
    }
}

// === impl NotSent ===

impl From<Error> for NotSent {
    fn from(error: Error) -> Self {
        match error {
            Error::Full => Self::Full,
            Error::Unavailable(_) | Error::Timeout(_) | Error::Refused(_) => Self::Unreachable,
        }
    }
}
