//! Spokes in lists.

use super::{SpokeRecord, SpokeRow, Spokes};
use crate::Error;
use crate::metrics::Statement;
use crate::statement::run;

impl Spokes<'_> {
    /// The spokes after `name`, by name, at most `most` of them.
    ///
    /// # Errors
    /// [`Error::Unavailable`] and the like.
    pub async fn after(self, name: &str, most: u32) -> Result<Vec<SpokeRecord>, Error> {
        let rows = run!(self.0, Statement::SpokeList, |db| sqlx::query_as!(
            SpokeRow,
            r#"SELECT name, uid, spoke_type, operations, scopes, labels AS "labels: _", concurrency, suspended,
                      created_at AS "created_at: _", first_connected_at AS "first_connected_at: _",
                      connected_at AS "connected_at: _", disconnected_at AS "disconnected_at: _",
                      last_heartbeat_at AS "last_heartbeat_at: _"
               FROM spokes WHERE name COLLATE "C" > $1 ORDER BY name COLLATE "C" LIMIT $2"#,
            name,
            i64::from(most)
        )
        .fetch_all(db))?;
        rows.into_iter().map(SpokeRow::record).collect()
    }
}
