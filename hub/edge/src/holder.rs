//! Authorization as a type: a handler that takes a [`Holder`] runs only for the holder of a good key.
//!
//! Invariants
//! - A handler that takes a body runs only when the key is still good after the body was read: a body may take half a
//!   minute.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use alkhub_protocol::CallError;
use axum::extract::{FromRef, FromRequestParts};
use http::request::Parts;

use crate::auth::credential;
use crate::edge::Edge;
use crate::error::{ApiError, missing_scope};
use crate::forwarded;
use crate::key::Key;
use crate::listener::Peer;
use crate::payer::Payer;

/// The holder of the request's key, within its rate.
#[derive(Clone, Debug)]
pub struct Holder {
    /// The key.
    pub key: Arc<Key>,
}

/// The key of a request whose body is still to come, in its extensions.
#[derive(Clone, Debug)]
pub(crate) struct Admitted(pub(crate) Arc<Key>);

// === impl Holder ===

impl Holder {
    /// Who it is for the domain crates, by what the key allows now.
    pub fn who(&self) -> Arc<alkhub_calls::Caller> {
        self.key.caller()
    }

    /// Checks one of alkhub's own scopes.
    ///
    /// # Errors
    /// 403 that names the scope.
    pub fn require(&self, scope: &str) -> Result<(), CallError> {
        self.who().scopes.require(scope).map_err(|scope| missing_scope(&scope))
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Holder
where
    Edge: FromRef<S>,
{
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        let edge = Edge::from_ref(state);
        let address = match parts.extensions.get::<Peer>() {
            Some(peer) => forwarded::client(&parts.headers, peer.address, edge.server()),
            None => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        };
        let keys = edge.keys();
        let key = keys.authenticate(credential(parts).as_deref(), address).await?;
        keys.take_request(&key)?;
        Payer::set(&parts.extensions, edge.budgets().key(&key.id));
        parts.extensions.insert(Admitted(key.clone()));
        Ok(Self { key })
    }
}
