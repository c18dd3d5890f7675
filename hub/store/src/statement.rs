//! One statement, or one transaction, on a connection of the pool: its deadline, its metrics, its error.

use std::time::Duration;

use alkhub_retry::LinkState;
use sqlx::pool::PoolConnection;
use sqlx::{PgConnection, Postgres};
use tokio::time::Instant;
use tokio::time::error::Elapsed;

use crate::Error;
use crate::db::Db;
use crate::error::{is_link_failure, reason};
use crate::metrics::Statement;

/// A connection taken for one statement; [`run`] uses it.
#[derive(Debug)]
pub(crate) struct StatementConnection<'a> {
    store: &'a Db,
    connection: PoolConnection<Postgres>,
    statement: Statement,
    began: Instant,
}

/// Runs one statement of the store: `run!(db, Statement::KeyFind, |db| query!(…).fetch_one(db))`.
///
/// If the future is dropped, the connection is given back; what the statement has done by then may stay done.
macro_rules! run {
    ($store:expr, $statement:expr, |$db:ident| $work:expr) => {{
        let mut statement = $crate::statement::StatementConnection::begin($store, $statement).await?;
        let limit = statement.limit();
        let $db = statement.connection();
        let result = tokio::time::timeout(limit, $work).await;
        statement.end(result)
    }};
}
pub(crate) use run;

// === impl StatementConnection ===

impl<'a> StatementConnection<'a> {
    pub(crate) async fn begin(store: &'a Db, statement: Statement) -> Result<Self, Error> {
        if let LinkState::Down(reason) = store.link.state() {
            store.metrics.failed(statement);
            return Err(Error::Unavailable { reason });
        }
        let began = Instant::now();
        let connection = store.pool.acquire().await;
        store.metrics.acquire_seconds.observe(began.elapsed().as_secs_f64());
        let connection = connection.map_err(|error| {
            store.metrics.failed(statement);
            store.link.suspect();
            Error::Unavailable { reason: reason(&error) }
        })?;
        Ok(Self {
            store,
            connection,
            statement,
            began: Instant::now(),
        })
    }

    /// A little more than Postgres itself allows, so that its answer comes first while it can still answer.
    pub(crate) fn limit(&self) -> Duration {
        self.store.statement_timeout + Duration::from_secs(1)
    }

    pub(crate) fn connection(&mut self) -> &mut PgConnection {
        &mut self.connection
    }

    pub(crate) fn end<T>(mut self, result: Result<sqlx::Result<T>, Elapsed>) -> Result<T, Error> {
        let Self { store, statement, .. } = self;
        store.metrics.observe(statement, self.began.elapsed().as_secs_f64());
        let error = match result {
            Ok(Ok(value)) => return Ok(value),
            Ok(Err(error)) => error,
            Err(_) => sqlx::Error::Io(std::io::ErrorKind::TimedOut.into()),
        };
        // No row is an answer, not a failure; statements that may find none ask for an optional row.
        store.metrics.failed(statement);
        if is_link_failure(&error) {
            self.connection.close_on_drop();
            store.link.suspect();
        }
        Err(Error::of_statement(statement.name(), error))
    }
}
