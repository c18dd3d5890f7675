//! Creating one key.

use alkhub_protocol::{SpokeName, scope};
use jiff_sqlx::ToSqlx as _;
use sqlx::PgConnection;
use uuid::Uuid;

use super::NewKey;
use super::info::InfoRow;
use crate::actor::Actor;
use crate::spokes;

/// `None` if the hash is known.
pub(super) async fn create(db: &mut PgConnection, actor: Actor, key: &NewKey) -> sqlx::Result<Option<InfoRow>> {
    let mut tx = sqlx::Connection::begin(db).await?;
    actor.check(&mut tx).await?;
    let uid = match &key.spoke {
        Some(spoke) => Some(spokes::ensure(&mut tx, spoke).await?.uid),
        None => None,
    };
    let mut scopes: Vec<String> = key.scopes.iter().map(str::to_owned).collect();
    if key.spoke.is_some() && !scopes.iter().any(|held| held == scope::SPOKE) {
        scopes.push(scope::SPOKE.to_owned());
    }
    let row = sqlx::query_as!(
        InfoRow,
        r#"INSERT INTO keys (id, hash, hash_key_id, origin, name, hint, scopes, spoke, spoke_uid, expires_at,
                             hash_key_fingerprint)
           VALUES ($1, $2, $3, 'api', $4, $5, $6, $7, $8, $9, $10)
           ON CONFLICT (hash) DO NOTHING
           RETURNING id, name, hint, scopes, spoke, created_at AS "created_at: _", expires_at AS "expires_at: _",
                     last_used_at AS "last_used_at: _", revoked_at AS "revoked_at: _", false AS "dead!""#,
        Uuid::now_v7(),
        &key.hash.0[..],
        key.hash_key.id,
        key.name,
        key.hint,
        &scopes,
        key.spoke.as_ref().map(SpokeName::as_str),
        uid,
        key.expires_at.map(|at| at.to_sqlx()) as _,
        key.hash_key.fingerprint
    )
    .fetch_optional(&mut *tx)
    .await?;
    tx.commit().await?;
    Ok(row)
}
