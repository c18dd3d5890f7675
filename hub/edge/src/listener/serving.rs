//! What a listener's connections share.

use std::sync::Arc;

use alkhub_config::ServerConfig;
use axum::Router;

use super::tls;
use crate::edge::Edge;
use crate::scope::Scope;

/// What the connections of one listener share.
pub(super) struct Serving {
    pub(super) router: Router,
    pub(super) tls: Option<tls::Acceptor>,
    pub(super) server: Arc<ServerConfig>,
    pub(super) edge: Option<Edge>,
    pub(super) scope: Scope,
}
