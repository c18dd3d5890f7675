//! The store: a pool that connects in the background, and everything that uses it.

use std::sync::Arc;
use std::time::Duration;

use alkhub_config::{SchemaName, StoreConfig};
use alkhub_retry::LinkState;
use alkhub_tasks::{Lost, Supervisor};
use prometheus::Registry;
use sqlx::postgres::{PgConnectOptions, PgPool, PgPoolOptions};
use tokio::sync::watch;
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

use crate::actor::Actor;
use crate::db::Db;
use crate::link::Link;
use crate::metrics::Metrics;
use crate::watch::{BACKOFF, Watch};
use crate::{CallRows, Error, Keys, Operations, Spokes, connect, migrate};

/// How long a pooled connection is used before it is replaced, so that a moved address or a new password takes effect.
const MAX_LIFETIME: Duration = Duration::from_secs(30 * 60);
const IDLE_TIMEOUT: Duration = Duration::from_secs(5 * 60);

/// Everything in Postgres. Clones share one pool.
#[derive(Clone, Debug)]
pub struct Store(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    db: Db,
    options: PgConnectOptions,
    schema: SchemaName,
    connect_timeout: Duration,
    ping_interval: Duration,
    supervisor: Supervisor,
    /// Ends the link's task when the last clone is dropped without [`Store::close`].
    _stop_on_drop: DropGuard,
}

// === impl Store ===

impl Store {
    /// A pool that connects in the background; never blocks the start. Needs a tokio runtime around it.
    ///
    /// # Errors
    /// A URL or a file of authorities that cannot be read, or a registry that has a store already.
    pub fn open(config: &StoreConfig, registry: &Registry) -> Result<Self, Error> {
        let options = connect::options(config)?;
        let pool = pool(config, options.clone());
        let metrics = Metrics::register(registry, &pool)?;
        let stop = CancellationToken::new();
        Ok(Self(Arc::new(Inner {
            db: Db {
                pool,
                link: Arc::new(Link::new()),
                metrics,
                statement_timeout: config.statement_timeout,
                admin: watch::Sender::new(None),
            },
            options,
            schema: config.schema.clone(),
            connect_timeout: config.acquire_timeout,
            ping_interval: config.ping_interval,
            _stop_on_drop: stop.clone().drop_guard(),
            supervisor: Supervisor::new(TaskTracker::new(), stop),
        })))
    }

    /// Connects, however long it takes, makes the schema and brings it up to date under an advisory lock; from then on
    /// a task keeps [`Store::link`] up to date until [`Store::close`]. Dropping the future stops the attempt.
    ///
    /// # Errors
    /// [`Error::SchemaTooNew`] and [`Error::Migration`], which no waiting fixes; [`Error::Stopped`] if `stop` came
    /// first. Everything else is tried again, and shown by [`Store::link`].
    pub async fn prepare(&self, stop: &CancellationToken) -> Result<(), Error> {
        let inner = &*self.0;
        let mut backoff = BACKOFF;
        loop {
            let attempt = tokio::select! {
                () = stop.cancelled() => return Err(Error::Stopped),
                attempt = inner.migrate() => attempt,
            };
            let error = match attempt {
                Ok(()) => break,
                Err(error @ (Error::SchemaTooNew { .. } | Error::Migration { .. })) => {
                    inner.db.link.end(error.to_string(), &inner.db.metrics);
                    return Err(error);
                }
                Err(error) => error,
            };
            let reason = match error {
                Error::Unavailable { reason } => reason,
                error => error.to_string(),
            };
            inner.db.link.set(LinkState::Down(reason), &inner.db.metrics);
            tokio::select! {
                () = stop.cancelled() => return Err(Error::Stopped),
                () = tokio::time::sleep(backoff.pause()) => {}
            }
        }
        inner.db.link.set(LinkState::Up, &inner.db.metrics);
        if let Err(error) = self.calls().begin_hours().await {
            tracing::debug!(%error, "the hour's partition of call records is left to the first of them");
        }
        self.keep_watch();
        Ok(())
    }

    /// Whether statements can be expected to succeed, now and whenever that changes.
    pub fn link(&self) -> watch::Receiver<LinkState> {
        self.0.db.link.subscribe()
    }

    /// Changes when the schema was made anew, by whichever hub, and at the first check: what had been written may be
    /// gone.
    pub fn incarnation(&self) -> watch::Receiver<i64> {
        self.0.db.link.incarnation().subscribe()
    }

    /// Whether the link is up.
    pub fn ready(&self) -> bool {
        self.0.db.link.state().is_up()
    }

    /// Resolves when the loop that keeps [`Store::link`] up to date is lost, which is a fault in alkhub; otherwise
    /// never.
    pub async fn lost(&self) -> Lost {
        self.0.supervisor.lost().await
    }

    /// Keys, as keyed hashes.
    pub fn keys(&self) -> Keys<'_> {
        Keys(&self.0.db, Actor::default())
    }

    /// Declared spokes.
    pub fn spokes(&self) -> Spokes<'_> {
        Spokes(&self.0.db, Actor::default())
    }

    /// Operations by the hash of their specification.
    pub fn operations(&self) -> Operations<'_> {
        Operations(&self.0.db)
    }

    /// Records of ended calls.
    pub fn calls(&self) -> CallRows<'_> {
        CallRows(&self.0.db)
    }

    /// Ends the link's task and closes the pool; waits at most five seconds for running statements.
    pub async fn close(&self) {
        let inner = &*self.0;
        inner.supervisor.stop().cancel();
        inner.supervisor.tasks().close();
        inner.supervisor.tasks().wait().await;
        if tokio::time::timeout(Duration::from_secs(5), inner.db.pool.close())
            .await
            .is_err()
        {
            tracing::warn!("connections to Postgres were still busy and are left behind");
        }
        inner.db.link.end("closed".to_owned(), &inner.db.metrics);
    }

    fn keep_watch(&self) {
        let inner = &*self.0;
        let (tasks, stop) = (inner.supervisor.tasks(), inner.supervisor.stop().clone());
        if !tasks.is_empty() || stop.is_cancelled() {
            return;
        }
        let watch = Watch {
            pool: inner.db.pool.clone(),
            options: inner.options.clone(),
            schema: inner.schema.clone(),
            metrics: inner.db.metrics.clone(),
            interval: inner.ping_interval,
            limit: inner.connect_timeout,
            admin: inner.db.admin.subscribe(),
            incarnation: inner.db.link.incarnation().clone(),
        };
        let link = Arc::clone(&inner.db.link);
        let keep = async move { watch.keep(&link, &stop).await };
        inner.supervisor.keep("store.link", keep);
    }
}

// === impl Inner ===

impl Inner {
    /// One attempt, on a connection of its own.
    async fn migrate(&self) -> Result<(), Error> {
        migrate::run(&self.options, &self.schema, self.connect_timeout)
            .await
            .map(drop)
    }
}

fn pool(config: &StoreConfig, options: PgConnectOptions) -> PgPool {
    let (schema, statement_timeout) = (config.schema.clone(), config.statement_timeout);
    PgPoolOptions::new()
        .max_connections(config.max_connections)
        .acquire_timeout(config.acquire_timeout)
        .max_lifetime(MAX_LIFETIME)
        .idle_timeout(IDLE_TIMEOUT)
        .after_connect(move |connection, _| {
            let schema = schema.clone();
            Box::pin(async move { connect::prepare(connection, &schema, statement_timeout).await })
        })
        .connect_lazy_with(options)
}
