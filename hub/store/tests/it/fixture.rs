//! A store on a database of its own, and values to put into it.

use std::time::Duration;

use alkhub_config::StoreConfig;
use alkhub_protocol::admin::SpokePut;
use alkhub_protocol::{ApiKey, Scopes, SpokeName};
use alkhub_store::{AdminKey, KeyHash, KeyHasher, KeyRecord, NewKey, PutOutcome, SpokeKey, Store};
use alkhub_test_support::within;
use jiff::Timestamp;
use prometheus::Registry;
use tokio_util::sync::CancellationToken;

pub(crate) use alkhub_devdb::testing::{connection, database, execute, number};

/// Settings for a URL, quick to notice.
pub(crate) fn config(url: &str) -> StoreConfig {
    StoreConfig {
        database_url: Some(url.into()),
        max_connections: 4,
        ping_interval: Duration::from_millis(200),
        ..StoreConfig::default()
    }
}

/// A store that is ready, on a database of its own.
pub(crate) async fn store() -> Store {
    ready(&config(&database().await)).await
}

/// A store that is ready.
pub(crate) async fn ready(config: &StoreConfig) -> Store {
    let store = Store::open(config, &Registry::new()).expect("the settings are right");
    within("the store is ready", store.prepare(&CancellationToken::new()))
        .await
        .expect("the schema is made");
    store
}

pub(crate) fn hasher() -> KeyHasher {
    KeyHasher::new("1", &[7; 32])
}

/// Whether a key was neither revoked nor is past its end.
pub(crate) fn is_usable(key: &KeyRecord, now: Timestamp) -> bool {
    key.revoked_at.is_none() && key.expires_at.is_none_or(|end| now < end)
}

/// A key that differs for each number.
pub(crate) fn api_key(number: u8) -> ApiKey {
    ApiKey::from_entropy([number; 32])
}

pub(crate) fn hash(number: u8) -> KeyHash {
    hasher().hash(&api_key(number))
}

pub(crate) fn spoke_key(number: u8) -> SpokeKey {
    SpokeKey {
        hash: hash(number),
        hash_key: hasher().hash_key().clone(),
        hint: api_key(number).hint().to_owned(),
    }
}

pub(crate) fn admin_key(number: u8, alone: bool) -> AdminKey {
    AdminKey {
        hash: hash(number),
        hash_key: hasher().hash_key().clone(),
        hint: api_key(number).hint().to_owned(),
        alone,
    }
}

pub(crate) fn new_key(number: u8) -> NewKey {
    NewKey {
        name: format!("key {number}"),
        hash: hash(number),
        hash_key: hasher().hash_key().clone(),
        hint: api_key(number).hint().to_owned(),
        scopes: Scopes::new(["call:*"]),
        spoke: None,
        expires_at: None,
    }
}

pub(crate) fn name(text: &str) -> SpokeName {
    text.parse().expect("a spoke's name")
}

/// A spoke with something in each field.
pub(crate) fn spoke(uid: &str) -> SpokePut {
    serde_json::from_value(serde_json::json!({
        "uid": uid,
        "spokeType": "compute",
        "operations": ["text.*"],
        "scopes": ["call:text.*"],
        "labels": { "team": "blue" },
        "concurrency": 3,
    }))
    .expect("a put")
}

/// Declares a spoke with a key.
pub(crate) async fn declare(store: &Store, spoke: &SpokeName, put: &SpokePut, key: u8) -> PutOutcome {
    let declared = store.spokes().put(spoke, put, Some(&spoke_key(key))).await;
    declared.expect("put")
}

/// Makes a key of a spoke as a person does.
pub(crate) async fn key_by_hand(store: &Store, spoke: &SpokeName, number: u8) {
    let key = NewKey {
        spoke: Some(spoke.clone()),
        ..new_key(number)
    };
    store.keys().create(&key).await.map(drop).expect("made");
}
