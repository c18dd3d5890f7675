//! The door: decides whether this hub takes a peer that asks for a WebSocket, before anything is looked up.

use alkhub_edge::query::Query;
use alkhub_edge::{ApiError, KeyHolder};
use alkhub_protocol::{CallError, Code};
use axum::extract::FromRequestParts;
use http::header::UPGRADE;
use http::request::Parts;

use crate::sockets::Sockets;

/// The query parameter in which a peer names the hub that it does not want to reach, because it has its other session
/// there.
pub(crate) const AVOID: &str = "avoid";

/// A request that may become a WebSocket here; as an extractor it comes before everything expensive.
#[derive(Debug)]
pub(crate) struct Doorway;

impl FromRequestParts<Sockets> for Doorway {
    type Rejection = ApiError;

    /// # Errors
    /// Another hub should have the peer: 503, with `Retry-After` unless the peer itself wants another hub.
    async fn from_request_parts(parts: &mut Parts, sockets: &Sockets) -> Result<Self, ApiError> {
        // A request without an upgrade opens no connection, and is refused for what is wrong with it.
        if parts.headers.contains_key(UPGRADE) {
            let Ok(query) = Query::from_request_parts(parts, sockets).await;
            if query.all(AVOID).any(|hub| hub == sockets.edge().hub_id().as_str()) {
                return Err(avoided());
            }
            let source = KeyHolder::source(parts, sockets.edge());
            sockets.balancer().admit(source)?;
        }
        Ok(Self)
    }
}

/// The answer to a peer that has reached the one hub that it wants to avoid.
fn avoided() -> ApiError {
    let message = "this is the hub that `avoid` names: connect again, to another one";
    CallError::new(Code::Unavailable, message).retryable().into()
}
