//! From a key to its holder.
//!
//! A key is checked by its checksum, hashed, and looked up: first in memory, where an answer is trusted for
//! `auth.cache-ttl` and for longer while Postgres is away, then in Postgres. A revocation reaches every hub through
//! Redis and ends the key's WebSockets and streams at once.
//!
//! Invariants
//! - While Postgres is away, nobody is told that their key is wrong: a known key keeps working, an unknown one gets
//!   503.
//! - A revocation counts even if it arrives while the key is being looked up, or while a request's body is being read.
//! - A look-up that begins after a revocation arrived is believed: a key that came back with its spoke works at once.
//! - Neither the key nor its hash is logged.

mod credential;
mod first;
mod lookup;
mod revocation;
mod suspect;

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use alkhub_config::{AuthConfig, ServerConfig};
use alkhub_hub_cluster::Cluster;
use alkhub_protocol::{ApiKey, Code};
use alkhub_store::{KeyHash, KeyHasher, Store};
use jiff::Timestamp;

pub use credential::PROTOCOL_PREFIX;
pub(crate) use credential::credential;
pub use first::{FirstKey, InvalidFirstKey};
pub use revocation::watch;

use crate::error::ApiError;
use crate::key::{Key, KeyFault};
use crate::limits::{BadKeys, Rate, Slot};
use crate::metrics::{AuthFailure, EdgeMetrics, Limit};
use crate::open::Open;
use suspect::SuspectLookups;

/// Keys kept in memory.
const KEYS: u64 = 100_000;

/// A key that was not used for this long is forgotten.
const IDLE: Duration = Duration::from_secs(3600);

/// This many texts that are not keys of ours are remembered, so that they cost no query.
const UNKNOWN: u64 = 10_000;
const UNKNOWN_TTL: Duration = Duration::from_secs(3);

/// How long revocations are remembered, for look-ups that were under way. A later look-up is believed.
const REVOKED_TTL: Duration = Duration::from_secs(60);

/// Looks keys up and remembers them, and ends what a key has open when the key ends.
#[derive(Debug)]
pub struct KeyRing {
    store: Store,
    cluster: Cluster,
    open: Open,
    hasher: KeyHasher,
    ttl: Duration,
    known: moka::future::Cache<KeyHash, Arc<Key>>,
    unknown: moka::sync::Cache<KeyHash, ()>,
    /// The number of the revocation's news, by key id.
    revoked: moka::sync::Cache<Arc<str>, u64>,
    /// How many news of ended or changed keys there have been.
    news: AtomicU64,
    bad: BadKeys,
    suspect: SuspectLookups,
    rate: Rate,
    messages: Rate,
    connections: usize,
    metrics: Arc<EdgeMetrics>,
}

/// What [`KeyRing::new`] needs.
#[derive(Debug)]
pub struct KeyRingParts<'a> {
    /// Where keys are looked up.
    pub store: Store,
    /// Where changes of keys are announced to the other hubs.
    pub cluster: Cluster,
    /// What keys have open.
    pub open: Open,
    /// Hashes keys as they are stored.
    pub hasher: KeyHasher,
    /// How long an answer is trusted.
    pub auth: &'a AuthConfig,
    /// The limits that apply to keys.
    pub server: &'a ServerConfig,
    /// Counts refusals.
    pub metrics: Arc<EdgeMetrics>,
}

// === impl KeyRing ===

impl KeyRing {
    /// An empty ring.
    pub fn new(parts: KeyRingParts<'_>) -> Self {
        let KeyRingParts { auth, server, .. } = parts;
        Self {
            store: parts.store,
            cluster: parts.cluster,
            open: parts.open,
            hasher: parts.hasher,
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
            news: AtomicU64::new(0),
            bad: BadKeys::new(server.bad_keys_per_minute),
            suspect: SuspectLookups::new(),
            rate: Rate::per_second(server.requests_per_second_per_key),
            messages: Rate::per_second(server.messages_per_second_per_key),
            connections: server.max_connections_per_key,
            metrics: parts.metrics,
        }
    }

    /// The hasher of this hub's keys.
    pub fn hasher(&self) -> &KeyHasher {
        &self.hasher
    }

    /// The holder of a key that came from `peer`. Bad keys from an address count against further bad ones, never
    /// against a good one: a key that is well-formed is looked up first.
    ///
    /// # Errors
    /// 401 if there is no good key, 403 if its spoke is suspended, 429 instead of 401 if the peer sent too many bad
    /// ones, 503 if Postgres is away and the key is not known.
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
            ApiError::rate_limited(
                "the key has sent too many requests (`server.requests-per-second-per-key`)",
                wait,
            )
        })
    }

    /// Takes messages of a WebSocket from the key's rate; returns how long the socket must not be read.
    pub fn take_messages(&self, key: &Key, count: u32) -> Duration {
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
    pub fn take_connection(&self, key: &Key) -> Result<Slot, ApiError> {
        key.connections.take(self.connections).ok_or_else(|| {
            self.metrics.limited(Limit::KeyConnections);
            ApiError::rate_limited(
                "the key has as many open connections as it may (`server.max-connections-per-key`)",
                Duration::from_secs(1),
            )
        })
    }

    /// Takes a place among the key's sessions that wait for their peers: as many may wait as connections may be open.
    pub fn take_waiting(&self, key: &Key) -> Option<Slot> {
        key.waiting.take(self.connections)
    }

    /// Takes a place for what is left of a session that has moved to another hub. It cannot be refused, since the
    /// session has already left, and it takes no place from waiting sessions.
    pub fn take_left(&self, key: &Key) -> Slot {
        let slot = key.left.take(usize::MAX);
        slot.expect("memory has no room for so many")
    }

    /// Why a key is no longer good. To be called once the key is where revocations look for it, in memory or among the
    /// keys of what is open: an earlier revocation may have missed it.
    pub fn look_again(&self, key: &Key) -> Option<KeyFault> {
        if let Some(news) = self.revoked.get(&key.id) {
            key.revoke_by(news);
        }
        key.fault(Timestamp::now())
    }

    /// Looks again at a key that was good when the request began; its present state counts.
    ///
    /// # Errors
    /// 401 or 403: it has ended meanwhile, or its spoke is suspended.
    pub(crate) async fn admit_again(&self, key: &Key) -> Result<(), ApiError> {
        if key.age() > self.ttl {
            self.refresh_soon(key).await;
        }
        self.admit(self.look_again(key))
    }

    fn check(&self, key: &Key, peer: IpAddr) -> Result<(), ApiError> {
        let fault = key.fault(Timestamp::now());
        if matches!(fault, Some(KeyFault::Revoked | KeyFault::Expired)) {
            self.bad.count(peer);
        }
        self.admit(fault)
    }

    fn admit(&self, fault: Option<KeyFault>) -> Result<(), ApiError> {
        let Some(fault) = fault else {
            return Ok(());
        };
        self.metrics.auth_failure(match fault {
            KeyFault::Revoked => AuthFailure::Revoked,
            KeyFault::Expired => AuthFailure::Expired,
            KeyFault::Suspended => AuthFailure::Suspended,
        });
        Err(fault.error().into())
    }

    fn too_many(&self, wait: Duration) -> ApiError {
        self.metrics.limited(Limit::BadKeys);
        ApiError::rate_limited(
            "too many bad keys came from this address (`server.bad-keys-per-minute`)",
            wait,
        )
    }

    fn unknown_key(&self, peer: IpAddr) -> ApiError {
        self.bad_key(peer, AuthFailure::Unknown, "the key is not known here")
    }

    /// Counts a bad key. The answer says what is wrong with it until the address has sent too many.
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

    /// Forgets what was known of a key, since it has just been created or brought back.
    pub async fn made(&self, hash: &KeyHash) {
        self.unknown.invalidate(hash);
        if let Some(key) = self.known.get(hash).await {
            key.invalidate(self.next_news());
        }
    }

    /// Looks up keys from addresses that sent too many bad ones, for as long as it is polled.
    pub async fn look_up_suspect(&self) {
        self.suspect.answer_all(&self.store).await;
    }

    /// The number of the last news of keys. A look-up reads it before it begins: a key's change is written first and
    /// announced afterwards, so the look-up sees everything that has been announced by then.
    fn last_news(&self) -> u64 {
        self.news.load(Ordering::SeqCst)
    }

    /// The number for news that has just arrived.
    fn next_news(&self) -> u64 {
        self.news.fetch_add(1, Ordering::SeqCst) + 1
    }

    /// Every key in memory.
    fn all(&self) -> Vec<Arc<Key>> {
        self.known.iter().map(|(_, key)| key).collect()
    }
}
