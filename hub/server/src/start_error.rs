//! Why a hub does not start.

use std::net::SocketAddr;

use alkhub_config::secret;
use alkhub_edge::auth::InvalidFirstKey;
use alkhub_edge::listener::tls;
use alkhub_store::InvalidHashKey;

/// Why a hub does not start. Redis or Postgres being away is not among these.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Settings contradict each other.
    #[error(transparent)]
    Settings(#[from] alkhub_config::Error),
    /// A listener's address cannot be bound.
    #[error("cannot listen on {address} (`{setting}`)")]
    Bind {
        /// The setting of the address.
        setting: &'static str,
        /// The address.
        address: SocketAddr,
        /// Why.
        source: std::io::Error,
    },
    /// There is no secret to hash keys with.
    #[error("set `auth.hash-key-file` to a file with 64 hexadecimal digits: `openssl rand -hex 32`")]
    HashKeyMissing,
    /// A secret's file cannot be read.
    #[error(transparent)]
    Secret(#[from] secret::Error),
    /// The secret to hash keys with has the wrong form.
    #[error("`auth.hash-key-file` is not valid")]
    HashKey(#[from] InvalidHashKey),
    /// The first admin key cannot be read, or is not a key.
    #[error(transparent)]
    AdminKey(#[from] InvalidFirstKey),
    /// The certificate cannot be used.
    #[error(transparent)]
    Tls(#[from] tls::TlsError),
    /// Postgres cannot even be tried.
    #[error(transparent)]
    Store(#[from] alkhub_store::Error),
    /// Redis cannot even be tried.
    #[error(transparent)]
    Redis(#[from] alkhub_redis::SetupError),
    /// Two metrics have the same name: a fault in alkhub.
    #[error("metrics cannot be set up")]
    Metrics(#[from] prometheus::Error),
}
