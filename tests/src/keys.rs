//! Keys, and the files from which hubs of the tests read their secrets.

use std::path::Path;

use alkhub_protocol::ApiKey;

/// A key that was never used.
pub fn new_key() -> ApiKey {
    let halves = [uuid::Uuid::new_v4().into_bytes(), uuid::Uuid::new_v4().into_bytes()];
    ApiKey::from_entropy(halves.as_flattened().try_into().expect("16 bytes twice are 32"))
}

/// Writes `hash.key` and `admin.key` into a folder; returns the admin's key.
///
/// # Errors
/// They cannot be written.
pub fn write(folder: &Path) -> std::io::Result<ApiKey> {
    let admin = new_key();
    std::fs::write(folder.join("hash.key"), "a5".repeat(32))?;
    std::fs::write(folder.join("admin.key"), admin.expose())?;
    Ok(admin)
}
