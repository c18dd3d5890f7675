//! Secrets: those that users name are read, those that the operator makes are made once.
//!
//! Invariants
//! - A generated Secret is created, never applied: when two writers race, one gets 409 and reads what the other made.
//! - Of a user's Secret only a digest and the server's address are kept, for a minute, never the content.

pub(crate) mod generated;
pub(crate) mod server_address;

use std::collections::HashMap;
use std::time::Duration;

use alkhub_config::{Address, InvalidUrl, address};
use alkhub_crds::hub::SecretKey;
use k8s_openapi::api::core::v1::Secret;
use parking_lot::Mutex;
use rustls::RootCertStore;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use tokio::time::Instant;

use self::server_address::ServerAddress;
use crate::error::Error;
use crate::kubernetes::Kubernetes;
use crate::names::digest;

/// A change in a user's Secret is seen after this long at the latest.
const TRUSTED: Duration = Duration::from_secs(60);

/// A change is carried out once nothing else has changed for this long, so that two Secrets that are changed together
/// reach the pods together.
pub(crate) const SETTLED: Duration = Duration::from_secs(3);

/// What is known of a value is forgotten when it has not been asked for in this long.
const KEPT: Duration = Duration::from_secs(600);

/// A key of a Secret with its default filled in.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Location {
    pub(crate) namespace: String,
    pub(crate) secret: String,
    pub(crate) key: String,
}

/// What a value must be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum SecretFormat {
    /// A URL of Redis.
    Redis,
    /// A URL of Postgres.
    Postgres,
    /// Certificates in PEM.
    Authorities,
}

/// What is kept of a value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Fact {
    /// Digest of the value.
    pub(crate) digest: String,
    /// Where the server is, or what is wrong with the value; `None` for certificates.
    pub(crate) server: Result<Option<ServerAddress>, String>,
    /// Whether it is a Redis URL without TLS.
    pub(crate) is_clear: bool,
}

/// Facts by location and form, trusted for a minute each.
#[derive(Debug, Default)]
pub(crate) struct Facts(Mutex<HashMap<(Location, SecretFormat), Known>>);

#[derive(Clone, Debug)]
struct Known {
    at: Instant,
    /// `None`: the Secret does not exist, or lacks the key.
    fact: Option<Fact>,
    /// When it was seen to have changed.
    changed: Option<Instant>,
}

// === impl Location ===

impl Location {
    /// The place that a reference in a Hub names.
    pub(crate) fn of(namespace: &str, reference: &SecretKey, default_key: &str) -> Self {
        Self {
            namespace: namespace.to_owned(),
            secret: reference.name.clone(),
            key: reference.key.clone().unwrap_or_else(|| default_key.to_owned()),
        }
    }
}

// === impl Fact ===

impl Fact {
    /// Reads a value as the hub will, with the hub's own parser.
    pub(crate) fn of(value: &[u8], format: SecretFormat, namespace: &str) -> Self {
        let text = std::str::from_utf8(value).map(str::trim);
        let address = |parse: fn(&str) -> Result<Address, InvalidUrl>| {
            let address = parse(text.map_err(|_| "it is not UTF-8".to_owned())?).map_err(|error| error.to_string())?;
            if address.host.is_empty() {
                return Err("no host is given".to_owned());
            }
            Ok(Some(address))
        };
        let address = match format {
            SecretFormat::Redis => address(address::redis),
            SecretFormat::Postgres => address(address::postgres),
            SecretFormat::Authorities => authorities(value).map(|()| None),
        };
        let in_clear = |address: &Address| format == SecretFormat::Redis && !address.is_redis_over_tls();
        Self {
            digest: digest(&[value]),
            is_clear: matches!(&address, Ok(Some(address)) if in_clear(address)),
            server: address.map(|address| address.map(|address| ServerAddress::of(&address, namespace))),
        }
    }
}

/// Checks that there is a certificate that TLS can trust, and none that cannot be read.
fn authorities(pem: &[u8]) -> Result<(), String> {
    let mut trusted = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(pem) {
        let certificate = certificate.map_err(|_| "it holds something that is no PEM".to_owned())?;
        // A certificate that this software cannot use is skipped, as the hub does, as long as there is another.
        let _ = trusted.add(certificate);
    }
    if trusted.is_empty() {
        return Err("it holds no certificate of an authority in PEM".to_owned());
    }
    Ok(())
}

// === impl Facts ===

impl Facts {
    /// What is known of a value; `None`: the Secret does not exist, or lacks the key.
    pub(crate) async fn read(
        &self,
        kubernetes: &Kubernetes,
        location: &Location,
        format: SecretFormat,
    ) -> Result<Option<Fact>, Error> {
        let trusts = |known: &Known| known.fact.is_some() && known.at.elapsed() < TRUSTED;
        match self.known(location, format).filter(trusts) {
            Some(known) => Ok(known.fact),
            // A missing one is looked for again at once: somebody is waiting for it.
            None => self.refresh(kubernetes, location, format).await,
        }
    }

    /// What is known of values that belong together, and whether they are still changing: once one is seen to have
    /// changed, the others are read again too, until nothing changes any more.
    pub(crate) async fn read_all<const N: usize>(
        &self,
        kubernetes: &Kubernetes,
        places: &[Option<(Location, SecretFormat)>; N],
    ) -> Result<([Option<Fact>; N], bool), Error> {
        for (location, format) in places.iter().flatten() {
            self.read(kubernetes, location, *format).await?;
        }
        if self.changed_within(places, SETTLED * 2) {
            for (location, format) in places.iter().flatten() {
                self.refresh(kubernetes, location, *format).await?;
            }
        }
        let facts = places.each_ref().map(|place| {
            let (location, format) = place.as_ref()?;
            self.known(location, *format)?.fact
        });
        Ok((facts, self.changed_within(places, SETTLED)))
    }

    fn known(&self, location: &Location, format: SecretFormat) -> Option<Known> {
        self.0.lock().get(&(location.clone(), format)).cloned()
    }

    fn changed_within(&self, places: &[Option<(Location, SecretFormat)>], limit: Duration) -> bool {
        let changed = places
            .iter()
            .flatten()
            .filter_map(|(location, format)| self.known(location, *format)?.changed);
        changed.into_iter().any(|at| at.elapsed() < limit)
    }

    async fn refresh(
        &self,
        kubernetes: &Kubernetes,
        location: &Location,
        format: SecretFormat,
    ) -> Result<Option<Fact>, Error> {
        let secret: Option<Secret> = kubernetes.get(&location.namespace, &location.secret).await?;
        let value = secret.and_then(|secret| secret.data?.remove(&location.key));
        let fact = value.map(|value| Fact::of(&value.0, format, &location.namespace));
        let (key, now) = ((location.clone(), format), Instant::now());
        let mut facts = self.0.lock();
        facts.retain(|_, known| known.at.elapsed() < KEPT);
        let before = facts.get(&key);
        let changed = match before.map(|known| &known.fact) {
            Some(Some(old)) if fact.as_ref() != Some(old) => Some(now),
            _ => before.and_then(|known| known.changed),
        };
        let known = Known {
            at: now,
            fact: fact.clone(),
            changed,
        };
        facts.insert(key, known);
        Ok(fact)
    }
}

#[cfg(test)]
mod tests;
