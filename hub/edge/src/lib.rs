//! The basis of every surface of a hub: sockets, requests, answers, keys and limits.
//!
//! A surface (`hub/api`, `hub/socket`) is a crate of its own. It lists its routes as [`Endpoint`]s on one page, and its
//! handlers get what they need from extractors: [`KeyHolder`] is who asks, [`RawBody`] and [`JsonBody`] are what they
//! send. [`Edge`] is what all surfaces of one hub share; a surface's state contains it, and no surface knows another.
//!
//! | a request passes | file |
//! |---|---|
//! | accepting, TLS, PROXY protocol, HTTP/1.1 and HTTP/2 | `listener` |
//! | its id, its span, its frame, its metrics | `request`, `trace`, `conformance`, `header` |
//! | its query against what the route declares | `router`, `query`, `endpoint` |
//! | its key, the client's address, the key's rate | `key_holder`, `auth`, `forwarded`, `limits` |
//! | its body, within size, time and the key's budget | `body`, `payer` |
//! | its answer: an envelope, or a problem document | `envelope`, `error` |
//!
//! Promises
//! - Every error is an RFC 9457 problem document, 404, 405 and panics included. JSON answers are envelopes.
//! - What lasts longer than one answer is entered in [`Open`]: when a key ends or allows less, and when the hub drains,
//!   that list alone is asked.
//!
//! Never
//! - It knows no route and no operation, reads no event, and routes no call.
//! - No key, token, query string or payload is logged.
//! - Nothing is global: any number of hubs run in one process.
//!
//! Uses `budget`, `calls` (who a caller is), `cluster` (changes of keys), `config`, `events` and `redis` (how they fail),
//! `protocol`, `store` (keys) and `tasks`.

pub mod auth;
pub mod body;
mod conformance;
mod edge;
pub mod endpoint;
pub mod envelope;
pub mod error;
mod forwarded;
pub mod header;
mod key;
mod key_holder;
pub mod limits;
pub mod listener;
pub mod metrics;
pub mod open;
pub mod openapi;
pub mod payer;
pub mod query;
pub mod request;
pub mod router;
mod scope;
pub mod topics;
pub mod trace;

pub use body::{JsonBody, RawBody};
pub use edge::{Edge, EdgeParts};
pub use endpoint::Endpoint;
pub use error::ApiError;
pub use key::{Key, KeyFault};
pub use key_holder::KeyHolder;
pub use open::Open;
pub use scope::Scope;

/// The software's version.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");
