//! TLS on the main listener, if a certificate is given.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use alkhub_config::TlsConfig;
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::TlsAcceptor;

/// Accepts TLS on sockets.
pub type Acceptor = TlsAcceptor;

/// Why the certificate cannot be used; names the setting.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file cannot be read or holds no PEM of its kind.
    #[error("cannot use `{setting}` {path}: {message}")]
    File {
        /// The setting of the file.
        setting: &'static str,
        /// The file.
        path: PathBuf,
        /// What is wrong.
        message: String,
    },
    /// Certificate and key do not belong together.
    #[error("`server.tls.cert-file` and `server.tls.key-file` cannot be used together")]
    Pair(#[source] rustls::Error),
}

/// Reads a certificate chain and its key.
///
/// # Errors
/// [`TlsError`].
pub fn acceptor(config: &TlsConfig) -> Result<Acceptor, TlsError> {
    let chain = chain(&config.cert_file)?;
    let key = PrivateKeyDer::from_pem_file(&config.key_file)
        .map_err(|e| unusable("server.tls.key-file", &config.key_file, e.to_string()))?;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut server = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .and_then(|builder| builder.with_no_client_auth().with_single_cert(chain, key))
        .map_err(TlsError::Pair)?;
    server.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(TlsAcceptor::from(Arc::new(server)))
}

fn chain(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    const SETTING: &str = "server.tls.cert-file";
    let chain: Vec<_> = CertificateDer::pem_file_iter(path)
        .and_then(Iterator::collect)
        .map_err(|e| unusable(SETTING, path, e.to_string()))?;
    if chain.is_empty() {
        return Err(unusable(SETTING, path, "it holds no certificate".to_owned()));
    }
    Ok(chain)
}

fn unusable(setting: &'static str, path: &Path, message: String) -> TlsError {
    TlsError::File {
        setting,
        path: path.to_owned(),
        message,
    }
}
