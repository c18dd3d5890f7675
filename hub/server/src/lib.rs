//! A hub process: its parts, put together, started and ended.
//!
//! [`Hub::start`] is the whole of a hub process; `alkhub serve`, `alkhub dev` and the tests call it. Handlers decode,
//! authorize, call one function of a domain crate and encode.
//!
//! What clients may rely on
//! - Every JSON answer under `/v1`, the admin API included, is an envelope `{"data": …, "meta": {"source": "local",
//!   "timestamp": ms}}` (the origin's ResponseEnvelope); `/v1/openapi.json` is the plain document. A delete answers 204.
//! - Every error is an RFC 9457 problem document ([`alkhub_protocol::Problem`]), 404, 405 and panics included.
//!
//! Invariants
//! - No globals: any number of hubs run in one process, each with its own metrics registry.
//! - Every task is spawned on the hub's tracker, which [`Hub::shutdown`] waits for.
//! - Keys, tokens, query strings and payloads are never logged.

mod app;
mod background;
mod drain;
mod http;
mod hub;
mod metrics;
mod readiness;
mod router;
mod shapes;
mod sse;
pub mod telemetry;
mod ws;

pub use alkhub_calls::{InvalidSchema, check_schema};
pub use alkhub_edge::listener::tls::TlsError;
pub use hub::{Hub, StartError};

/// The OpenAPI 3.1 document of the main listener, generated from the routes and the wire types.
pub fn openapi() -> serde_json::Value {
    router::document()
}
