//! The HTTP surface of a hub: calls, events, lists and the admin API, and streams of server-sent events.
//!
//! [`routes`] is the page of every route, with its scope, its parameters and its answers; the router and the OpenAPI
//! document are both made from it. If every request of a route needs the same scope, the router asks for it; if the
//! scope depends on the request, the handler or what it calls does. A handler extracts, calls one function of a domain
//! crate and encodes.
//!
//! Promises
//! - Every JSON answer of success under `/v1`, the admin API included, is an envelope `{"data": …, "meta": {"source":
//!   "local", "timestamp": ms}}` (the origin's ResponseEnvelope); `/v1/openapi.json` is the plain document. The delete of a
//!   spoke answers 204. A failure is a problem document (RFC 9457).
//! - What is changed is announced to the other hubs, whether the client still waits for the answer or not.
//! - A list of spokes, operations or calls costs the hub a small part of itself at a time; that of keys is held whole.
//!
//! Never
//! - It knows no other surface, and nothing of the process around it but [`ApiParts`].
//! - A key in the clear is in the one answer that makes it, and nowhere else.
//!
//! Uses `edge`, `protocol`, and of the domain `budget`, `calls`, `cluster`, `events` and `store`.

mod api;
mod calls;
mod document;
mod events;
mod hub;
mod keep_alive;
mod keys;
mod operations;
mod routes;
mod shapes;
mod spokes;
mod sse;

pub use api::{Api, ApiParts};
pub use routes::routes;
