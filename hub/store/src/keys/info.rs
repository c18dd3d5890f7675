//! A key as it appears in lists and in answers about a single key.

use alkhub_protocol::Scopes;
use alkhub_protocol::admin::KeyInfo;
use uuid::Uuid;

use crate::Error;
use crate::row::time;

/// The columns of a key in a list.
pub(super) struct InfoRow {
    pub(super) id: Uuid,
    pub(super) name: String,
    pub(super) hint: String,
    pub(super) scopes: Vec<String>,
    pub(super) spoke: Option<String>,
    pub(super) created_at: jiff_sqlx::Timestamp,
    pub(super) expires_at: Option<jiff_sqlx::Timestamp>,
    pub(super) last_used_at: Option<jiff_sqlx::Timestamp>,
    pub(super) revoked_at: Option<jiff_sqlx::Timestamp>,
    pub(super) dead: bool,
}

// === impl InfoRow ===

impl InfoRow {
    pub(super) fn info(self) -> Result<KeyInfo, Error> {
        let spoke = self.spoke.map(|name| name.parse()).transpose();
        Ok(KeyInfo {
            id: self.id.to_string(),
            name: self.name,
            hint: self.hint,
            scopes: Scopes::new(self.scopes),
            spoke: spoke.map_err(|_| Error::Corrupt("spoke name"))?,
            created_at: self.created_at.to_jiff(),
            expires_at: time(self.expires_at),
            last_used_at: time(self.last_used_at),
            revoked_at: time(self.revoked_at),
            dead: self.dead,
        })
    }
}
