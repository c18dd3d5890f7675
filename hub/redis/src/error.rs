//! Why Redis cannot be used at all, and why it did not do what it was asked to.

use std::path::PathBuf;
use std::time::Duration;

use alkhub_protocol::Delivered;

/// Settings that cannot be used. Redis being away is not among these.
#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    /// The URL of Redis cannot be read from the settings.
    #[error("the URL of Redis cannot be read")]
    Setting(#[from] alkhub_config::secret::Error),
    /// The URL of Redis is not valid, or its scheme is unknown. The text does not contain the URL, which may hold a
    /// password.
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
}

/// A request that Redis did not carry out, or may not have. Each may succeed later unchanged.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Error {
    /// The link to Redis is down; the text is the reason.
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
}

/// A message that Redis did not confirm.
#[derive(Debug, thiserror::Error)]
#[error("Redis did not confirm a message")]
pub struct Unconfirmed {
    /// `No`: nobody received it. `Maybe`: it had been sent when the link broke.
    pub delivered: Delivered,
    /// Why.
    pub source: Error,
}
