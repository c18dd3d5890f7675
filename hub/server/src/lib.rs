//! A hub process: its parts, put together, started and ended.
//!
//! [`Hub::start`] starts a complete hub; `alkhub serve`, `alkhub dev` and the tests call it.
//!
//! Promises
//! - Nothing is global: any number of hubs run in one process, each with its own metrics registry.
//! - Every task is spawned on the hub's tracker, which [`Hub::shutdown`] waits for.
//!
//! Never
//! - It routes no call and no event, and knows no route of a surface: it hands the parts what they need.
//! - Keys, tokens, query strings and payloads are never logged.
//!
//! Uses `api`, `balance`, `budget`, `calls`, `cluster`, `config`, `edge`, `events`, `protocol`, `redis`, `socket`, `store` and
//! `tasks`.

mod app;
mod assemble;
mod background;
mod broken_links;
mod drain;
mod health;
mod hub;
mod listeners;
mod marked;
mod membership;
mod metrics;
mod minute_window;
mod preparation;
mod readiness;
mod router;
mod start_error;
pub mod telemetry;

pub use alkhub_edge::listener::tls::TlsError;
pub use hub::Hub;
pub use start_error::StartError;

/// The OpenAPI 3.1 document of the main listener, generated from the routes and the wire types.
pub fn openapi() -> serde_json::Value {
    router::document()
}
