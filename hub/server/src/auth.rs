//! From a key to the one who holds it.
//!
//! A key is checked by its checksum, hashed, and looked up: in memory, where an answer is trusted for `auth.cache-ttl`
//! and for longer while Postgres is away, else in Postgres. A revocation reaches every hub through Redis and ends the
//! key's WebSockets and streams at once.
//!
//! Invariants
//! - Postgres away is never "your key is wrong": a known key goes on, an unknown one gets 503.
//! - A revocation that arrives while the key is being looked up counts.
//! - Neither the key nor its hash is logged.

mod admin;
mod caller;
mod credential;
mod key;
mod revocation;

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use alkhub_config::{AuthConfig, ServerConfig};
use alkhub_protocol::{ApiKey, CallError, Code};
use alkhub_store::{KeyHash, KeyHasher, KeyRecord, Store};
use jiff::Timestamp;

pub(crate) use admin::{admin_key, enter_admin, follow_admin, tell_of_others};
pub(crate) use caller::Caller;
pub(crate) use credential::{PROTOCOL_PREFIX, credential};
pub(crate) use key::Key;
pub(crate) use revocation::{recheck_in_use, watch};

use crate::error::ApiError;
use crate::limits::{BadKeys, Bucket, Rate, Slot};
use crate::metrics::{AuthFailure, Limit, Metrics};
use key::Standing;

/// Keys that are looked up in a second for addresses that had too many bad ones, all together: a good key behind the
/// same address still gets in, and guesses cost Postgres no more than this.
const DOUBTFUL_LOOKUPS: u32 = 50;

/// Keys kept in memory.
const KEYS: u64 = 100_000;

/// A key not used for so long is forgotten.
const IDLE: Duration = Duration::from_secs(3600);

/// Texts that are no keys of ours are remembered, so that they cost no query.
const UNKNOWN: u64 = 10_000;
const UNKNOWN_TTL: Duration = Duration::from_secs(3);

/// Revocations are remembered so long, for look-ups that were under way.
const REVOKED_TTL: Duration = Duration::from_secs(60);

/// A refresh that takes longer goes on without its request.
const REFRESH_TIMEOUT: Duration = Duration::from_secs(1);

/// After a refresh that failed the next one waits.
const REFRESH_PAUSE: Duration = Duration::from_secs(5);

/// Looks keys up and remembers them.
#[derive(Debug)]
pub(crate) struct KeyRing {
    store: Store,
    hasher: KeyHasher,
    ttl: Duration,
    known: moka::future::Cache<KeyHash, Arc<Key>>,
    unknown: moka::sync::Cache<KeyHash, ()>,
    revoked: moka::sync::Cache<Arc<str>, ()>,
    bad: BadKeys,
    doubtful: (Rate, Bucket),
    rate: Rate,
    messages: Rate,
    connections: usize,
    metrics: Arc<Metrics>,
}

/// Why there is no key for a hash.
#[derive(Debug)]
enum NotFound {
    Unknown,
    Store(alkhub_store::Error),
}

// === impl KeyRing ===

impl KeyRing {
    /// An empty ring.
    pub(crate) fn new(
        store: Store,
        hasher: KeyHasher,
        auth: &AuthConfig,
        server: &ServerConfig,
        metrics: Arc<Metrics>,
    ) -> Self {
        Self {
            store,
            hasher,
            ttl: auth.cache_ttl,
            known: moka::future::Cache::builder()
                .max_capacity(KEYS)
                .time_to_idle(IDLE)
                .build(),
            unknown: moka::sync::Cache::builder()
                .max_capacity(UNKNOWN)
                .time_to_live(UNKNOWN_TTL)
                .build(),
            revoked: moka::sync::Cache::builder()
                .max_capacity(KEYS)
                .time_to_live(REVOKED_TTL)
                .build(),
            bad: BadKeys::new(server.bad_keys_per_minute),
            doubtful: (Rate::per_second(DOUBTFUL_LOOKUPS), Bucket::default()),
            rate: Rate::per_second(server.requests_per_second_per_key),
            messages: Rate::per_second(server.messages_per_second_per_key),
            connections: server.max_connections_per_key,
            metrics,
        }
    }

    /// The hasher of this hub's keys.
    pub(crate) fn hasher(&self) -> &KeyHasher {
        &self.hasher
    }

    /// The holder of a key that came from `peer`. Bad keys of an address count against further bad ones and never against
    /// a good one: a key that can be one is looked up first.
    ///
    /// # Errors
    /// 401 when there is no good key, 403 when its spoke is suspended, 429 instead of 401 when the peer had too many bad
    /// ones, 503 when Postgres is away and the key is not known.
    pub(crate) async fn authenticate(&self, credential: Option<&str>, peer: IpAddr) -> Result<Arc<Key>, ApiError> {
        let Some(text) = credential else {
            return Err(self.refused(
                AuthFailure::Missing,
                "the request needs a key: `Authorization: Bearer alk_…`",
            ));
        };
        let Ok(api_key) = ApiKey::parse(text) else {
            return Err(self.bad_key(
                peer,
                AuthFailure::Malformed,
                "the key is not one of alkhub's: check for a typing error",
            ));
        };
        let key = self.find(self.hasher.hash(&api_key), peer).await?;
        self.check(&key, peer)?;
        key.used(Timestamp::now());
        Ok(key)
    }

    /// Takes one request from the key's rate.
    ///
    /// # Errors
    /// 429 with the time to wait.
    pub(crate) fn take_request(&self, key: &Key) -> Result<(), ApiError> {
        self.rate.take(&key.bucket).map_err(|wait| {
            self.metrics.limited(Limit::KeyRequests);
            ApiError::rate_limited("the key has sent too many requests", wait)
        })
    }

    /// Takes messages of a WebSocket from the key's rate: how long it must not be read.
    pub(crate) fn take_messages(&self, key: &Key, count: u32) -> Duration {
        let wait = self.messages.charge(&key.messages, count);
        if !wait.is_zero() {
            self.metrics.limited(Limit::KeyMessages);
        }
        wait
    }

    /// Takes a place among the key's open connections.
    ///
    /// # Errors
    /// 429: it has as many as it may.
    pub(crate) fn take_connection(&self, key: &Key) -> Result<Slot, ApiError> {
        key.connections.take(self.connections).ok_or_else(|| {
            self.metrics.limited(Limit::KeyConnections);
            ApiError::rate_limited(
                "the key has as many open connections as it may (`server.max-connections-per-key`)",
                Duration::from_secs(1),
            )
        })
    }

    /// What a key is worth that has just come where revocations find it, be it into memory or among those of open
    /// connections: one that came before may have passed it by.
    pub(crate) fn look_again(&self, key: &Key) -> Standing {
        if self.revoked.contains_key(&key.id) {
            key.revoke();
        }
        key.standing(Timestamp::now())
    }

    async fn find(&self, hash: KeyHash, peer: IpAddr) -> Result<Arc<Key>, ApiError> {
        if let Some(key) = self.known.get(&hash).await {
            if key.age() > self.ttl {
                self.refresh_soon(&key).await;
            }
            // One that is not there any more, or was made anew, is looked up like one that was never seen.
            if self.known.contains_key(&hash) {
                return Ok(key);
            }
        }
        if self.unknown.contains_key(&hash) {
            return Err(self.unknown_key(peer));
        }
        if let Err(wait) = self.bad.check(peer) {
            let (rate, bucket) = &self.doubtful;
            rate.take(bucket).map_err(|_| self.too_many(wait))?;
        }
        let found = self.known.try_get_with(hash, self.look_up(hash)).await;
        let found = found.inspect(|key| {
            self.look_again(key);
        });
        found.map_err(|error| match &*error {
            NotFound::Unknown => {
                self.unknown.insert(hash, ());
                self.unknown_key(peer)
            }
            NotFound::Store(error) => {
                self.metrics.auth_failure(AuthFailure::Unavailable);
                tracing::warn!(error = %crate::error::Chain(error), "a key cannot be looked up");
                CallError::new(
                    Code::Unavailable,
                    "keys cannot be checked now: Postgres is not available",
                )
                .retryable()
                .retry_after_ms(1_000)
                .into()
            }
        })
    }

    async fn look_up(&self, hash: KeyHash) -> Result<Arc<Key>, NotFound> {
        let record = self.store.keys().find(&hash).await.map_err(NotFound::Store)?;
        let record = record.ok_or(NotFound::Unknown)?;
        Ok(Arc::new(Key::new(hash, &record)))
    }

    /// Looks a known key up again, unless that is being done; a failure leaves it as it is.
    async fn refresh_soon(&self, key: &Key) {
        let Some(_turn) = key.begin_refresh() else {
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
        let found = self.store.keys().find(&key.hash).await?;
        self.refreshed(key, found.as_ref()).await;
        Ok(())
    }

    /// Looks many known keys up again, at once.
    ///
    /// # Errors
    /// Postgres did not answer; they are as they were.
    async fn refresh_all(&self, keys: &[Arc<Key>]) -> Result<(), alkhub_store::Error> {
        let hashes: Vec<KeyHash> = keys.iter().map(|key| key.hash).collect();
        let found: HashMap<KeyHash, KeyRecord> = self.store.keys().find_many(&hashes).await?.into_iter().collect();
        for key in keys {
            self.refreshed(key, found.get(&key.hash)).await;
        }
        Ok(())
    }

    /// A key that is not there any more, or that was made anew under another id, ends here. It is looked up when it is
    /// next used, so that one that comes back (a database that was put back) works at once.
    async fn refreshed(&self, key: &Key, found: Option<&KeyRecord>) {
        match found.filter(|record| *record.id == *key.id) {
            Some(record) => key.update(record, || self.revoked.contains_key(&key.id)),
            None => {
                key.revoke();
                self.known.invalidate(&key.hash).await;
            }
        }
    }

    fn check(&self, key: &Key, peer: IpAddr) -> Result<(), ApiError> {
        let standing = key.standing(Timestamp::now());
        let Some(refusal) = standing.refusal() else {
            return Ok(());
        };
        if matches!(standing, Standing::Revoked | Standing::Expired) {
            self.bad.count(peer);
        }
        self.metrics.auth_failure(match standing {
            Standing::Expired => AuthFailure::Expired,
            Standing::Suspended => AuthFailure::Suspended,
            Standing::Good | Standing::Revoked => AuthFailure::Revoked,
        });
        Err(refusal.into())
    }

    fn too_many(&self, wait: Duration) -> ApiError {
        self.metrics.limited(Limit::BadKeys);
        ApiError::rate_limited("too many bad keys came from this address", wait)
    }

    fn unknown_key(&self, peer: IpAddr) -> ApiError {
        self.bad_key(peer, AuthFailure::Unknown, "the key is not known here")
    }

    /// Counts a bad key; says what is wrong with it until the address had too many.
    fn bad_key(&self, peer: IpAddr, reason: AuthFailure, message: &str) -> ApiError {
        if let Err(wait) = self.bad.check(peer) {
            return self.too_many(wait);
        }
        self.bad.count(peer);
        self.refused(reason, message)
    }

    fn refused(&self, reason: AuthFailure, message: &str) -> ApiError {
        self.metrics.auth_failure(reason);
        ApiError::new(Code::Unauthenticated, message)
    }

    /// Forgets that a key was unknown, or what it was worth: it has just been made or brought back.
    pub(crate) async fn made(&self, hash: &KeyHash) {
        self.unknown.invalidate(hash);
        if let Some(key) = self.known.get(hash).await {
            key.doubt();
        }
    }

    /// Every key in memory.
    fn all(&self) -> Vec<Arc<Key>> {
        self.known.iter().map(|(_, key)| key).collect()
    }
}
