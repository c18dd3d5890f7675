//! The key with which an administrator's write is made.
//!
//! Invariants
//! - A write with a key that has ended is not made. The key's row is locked together with the write, so that a
//!   revocation comes either before it, and the write is refused, or after it.

use sqlx::PgConnection;
use uuid::Uuid;

/// The write is refused: the key that it was to be made with has ended.
#[derive(Debug, thiserror::Error)]
#[error("the key of this write has ended")]
pub(crate) struct ActorEnded;

/// The key of a write; `None` for what the hub does on its own.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Actor(Option<Uuid>);

// === impl Actor ===

impl Actor {
    /// The key with this id. A key that is not stored under the id cannot have been revoked.
    pub(crate) fn key(id: &str) -> Self {
        Self(id.parse().ok())
    }

    /// Fails if the key has ended; otherwise the key does not end before the transaction does.
    pub(crate) async fn check(self, tx: &mut PgConnection) -> sqlx::Result<()> {
        let Some(id) = self.0 else { return Ok(()) };
        let ended = sqlx::query_scalar!(
            r#"SELECT (revoked_at IS NOT NULL OR expires_at <= now()) IS TRUE AS "ended!" FROM keys WHERE id = $1 FOR SHARE"#,
            id
        )
        .fetch_optional(tx)
        .await?;
        match ended {
            // A restored database may not know the key; whoever looks it up next finds out.
            None | Some(false) => Ok(()),
            Some(true) => Err(sqlx::Error::AnyDriverError(Box::new(ActorEnded))),
        }
    }
}
