//! Keys that were hashed with a secret other than the hub's present one.

use super::Keys;
use crate::metrics::Statement;
use crate::statement::run;
use crate::{Error, HashKey};

impl Keys<'_> {
    /// How many keys would be in force but cannot be used by anybody, since a secret other than `hash_key` hashed them.
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
