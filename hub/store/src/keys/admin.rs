//! The first key, which has scope `admin` and comes from a file: a hub that finds it missing enters it again.
//!
//! Invariants
//! - Once ended, it stays ended, whoever enters it again.
//! - A schema that was made anew, or restored from an older dump, has it as soon as a hub checks its link.

use sqlx::{Connection as _, PgConnection};
use uuid::Uuid;

use super::Keys;
use crate::Error;
use crate::admin_key::AdminKey;
use crate::metrics::Statement;
use crate::statement::run;

/// How many other first keys are named, at most.
const TOLD: i64 = 20;

/// What entering the first key did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AdminEntered {
    /// It was not known before.
    pub created: bool,
    /// Earlier first keys that it has replaced and ended, by id.
    pub revoked_keys: Vec<String>,
}

impl Keys<'_> {
    /// Enters the first key, and again whenever this hub finds the schema without it, until another key is given here.
    /// If it was revoked, it stays revoked.
    ///
    /// # Errors
    /// [`Error::Unavailable`] and the like; it is still entered as soon as the link is up again.
    pub async fn keep_admin(self, admin: &AdminKey) -> Result<AdminEntered, Error> {
        self.0.admin.send_replace(Some(admin.clone()));
        let mut entered = run!(self.0, Statement::KeyEnter, |db| enter(db, admin))?;
        if !entered.created {
            entered.revoked_keys = run!(self.0, Statement::KeyEndOthers, |db| end_others(db, admin))?;
        }
        Ok(entered)
    }

    /// Other first keys that are in force, by id, oldest first and up to a limit: those that were in the file before,
    /// and those of hubs with a file of their own.
    ///
    /// # Errors
    /// [`Error::Unavailable`] and the like.
    pub async fn first_keys_beside(self, admin: &AdminKey) -> Result<Vec<String>, Error> {
        let ids = run!(self.0, Statement::KeyFirst, |db| sqlx::query_scalar!(
            "SELECT id FROM keys
             WHERE origin = 'admin' AND hash <> $1 AND hash_key_fingerprint = $2 AND revoked_at IS NULL
               AND (expires_at IS NULL OR expires_at > now())
             ORDER BY id LIMIT $3",
            &admin.hash.0[..],
            admin.hash_key.fingerprint,
            TOLD
        )
        .fetch_all(db))?;
        Ok(ids.into_iter().map(|id| id.to_string()).collect())
    }
}

/// Enters the first key if it is missing.
pub(crate) async fn enter(db: &mut PgConnection, admin: &AdminKey) -> sqlx::Result<AdminEntered> {
    // Asked first: a check of the link must not write, least of all to a read-only Postgres.
    let known = sqlx::query_scalar!(
        r#"SELECT EXISTS (SELECT FROM keys WHERE hash = $1) AS "known!""#,
        &admin.hash.0[..]
    )
    .fetch_one(&mut *db)
    .await?;
    if known {
        return Ok(AdminEntered::default());
    }
    let mut tx = db.begin().await?;
    let inserted = sqlx::query!(
        "INSERT INTO keys (id, hash, hash_key_id, hash_key_fingerprint, origin, name, hint, scopes)
         VALUES ($1, $2, $3, $4, 'admin', 'admin', $5, ARRAY['admin'])
         ON CONFLICT (hash) DO NOTHING",
        Uuid::now_v7(),
        &admin.hash.0[..],
        admin.hash_key.id,
        admin.hash_key.fingerprint,
        admin.hint
    )
    .execute(&mut *tx)
    .await?;
    let created = inserted.rows_affected() > 0;
    let revoked_keys = end_others(&mut tx, admin).await?;
    tx.commit().await?;
    Ok(AdminEntered { created, revoked_keys })
}

/// Ends the earlier first keys if every hub reads the same file. A key that a person made and then put into the file
/// counts as a first key from then on. A key that has itself ended does not end others, so a hub with an old file does
/// no harm.
async fn end_others(db: &mut PgConnection, admin: &AdminKey) -> sqlx::Result<Vec<String>> {
    if !admin.alone {
        return Ok(Vec::new());
    }
    let revoked = sqlx::query_scalar!(
        "WITH ours AS (
             UPDATE keys SET origin = 'admin'
             WHERE hash = $1 AND spoke IS NULL AND 'admin' = ANY(scopes) AND revoked_at IS NULL
               AND (expires_at IS NULL OR expires_at > now())
             RETURNING id
         )
         UPDATE keys k SET revoked_at = now() FROM ours
         WHERE k.origin = 'admin' AND k.id <> ours.id AND k.revoked_at IS NULL RETURNING k.id",
        &admin.hash.0[..]
    )
    .fetch_all(db)
    .await?;
    Ok(revoked.into_iter().map(|id| id.to_string()).collect())
}
