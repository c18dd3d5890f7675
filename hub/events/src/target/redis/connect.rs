//! The client of the redis crate, with every default that matters set by us.

use std::path::Path;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use redis::io::tcp::TcpSettings;
use redis::{
    AsyncConnectionConfig, Client, ConnectionAddr, IntoConnectionInfo, ProtocolVersion, RedisError, TlsCertificates,
};
use secrecy::{ExposeSecret, SecretString};

use crate::Error;

/// A client for a URL; it connects to nothing yet.
///
/// `rediss://` trusts the system's authorities, and those of the file beside them.
pub(crate) fn client(url: &SecretString, authorities: Option<&Path>) -> Result<Client, Error> {
    let info = url.expose_secret().into_connection_info().map_err(Error::Url)?;
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
        _ => Client::open(info).map_err(Error::Url),
    }
}

/// How every connection behaves.
pub(super) fn settings(timeout: Duration) -> AsyncConnectionConfig {
    AsyncConnectionConfig::new()
        .set_connection_timeout(Some(timeout))
        .set_response_timeout(Some(timeout))
}

/// The authorities of the file and those of the system as one PEM text: given any, the redis crate reads no others.
fn trusted(path: &Path) -> Result<Vec<u8>, Error> {
    let mut pem = std::fs::read(path).map_err(|source| Error::Authorities {
        path: path.to_owned(),
        source,
    })?;
    for certificate in rustls_native_certs::load_native_certs().certs {
        pem.extend_from_slice(b"\n-----BEGIN CERTIFICATE-----\n");
        for line in STANDARD.encode(&certificate).as_bytes().chunks(64) {
            pem.extend_from_slice(line);
            pem.push(b'\n');
        }
        pem.extend_from_slice(b"-----END CERTIFICATE-----\n");
    }
    Ok(pem)
}

fn unusable(path: &Path, error: RedisError) -> Error {
    Error::Authorities {
        path: path.to_owned(),
        source: std::io::Error::other(error),
    }
}
