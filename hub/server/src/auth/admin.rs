//! The first admin key: from its file into the database, at start and whenever the file holds another.
//!
//! The store enters it again by itself where a schema was made anew or put back without it. So whoever owns the file
//! (the machine's owner, or who may write the Hub's Secret) can always get in, by a key that was never revoked.

use std::time::Duration;

use alkhub_config::{AuthConfig, secret};
use alkhub_protocol::ApiKey;
use alkhub_store::{AdminKey, Error};
use secrecy::ExposeSecret as _;

use crate::app::App;
use crate::error::Chain;
use crate::hub::StartError;

/// The file is read again this often; a kubelet takes up to a minute to bring a changed Secret into it.
const FILE: Duration = Duration::from_secs(10);

/// The key in `auth.admin-key-file`, when that is set.
///
/// # Errors
/// [`StartError`] names the setting.
pub(crate) fn admin_key(auth: &AuthConfig) -> Result<Option<ApiKey>, StartError> {
    let Some(file) = &auth.admin_key_file else {
        return Ok(None);
    };
    let text = secret::read("auth.admin-key-file", file)?;
    Ok(Some(ApiKey::parse(text.expose_secret())?))
}

/// Enters the first key.
///
/// # Errors
/// Postgres did not answer.
pub(crate) async fn enter_admin(app: &App, key: &ApiKey) -> Result<(), Error> {
    let admin = first_key(app, key);
    let entered = app.store.keys().keep_admin(&admin).await?;
    app.keys.made(&admin.hash).await;
    app.end_keys(&entered.revoked_keys).await;
    Ok(())
}

/// Tells at start of first keys that no file has any more, as far as this hub can know: a file that was changed while no hub
/// ran ends none.
pub(crate) async fn tell_of_others(app: &App, key: &ApiKey) {
    match app.store.keys().first_keys_beside(&first_key(app, key)).await {
        Ok(others) if others.is_empty() => {}
        Ok(others) => tracing::warn!(
            key.ids = others.join(" "),
            "first admin keys that are not in `auth.admin-key-file` are valid: end those that are in no other hub's file \
             with `alkhub keys revoke ID`"
        ),
        Err(error) => tracing::debug!(error = %Chain(&error), "other first admin keys are not looked for"),
    }
}

fn first_key(app: &App, key: &ApiKey) -> AdminKey {
    let hasher = app.keys.hasher();
    AdminKey {
        hash: hasher.hash(key),
        hash_key: hasher.hash_key().clone(),
        hint: key.hint().to_owned(),
        // The pods of a Hub read one Secret. Hubs on machines of their own may each have a file of their own.
        alone: !app.config.hub.uid.is_empty(),
    }
}

/// Reads the file again and again, until the hub stops: another key in it is entered, and the one before ends.
pub(crate) async fn follow_admin(app: App, mut key: ApiKey) {
    let mut complained = false;
    loop {
        tokio::select! {
            () = app.scope.stop.cancelled() => return,
            () = tokio::time::sleep(FILE) => {}
        }
        let next = match admin_key(&app.config.auth) {
            Ok(Some(next)) => next,
            Ok(None) => return,
            Err(error) => {
                if !complained {
                    tracing::warn!(error = %Chain(&error), "the first admin key stays as it is");
                }
                complained = true;
                continue;
            }
        };
        complained = false;
        if next == key {
            continue;
        }
        match replace(&app, &key, &next).await {
            Ok(()) => {
                tracing::info!(key.hint = next.hint(), "the first admin key was changed in its file");
                key = next;
            }
            Err(error) => tracing::warn!(error = %Chain(&error), "a changed first admin key is not entered yet"),
        }
    }
}

async fn replace(app: &App, old: &ApiKey, new: &ApiKey) -> Result<(), Error> {
    enter_admin(app, new).await?;
    let old = app.store.keys().find(&app.keys.hasher().hash(old)).await?;
    let Some(old) = old.filter(|old| old.revoked_at.is_none()) else {
        return Ok(());
    };
    app.store.keys().revoke(&old.id).await?;
    app.end_keys(&[old.id]).await;
    Ok(())
}
