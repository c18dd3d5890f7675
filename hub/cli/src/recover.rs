//! `alkhub recover`: the way back in for the owner of the machine. It asks no hub and needs no key: whoever can read
//! the hub's settings and its `auth.hash-key-file` owns the hub anyway.

use std::process::ExitCode;

use alkhub_config::{HubConfig, secret};
use alkhub_protocol::{ApiKey, Scopes, scope};
use alkhub_store::{KeyHasher, NewKey, Store};
use tokio_util::sync::CancellationToken;

use crate::args::ServeArgs;
use crate::failure::{Failure, chain};
use crate::output;
use crate::serve::{DATABASE_TIMEOUT, ready};
use crate::wait::Places;

/// The key's name in lists.
const NAME: &str = "recovered";

/// Enters a new admin key into the database and shows it.
pub(crate) async fn recover(args: ServeArgs) -> Result<ExitCode, Failure> {
    let config = HubConfig::load(args.config.as_deref()).map_err(|e| Failure::usage(chain(&e)))?;
    let hasher = hasher(&config)?;
    let places = Places::new(&config, "start it, or set another `store.database-url`", "")?;
    let store = Store::open(&config.store, &prometheus::Registry::new()).map_err(|e| Failure::chain(&e))?;
    let stop = CancellationToken::new();
    let _stopped = stop.clone().drop_guard();
    ready(&store, &stop, DATABASE_TIMEOUT, &places).await?;
    let key = ApiKey::from_entropy(rand::random());
    let new = NewKey {
        name: NAME.to_owned(),
        hash: hasher.hash(&key),
        hash_key: hasher.hash_key().clone(),
        hint: key.hint().to_owned(),
        scopes: Scopes::new([scope::ADMIN]),
        spoke: None,
        expires_at: None,
    };
    let info = store.keys().create(&new).await.map_err(|e| Failure::chain(&e))?;
    output::note(&format!(
        "key {} ({NAME}), scope `admin`; it is shown this once:",
        info.id
    ));
    output::text(key.expose())
}

/// The hasher with which this hub hashes its keys.
fn hasher(config: &HubConfig) -> Result<KeyHasher, Failure> {
    let file = config.auth.hash_key_file.as_deref().ok_or_else(|| {
        Failure::usage("`auth.hash-key-file` is not set: give the settings that the hub runs with (--config FILE)")
    })?;
    let text = secret::read("auth.hash-key-file", file).map_err(|e| Failure::chain(&e))?;
    KeyHasher::from_hex(config.auth.hash_key_id.as_str(), &text)
        .map_err(|e| Failure::usage(format!("`auth.hash-key-file` is not valid: {}", chain(&e))))
}
