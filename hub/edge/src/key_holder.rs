//! Authorization as a type: a handler that takes a [`KeyHolder`] runs only for the holder of a good key.
//!
//! Invariants
//! - A handler of a route that [needs](crate::Endpoint::needs) a scope runs only for a key that has it.
//! - A handler that takes a body runs only if all of this still holds after the body was read, which may take half a
//!   minute.

use std::hash::BuildHasher as _;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use alkhub_protocol::CallError;
use axum::extract::{FromRef, FromRequestParts, Request};
use http::request::Parts;

use crate::auth::credential;
use crate::edge::Edge;
use crate::error::ApiError;
use crate::forwarded;
use crate::key::Key;
use crate::listener::Peer;
use crate::payer::Payer;

/// The holder of the request's key, within its rate.
#[derive(Clone, Debug)]
pub struct KeyHolder {
    /// The key.
    pub key: Arc<Key>,
}

/// Kept in a request's extensions once it was admitted: the key is checked and its rate charged only once; after the
/// body was read, the key is checked again.
#[derive(Clone, Debug)]
pub(crate) struct Admitted {
    holder: KeyHolder,
    /// The scope that the route needs.
    scope: Option<&'static str>,
}

// === impl KeyHolder ===

impl KeyHolder {
    /// The holder as the domain crates know them, with the key's present rights.
    pub fn who(&self) -> Arc<alkhub_calls::Caller> {
        self.key.caller()
    }

    /// Whether one of alkhub's own scopes is held.
    pub fn has(&self, scope: &str) -> bool {
        self.who().scopes.allows(scope)
    }

    /// A number that tells requesters apart before anything is known of them: derived from the address and from what is
    /// shown as a key, which is not verified.
    pub fn source(parts: &Parts, edge: &Edge) -> u64 {
        edge.sources().hash_one((address(parts, edge), credential(parts)))
    }

    /// Passes the request on if its key has the scope.
    ///
    /// # Errors
    /// As for a handler that takes a [`KeyHolder`]; 403 that names the scope.
    pub(crate) async fn with_scope(edge: &Edge, scope: &'static str, request: Request) -> Result<Request, ApiError> {
        let (mut parts, body) = request.into_parts();
        let holder = Self::from_request_parts(&mut parts, edge).await?;
        let admitted = Admitted {
            holder,
            scope: Some(scope),
        };
        admitted.check_scope()?;
        parts.extensions.insert(admitted);
        Ok(Request::from_parts(parts, body))
    }
}

impl<S: Send + Sync> FromRequestParts<S> for KeyHolder
where
    Edge: FromRef<S>,
{
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        if let Some(admitted) = parts.extensions.get::<Admitted>() {
            return Ok(admitted.holder.clone());
        }
        let edge = Edge::from_ref(state);
        let address = address(parts, &edge);
        let keys = edge.keys();
        let key = keys.authenticate(credential(parts).as_deref(), address).await?;
        keys.take_request(&key)?;
        Payer::set(&parts.extensions, edge.budgets().key(&key.id));
        let holder = Self { key };
        parts.extensions.insert(Admitted {
            holder: holder.clone(),
            scope: None,
        });
        Ok(holder)
    }
}

/// The address of the client.
fn address(parts: &Parts, edge: &Edge) -> IpAddr {
    match parts.extensions.get::<Peer>() {
        Some(peer) => forwarded::client(&parts.headers, peer.address, edge.server()),
        None => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
    }
}

// === impl Admitted ===

impl Admitted {
    /// Checks a key again after its request took a while to read.
    ///
    /// # Errors
    /// It has ended meanwhile, or has fewer rights.
    pub(crate) async fn again(&self, edge: &Edge) -> Result<(), ApiError> {
        edge.keys().admit_again(&self.holder.key).await?;
        self.check_scope()
    }

    fn check_scope(&self) -> Result<(), ApiError> {
        match self.scope {
            Some(scope) if !self.holder.has(scope) => Err(CallError::missing_scope(scope).into()),
            Some(_) | None => Ok(()),
        }
    }
}
