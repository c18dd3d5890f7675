//! Whose key an administrator's write is made with.
//!
//! Invariants
//! - A write with a key that has ended by then is not made. The key's row is locked with the write, so that a revocation
//!   comes before it, and it is refused, or after it.

use sqlx::PgConnection;
use uuid::Uuid;

/// A write is refused: the key that it was to be made with has ended.
#[derive(Debug, thiserror::Error)]
#[error("the key of this write has ended")]
pub(crate) struct ActorEnded;

/// The key of a write; `None` for what the hub does by itself.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Actor(Option<Uuid>);

// === impl Actor ===

impl Actor {
    /// The key with this id. One that is not stored under it cannot have been revoked.
    pub(crate) fn key(id: &str) -> Self {
        Self(id.parse().ok())
    }

    /// Fails when the key has ended; else it does not end before the transaction.
    pub(crate) async fn check(self, tx: &mut PgConnection) -> sqlx::Result<()> {
        let Some(id) = self.0 else { return Ok(()) };
        let ended = sqlx::query_scalar!(
            r#"SELECT (revoked_at IS NOT NULL OR expires_at <= now()) IS TRUE AS "ended!" FROM keys WHERE id = $1 FOR SHARE"#,
            id
        )
        .fetch_optional(tx)
        .await?;
        match ended {
            // A database that was put back may not know it; whoever looks it up next finds out.
            None | Some(false) => Ok(()),
            Some(true) => Err(sqlx::Error::AnyDriverError(Box::new(ActorEnded))),
        }
    }
}
