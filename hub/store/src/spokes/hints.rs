//! Which key of a spoke is in force, shown by its first characters.

use std::collections::HashMap;

use alkhub_protocol::SpokeName;

use super::Spokes;
use crate::metrics::Statement;
use crate::statement::run;
use crate::{Error, HashKey};

impl Spokes<'_> {
    /// For each of these spokes, the hint of the key that was minted for it and is in force. A key that was ended or
    /// superseded, has expired, was made for another uid or was hashed with another secret does not count.
    ///
    /// # Errors
    /// [`Error::Unavailable`] and the like.
    pub async fn key_hints(self, names: &[SpokeName], hash_key: &HashKey) -> Result<HashMap<SpokeName, String>, Error> {
        let names: Vec<String> = names.iter().map(ToString::to_string).collect();
        let rows = run!(self.0, Statement::SpokeKeys, |db| sqlx::query!(
            r#"SELECT DISTINCT ON (s.name) s.name, k.hint
               FROM spokes s JOIN keys k ON k.spoke = s.name AND k.spoke_uid = s.uid
               WHERE k.origin = 'spoke' AND k.superseded_at IS NULL AND k.revoked_at IS NULL
                 AND (k.expires_at IS NULL OR k.expires_at > now())
                 AND (k.hash_key_fingerprint IS NULL OR k.hash_key_fingerprint = $2)
                 AND s.name = ANY($1)
               ORDER BY s.name, k.created_at DESC, k.id DESC"#,
            &names,
            hash_key.fingerprint
        )
        .fetch_all(db))?;
        rows.into_iter()
            .map(|row| Ok((row.name.parse().map_err(|_| Error::Corrupt("spoke name"))?, row.hint)))
            .collect()
    }
}
