//! The files of a hub's pod: what the volume puts there, and where the settings say that it is.

/// Where the volume is mounted.
pub(crate) const FOLDER: &str = "/etc/alkhub";

/// The settings; their key in the ConfigMap, too.
pub(crate) const SETTINGS: &str = "hub.toml";

/// The key of the hash.
pub(crate) const HASH_KEY: &str = "auth/hash-key";

/// The first admin key.
pub(crate) const ADMIN_KEY: &str = "auth/admin-key";

pub(crate) const REDIS: BackendFiles = BackendFiles {
    url: "secrets/redis-url",
    ca: "secrets/redis-ca.crt",
};

pub(crate) const POSTGRES: BackendFiles = BackendFiles {
    url: "secrets/postgres-url",
    ca: "secrets/postgres-ca.crt",
};

/// What the pod has of a Redis or a Postgres, in [`FOLDER`].
#[derive(Debug)]
pub(crate) struct BackendFiles {
    pub(crate) url: &'static str,
    /// Authorities; not there unless the Hub names some.
    pub(crate) ca: &'static str,
}

/// The path of a file in the pod.
pub(crate) fn path(file: &str) -> String {
    format!("{FOLDER}/{file}")
}
