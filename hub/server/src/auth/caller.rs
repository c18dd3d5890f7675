//! Authorization as a type: a handler that takes a [`Caller`] runs only for the holder of a good key.
//!
//! Invariants
//! - A handler that takes a body runs only when the key is still good after the body was read: a body may take half a
//!   minute.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use alkhub_protocol::CallError;
use axum::extract::FromRequestParts;
use http::request::Parts;

use super::{Key, credential};
use crate::app::App;
use crate::error::{ApiError, missing_scope};
use crate::forwarded;
use crate::listener::Peer;
use crate::payer::Payer;

/// The holder of the request's key, within its rate.
#[derive(Clone, Debug)]
pub(crate) struct Caller {
    pub(crate) key: Arc<Key>,
}

/// The key of a request whose body is still to come, in its extensions.
#[derive(Clone, Debug)]
pub(crate) struct Holder(Arc<Key>);

// === impl Caller ===

impl Caller {
    /// Who it is for the domain crates, by what the key allows now.
    pub(crate) fn who(&self) -> Arc<alkhub_calls::Caller> {
        self.key.caller()
    }

    /// Checks one of alkhub's own scopes.
    ///
    /// # Errors
    /// 403 that names the scope.
    pub(crate) fn require(&self, scope: &str) -> Result<(), CallError> {
        self.who().scopes.require(scope).map_err(|scope| missing_scope(&scope))
    }
}

impl FromRequestParts<App> for Caller {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, ApiError> {
        let address = match parts.extensions.get::<Peer>() {
            Some(peer) => forwarded::client(&parts.headers, peer.address, &app.config.server),
            None => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        };
        let key = app.keys.authenticate(credential(parts).as_deref(), address).await?;
        app.keys.take_request(&key)?;
        Payer::set(&parts.extensions, app.budgets.key(&key.id));
        parts.extensions.insert(Holder(key.clone()));
        Ok(Self { key })
    }
}

// === impl Holder ===

impl Holder {
    /// Looks at the key again, once the body is there: it may have ended meanwhile.
    ///
    /// # Errors
    /// 401 or 403, as for a new request.
    pub(crate) async fn admit_again(self, app: &App) -> Result<(), ApiError> {
        app.keys.admit_again(&self.0).await
    }
}
