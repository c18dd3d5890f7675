//! Postgres.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use secrecy::SecretString;
use serde::{Deserialize, Serialize};

use crate::secret::{self, Source};

/// `[store]`, `ALKHUB_STORE__*`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct StoreConfig {
    /// `postgres://…`; this or `database-url-file` must be given.
    #[serde(skip_serializing)]
    pub database_url: Option<SecretString>,
    /// File with the URL.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub database_url_file: Option<PathBuf>,
    /// PEM file with authorities to trust besides the system's, for `sslmode=verify-full`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ca_file: Option<PathBuf>,
    /// The schema that holds this Hub's tables; made at start when missing.
    pub schema: SchemaName,
    /// Connections at most. Too low makes logins wait; too high takes them from other pods.
    pub max_connections: u32,
    /// A query that gets no connection in this time has failed.
    #[serde(with = "humantime_serde")]
    pub acquire_timeout: Duration,
    /// A query that runs for longer has failed.
    #[serde(with = "humantime_serde")]
    pub statement_timeout: Duration,
    /// The link is checked this often.
    #[serde(with = "humantime_serde")]
    pub ping_interval: Duration,
}

/// A schema's name: lower-case letters, digits and `_`, at most 63 bytes, no digit first.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct SchemaName(String);

/// The text is not a schema's name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("schema `{0}` is not valid: use 1 to 63 lower-case letters, digits and `_`, no digit first, not `pg_…`")]
pub struct InvalidSchema(String);

// === impl StoreConfig ===

impl StoreConfig {
    /// The URL of Postgres, from the setting or from the file.
    ///
    /// # Errors
    /// The file cannot be read, both are set, or neither is.
    pub fn database(&self) -> Result<SecretString, secret::Error> {
        secret::resolve(&Source {
            value_setting: "store.database-url",
            value: self.database_url.as_ref(),
            file_setting: "store.database-url-file",
            file: self.database_url_file.as_deref(),
        })?
        .ok_or(secret::Error::Missing {
            value: "store.database-url",
            file: "store.database-url-file",
        })
    }
}

impl PartialEq for StoreConfig {
    /// Secrets aside: two configurations are equal when they are written the same.
    fn eq(&self, other: &Self) -> bool {
        toml::Table::try_from(self).ok() == toml::Table::try_from(other).ok()
    }
}

impl Default for StoreConfig {
    fn default() -> Self {
        Self {
            database_url: None,
            database_url_file: None,
            ca_file: None,
            schema: SchemaName("alkhub".to_owned()),
            max_connections: 10,
            acquire_timeout: Duration::from_secs(5),
            statement_timeout: Duration::from_secs(10),
            ping_interval: Duration::from_secs(5),
        }
    }
}

// === impl SchemaName ===

impl SchemaName {
    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for SchemaName {
    type Err = InvalidSchema;

    fn from_str(text: &str) -> Result<Self, InvalidSchema> {
        let valid = (1..=63).contains(&text.len())
            && text
                .bytes()
                .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_')
            && !text.starts_with(|c: char| c.is_ascii_digit())
            && !text.starts_with("pg_");
        if valid {
            Ok(Self(text.to_owned()))
        } else {
            Err(InvalidSchema(text.to_owned()))
        }
    }
}

impl TryFrom<String> for SchemaName {
    type Error = InvalidSchema;

    fn try_from(text: String) -> Result<Self, InvalidSchema> {
        text.parse()
    }
}

impl From<SchemaName> for String {
    fn from(name: SchemaName) -> Self {
        name.0
    }
}

impl fmt::Display for SchemaName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
