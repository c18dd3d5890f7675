//! The put of a spoke: one transaction, serialised by the spoke's row.

use alkhub_protocol::SpokeName;
use alkhub_protocol::admin::SpokePut;
use alkhub_protocol::register::SpokeType;
use jiff_sqlx::ToSqlx as _;
use sqlx::PgConnection;
use sqlx::types::Json;
use uuid::Uuid;

use super::{SpokeKey, SpokeRow};
use crate::actor::Actor;
use crate::row::signed;

/// The result of a put, as columns.
#[derive(Debug)]
pub(crate) struct PutResult {
    pub(crate) row: SpokeRow,
    pub(crate) created: bool,
    pub(crate) changed: bool,
    pub(crate) key_restored: bool,
    pub(crate) revoked: Vec<Uuid>,
}

/// What happened to the key.
#[derive(Debug)]
enum KeyOutcome {
    /// It belongs to another spoke or to a client.
    Foreign,
    /// The spoke has it already, in force, superseded or revoked by hand; or the spoke had it before, and it came back
    /// together with the spoke.
    Known { changed: bool },
    /// It is new to the spoke; these ended at once.
    New { revoked: Vec<Uuid> },
}

/// `None` if the key is in use for something else: the transaction is rolled back.
pub(crate) async fn put(
    db: &mut PgConnection,
    actor: Actor,
    name: &SpokeName,
    spoke: &SpokePut,
    key: Option<&SpokeKey>,
) -> sqlx::Result<Option<PutResult>> {
    let mut tx = sqlx::Connection::begin(db).await?;
    actor.check(&mut tx).await?;
    let inserted = insert(&mut tx, name, spoke).await?;
    let uid = sqlx::query_scalar!("SELECT uid FROM spokes WHERE name = $1 FOR UPDATE", name.as_str())
        .fetch_one(&mut *tx)
        .await?;
    let replaced = uid != spoke.uid;
    let mut revoked = Vec::new();
    if replaced {
        revoked = super::remove::revoke(&mut tx, &[name.to_string()]).await?;
        forget(&mut tx, name).await?;
    }
    let created = inserted || replaced;
    let mut changed = created | update(&mut tx, name, spoke).await?;
    let mut key_restored = false;
    if let Some(key) = key {
        match put_key(&mut tx, name, spoke, key).await? {
            KeyOutcome::Foreign => return Ok(None),
            KeyOutcome::Known { changed: key_changed } => {
                changed |= key_changed;
                // The spoke did not exist, so all its keys had ended.
                key_restored = created && key_changed;
            }
            KeyOutcome::New { revoked: ended } => {
                changed = true;
                revoked.extend(ended);
            }
        }
    }
    let row = super::select(&mut tx, name.as_str())
        .await?
        .ok_or(sqlx::Error::RowNotFound)?;
    tx.commit().await?;
    Ok(Some(PutResult {
        row,
        created,
        changed,
        key_restored,
        revoked,
    }))
}

async fn insert(db: &mut PgConnection, name: &SpokeName, spoke: &SpokePut) -> sqlx::Result<bool> {
    let done = sqlx::query!(
        "INSERT INTO spokes (name, uid, spoke_type, operations, scopes, labels, suspended)
         VALUES ($1, $2, $3, '{}', '{}', '{}', false) ON CONFLICT (name) DO NOTHING",
        name.as_str(),
        spoke.uid,
        SpokeType::default().as_str()
    )
    .execute(db)
    .await?;
    Ok(done.rows_affected() > 0)
}

/// The history of another spoke of the same name does not belong to this one.
async fn forget(db: &mut PgConnection, name: &SpokeName) -> sqlx::Result<()> {
    sqlx::query!(
        "UPDATE spokes SET created_at = now(), first_connected_at = NULL, connected_at = NULL, disconnected_at = NULL,
                last_heartbeat_at = NULL
         WHERE name = $1",
        name.as_str()
    )
    .execute(db)
    .await?;
    Ok(())
}

/// Writes only what differs, so that a repeated put only reads.
async fn update(db: &mut PgConnection, name: &SpokeName, spoke: &SpokePut) -> sqlx::Result<bool> {
    let scopes: Vec<String> = spoke.scopes.iter().map(str::to_owned).collect();
    let done = sqlx::query!(
        "UPDATE spokes
         SET uid = $2, spoke_type = $3, operations = $4, scopes = $5, labels = $6, concurrency = $7, suspended = $8,
             changed_at = now()
         WHERE name = $1
           AND (uid, spoke_type, operations, scopes, labels, concurrency, suspended)
               IS DISTINCT FROM ($2, $3, $4, $5, $6, $7, $8)",
        name.as_str(),
        spoke.uid,
        spoke.spoke_type.as_str(),
        &spoke.operations,
        &scopes,
        Json(&spoke.labels) as _,
        spoke.concurrency.map(i64::from),
        spoke.suspended
    )
    .execute(db)
    .await?;
    Ok(done.rows_affected() > 0)
}

async fn put_key(
    db: &mut PgConnection,
    name: &SpokeName,
    spoke: &SpokePut,
    key: &SpokeKey,
) -> sqlx::Result<KeyOutcome> {
    let id = Uuid::now_v7();
    let expires_at = spoke.key_expires_at.map(|at| at.to_sqlx());
    let done = sqlx::query!(
        "INSERT INTO keys (id, hash, hash_key_id, origin, name, hint, scopes, spoke, spoke_uid, expires_at,
                           hash_key_fingerprint)
         VALUES ($1, $2, $3, 'spoke', $4, $5, '{spoke}', $4, $6, $7, $8) ON CONFLICT (hash) DO NOTHING",
        id,
        &key.hash.0[..],
        key.hash_key.id,
        name.as_str(),
        key.hint,
        spoke.uid,
        expires_at as _,
        key.hash_key.fingerprint
    )
    .execute(&mut *db)
    .await?;
    if done.rows_affected() > 0 {
        let revoked = supersede(db, name, spoke, id).await?;
        return Ok(KeyOutcome::New { revoked });
    }
    known_key(db, name, spoke, key).await
}

/// Ends the spoke's older keys after the overlap, or at once if there is none. Keys that people made for the spoke
/// through the admin API stay.
async fn supersede(db: &mut PgConnection, name: &SpokeName, spoke: &SpokePut, newest: Uuid) -> sqlx::Result<Vec<Uuid>> {
    let overlap = signed(spoke.overlap_seconds);
    let ended = sqlx::query!(
        r#"UPDATE keys
           SET superseded_at = COALESCE(superseded_at, now()),
               expires_at = LEAST(expires_at, now() + $4::bigint * interval '1 second'),
               revoked_at = CASE WHEN $4::bigint = 0 THEN now() END
           WHERE spoke = $1 AND spoke_uid = $2 AND origin = 'spoke' AND id <> $3 AND revoked_at IS NULL
           RETURNING id, revoked_at IS NOT NULL AS "revoked!""#,
        name.as_str(),
        spoke.uid,
        newest,
        overlap
    )
    .fetch_all(db)
    .await?;
    Ok(ended.into_iter().filter(|key| key.revoked).map(|key| key.id).collect())
}

async fn known_key(
    db: &mut PgConnection,
    name: &SpokeName,
    spoke: &SpokePut,
    key: &SpokeKey,
) -> sqlx::Result<KeyOutcome> {
    let known = sqlx::query!(
        r#"SELECT id, revoked_with_spoke, superseded_at IS NOT NULL AS "superseded!",
                  (origin = 'spoke' AND spoke = $2 AND spoke_uid = $3) IS TRUE AS "ours!"
           FROM keys WHERE hash = $1 FOR UPDATE"#,
        &key.hash.0[..],
        name.as_str(),
        spoke.uid
    )
    .fetch_one(&mut *db)
    .await?;
    if !known.ours {
        return Ok(KeyOutcome::Foreign);
    }
    if known.superseded {
        return Ok(KeyOutcome::Known { changed: false });
    }
    let expires_at = spoke.key_expires_at.map(|at| at.to_sqlx());
    let done = sqlx::query!(
        "UPDATE keys SET expires_at = $2::timestamptz, revoked_with_spoke = false,
                revoked_at = CASE WHEN revoked_with_spoke THEN NULL ELSE revoked_at END
         WHERE id = $1 AND (revoked_with_spoke OR (revoked_at IS NULL AND expires_at IS DISTINCT FROM $2::timestamptz))",
        known.id,
        expires_at as _
    )
    .execute(db)
    .await?;
    Ok(KeyOutcome::Known {
        changed: done.rows_affected() > 0,
    })
}
