//! Keys that are not in memory, or not fresh: from Postgres.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use alkhub_protocol::{CallError, Chain, Code};
use alkhub_store::{KeyHash, KeyRecord};

use super::KeyRing;
use super::suspect::NotFound;
use crate::error::ApiError;
use crate::key::Key;
use crate::metrics::AuthFailure;

/// A refresh that takes longer than this continues without its request.
const REFRESH_TIMEOUT: Duration = Duration::from_secs(1);

/// How long the next refresh waits after a failed one.
const REFRESH_PAUSE: Duration = Duration::from_secs(5);

/// If too many wait for a look-up, trying again is worth it after this long.
const BUSY: Duration = Duration::from_secs(1);

// === impl KeyRing ===

impl KeyRing {
    /// The key with this hash, from memory or from Postgres.
    ///
    /// # Errors
    /// As [`KeyRing::authenticate`].
    pub(super) async fn find(&self, hash: KeyHash, peer: IpAddr) -> Result<Arc<Key>, ApiError> {
        if let Some(key) = self.known.get(&hash).await {
            if key.age() > self.ttl {
                self.refresh_soon(&key).await;
            }
            // A key that is gone or was made anew is looked up like one that was never seen.
            if self.known.contains_key(&hash) {
                return Ok(key);
            }
        }
        if self.unknown.contains_key(&hash) {
            return Err(self.unknown_key(peer));
        }
        let suspect = self.bad.check(peer).err();
        let found = self
            .known
            .try_get_with(hash, self.look_up(hash, suspect.is_some()))
            .await;
        let found = found.inspect(|key| {
            self.look_again(key);
        });
        found.map_err(|error| match &*error {
            NotFound::Unknown => {
                self.unknown.insert(hash, ());
                self.unknown_key(peer)
            }
            NotFound::Busy => self.too_many(suspect.unwrap_or(BUSY)),
            NotFound::Store(error) => {
                tracing::warn!(error = %Chain::of(error), "a key cannot be looked up");
                self.cannot_be_checked()
            }
            NotFound::Away => self.cannot_be_checked(),
        })
    }

    fn cannot_be_checked(&self) -> ApiError {
        self.metrics.auth_failure(AuthFailure::Unavailable);
        CallError::new(
            Code::Unavailable,
            "keys cannot be checked now: Postgres is not available",
        )
        .retryable()
        .retry_after_ms(1_000)
        .into()
    }

    async fn look_up(&self, hash: KeyHash, suspect: bool) -> Result<Arc<Key>, NotFound> {
        let as_of = self.last_news();
        let record = if suspect {
            self.suspect.find(hash).await?
        } else {
            self.store.keys().find(&hash).await.map_err(NotFound::Store)?
        };
        let record = record.ok_or(NotFound::Unknown)?;
        Ok(Arc::new(Key::new(hash, &record, as_of)))
    }

    /// Looks a known key up again, unless that is already under way; a failure leaves it as it is.
    pub(super) async fn refresh_soon(&self, key: &Key) {
        let Some(_refresh) = key.begin_refresh() else {
            return;
        };
        let refreshed = tokio::time::timeout(REFRESH_TIMEOUT, self.refresh(key)).await;
        if !matches!(refreshed, Ok(Ok(()))) {
            key.refresh_in(self.ttl, REFRESH_PAUSE);
        }
    }

    /// Looks a known key up again.
    ///
    /// # Errors
    /// Postgres did not answer.
    async fn refresh(&self, key: &Key) -> Result<(), alkhub_store::Error> {
        let as_of = self.last_news();
        let found = self.store.keys().find(&key.hash).await?;
        self.refreshed(key, found.as_ref(), as_of).await;
        Ok(())
    }

    /// Looks many known keys up again, at once.
    ///
    /// # Errors
    /// Postgres did not answer; the keys are unchanged.
    pub(super) async fn refresh_all(&self, keys: &[Arc<Key>]) -> Result<(), alkhub_store::Error> {
        let hashes: Vec<KeyHash> = keys.iter().map(|key| key.hash).collect();
        let as_of = self.last_news();
        let found: HashMap<KeyHash, KeyRecord> = self.store.keys().find_many(&hashes).await?.into_iter().collect();
        for key in keys {
            self.refreshed(key, found.get(&key.hash), as_of).await;
        }
        Ok(())
    }

    /// A key that is gone, or was made anew under another id, ends here. It is looked up when it is next used, so that
    /// a key that comes back (with a restored database) works at once.
    async fn refreshed(&self, key: &Key, found: Option<&KeyRecord>, as_of: u64) {
        if let Some(record) = found.filter(|record| *record.id == *key.id) {
            let revoked = || self.revoked.get(&key.id).is_some_and(|news| news > as_of);
            key.update(record, as_of, revoked);
        } else if key.lost(as_of) {
            self.known.invalidate(&key.hash).await;
        }
    }
}
