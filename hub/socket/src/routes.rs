//! Every route of this surface. The router and the OpenAPI document are both made of this list.

use alkhub_edge::Endpoint;
use alkhub_edge::endpoint::schema_of;
use alkhub_protocol::HubId;
use axum::routing::get;
use http::Method;

use crate::door::AVOID;
use crate::sockets::Sockets;
use crate::upgrade::upgrade;

const AVOIDED: &str = "A `hubId`: that hub answers 503, so that the peer tries again and reaches another one.";

/// The routes of this surface. The key alone is enough for them; messages on the socket need scopes.
pub fn routes() -> Vec<Endpoint<Sockets>> {
    vec![
        Endpoint::new(Method::GET, "/v1/ws", get(upgrade))
            .says("The WebSocket of spokes and clients (PROTOCOL.md).")
            .query(AVOID, AVOIDED, schema_of::<HubId>)
            .upgrades(),
        Endpoint::new(Method::GET, "/ws", get(upgrade))
            .says("The same as `/v1/ws`.")
            .query(AVOID, AVOIDED, schema_of::<HubId>)
            .upgrades(),
    ]
}
