//! Why something could not be read or written: one variant for each thing that the caller can do about it.

use std::path::PathBuf;

use alkhub_config::secret;

use crate::actor::ActorEnded;

/// Why the store failed. The text never contains the database's URL.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The URL's setting is missing, given twice, or its file cannot be read.
    #[error(transparent)]
    Setting(#[from] secret::Error),
    /// The URL cannot be read.
    #[error("`store.database-url` is not a Postgres URL")]
    Url(#[from] alkhub_config::InvalidUrl),
    /// The file of certificate authorities cannot be read or contains no certificate.
    #[error("`store.ca-file` {path} has no certificate that can be read")]
    CaFile {
        /// The file.
        path: PathBuf,
        /// Why, if it could not be read at all.
        source: Option<std::io::Error>,
    },
    /// The registry has metrics of another store already.
    #[error("the metrics of the store cannot be registered")]
    Metrics(#[from] prometheus::Error),
    /// Postgres is away, or no connection became free in time. Try again later.
    #[error("Postgres is not available: {reason}")]
    Unavailable {
        /// What is known, for the log.
        reason: String,
    },
    /// The wait for Postgres was ended from outside.
    #[error("stopped while waiting for Postgres")]
    Stopped,
    /// Newer software changed the schema in such a way that this software must not use it.
    #[error(
        "schema `{schema}` needs alkhub with schema version {min_reader} or newer, and this one has {ours} (the schema is at {version}): use a newer alkhub"
    )]
    SchemaTooNew {
        /// The schema.
        schema: String,
        /// Its newest migration.
        version: i64,
        /// The oldest software that may use it.
        min_reader: i64,
        /// The newest migration that this software knows.
        ours: i64,
    },
    /// A migration was applied in a form other than this software's, or it failed.
    #[error("schema `{schema}` cannot be migrated")]
    Migration {
        /// The schema.
        schema: String,
        /// Why.
        source: sqlx::migrate::MigrateError,
    },
    /// The key belongs to another spoke or to a client.
    #[error("the key is in use for something else: make a new one")]
    KeyInUse,
    /// No other valid admin key lasts as long as this one.
    #[error(
        "no other admin key lasts as long as this one: make another first (`alkhub keys create NAME --scope admin`), then revoke this one"
    )]
    LastAdmin,
    /// The key with which the write was to be made has ended; nothing was written.
    #[error("the key was revoked or has expired")]
    ActorEnded,
    /// A text contains a character that Postgres cannot store (U+0000).
    #[error("a text contains the character U+0000, which cannot be stored")]
    Text,
    /// A stored row does not have the form that this software gives it.
    #[error("a stored {0} is not valid")]
    Corrupt(&'static str),
    /// The statement failed.
    #[error("statement `{statement}` failed")]
    Query {
        /// Its name in the metrics.
        statement: &'static str,
        /// Why.
        source: sqlx::Error,
    },
}

// === impl Error ===

impl Error {
    /// Whether the same request may succeed later without anybody changing anything.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Unavailable { .. } => true,
            Self::Query { source, .. } => is_link_failure(source) || is_conflict(source),
            Self::Setting(_)
            | Self::Url(_)
            | Self::CaFile { .. }
            | Self::Metrics(_)
            | Self::Stopped
            | Self::SchemaTooNew { .. }
            | Self::Migration { .. }
            | Self::KeyInUse
            | Self::LastAdmin
            | Self::ActorEnded
            | Self::Text
            | Self::Corrupt(_) => false,
        }
    }

    /// Whether the data may have been written all the same: the link broke at a point when Postgres may have had all of
    /// it.
    pub fn may_be_written(&self) -> bool {
        matches!(self, Self::Query { source, .. } if is_link_failure(source))
    }

    /// The error of a statement, classified by what its caller can do.
    pub(crate) fn of_statement(statement: &'static str, source: sqlx::Error) -> Self {
        if let sqlx::Error::AnyDriverError(cause) = &source
            && cause.is::<ActorEnded>()
        {
            return Self::ActorEnded;
        }
        let code = source.as_database_error().and_then(|error| error.code());
        match code.as_deref() {
            // character_not_in_repertoire, untranslatable_character
            Some("22021" | "22P05") => Self::Text,
            _ => Self::Query { statement, source },
        }
    }
}

/// Whether an error concerns the link rather than the statement.
pub(crate) fn is_link_failure(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Io(_)
        | sqlx::Error::Tls(_)
        | sqlx::Error::Protocol(_)
        | sqlx::Error::PoolTimedOut
        | sqlx::Error::PoolClosed
        | sqlx::Error::WorkerCrashed => true,
        // 08: connection exception; 57P: the server is shutting down or starting up; 53: out of connections or memory.
        sqlx::Error::Database(error) => error
            .code()
            .is_some_and(|code| code.starts_with("08") || code.starts_with("57P") || code.starts_with("53")),
        _ => false,
    }
}

/// serialization_failure, deadlock_detected: nothing was done, and the next attempt will not meet the same conflict.
fn is_conflict(error: &sqlx::Error) -> bool {
    let code = error.as_database_error().and_then(|error| error.code());
    matches!(code.as_deref(), Some("40001" | "40P01"))
}

/// What went wrong with a link, in a few words and without its URL.
pub(crate) fn reason(error: &sqlx::Error) -> String {
    match error {
        sqlx::Error::Io(error) => error.to_string(),
        sqlx::Error::Database(error) => error.message().to_owned(),
        sqlx::Error::Tls(error) => format!("TLS: {error}"),
        sqlx::Error::PoolTimedOut => "no connection came free in time".to_owned(),
        error => error.to_string(),
    }
}
