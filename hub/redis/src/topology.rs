//! Where Redis is, and how an incarnation's connections are opened there.
//!
//! Every default of the redis crate that matters is set here.

use std::path::Path;
use std::time::Duration;

use alkhub_config::{InvalidUrl, address};
use pem::Pem;
use redis::aio::{MultiplexedConnection, SendError};
use redis::io::tcp::TcpSettings;
use redis::{
    AsyncConnectionConfig, Client, ConnectionAddr, IntoConnectionInfo, ProtocolVersion, PushInfo, RedisError,
    TlsCertificates,
};
use secrecy::{ExposeSecret, SecretString};

use crate::error::SetupError;

/// The beginning of a certificate in PEM.
const CERTIFICATE: &[u8] = b"-----BEGIN CERTIFICATE-----";

/// Prefixes of URLs for a server on this machine.
const SOCKETS: [&str; 3] = ["unix:", "redis+unix:", "valkey+unix:"];

/// What a hub connects to: a closed set.
pub(crate) enum Topology {
    /// One server, which is the primary.
    Standalone(Client),
}

// === impl Topology ===

impl Topology {
    /// The topology of a URL; it does not connect yet. `authorities` is the file of `events.redis-ca-file`.
    pub(crate) fn new(url: &SecretString, authorities: Option<&Path>) -> Result<Self, SetupError> {
        client(url, authorities).map(Self::Standalone)
    }

    /// A connection for commands. Opening it, and each answer, may take `timeout`.
    pub(crate) async fn connect(&self, timeout: Duration) -> Result<MultiplexedConnection, RedisError> {
        self.open(&settings(timeout)).await
    }

    /// A connection for subscriptions: `push` takes what the server sends unasked, and never waits.
    pub(crate) async fn connect_receiving(
        &self,
        timeout: Duration,
        push: impl Fn(PushInfo) -> Result<(), SendError> + Send + Sync + 'static,
    ) -> Result<MultiplexedConnection, RedisError> {
        self.open(&settings(timeout).set_push_sender(push)).await
    }

    async fn open(&self, settings: &AsyncConnectionConfig) -> Result<MultiplexedConnection, RedisError> {
        match self {
            Self::Standalone(client) => client.get_multiplexed_async_connection_with_config(settings).await,
        }
    }
}

/// A client for a URL.
///
/// `rediss://` trusts the system's certificate authorities and those of the file. A file together with an unencrypted
/// link is refused: whoever gave it believes the link to be encrypted.
fn client(url: &SecretString, authorities: Option<&Path>) -> Result<Client, SetupError> {
    let text = url.expose_secret();
    if !SOCKETS.iter().any(|scheme| text.starts_with(scheme)) {
        address::redis(text)?;
    }
    let info = text.into_connection_info().map_err(|error| unfit(&error))?;
    let settings = info.redis_settings().clone().set_protocol(ProtocolVersion::RESP3);
    let info = info
        .set_redis_settings(settings)
        .set_tcp_settings(TcpSettings::default().set_nodelay(true));
    match authorities {
        Some(path) if matches!(info.addr(), ConnectionAddr::TcpTls { .. }) => {
            let certificates = TlsCertificates {
                client_tls: None,
                root_cert: Some(trusted(path)?),
            };
            Client::build_with_tls(info, certificates).map_err(|error| unusable(path, error))
        }
        Some(_) => Err(InvalidUrl::new(
            "`events.redis-ca-file` is set and the URL begins with redis://, which is in the clear: write rediss://, or \
             leave the file out",
        )
        .into()),
        None => Client::open(info).map_err(|error| unfit(&error)),
    }
}

/// The client's own message about a URL, which repeats nothing of it.
fn unfit(error: &RedisError) -> SetupError {
    InvalidUrl::new(error.to_string()).into()
}

/// The settings of every connection.
fn settings(timeout: Duration) -> AsyncConnectionConfig {
    AsyncConnectionConfig::new()
        .set_connection_timeout(Some(timeout))
        .set_response_timeout(Some(timeout))
}

/// The certificate authorities of the file and of the system as one PEM text: if it is given any, the redis crate reads
/// no others.
fn trusted(path: &Path) -> Result<Vec<u8>, SetupError> {
    let failed = |source| SetupError::Authorities {
        path: path.to_owned(),
        source,
    };
    let mut pem = std::fs::read(path).map_err(failed)?;
    // With the system's authorities next to them, their absence would not show until the first connection is refused.
    if !pem.windows(CERTIFICATE.len()).any(|part| part == CERTIFICATE) {
        let none = std::io::Error::new(std::io::ErrorKind::InvalidData, "it has no certificate in PEM");
        return Err(failed(none));
    }
    for certificate in rustls_native_certs::load_native_certs().certs {
        pem.push(b'\n');
        pem.extend_from_slice(pem::encode(&Pem::new("CERTIFICATE", certificate.as_ref())).as_bytes());
    }
    Ok(pem)
}

fn unusable(path: &Path, error: RedisError) -> SetupError {
    SetupError::Authorities {
        path: path.to_owned(),
        source: std::io::Error::other(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_settings_accept_as_an_address_of_redis_the_client_accepts() {
        for text in [
            "redis://cache",
            "redis://:pass@cache:6379/3",
            "rediss://user:p%40ss@CACHE.team:6379",
            "rediss://[::1]:7/0#insecure",
            "valkey://cache.team.svc/0?protocol=resp3",
            "redis://a@b:c@cache.team.svc.cluster.local.",
            "redis://user@10.0.0.1:1/",
        ] {
            assert!(address::redis(text).is_ok(), "{text}");
            assert!(client(&text.into(), None).is_ok(), "{text}");
        }
    }

    #[test]
    fn authorities_beside_a_link_in_the_clear_are_refused() {
        for url in ["redis://:s3cret@cache", "unix:///run/redis.sock"] {
            let error = client(&url.into(), Some(Path::new("/ca.pem"))).expect_err(url);

            let text = format!("{error}: {:?}", std::error::Error::source(&error));
            assert!(
                text.contains("events.redis-ca-file") && text.contains("rediss://"),
                "{text}"
            );
            assert!(!text.contains("s3cret"), "{text}");
        }
    }
}
