//! Keys: where the hash key is and how long a look-up is trusted.

use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// `[auth]`, `ALKHUB_AUTH__*`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct AuthConfig {
    /// File with the secret that keys are hashed with (64 hexadecimal digits). Without it no hub starts: two hubs
    /// that share a database must share it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hash_key_file: Option<PathBuf>,
    /// Names the secret in the database, so that it can be changed later.
    pub hash_key_id: String,
    /// File with the first key, which has scope `admin`; entered into the database at each start.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub admin_key_file: Option<PathBuf>,
    /// A key is looked up again after this long; longer where Postgres is away. It bounds how long a key outlives
    /// its revocation where the news of it is lost; what is heard through Redis, and an expiry, ends it at once.
    #[serde(with = "humantime_serde")]
    pub cache_ttl: Duration,
    /// A key that was revoked, or has expired, is listed for this long and then deleted. Too short and it cannot be seen
    /// afterwards that there was such a key; too long keeps rows that nobody needs.
    #[serde(with = "crate::days")]
    pub key_retention: Duration,
}

impl Default for AuthConfig {
    fn default() -> Self {
        Self {
            hash_key_file: None,
            hash_key_id: "1".to_owned(),
            admin_key_file: None,
            cache_ttl: Duration::from_secs(60),
            key_retention: Duration::from_secs(90 * 24 * 3600),
        }
    }
}
