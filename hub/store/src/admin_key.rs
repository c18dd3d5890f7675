//! The first key, as read from its file.

use crate::hasher::{HashKey, KeyHash};

/// The key in `auth.admin-key-file`.
#[derive(Clone, Debug)]
pub struct AdminKey {
    /// Its hash.
    pub hash: KeyHash,
    /// Which secret made the hash.
    pub hash_key: HashKey,
    /// Its first characters.
    pub hint: String,
    /// Whether every hub of this schema reads the same file: then a new key ends those that were in the file before.
    pub alone: bool,
}
