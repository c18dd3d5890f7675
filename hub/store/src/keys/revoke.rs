//! Revoking one key. The last admin key cannot be revoked: without it nobody could make another.

use sqlx::PgConnection;
use uuid::Uuid;

use super::info::InfoRow;
use crate::actor::Actor;

/// The result of a revocation.
pub(super) enum Revoked {
    Done(Box<InfoRow>),
    Unknown,
    LastAdmin,
}

/// Revokes a key, unless it is an admin key and no other valid admin key lasts as long. All admin keys are locked, in a
/// fixed order, so that two concurrent revocations cannot each rely on the other's key.
pub(super) async fn revoke(db: &mut PgConnection, actor: Actor, id: Uuid) -> sqlx::Result<Revoked> {
    let mut tx = sqlx::Connection::begin(db).await?;
    let last = sqlx::query_scalar!(
        r#"WITH admins AS (
               SELECT id, expires_at FROM keys
               WHERE 'admin' = ANY(scopes) AND spoke IS NULL AND revoked_at IS NULL
                 AND (expires_at IS NULL OR expires_at > now())
               ORDER BY id FOR UPDATE
           )
           SELECT EXISTS (SELECT FROM admins own WHERE own.id = $1 AND NOT EXISTS (
               SELECT FROM admins other WHERE other.id <> own.id
                 AND (other.expires_at IS NULL OR other.expires_at >= own.expires_at)
           )) AS "last!""#,
        id
    )
    .fetch_one(&mut *tx)
    .await?;
    // After the locks of the admin keys, of which it usually is one: so two who revoke cannot wait for each other.
    actor.check(&mut tx).await?;
    if last {
        return Ok(Revoked::LastAdmin);
    }
    let row = sqlx::query_as!(
        InfoRow,
        r#"UPDATE keys SET revoked_at = COALESCE(revoked_at, now()), revoked_with_spoke = false WHERE id = $1
           RETURNING id, name, hint, scopes, spoke, created_at AS "created_at: _", expires_at AS "expires_at: _",
                     last_used_at AS "last_used_at: _", revoked_at AS "revoked_at: _", false AS "dead!""#,
        id
    )
    .fetch_optional(&mut *tx)
    .await?;
    tx.commit().await?;
    Ok(row.map_or(Revoked::Unknown, |row| Revoked::Done(Box::new(row))))
}
