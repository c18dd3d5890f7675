//! Whose specifications are kept, and how much of one spoke's.

use std::collections::BTreeMap;

use alkhub_protocol::SpokeName;

use super::{Operations, SpecHash};
use crate::Error;
use crate::metrics::{Pruned, Statement};
use crate::session::run;

impl Operations<'_> {
    /// Notes who brought specifications, where nobody is noted yet, and deletes what these spokes offered longest ago
    /// beyond `limit` bytes each; answers how many it deleted. A row that another hub is writing is left out.
    ///
    /// # Errors
    /// [`Error::Unavailable`] and the like.
    pub async fn charge(self, owned: &[(SpecHash, SpokeName)], limit: u64) -> Result<u64, Error> {
        let mut by_spoke: BTreeMap<&str, Vec<Vec<u8>>> = BTreeMap::new();
        for (hash, spoke) in owned {
            by_spoke.entry(spoke.as_str()).or_default().push(hash.0.to_vec());
        }
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        let mut deleted = 0;
        for (spoke, hashes) in by_spoke {
            run!(self.0, Statement::OperationCharge, |db| sqlx::query!(
                "UPDATE operations SET spoke = $1 WHERE hash IN (
                     SELECT hash FROM operations WHERE hash = ANY($2) AND spoke IS NULL FOR NO KEY UPDATE SKIP LOCKED
                 )",
                spoke,
                &hashes
            )
            .execute(db))?;
            let done = run!(self.0, Statement::OperationTrim, |db| sqlx::query!(
                "DELETE FROM operations WHERE hash IN (
                     SELECT hash FROM operations WHERE hash IN (
                         SELECT hash FROM (
                             SELECT hash, sum(octet_length(spec)) OVER (ORDER BY last_offered_at DESC, hash) AS bytes
                             FROM operations WHERE spoke = $1
                         ) AS own WHERE bytes > $2
                     ) FOR UPDATE SKIP LOCKED
                 )",
                spoke,
                limit
            )
            .execute(db))?;
            self.0.metrics.pruned(Pruned::Operations, done.rows_affected());
            deleted += done.rows_affected();
        }
        Ok(deleted)
    }
}
