//! Which certificates of a hub are trusted: those of the system's authorities, and of the authorities in a file. A file
//! without any is an error, whether or not the connection will be encrypted.

use std::path::Path;
use std::sync::Arc;

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;

use crate::Error;

/// The system's certificate authorities and those of `ca_file`; none are read for plain HTTP.
pub(super) fn tls(encrypted: bool, ca_file: Option<&Path>) -> Result<rustls::ClientConfig, Error> {
    let mut roots = rustls::RootCertStore::empty();
    if encrypted {
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    }
    if let Some(path) = ca_file {
        add_authorities(&mut roots, path).map_err(|reason| Error::Setting {
            setting: "the CA file",
            reason: format!("{}: {reason}", path.display()),
        })?;
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("the provider supports the default versions");
    Ok(config.with_root_certificates(roots).with_no_client_auth())
}

fn add_authorities(roots: &mut rustls::RootCertStore, path: &Path) -> Result<(), String> {
    let system = roots.len();
    let pem = std::fs::read(path).map_err(|e| e.to_string())?;
    for certificate in CertificateDer::pem_slice_iter(&pem) {
        let certificate = certificate.map_err(|e| e.to_string())?;
        roots
            .add(certificate)
            .map_err(|_| "one of its certificates cannot be read".to_owned())?;
    }
    if roots.len() == system {
        return Err("it holds no certificate in PEM".to_owned());
    }
    Ok(())
}
