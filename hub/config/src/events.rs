//! Events and Redis.

use std::path::PathBuf;
use std::time::Duration;

use secrecy::SecretString;
use serde::{Deserialize, Serialize};

use crate::ChannelPrefix;
use crate::secret::{self, Source};

/// `[events]`, `ALKHUB_EVENTS__*`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct EventsConfig {
    /// Starts every channel and key in Redis; hubs share events only where it is equal.
    pub prefix: ChannelPrefix,
    /// `redis://` or `rediss://`; without it and `redis-url-file` events stay in this process.
    #[serde(skip_serializing)]
    pub redis_url: Option<SecretString>,
    /// File with the URL.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub redis_url_file: Option<PathBuf>,
    /// PEM file with authorities to trust for `rediss://` besides the system's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub redis_ca_file: Option<PathBuf>,
    /// Events queued for one connection before its lag policy applies.
    pub queue_items: usize,
    /// Bytes queued for one connection before its lag policy applies.
    pub queue_bytes: usize,
    /// Bytes of events that wait for the readers of this hub, each event counted once; over it a reader that lags behind
    /// keeps 256 KiB and gets a gap for the rest. Too low gives gaps to readers that fall behind for a moment; too high
    /// lets many that never read use the memory.
    pub waiting_bytes: usize,
    /// Messages read from Redis and not yet spread to subscribers; over it the link is made anew and each
    /// subscription gets a gap.
    pub link_queue: usize,
    /// A publish or a subscribe that Redis does not confirm in this time has failed.
    #[serde(with = "humantime_serde")]
    pub timeout: Duration,
    /// A link without a message for this long is probed; two misses make it anew.
    #[serde(with = "humantime_serde")]
    pub probe_interval: Duration,
    /// A topic without subscribers stays subscribed in Redis for this long.
    #[serde(with = "humantime_serde")]
    pub unsubscribe_grace: Duration,
    /// A hub not heard of for this long is gone. Too short loses hubs to a pause; too long keeps calls waiting.
    #[serde(with = "humantime_serde")]
    pub lease_ttl: Duration,
    /// A hub renews its lease this often; a third of `lease-ttl`.
    #[serde(with = "humantime_serde")]
    pub lease_interval: Duration,
}

impl EventsConfig {
    /// The URL of Redis, from the setting or from the file; `None`: events stay in this process.
    ///
    /// # Errors
    /// The file cannot be read, or both are set.
    pub fn redis(&self) -> Result<Option<SecretString>, secret::Error> {
        secret::resolve(&Source {
            value_setting: "events.redis-url",
            value: self.redis_url.as_ref(),
            file_setting: "events.redis-url-file",
            file: self.redis_url_file.as_deref(),
        })
    }
}

impl PartialEq for EventsConfig {
    /// Secrets aside: two configurations are equal when they are written the same.
    fn eq(&self, other: &Self) -> bool {
        toml::Table::try_from(self).ok() == toml::Table::try_from(other).ok()
    }
}

impl Default for EventsConfig {
    fn default() -> Self {
        Self {
            prefix: ChannelPrefix::default(),
            redis_url: None,
            redis_url_file: None,
            redis_ca_file: None,
            queue_items: 4_096,
            queue_bytes: 4 * 1024 * 1024,
            waiting_bytes: 48 * 1024 * 1024,
            link_queue: 65_536,
            timeout: Duration::from_secs(5),
            probe_interval: Duration::from_secs(5),
            unsubscribe_grace: Duration::from_secs(1),
            lease_ttl: Duration::from_secs(10),
            lease_interval: Duration::from_secs(3),
        }
    }
}
