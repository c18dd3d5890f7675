//! Why the event fabric could not do what it was asked to.

use std::path::PathBuf;
use std::time::Duration;

use alkhub_protocol::Delivered;

/// One variant per thing that the caller can do about it.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The URL of Redis cannot be had from the settings.
    #[error("the URL of Redis cannot be read")]
    Setting(#[from] alkhub_config::secret::Error),
    /// The URL of Redis is none, or its scheme is unknown. The URL itself is not in the text: it may hold a password.
    #[error("the URL of Redis is not valid")]
    Url(#[from] alkhub_config::InvalidUrl),
    /// The file of `events.redis-ca-file` cannot be used.
    #[error("authorities for Redis cannot be read from {path}")]
    Authorities {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A metric of the same name is registered already.
    #[error("a metric cannot be registered")]
    Metrics(#[from] prometheus::Error),
    /// The link to Redis is down; the text says why.
    #[error("the link to Redis is down: {0}")]
    Unavailable(String),
    /// Redis did not confirm in time.
    #[error("Redis did not confirm within {0:?}")]
    Timeout(Duration),
    /// Too much waits to be sent to Redis.
    #[error("too much waits to be sent to Redis")]
    Full,
    /// Redis answered with an error.
    #[error("Redis refused")]
    Refused(#[source] redis::RedisError),
    /// In process there is no other hub to send to.
    #[error("no other hub can be reached without Redis")]
    NoCluster,
}

/// An event that was not, or not surely, handed to every hub.
#[derive(Debug, thiserror::Error)]
#[error("event was not published everywhere")]
pub struct PublishError {
    /// `no`: nobody got it. `maybe`: subscribers of this hub did, or Redis may have.
    pub delivered: Delivered,
    /// Why.
    pub source: Error,
}

// === impl Error ===

impl Error {
    /// Whether the same request may succeed later as it is.
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Unavailable(_) | Self::Timeout(_) | Self::Full | Self::Refused(_) => true,
            Self::Setting(_) | Self::Url(_) | Self::Authorities { .. } | Self::Metrics(_) | Self::NoCluster => false,
        }
    }

    /// The same error for another one who waited.
    pub(crate) fn shared(&self) -> Self {
        match self {
            Self::Unavailable(reason) => Self::Unavailable(reason.clone()),
            Self::Timeout(limit) => Self::Timeout(*limit),
            Self::Refused(error) => Self::Refused(error.clone()),
            other => Self::Unavailable(other.to_string()),
        }
    }
}
