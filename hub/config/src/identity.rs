//! Who this process is.

use serde::{Deserialize, Serialize};

/// The Hub. `[hub]`, `ALKHUB_HUB__*`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct HubSection {
    /// The Hub's namespace; only shown.
    pub namespace: String,
    /// The Hub's name; only shown.
    pub name: String,
    /// The Hub resource's uid. With one, the hub reserves its channel prefix in Redis and stays unready while another
    /// Hub holds it; empty reserves nothing.
    pub uid: String,
}

/// The pod. `[pod]`, `ALKHUB_POD__*`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct PodSection {
    /// The pod's name, the first part of the hub's id; the host's name when empty.
    pub name: String,
    /// The pod's address: shown, and where other hubs dial it (`server.peer-listen`); where it is empty, `server.peer-listen`
    /// must name an address.
    pub ip: String,
    /// The pod's uid; only shown.
    pub uid: String,
    /// The revision of the Hub that the pod is of, for the other hubs: connections get to pods of the newest one. Of two the
    /// one that begins with the higher number is newer; empty where nobody counts them.
    pub revision: String,
}

impl Default for HubSection {
    fn default() -> Self {
        Self {
            namespace: "local".to_owned(),
            name: "dev".to_owned(),
            uid: String::new(),
        }
    }
}
