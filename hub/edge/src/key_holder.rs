//! Authorization as a type: a handler that takes a [`KeyHolder`] runs only for the holder of a good key.
//!
//! Invariants
//! - A handler of a route that [needs](crate::Endpoint::needs) a scope runs only for a key that has it.
//! - A handler that takes a body runs only when all of this still holds after the body was read: that may take half a
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

/// Who a request was let in for, in its extensions: the key is looked at and its rate charged once, and again when the
/// body was read.
#[derive(Clone, Debug)]
pub(crate) struct Admitted {
    holder: KeyHolder,
    /// The scope that the route needs.
    scope: Option<&'static str>,
}

// === impl KeyHolder ===

impl KeyHolder {
    /// Who it is for the domain crates, by what the key allows now.
    pub fn who(&self) -> Arc<alkhub_calls::Caller> {
        self.key.caller()
    }

    /// Whether one of alkhub's own scopes is held.
    pub fn has(&self, scope: &str) -> bool {
        self.who().scopes.allows(scope)
    }

    /// A number that tells who asks from others before anything is known of them: by the address, and by what is shown as
    /// a key, which is not looked at.
    pub fn source(parts: &Parts, edge: &Edge) -> u64 {
        edge.sources().hash_one((address(parts, edge), credential(parts)))
    }

    /// The request, when its key has a scope.
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
    /// Looks again at a key whose request took a while to be read.
    ///
    /// # Errors
    /// It has ended meanwhile, or may do less.
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
