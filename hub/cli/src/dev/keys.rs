//! The keys of a data folder.

use std::path::Path;

use alkhub_protocol::ApiKey;

use super::folder::{ADMIN_KEY, HASH_KEY};
use super::state;
use crate::failure::Failure;

/// Creates the keys of a new folder; existing ones stay.
pub(super) fn make(data: &Path) -> Result<(), Failure> {
    let secret: [u8; 32] = rand::random();
    for (name, text) in [
        (HASH_KEY, hex::encode(secret)),
        (ADMIN_KEY, ApiKey::from_entropy(rand::random()).expose().to_owned()),
    ] {
        let path = data.join(name);
        if !path.exists() {
            state::write_private(&path, &format!("{text}\n"))
                .map_err(|e| Failure::other(format!("cannot write {}: {e}", path.display())))?;
        }
    }
    Ok(())
}
