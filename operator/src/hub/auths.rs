//! What was read from the Secrets with the keys of Hubs.

use std::collections::HashMap;

use parking_lot::Mutex;

/// What is kept of a Secret.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Auth {
    /// Digest of what matters in it.
    pub(super) digest: String,
    /// A salt for digests of passwords, derived from the hash key.
    pub(super) salt: String,
}

/// What is known of each Secret, by the Hub's uid (and a name), with the version of the Secret: the content is read
/// again only when the version differs.
#[derive(Debug, Default)]
pub(crate) struct Auths(Mutex<HashMap<String, (String, Auth)>>);

// === impl Auths ===

impl Auths {
    pub(super) fn of(&self, of: &str, version: Option<&str>) -> Option<Auth> {
        let known = self.0.lock();
        let (seen, auth) = known.get(of)?;
        (Some(seen.as_str()) == version).then(|| auth.clone())
    }

    pub(super) fn keep(&self, of: &str, version: &str, auth: Auth) {
        self.0.lock().insert(of.to_owned(), (version.to_owned(), auth));
    }

    /// Forgets Hubs that are gone.
    pub(crate) fn retain(&self, exists: impl Fn(&str) -> bool) {
        let hub = |of: &str| exists(of.split('/').next().unwrap_or(of));
        self.0.lock().retain(|of, _| hub(of));
    }
}
