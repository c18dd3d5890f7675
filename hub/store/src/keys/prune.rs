//! Forgets keys that ended long ago.

use std::time::Duration;

use super::Keys;
use crate::metrics::{Pruned, Statement};
use crate::statement::run;
use crate::{Error, PRUNED};

impl Keys<'_> {
    /// Deletes one batch of keys that were revoked, or expired, longer ago than `retention`, by the clock of Postgres;
    /// returns how many. Fewer than [`PRUNED`] means that none are left.
    ///
    /// Rows that keep a key dead are kept for good: those of admin keys, which a file names again at each start, and
    /// those of keys whose spoke is still declared, which its operator puts again.
    ///
    /// # Errors
    /// [`Error::Unavailable`] and the like.
    pub async fn prune(self, retention: Duration) -> Result<u64, Error> {
        let done = run!(self.0, Statement::KeyPrune, |db| sqlx::query!(
            "DELETE FROM keys WHERE id IN (
                 SELECT id FROM keys k
                 WHERE LEAST(revoked_at, expires_at) < now() - make_interval(secs => $1)
                   AND (revoked_at IS NOT NULL OR expires_at IS NOT NULL)
                   AND (origin = 'api' OR origin = 'spoke'
                        AND NOT EXISTS (SELECT FROM spokes s WHERE s.name = k.spoke AND s.uid = k.spoke_uid))
                 LIMIT $2 FOR UPDATE SKIP LOCKED
             )",
            retention.as_secs_f64(),
            PRUNED
        )
        .execute(db))?;
        self.0.metrics.pruned(Pruned::Keys, done.rows_affected());
        Ok(done.rows_affected())
    }
}
