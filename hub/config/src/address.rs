//! URLs of Redis and Postgres that a hub can connect with. The hub reads them through this, and so does the operator
//! before it rolls pods that work.
//!
//! Invariants
//! - What is accepted here is accepted by the clients of both servers (their crates test that).
//! - No error contains any part of a URL, which may hold a password.

use percent_encoding::percent_decode_str;
use url::Url;

/// Where a server is, without the credentials.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Address {
    /// In lower case.
    pub scheme: String,
    /// Name or address, IPv6 without brackets; empty if a local socket is meant.
    pub host: String,
    /// The given port or the server's default.
    pub port: u16,
}

/// Why a URL cannot be used. Names the part that is wrong, but never its content.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct InvalidUrl(String);

/// The default port of Redis.
pub const REDIS_PORT: u16 = 6379;

/// The default port of Postgres.
pub const POSTGRES_PORT: u16 = 5432;

/// The advice that both share.
const ENCODE: &str = "write / ? # @ : % and spaces in a user's name or password as %2F %3F %23 %40 %3A %25 %20";

// === impl Address ===

impl Address {
    /// Whether the scheme asks for Redis over TLS: `rediss` or `valkeys`.
    pub fn is_redis_over_tls(&self) -> bool {
        matches!(self.scheme.as_str(), "rediss" | "valkeys")
    }
}

// === impl InvalidUrl ===

impl InvalidUrl {
    /// A reason, which must not repeat the URL.
    pub fn new(reason: impl Into<String>) -> Self {
        Self(reason.into())
    }
}

/// Reads `redis://[user:password@]host[:port][/database]`, or `rediss://` for TLS.
///
/// # Errors
/// [`InvalidUrl`].
pub fn redis(text: &str) -> Result<Address, InvalidUrl> {
    let url = parse(text, &["redis", "rediss", "valkey", "valkeys"])?;
    let address = address(&url, REDIS_PORT)?;
    if address.host.is_empty() {
        return Err(InvalidUrl::new("no host is given"));
    }
    if ["0.0.0.0", "::"].contains(&address.host.as_str()) {
        return Err(InvalidUrl::new("the host is a wildcard, which nobody can connect to"));
    }
    let database = url.path().trim_matches('/');
    if !database.is_empty() && database.parse::<u32>().is_err() {
        return Err(InvalidUrl::new("the database after the host is not a number"));
    }
    match (address.is_redis_over_tls(), url.fragment()) {
        (_, None) | (true, Some("insecure")) => {}
        _ => return Err(InvalidUrl::new(format!("there is a `#` in it: {ENCODE}"))),
    }
    for (key, value) in url.query_pairs() {
        if key == "protocol" && !["2", "3", "resp2", "resp3"].contains(&&*value) {
            return Err(InvalidUrl::new("`protocol` is not resp2 or resp3"));
        }
    }
    Ok(address)
}

/// Reads `postgres://[user:password@]host[:port]/database[?sslmode=…]`.
///
/// # Errors
/// [`InvalidUrl`].
pub fn postgres(text: &str) -> Result<Address, InvalidUrl> {
    const MODES: [&str; 6] = ["disable", "allow", "prefer", "require", "verify-ca", "verify-full"];
    let url = parse(text, &["postgres", "postgresql"])?;
    let mut address = address(&url, POSTGRES_PORT)?;
    decoded(url.path(), "the database's name")?;
    if url.fragment().is_some() {
        return Err(InvalidUrl::new(format!("there is a `#` in it: {ENCODE}")));
    }
    for (key, value) in url.query_pairs() {
        match &*key {
            "sslmode" | "ssl-mode" if !MODES.contains(&&*value.to_lowercase()) => {
                return Err(InvalidUrl::new(format!("`sslmode` is none of {}", MODES.join(", "))));
            }
            "statement-cache-capacity" if value.parse::<usize>().is_err() => {
                return Err(InvalidUrl::new("`statement-cache-capacity` is not a number"));
            }
            "hostaddr" if value.parse::<std::net::IpAddr>().is_err() => {
                return Err(InvalidUrl::new("`hostaddr` is not an address"));
            }
            "host" | "hostaddr" => address.host = value.into_owned(),
            "port" => address.port = value.parse().map_err(|_| InvalidUrl::new("`port` is not a port"))?,
            _ => {}
        }
    }
    if address.host.starts_with('/') {
        address.host.clear();
    }
    Ok(address)
}

fn parse(text: &str, schemes: &[&str]) -> Result<Url, InvalidUrl> {
    let wanted = || format!("it does not begin with {}://", schemes[..2].join(":// or "));
    let (scheme, _) = text.split_once("://").ok_or_else(|| InvalidUrl::new(wanted()))?;
    if !schemes.contains(&scheme.to_ascii_lowercase().as_str()) {
        return Err(InvalidUrl::new(wanted()));
    }
    Url::parse(text).map_err(|error| InvalidUrl::new(format!("{error}: {ENCODE}")))
}

fn address(url: &Url, default_port: u16) -> Result<Address, InvalidUrl> {
    if url.port() == Some(0) {
        return Err(InvalidUrl::new("port 0 is none"));
    }
    decoded(url.username(), "the user's name")?;
    decoded(url.password().unwrap_or_default(), "the password")?;
    let host = match url.host() {
        Some(url::Host::Ipv6(host)) => host.to_string(),
        Some(host) => decoded(&host.to_string(), "the host")?,
        None => String::new(),
    };
    Ok(Address {
        scheme: url.scheme().to_owned(),
        host,
        port: url.port().unwrap_or(default_port),
    })
}

fn decoded(text: &str, part: &str) -> Result<String, InvalidUrl> {
    let text = percent_decode_str(text).decode_utf8();
    text.map(std::borrow::Cow::into_owned)
        .map_err(|_| InvalidUrl::new(format!("{part} is not UTF-8")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_wrong_is_named_and_nothing_of_the_url_is_repeated() {
        for (text, expect) in [
            ("redis://:p@ss:w/o%r#d?@r2:6379", "port"),
            ("redis://:s3cret@r2:99999", "port"),
            ("redis://:s3cret@r2:0", "port"),
            ("redis://:s3cret@", "host"),
            ("redis://:s3cret@0.0.0.0", "wildcard"),
            ("redis://:s3cret@r2/first", "database"),
            ("redis://:s3cret@r2#d", "%23"),
            ("redis://:s3cret%ff@r2", "UTF-8"),
            ("http://:s3cret@r2", "redis://"),
            ("s3cret", "redis://"),
        ] {
            let error = redis(text).expect_err(text).to_string();
            assert!(error.contains(expect) && !error.contains("s3cret"), "{text}: {error}");
        }
        for (text, expect) in [
            ("postgres://u:s3cret@db:99999/x", "port"),
            ("postgres://u:s3cret@db/x?sslmode=maybe", "sslmode"),
            ("postgres://u:s3cret@db/x?port=many", "port"),
            ("postgres://u:s3cret@db/x?hostaddr=db", "hostaddr"),
            ("postgres://u:s3cret@db/x#y", "%23"),
            ("mysql://u:s3cret@db/x", "postgres://"),
        ] {
            let error = postgres(text).expect_err(text).to_string();
            assert!(error.contains(expect) && !error.contains("s3cret"), "{text}: {error}");
        }
    }

    #[test]
    fn an_address_is_host_and_port_and_no_user() {
        let at = |scheme: &str, host: &str, port| Address {
            scheme: scheme.to_owned(),
            host: host.to_owned(),
            port,
        };

        assert_eq!(redis("redis://cache"), Ok(at("redis", "cache", 6379)));
        assert_eq!(redis("rediss://u:p%40@[::1]:1/2"), Ok(at("rediss", "::1", 1)));
        assert_eq!(postgres("postgresql://u@db/x"), Ok(at("postgresql", "db", 5432)));
        assert_eq!(postgres("postgres:///x?host=h&port=7"), Ok(at("postgres", "h", 7)));
        assert_eq!(postgres("postgres://u@%2Ftmp%2Fs/x").map(|a| a.host), Ok(String::new()));
    }
}
