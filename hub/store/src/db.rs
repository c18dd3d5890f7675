//! What every statement needs: the pool, the state of the link, the metrics.

use std::sync::Arc;
use std::time::Duration;

use sqlx::postgres::PgPool;
use tokio::sync::watch;

use crate::admin_key::AdminKey;
use crate::link::Link;
use crate::metrics::Metrics;

/// Shared by all statements of a store.
#[derive(Debug)]
pub(crate) struct Db {
    pub(crate) pool: PgPool,
    pub(crate) link: Arc<Link>,
    pub(crate) metrics: Metrics,
    pub(crate) statement_timeout: Duration,
    /// The first key, once it is known: the link's task enters it if it is missing.
    pub(crate) admin: watch::Sender<Option<AdminKey>>,
}
