//! The environment of a command.
//!
//! Invariant: of the variables that begin with `ALKHUB_`, a command gets only those that [`SHARED`] names. The others
//! may contain a key, or the password of a database.

use crate::hub::HubAccess;

/// The prefix of all of alkhub's variables.
const PREFIX: &str = "ALKHUB_";

/// The hub's address and the certificate authority to trust are not secrets.
const SHARED: [&str; 2] = ["ALKHUB_URL", "ALKHUB_CA_FILE"];

/// The variables that are removed and those that are set.
#[derive(Clone, Debug, Default)]
pub(super) struct Environment {
    set: Vec<(&'static str, String)>,
}

// === impl Environment ===

impl Environment {
    /// Adds the address of the offer's hub and the offer's key, for a command that talks to the hub itself.
    pub(super) fn with_key(access: &HubAccess) -> Self {
        let url = Some(("ALKHUB_URL", access.url.clone()));
        let token = access.token.clone().map(|token| ("ALKHUB_TOKEN", token));
        Self {
            set: url.into_iter().chain(token).collect(),
        }
    }

    /// Applies this to a command.
    pub(super) fn apply(&self, command: &mut tokio::process::Command) {
        for (name, _) in std::env::vars_os() {
            let ours = name.to_str().is_some_and(|name| name.starts_with(PREFIX));
            if ours && !SHARED.iter().any(|shared| name == *shared) {
                command.env_remove(name);
            }
        }
        command.envs(self.set.iter().map(|(name, value)| (name, value)));
    }
}
