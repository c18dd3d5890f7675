//! Keys that were hashed with another secret than the hub's of now.

use super::Keys;
use crate::metrics::Statement;
use crate::statement::run;
use crate::{Error, HashKey};

impl Keys<'_> {
    /// Keys that would be in force and that nobody can use, since another secret than `hash_key` hashed them.
    ///
    /// # Errors
    /// [`Error::Unavailable`] and the like.
    pub async fn count_dead(self, hash_key: &HashKey) -> Result<u64, Error> {
        let count = run!(self.0, Statement::KeyDead, |db| sqlx::query_scalar!(
            r#"SELECT count(*) AS "count!" FROM keys
               WHERE hash_key_fingerprint <> $1 AND revoked_at IS NULL AND (expires_at IS NULL OR expires_at > now())"#,
            hash_key.fingerprint
        )
        .fetch_one(db))?;
        Ok(crate::row::unsigned(count))
    }
}
