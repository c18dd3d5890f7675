//! Brings a Hub's schema up to date: one hub at a time, and never behind the back of software that still reads it.
//!
//! Migrations first expand and later contract. Software that meets a newer schema continues, unless the schema's
//! `min_reader` says that what it reads is gone.
//!
//! Invariants
//! - A migration may take as long as it likes, but nothing else here may: a lock is waited for no longer than a
//!   connection is, so that statements which queue behind the wait are not held up for longer.
//! - A migration whose connection has gone silent is given up, although no time limit would show it: a second
//!   connection asks whether Postgres still works on it.

use std::sync::LazyLock;
use std::time::Duration;

use alkhub_config::SchemaName;
use sqlx::migrate::Migrator;
use sqlx::postgres::PgConnectOptions;
use sqlx::{AssertSqlSafe, ConnectOptions as _, Connection as _, PgConnection};
use tokio::time::timeout;

use crate::error::{is_link_failure, reason};
use crate::{Error, connect};

/// The migrations of this software. It is no fault if the schema also has those of newer software.
static MIGRATIONS: LazyLock<Migrator> = LazyLock::new(|| {
    let mut migrations = sqlx::migrate!();
    // We lock ourselves: one lock per schema instead of one per database.
    migrations.set_ignore_missing(true).set_locking(false);
    migrations
});

/// The newest migration that this software knows.
pub(crate) fn ours() -> i64 {
    MIGRATIONS.iter().map(|migration| migration.version).max().unwrap_or(0)
}

/// The oldest software that may use the schema. Also serves as the link's ping.
pub(crate) async fn min_reader(connection: &mut PgConnection) -> sqlx::Result<i64> {
    sqlx::query_scalar!("SELECT min_reader FROM schema_info")
        .fetch_one(connection)
        .await
}

/// A number that differs each time the schema is made.
pub(crate) async fn incarnation(connection: &mut PgConnection) -> sqlx::Result<i64> {
    sqlx::query_scalar("SELECT COALESCE(to_regclass('operations')::oid::int8, 0)")
        .fetch_one(connection)
        .await
}

/// A migration is given up after Postgres has not answered this many times in a row.
const MISSES: u32 = 3;

/// Makes the schema and applies what it lacks, on a connection of its own, which it returns. `limit` is how long a
/// connection, a lock and a sign of life may take. The lock ends with the connection, however that happens; dropping
/// the future ends the attempt.
///
/// # Errors
/// [`Error::SchemaTooNew`], [`Error::Migration`], or [`Error::Unavailable`] for everything that may pass.
pub(crate) async fn run(
    options: &PgConnectOptions,
    schema: &SchemaName,
    limit: Duration,
) -> Result<PgConnection, Error> {
    let begun = async {
        let mut connection = options.connect().await?;
        let backend = sqlx::query_scalar("SELECT pg_backend_pid()");
        let backend: i32 = backend.fetch_one(&mut connection).await?;
        Ok((connection, backend))
    };
    let (mut connection, backend) = match timeout(limit, begun).await {
        Ok(begun) => begun.map_err(transient)?,
        Err(_) => {
            return Err(Error::Unavailable {
                reason: format!("no connection within {limit:?}"),
            });
        }
    };
    let lost = tokio::select! {
        biased;
        done = apply(&mut connection, schema, limit) => return done.map(|()| connection),
        lost = lost(options, backend, limit) => lost,
    };
    Err(Error::Unavailable { reason: lost })
}

/// Resolves, with the reason, when Postgres has not confirmed for a while that it still serves the connection of this
/// backend.
async fn lost(options: &PgConnectOptions, backend: i32, limit: Duration) -> String {
    let mut misses = 0;
    loop {
        tokio::time::sleep(limit).await;
        let answer = timeout(limit, is_served(options, backend)).await;
        let reason = match answer {
            // An error from the server itself, such as too many connections, is a sign of life too.
            Ok(Ok(true) | Err(sqlx::Error::Database(_))) => {
                misses = 0;
                continue;
            }
            Ok(Ok(false)) => "Postgres has lost the connection that migrates".to_owned(),
            Ok(Err(error)) => reason(&error),
            Err(_) => format!("no answer within {limit:?} during a migration"),
        };
        misses += 1;
        if misses == MISSES {
            return reason;
        }
    }
}

async fn is_served(options: &PgConnectOptions, backend: i32) -> sqlx::Result<bool> {
    let mut connection = options.connect().await?;
    let served = sqlx::query_scalar("SELECT EXISTS (SELECT FROM pg_stat_activity WHERE pid = $1)")
        .bind(backend)
        .fetch_one(&mut connection)
        .await?;
    connection.close().await?;
    Ok(served)
}

async fn apply(connection: &mut PgConnection, schema: &SchemaName, limit: Duration) -> Result<(), Error> {
    enter(connection, schema, limit).await.map_err(transient)?;
    check(connection, schema).await?;
    MIGRATIONS
        .run_direct(None, connection, false)
        .await
        .map_err(|source| failed(schema, source))?;
    leave(connection, schema).await.map_err(transient)
}

#[expect(clippy::needless_pass_by_value, reason = "for `map_err`")]
fn transient(error: sqlx::Error) -> Error {
    let reason = if is_lock_timeout(&error) {
        "the schema is locked: another hub migrates it, or a transaction was left open".to_owned()
    } else {
        reason(&error)
    };
    Error::Unavailable { reason }
}

/// lock_not_available
fn is_lock_timeout(error: &sqlx::Error) -> bool {
    let code = error.as_database_error().and_then(|error| error.code());
    code.as_deref() == Some("55P03")
}

/// Takes the lock, makes the schema if it is missing, and selects it. Only the locks of migrations have a time limit.
async fn enter(connection: &mut PgConnection, schema: &SchemaName, limit: Duration) -> sqlx::Result<()> {
    connect::prepare(connection, schema, Duration::ZERO).await?;
    sqlx::query("SELECT set_config('lock_timeout', $1, false)")
        .bind(limit.as_millis().max(1).to_string())
        .execute(&mut *connection)
        .await?;
    sqlx::query("SELECT pg_advisory_lock(hashtextextended('alkhub.migrate.' || $1, 0))")
        .bind(schema.as_str())
        .execute(&mut *connection)
        .await?;
    // Asked first, since IF NOT EXISTS needs the right to make schemas even if there is nothing to make.
    let exists: bool = sqlx::query_scalar("SELECT EXISTS (SELECT FROM pg_namespace WHERE nspname = $1)")
        .bind(schema.as_str())
        .fetch_one(&mut *connection)
        .await?;
    if !exists {
        // A SchemaName contains nothing that needs quoting.
        let create = format!("CREATE SCHEMA {schema}");
        sqlx::query(AssertSqlSafe(create)).execute(&mut *connection).await?;
    }
    Ok(())
}

async fn check(connection: &mut PgConnection, schema: &SchemaName) -> Result<(), Error> {
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

    match source {
        MigrateError::Execute(error) | MigrateError::ExecuteMigration(error, _)
            if is_link_failure(&error) || is_lock_timeout(&error) =>
        {
            transient(error)
        }
        source => Error::Migration {
            schema: schema.to_string(),
            source,
        },
    }
}
