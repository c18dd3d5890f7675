//! Secrets: those that users name are read, those that the operator makes are made once.
//!
//! Invariants
//! - A generated Secret is created, never applied: when two writers race, one gets 409 and reads what the other made.
//! - Of a user's Secret a digest and the server's address are kept for a minute, never the content.

pub(crate) mod endpoint;
pub(crate) mod generated;

use std::collections::HashMap;
use std::time::Duration;

use alkhub_crds::hub::SecretKey;
use k8s_openapi::api::core::v1::Secret;
use parking_lot::Mutex;
use tokio::time::Instant;

use self::endpoint::Endpoint;
use crate::error::Error;
use crate::kubernetes::Kubernetes;
use crate::names::digest;

/// A changed Secret of a user's is seen after this long at the latest.
const TRUSTED: Duration = Duration::from_secs(60);

/// A key of a Secret with its default filled in.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Location {
    pub(crate) namespace: String,
    pub(crate) secret: String,
    pub(crate) key: String,
}

/// What is kept of a value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Fact {
    /// Digest of the value.
    pub(crate) digest: String,
    /// Scheme and address, when it is a URL.
    pub(crate) endpoint: Option<Endpoint>,
}

/// Facts by location, for a minute each.
#[derive(Debug, Default)]
pub(crate) struct Facts(Mutex<HashMap<Location, (Instant, Option<Fact>)>>);

// === impl Location ===

impl Location {
    /// The place that a reference of a Hub names.
    pub(crate) fn of(namespace: &str, reference: &SecretKey, default_key: &str) -> Self {
        Self {
            namespace: namespace.to_owned(),
            secret: reference.name.clone(),
            key: reference.key.clone().unwrap_or_else(|| default_key.to_owned()),
        }
    }
}

// === impl Facts ===

impl Facts {
    /// What is known of a value; `None`: there is no such Secret or no such key in it.
    pub(crate) async fn read(&self, kubernetes: &Kubernetes, location: &Location) -> Result<Option<Fact>, Error> {
        if let Some((at, fact)) = self.0.lock().get(location)
            // A missing one is looked for again at once: somebody is waiting for it.
            && fact.is_some()
            && at.elapsed() < TRUSTED
        {
            return Ok(fact.clone());
        }
        let secret: Option<Secret> = kubernetes.get(&location.namespace, &location.secret).await?;
        let value = secret.and_then(|secret| secret.data?.remove(&location.key));
        let fact = value.map(|value| Fact {
            digest: digest(&[&value.0]),
            endpoint: std::str::from_utf8(&value.0)
                .ok()
                .and_then(|url| Endpoint::parse(url.trim(), &location.namespace)),
        });
        let mut facts = self.0.lock();
        facts.retain(|_, (at, _)| at.elapsed() < TRUSTED);
        facts.insert(location.clone(), (Instant::now(), fact.clone()));
        Ok(fact)
    }
}
