//! Waiting for a server while a person waits too: soon a line that says what for, and in the end one that says why it
//! failed.
//!
//! Promise: no line contains the user or the password of a URL.

use std::time::Duration;

use alkhub_config::HubConfig;
use alkhub_config::address::{POSTGRES_PORT, REDIS_PORT};
use percent_encoding::percent_decode_str;
use secrecy::ExposeSecret as _;
use tokio::time::timeout;

use crate::failure::{Failure, chain};
use crate::output;

/// Anything slower than this is reported.
const PATIENCE: Duration = Duration::from_secs(2);

/// Where the servers are, and what to do if one is away.
#[derive(Debug)]
pub(crate) struct Places {
    postgres: Place,
    redis: Place,
}

#[derive(Debug)]
struct Place {
    address: String,
    cure: &'static str,
}

// === impl Places ===

impl Places {
    /// Taken from a configuration, with what to do about Postgres and about Redis.
    pub(crate) fn new(config: &HubConfig, postgres: &'static str, redis: &'static str) -> Result<Self, Failure> {
        let of_postgres = config.store.database().map_err(|e| Failure::usage(chain(&e)))?;
        let of_redis = config.events.redis().map_err(|e| Failure::usage(chain(&e)))?;
        let of_redis = of_redis.as_ref().map_or("", |url| url.expose_secret());
        Ok(Self {
            postgres: Place {
                address: address(of_postgres.expose_secret(), POSTGRES_PORT),
                cure: postgres,
            },
            redis: Place {
                address: address(of_redis, REDIS_PORT),
                cure: redis,
            },
        })
    }

    fn find(&self, name: &str) -> Option<&Place> {
        match name {
            "Postgres" => Some(&self.postgres),
            "Redis" => Some(&self.redis),
            _ => None,
        }
    }

    /// What is missing, where, and why.
    fn cause(&self, name: &str, reason: &str) -> String {
        // An error and its source often say the same.
        let mut reason: Vec<_> = reason.split(": ").collect();
        reason.dedup();
        let reason = reason.join(": ");
        match self.find(name) {
            Some(place) => format!("{name} at {}: {reason}", place.address),
            None => format!("{name}: {reason}"),
        }
    }

    fn cause_and_cure(&self, name: &str, reason: &str) -> String {
        let cure = self
            .find(name)
            .map_or(String::new(), |place| format!("; {}", place.cure));
        self.cause(name, reason) + &cure
    }
}

/// Waits for `work` up to `limit`. `away` returns what is missing, and why.
pub(crate) async fn until<T>(
    work: impl Future<Output = T>,
    limit: Duration,
    places: &Places,
    away: impl Fn() -> Vec<(&'static str, String)>,
) -> Result<T, Failure> {
    tokio::pin!(work);
    let first = PATIENCE.min(limit);
    if let Ok(done) = timeout(first, &mut work).await {
        return Ok(done);
    }
    for (name, reason) in away() {
        output::note(&format!("waiting for {}", places.cause(name, &reason)));
    }
    if let Ok(done) = timeout(limit - first, &mut work).await {
        return Ok(done);
    }
    let causes: Vec<String> = away()
        .iter()
        .map(|(name, reason)| places.cause_and_cure(name, reason))
        .collect();
    let cause = match causes.as_slice() {
        [] => "`--log info` tells more".to_owned(),
        causes => causes.join("; "),
    };
    Err(Failure::other(format!("not ready after {limit:?}: {cause}")))
}

/// Host and port of a server's URL, or the path of its socket; never its user or password.
fn address(url: &str, port: u16) -> String {
    let (scheme, rest) = url.split_once("://").unwrap_or(("", url));
    let (authority, more) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
    let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
    let (path, parameters) = more.split_once('?').unwrap_or((more, ""));
    if scheme.contains("unix") {
        return path.to_owned();
    }
    let named = parameters
        .split('&')
        .find_map(|parameter| parameter.strip_prefix("host="));
    if let Some(named) = named {
        return percent_decode_str(named).decode_utf8_lossy().into_owned();
    }
    let has_port = host
        .rsplit_once(':')
        .is_some_and(|(_, port)| port.parse::<u16>().is_ok());
    match (host, has_port) {
        ("", _) => format!("localhost:{port}"),
        (host, true) => host.to_owned(),
        (host, false) => format!("{host}:{port}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_has_no_password_in_it() {
        for (url, port, shown) in [
            ("redis://127.0.0.1", 6379, "127.0.0.1:6379"),
            ("rediss://user:p%40ss@redis.example:7000/3", 6379, "redis.example:7000"),
            ("redis://:p@ss@r/0", 6379, "r:6379"),
            ("redis://[::1]", 6379, "[::1]:6379"),
            ("redis+unix:///run/redis.sock?pass=secret", 6379, "/run/redis.sock"),
            ("postgres://me:secret@db.example/alkhub", 5432, "db.example:5432"),
            (
                "postgres://me:secret@localhost/postgres?sslmode=disable&host=%2Frun%2Fmy%20pg",
                5432,
                "/run/my pg",
            ),
            ("postgres:///alkhub", 5432, "localhost:5432"),
        ] {
            assert_eq!(address(url, port), shown, "{url}");
        }
    }
}
