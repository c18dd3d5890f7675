//! Forgets spokes that nobody declared and that have not been heard from for long.

use std::time::Duration;

use jiff::Timestamp;
use jiff_sqlx::ToSqlx as _;

use super::Spokes;
use crate::metrics::{Pruned, Statement};
use crate::statement::run;
use crate::{Error, PRUNED};

impl Spokes<'_> {
    /// Removes spokes that no resource declared, that have no key, and that have been neither connected nor heard from
    /// for `retention`; returns how many. At most a thousand at a time: the next hour takes the rest.
    ///
    /// # Errors
    /// [`Error::Unavailable`] and the like.
    pub async fn prune_undeclared(self, retention: Duration) -> Result<u64, Error> {
        let before = Timestamp::now().checked_sub(retention).unwrap_or(Timestamp::MIN);
        let done = run!(self.0, Statement::SpokePrune, |db| sqlx::query!(
            "DELETE FROM spokes WHERE name IN (
                 SELECT name FROM spokes s
                 WHERE uid = '' AND NOT suspended
                   AND GREATEST(created_at, changed_at, connected_at, disconnected_at, last_heartbeat_at) < $1
                   AND NOT EXISTS (SELECT FROM keys k WHERE k.spoke = s.name AND k.spoke_uid = '')
                 LIMIT $2 FOR UPDATE SKIP LOCKED
             )",
            before.to_sqlx() as _,
            PRUNED
        )
        .execute(db))?;
        self.0.metrics.pruned(Pruned::Spokes, done.rows_affected());
        Ok(done.rows_affected())
    }
}
