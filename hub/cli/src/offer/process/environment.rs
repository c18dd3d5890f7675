//! What a command finds in its environment.
//!
//! Invariant: of the variables that begin with `ALKHUB_` a command gets those that [`SHARED`] names. The others may hold
//! a key, or a password of a database.

use crate::hub::HubAccess;

/// What all of alkhub's variables begin with.
const PREFIX: &str = "ALKHUB_";

/// Where the hub is and whom to trust is no secret.
const SHARED: [&str; 2] = ["ALKHUB_URL", "ALKHUB_CA_FILE"];

/// The variables that are taken away and those that are set.
#[derive(Clone, Debug, Default)]
pub(super) struct Environment {
    set: Vec<(&'static str, String)>,
}

// === impl Environment ===

impl Environment {
    /// With the address of the offer's hub and the offer's key, for a command that talks to the hub itself.
    pub(super) fn with_key(access: &HubAccess) -> Self {
        let url = Some(("ALKHUB_URL", access.url.clone()));
        let token = access.token.clone().map(|token| ("ALKHUB_TOKEN", token));
        Self {
            set: url.into_iter().chain(token).collect(),
        }
    }

    /// Sets a command up.
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
