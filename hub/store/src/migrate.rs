//! Brings a Hub's schema up to date: one hub at a time, and never behind the back of software that still reads it.
//!
//! Migrations expand first and contract later. Software that meets a newer schema goes on, unless the schema's
//! `min_reader` says that what it reads is gone.

use std::sync::LazyLock;

use alkhub_config::SchemaName;
use sqlx::migrate::Migrator;
use sqlx::{AssertSqlSafe, Connection as _, PgConnection};

use crate::error::{is_link_failure, reason};
use crate::{Error, connect};

/// The migrations of this software. Those of newer software that the schema has as well are no fault.
static MIGRATIONS: LazyLock<Migrator> = LazyLock::new(|| {
    let mut migrations = sqlx::migrate!();
    // The lock is our own: one per schema instead of one per database.
    migrations.set_ignore_missing(true).set_locking(false);
    migrations
});

/// The newest migration that this software knows.
pub(crate) fn ours() -> i64 {
    MIGRATIONS.iter().map(|migration| migration.version).max().unwrap_or(0)
}

/// The oldest software that may use the schema. Also the link's ping.
pub(crate) async fn min_reader(connection: &mut PgConnection) -> sqlx::Result<i64> {
    sqlx::query_scalar!("SELECT min_reader FROM schema_info")
        .fetch_one(connection)
        .await
}

/// Another number for each time the schema was made.
pub(crate) async fn incarnation(connection: &mut PgConnection) -> sqlx::Result<i64> {
    sqlx::query_scalar("SELECT COALESCE(to_regclass('operations')::oid::int8, 0)")
        .fetch_one(connection)
        .await
}

/// Makes the schema and applies what it lacks. The lock ends with the connection, however that happens.
///
/// # Errors
/// [`Error::SchemaTooNew`], [`Error::Migration`], or [`Error::Unavailable`] for everything that may pass.
pub(crate) async fn run(connection: &mut PgConnection, schema: &SchemaName) -> Result<(), Error> {
    let transient = |error: sqlx::Error| Error::Unavailable { reason: reason(&error) };
    enter(connection, schema).await.map_err(transient)?;
    check(connection, schema).await?;
    MIGRATIONS
        .run_direct(None, connection, false)
        .await
        .map_err(|source| failed(schema, source))?;
    leave(connection, schema).await.map_err(transient)
}

/// Takes the lock, makes the schema when it is missing, and enters it. Migrations have no time limit.
async fn enter(connection: &mut PgConnection, schema: &SchemaName) -> sqlx::Result<()> {
    connect::prepare(connection, schema, std::time::Duration::ZERO).await?;
    sqlx::query("SELECT pg_advisory_lock(hashtextextended('alkhub.migrate.' || $1, 0))")
        .bind(schema.as_str())
        .execute(&mut *connection)
        .await?;
    // Asked first, since IF NOT EXISTS needs the right to make schemas even where there is nothing to make.
    let exists: bool = sqlx::query_scalar("SELECT EXISTS (SELECT FROM pg_namespace WHERE nspname = $1)")
        .bind(schema.as_str())
        .fetch_one(&mut *connection)
        .await?;
    if !exists {
        // A SchemaName has nothing in it that would need a quote.
        let create = format!("CREATE SCHEMA {schema}");
        sqlx::query(AssertSqlSafe(create)).execute(&mut *connection).await?;
    }
    Ok(())
}

async fn check(connection: &mut PgConnection, schema: &SchemaName) -> Result<(), Error> {
    let transient = |error: sqlx::Error| Error::Unavailable { reason: reason(&error) };
    let there: bool = sqlx::query_scalar("SELECT to_regclass('schema_info') IS NOT NULL")
        .fetch_one(&mut *connection)
        .await
        .map_err(transient)?;
    if !there {
        return Ok(());
    }
    let min_reader = min_reader(&mut *connection).await.map_err(transient)?;
    let version: i64 = sqlx::query_scalar("SELECT COALESCE(max(version), 0) FROM _sqlx_migrations")
        .fetch_one(&mut *connection)
        .await
        .map_err(transient)?;
    if min_reader > ours() {
        return Err(Error::SchemaTooNew {
            schema: schema.to_string(),
            version,
            min_reader,
            ours: ours(),
        });
    }
    if version > ours() {
        tracing::info!(schema = %schema, schema.version = version, "the schema is newer than this software, which may still use it");
    }
    Ok(())
}

async fn leave(connection: &mut PgConnection, schema: &SchemaName) -> sqlx::Result<()> {
    sqlx::query("SELECT pg_advisory_unlock(hashtextextended('alkhub.migrate.' || $1, 0))")
        .bind(schema.as_str())
        .execute(&mut *connection)
        .await?;
    connection.ping().await
}

fn failed(schema: &SchemaName, source: sqlx::migrate::MigrateError) -> Error {
    use sqlx::migrate::MigrateError;

    match &source {
        MigrateError::Execute(error) | MigrateError::ExecuteMigration(error, _) if is_link_failure(error) => {
            Error::Unavailable { reason: reason(error) }
        }
        _ => Error::Migration {
            schema: schema.to_string(),
            source,
        },
    }
}
