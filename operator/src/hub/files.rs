//! The files in a hub's pod: what the volume puts there, and where the settings point.

/// Where the volume is mounted.
pub(crate) const FOLDER: &str = "/etc/alkhub";

/// The settings; also their key in the ConfigMap.
pub(crate) const SETTINGS: &str = "hub.toml";

/// The hash key.
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

/// The files in [`FOLDER`] that belong to a Redis or a Postgres.
#[derive(Debug)]
pub(crate) struct BackendFiles {
    pub(crate) url: &'static str,
    /// Certificate authorities; only there if the Hub names some.
    pub(crate) ca: &'static str,
}

/// The path of a file in the pod.
pub(crate) fn path(file: &str) -> String {
    format!("{FOLDER}/{file}")
}
