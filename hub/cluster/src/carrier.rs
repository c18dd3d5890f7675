//! The carriers of messages to other hubs: the link from pod to pod where there is one, and Redis.
//!
//! Invariants
//! - A message goes over the link as long as that is up, however much waits there: a detour does not reach a slow hub
//!   any sooner.
//! - A carrier that breaks loses the messages on their way, and messages on two carriers may overtake each other. The
//!   sender repeats what was not acknowledged, and the receiver goes by the sequence numbers.

use alkhub_budget::Exhausted;
use alkhub_peer::{NotCarried, PeerLinks};
use alkhub_protocol::HubId;
use alkhub_redis::{Error, Redis};
use bytes::Bytes;

use crate::metrics::Metrics;

/// The ways to other hubs; without any of them there is no other hub.
#[derive(Clone, Debug)]
pub(crate) struct Carriers {
    pub(crate) links: Option<PeerLinks>,
    /// The link to Redis, which carries messages through the inboxes there.
    pub(crate) redis: Option<Redis>,
    pub(crate) metrics: Metrics,
}

/// Why a message was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotSent {
    /// As much waits for the other hub, or for the carrier, as may.
    #[error("too much waits for the other hub")]
    Full,
    /// This hub keeps as many bytes as it may.
    #[error("{}", Exhausted::Hub)]
    Exhausted,
    /// There is currently no way to the other hub.
    #[error("the other hub cannot be reached")]
    Unreachable,
}

// === impl Carriers ===

impl Carriers {
    /// Hands a message for a hub to a carrier. Never waits.
    pub(crate) fn send(&self, to: &HubId, message: Bytes) -> Result<(), NotSent> {
        if let Some(links) = &self.links {
            match links.send(to, message.clone()) {
                Ok(()) => {
                    self.metrics.by_link.inc();
                    return Ok(());
                }
                Err(NotCarried::Full) => return Err(NotSent::Full),
                Err(NotCarried::NoLink) => {}
            }
        }
        let redis = self.redis.as_ref().ok_or(NotSent::Unreachable)?;
        redis.relay(to, message)?;
        self.metrics.by_redis.inc();
        Ok(())
    }

    /// Whether currently nothing can be sent to a hub.
    pub(crate) fn is_down(&self, to: &HubId) -> bool {
        !self.is_linked(to) && self.redis.as_ref().is_none_or(|redis| redis.incarnation().is_err())
    }

    /// Whether there is a link to a hub.
    pub(crate) fn is_linked(&self, to: &HubId) -> bool {
        self.links.as_ref().is_some_and(|links| links.is_up(to))
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
