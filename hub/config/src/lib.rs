//! The settings of a hub: defaults, overridden by a TOML file, overridden by the environment.
//!
//! [`HubConfig`] holds all of them. The operator renders the same struct that the hub parses, so that a renamed setting
//! is a compile error and not an outage. This crate is the only place that reads alkhub's settings from the
//! environment: `ALKHUB_<SECTION>__<KEY>`, for example `ALKHUB_SERVER__LISTEN` for `listen` in `[server]`.
//!
//! Promises
//! - An unknown key is refused, in the file and in the environment.
//! - A setting outside of its range (`ranges`) is refused, by its name, its value and the range.
//! - The defaults run on a laptop.
//!
//! Never
//! - It prints no secret: serialized, a [`HubConfig`] leaves secrets out.
//! - It opens no connection, and reads no file but its own and those that have a secret.
//!
//! Uses no other crate of alkhub.

pub mod address;
mod auth;
mod budget;
mod calls;
mod days;
pub mod drain;
mod error;
mod events;
mod identity;
mod load;
mod network;
mod origin;
mod prefix;
mod ranges;
mod reference;
pub mod secret;
mod server;
mod store;
mod telemetry;

use serde::{Deserialize, Serialize};

pub use address::{Address, InvalidUrl};
pub use auth::AuthConfig;
pub use budget::BudgetConfig;
pub use calls::CallsConfig;
pub use error::Error;
pub use events::EventsConfig;
pub use identity::{HubSection, PodSection};
pub use network::{InvalidNetwork, Network};
pub use origin::{InvalidOrigin, Origin};
pub use prefix::{ChannelPrefix, InvalidPrefix};
pub use reference::reference;
pub use server::{ClientAddress, MANAGEMENT_PORT, PORT, ServerConfig, TlsConfig};
pub use store::{InvalidSchema, SchemaName, StoreConfig};
pub use telemetry::{LogFormat, TelemetryConfig};

/// Everything that can be set.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct HubConfig {
    /// Which Hub this process belongs to.
    pub hub: HubSection,
    /// Which pod this process is; the downward API fills it in.
    pub pod: PodSection,
    /// Listeners, limits and drain.
    pub server: ServerConfig,
    /// Keys.
    pub auth: AuthConfig,
    /// What peers may make a hub keep.
    pub budget: BudgetConfig,
    /// Events and Redis.
    pub events: EventsConfig,
    /// Postgres.
    pub store: StoreConfig,
    /// Calls.
    pub calls: CallsConfig,
    /// Logs and traces.
    pub telemetry: TelemetryConfig,
}
