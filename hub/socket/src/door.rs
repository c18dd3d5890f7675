//! The door: before anything is looked up of a peer that asks for a WebSocket, whether it is welcome on this hub.

use alkhub_edge::query::Query;
use alkhub_edge::{ApiError, KeyHolder};
use alkhub_protocol::{CallError, Code};
use axum::extract::FromRequestParts;
use http::header::UPGRADE;
use http::request::Parts;

use crate::sockets::Sockets;

/// The query parameter by which a peer names the hub that it does not want to reach: it has its other session there.
pub(crate) const AVOID: &str = "avoid";

/// A request that may become a WebSocket here: as an extractor it stands before all that costs something.
#[derive(Debug)]
pub(crate) struct Doorway;

impl FromRequestParts<Sockets> for Doorway {
    type Rejection = ApiError;

    /// # Errors
    /// Another hub should have the peer: 503, with `Retry-After` unless the peer itself wants another one.
    async fn from_request_parts(parts: &mut Parts, sockets: &Sockets) -> Result<Self, ApiError> {
        // What is no upgrade makes no connection, and is refused by what is wrong with it.
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

/// The answer to a peer that has reached the one hub that it does not want.
fn avoided() -> ApiError {
    let message = "this is the hub that `avoid` names: connect again, to another one";
    CallError::new(Code::Unavailable, message).retryable().into()
}
