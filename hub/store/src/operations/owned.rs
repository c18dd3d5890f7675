//! Who brought the specifications that are stored, and how much is stored for one spoke.

use alkhub_protocol::{SpecHash, SpokeName};

use super::Operations;
use crate::Error;
use crate::metrics::{Pruned, Statement};
use crate::statement::run;

impl Operations<'_> {
    /// Notes who brought specifications that have no owner yet, and deletes those that these spokes offered longest ago
    /// beyond `limit` bytes each; returns how many it deleted. A row that another hub is writing is skipped.
    ///
    /// # Errors
    /// [`Error::Unavailable`] and the like.
    pub async fn charge(self, owned: &[(SpecHash, SpokeName)], limit: u64) -> Result<u64, Error> {
        let hashes: Vec<Vec<u8>> = owned.iter().map(|(hash, _)| hash.0.to_vec()).collect();
        let spokes: Vec<String> = owned.iter().map(|(_, spoke)| spoke.to_string()).collect();
        run!(self.0, Statement::OperationCharge, |db| sqlx::query!(
            "WITH free AS (
                 SELECT hash FROM operations WHERE hash = ANY($1) AND spoke IS NULL FOR NO KEY UPDATE SKIP LOCKED
             )
             UPDATE operations o SET spoke = n.spoke
             FROM UNNEST($1::bytea[], $2::text[]) AS n(hash, spoke) JOIN free ON free.hash = n.hash
             WHERE o.hash = n.hash",
            &hashes,
            &spokes
        )
        .execute(db))?;
        let done = run!(self.0, Statement::OperationTrim, |db| sqlx::query!(
            "DELETE FROM operations WHERE hash IN (
                 SELECT hash FROM operations WHERE hash IN (
                     SELECT hash FROM (
                         SELECT hash, sum(octet_length(spec))
                             OVER (PARTITION BY spoke ORDER BY last_offered_at DESC, hash) AS bytes
                         FROM operations WHERE spoke = ANY($1)
                     ) AS own WHERE bytes > $2
                 ) FOR UPDATE SKIP LOCKED
             )",
            &spokes,
            i64::try_from(limit).unwrap_or(i64::MAX)
        )
        .execute(db))?;
        self.0.metrics.pruned(Pruned::Operations, done.rows_affected());
        Ok(done.rows_affected())
    }
}
