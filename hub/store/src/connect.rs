//! How to reach Postgres: the URL, the certificate authorities to trust, and the settings of a new connection.

use std::path::Path;
use std::time::Duration;

use alkhub_config::{InvalidUrl, SchemaName, StoreConfig, address};
use pem::Pem;
use rustls::RootCertStore;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use secrecy::ExposeSecret as _;
use sqlx::PgConnection;
use sqlx::postgres::{PgConnectOptions, PgSslMode};

use crate::Error;

/// The options of every connection.
///
/// The schema and the statement's time limit are set by [`prepare`] after connecting and not in the startup message,
/// since connection poolers refuse that.
pub(crate) fn options(config: &StoreConfig) -> Result<PgConnectOptions, Error> {
    let url = config.database()?;
    address::postgres(url.expose_secret())?;
    let unfit = |error: sqlx::Error| InvalidUrl::new(error.to_string());
    let mut options: PgConnectOptions = url.expose_secret().parse().map_err(unfit)?;
    options = options.application_name("alkhub");
    if let Some(path) = &config.ca_file {
        let mode = match options.get_ssl_mode() {
            PgSslMode::VerifyCa => PgSslMode::VerifyCa,
            // Whoever names an authority wants it checked, which libpq's default would not do.
            _ => PgSslMode::VerifyFull,
        };
        options = options.ssl_mode(mode).ssl_root_cert_from_pem(authorities(Some(path))?);
    } else if !url.expose_secret().contains("sslrootcert") && verifies(options.get_ssl_mode()) {
        options = options.ssl_root_cert_from_pem(authorities(None)?);
    }
    Ok(options)
}

/// Selects the Hub's schema on a new connection and limits its statements.
pub(crate) async fn prepare(
    connection: &mut PgConnection,
    schema: &SchemaName,
    statement_timeout: Duration,
) -> sqlx::Result<()> {
    // Notices ("relation already exists, skipping") would otherwise be logged at each start.
    let settings = "SELECT set_config('search_path', $1, false), set_config('statement_timeout', $2, false),
                           set_config('client_min_messages', 'warning', false)";
    sqlx::query(settings)
        .bind(schema.as_str())
        .bind(statement_timeout.as_millis().to_string())
        .execute(connection)
        .await?;
    Ok(())
}

fn verifies(mode: PgSslMode) -> bool {
    matches!(mode, PgSslMode::VerifyCa | PgSslMode::VerifyFull)
}

/// The system's certificate authorities and those of the file, as PEM. A certificate that rustls cannot use is left
/// out, unless the file has no other.
fn authorities(path: Option<&Path>) -> Result<Vec<u8>, Error> {
    let mut pem = String::new();
    for certificate in rustls_native_certs::load_native_certs().certs {
        append(&mut pem, &certificate);
    }
    if let Some(path) = path {
        let failed = |source| Error::CaFile {
            path: path.to_owned(),
            source,
        };
        let text = std::fs::read(path).map_err(|error| failed(Some(error)))?;
        let before = pem.len();
        for certificate in CertificateDer::pem_slice_iter(&text).flatten() {
            append(&mut pem, &certificate);
        }
        if pem.len() == before {
            return Err(failed(None));
        }
    }
    Ok(pem.into_bytes())
}

fn append(pem: &mut String, certificate: &CertificateDer<'_>) {
    if RootCertStore::empty().add(certificate.clone()).is_err() {
        return;
    }
    pem.push_str(&pem::encode(&Pem::new("CERTIFICATE", certificate.as_ref())));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_settings_accept_as_an_address_of_postgres_the_client_accepts() {
        for text in [
            "postgres://db/x",
            "postgresql://user:p%40ss@DB.team:5432/x%20y?sslmode=verify-full&application_name=a",
            "postgres:///x?host=%2Ftmp&port=7",
            "postgres://u@%2Ftmp%2Fs/x?sslmode=Disable",
            "postgres://[::1]/x?statement-cache-capacity=0&hostaddr=10.0.0.1&other=1",
        ] {
            assert!(address::postgres(text).is_ok(), "{text}");
            assert!(text.parse::<PgConnectOptions>().is_ok(), "{text}");
        }
    }
}
