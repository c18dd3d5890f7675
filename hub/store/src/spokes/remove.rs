//! The end of spokes and of their keys.

use alkhub_protocol::SpokeName;
use alkhub_protocol::admin::BY_HAND;
use sqlx::PgConnection;
use uuid::Uuid;

use crate::actor::Actor;

/// Ends every key of these spokes, in a way that bringing back the same spokes can undo.
pub(super) async fn revoke(db: &mut PgConnection, names: &[String]) -> sqlx::Result<Vec<Uuid>> {
    sqlx::query_scalar!(
        "UPDATE keys SET revoked_at = now(), revoked_with_spoke = true
         WHERE spoke = ANY($1) AND revoked_at IS NULL RETURNING id",
        names
    )
    .fetch_all(db)
    .await
}

pub(super) async fn delete(
    db: &mut PgConnection,
    actor: Actor,
    name: &SpokeName,
    uid: Option<&str>,
) -> sqlx::Result<Option<Vec<Uuid>>> {
    let mut tx = sqlx::Connection::begin(db).await?;
    actor.check(&mut tx).await?;
    let gone = sqlx::query_scalar!(
        "DELETE FROM spokes WHERE name = $1 AND ($2::text IS NULL OR uid = $2) RETURNING name",
        name.as_str(),
        uid
    )
    .fetch_all(&mut *tx)
    .await?;
    if gone.is_empty() {
        return Ok(None);
    }
    let revoked = revoke(&mut tx, &gone).await?;
    tx.commit().await?;
    Ok(Some(revoked))
}

pub(super) async fn sweep(db: &mut PgConnection, actor: Actor, uids: &[String]) -> sqlx::Result<Vec<Uuid>> {
    let mut tx = sqlx::Connection::begin(db).await?;
    actor.check(&mut tx).await?;
    let gone = sqlx::query_scalar!(
        "DELETE FROM spokes WHERE uid <> '' AND NOT starts_with(uid, $2) AND uid <> ALL($1) RETURNING name",
        uids,
        BY_HAND
    )
    .fetch_all(&mut *tx)
    .await?;
    let revoked = revoke(&mut tx, &gone).await?;
    tx.commit().await?;
    Ok(revoked)
}
