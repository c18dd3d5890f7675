//! The first admin key: entered into the database from its file, at start and whenever the file holds another.
//!
//! If a schema was made anew or restored without the key, the store enters it again by itself. So whoever controls the
//! file (the machine's owner, or anybody who may write the Hub's Secret) can always get in, with a key that was never
//! revoked.

use std::sync::Arc;
use std::time::Duration;

use alkhub_config::{AuthConfig, secret};
use alkhub_protocol::{ApiKey, Chain, key};
use alkhub_store::{AdminKey, Error};
use secrecy::ExposeSecret as _;

use super::KeyRing;
use crate::scope::Scope;

/// How often the file is read again; a kubelet takes up to a minute to update it from a changed Secret.
const FILE: Duration = Duration::from_secs(10);

/// The key in `auth.admin-key-file`, and where it is entered.
#[derive(Debug)]
pub struct FirstKey {
    keys: Arc<KeyRing>,
    auth: AuthConfig,
    /// Whether no other hub on this database has a file of its own.
    alone: bool,
    key: ApiKey,
}

/// Why the file holds no usable key.
#[derive(Debug, thiserror::Error)]
pub enum InvalidFirstKey {
    /// It cannot be read.
    #[error(transparent)]
    File(#[from] secret::Error),
    /// Its content is not a key.
    #[error("`auth.admin-key-file` is not valid")]
    Key(#[from] key::InvalidKey),
}

// === impl FirstKey ===

impl FirstKey {
    /// The key in `auth.admin-key-file`, if that is set.
    ///
    /// # Errors
    /// [`InvalidFirstKey`] names the setting.
    pub fn read(auth: &AuthConfig) -> Result<Option<ApiKey>, InvalidFirstKey> {
        let Some(file) = &auth.admin_key_file else {
            return Ok(None);
        };
        let text = secret::read("auth.admin-key-file", file)?;
        Ok(Some(ApiKey::parse(text.expose_secret())?))
    }

    /// Takes a key that [`FirstKey::read`] found. `alone`: whether all hubs on this database read the same file. The
    /// pods of a Hub read one Secret; hubs on machines of their own may each have a file of their own.
    pub fn new(keys: Arc<KeyRing>, auth: AuthConfig, alone: bool, key: ApiKey) -> Self {
        Self { keys, auth, alone, key }
    }

    /// Enters the key.
    ///
    /// # Errors
    /// Postgres did not answer.
    pub async fn enter(&self) -> Result<(), Error> {
        let admin = self.entry();
        let entered = self.keys.store.keys().keep_admin(&admin).await?;
        self.keys.made(&admin.hash).await;
        self.keys.end(&entered.revoked_keys).await;
        Ok(())
    }

    /// Warns at start about first keys that are in no file any more, as far as this hub can know: if a file was changed
    /// while no hub ran, its old key has not ended.
    pub async fn warn_of_others(&self) {
        match self.keys.store.keys().first_keys_beside(&self.entry()).await {
            Ok(others) if others.is_empty() => {}
            Ok(others) => tracing::warn!(
                key.ids = others.join(" "),
                "first admin keys that are not in `auth.admin-key-file` are valid: end those that are in no other hub's \
                 file with `alkhub keys revoke ID`"
            ),
            Err(error) => tracing::debug!(error = %Chain::of(&error), "other first admin keys are not looked for"),
        }
    }

    /// Reads the file repeatedly until the hub stops: when it holds another key, that is entered and the previous one
    /// ends.
    pub async fn follow(mut self, scope: Scope) {
        let mut complained = false;
        while scope.pause(FILE).await {
            match Self::read(&self.auth) {
                Ok(Some(next)) => {
                    complained = false;
                    if next != self.key {
                        self.change(next).await;
                    }
                }
                Ok(None) => return,
                Err(error) => {
                    if !complained {
                        tracing::warn!(error = %Chain::of(&error), "the first admin key stays as it is");
                    }
                    complained = true;
                }
            }
        }
    }

    async fn change(&mut self, next: ApiKey) {
        let old = std::mem::replace(&mut self.key, next);
        match self.replace(&old).await {
            Ok(()) => tracing::info!(
                key.hint = self.key.hint(),
                "the first admin key was changed in its file"
            ),
            Err(error) => {
                tracing::warn!(error = %Chain::of(&error), "a changed first admin key is not entered yet");
                self.key = old;
            }
        }
    }

    async fn replace(&self, old: &ApiKey) -> Result<(), Error> {
        self.enter().await?;
        let store = self.keys.store.keys();
        let old = store.find(&self.keys.hasher.hash(old)).await?;
        let Some(old) = old.filter(|old| old.revoked_at.is_none()) else {
            return Ok(());
        };
        self.keys.store.keys().revoke(&old.id).await?;
        self.keys.end(&[old.id]).await;
        Ok(())
    }

    fn entry(&self) -> AdminKey {
        let hasher = &self.keys.hasher;
        AdminKey {
            hash: hasher.hash(&self.key),
            hash_key: hasher.hash_key().clone(),
            hint: self.key.hint().to_owned(),
            alone: self.alone,
        }
    }
}
