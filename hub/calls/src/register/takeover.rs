//! An instance that another hub held, and that has come to this hub with its session.
//!
//! Invariants
//! - Its record changes hands by one compare-and-set: a registration that the instance has meanwhile made elsewhere
//!   stands.
//! - It offers what it offered there. What its declaration no longer allows is left to [`Registrar::narrow`].

use std::sync::Arc;

use alkhub_budget::Kept;
use alkhub_hub_cluster::{DirectoryEntry, Error, Fence};
use alkhub_protocol::admin::InstanceState;
use alkhub_protocol::{CallError, Code};
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;

use super::{Registrar, connection_ended, door, not_taken};
use crate::caller::{Caller, SpokePolicy};
use crate::leg::departure::REPLACED;
use crate::session::outbox::Outbox;
use crate::session::{Registration, Session};

/// A record that takes the place of another record of the same instance.
pub(super) struct Successor<'a> {
    pub(super) entry: DirectoryEntry,
    /// The record that it follows.
    pub(super) of: Fence<'a>,
}

/// A registration, as the hub that holds it gives it to another hub.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(transparent)]
pub struct HeldInstance(DirectoryEntry);

// === impl HeldInstance ===

impl HeldInstance {
    /// The current state of a registration; `None` if another one has taken its place.
    pub fn of(registration: &Registration) -> Option<Self> {
        registration.entry().map(Self)
    }
}

// === impl Registrar ===

impl Registrar {
    /// Makes the session of an outbox the instance that another hub held. Dropping the future undoes what was done.
    pub(crate) async fn take_over(
        self: &Arc<Self>,
        caller: &Arc<Caller>,
        held: HeldInstance,
        outbox: Outbox,
    ) -> Result<Registration, CallError> {
        let (connection, gone) = (Arc::clone(outbox.session()), CancellationToken::new());
        let (registrar, caller, is_gone) = (Arc::clone(self), Arc::clone(caller), gone.clone());
        let take = move || async move { registrar.take_over_as(&caller, held.0, outbox, &is_gone).await };
        self.in_turn(&connection, gone, take).await
    }

    async fn take_over_as(
        self: &Arc<Self>,
        caller: &Caller,
        held: DirectoryEntry,
        outbox: Outbox,
        gone: &CancellationToken,
    ) -> Result<Registration, CallError> {
        let weight = door::weight_of(&held);
        let charge = self.budgets.key(&caller.key_id).take(Kept::Registrations, weight)?;
        let session = self.sessions.session(&held.spoke, &held.instance, outbox);
        let of = Fence {
            generation: held.generation,
            hub: &held.hub,
        };
        let entry = DirectoryEntry {
            hub: self.hub.clone(),
            connection: session.id().to_string(),
            generation: 0,
            // On the other hub it may have been reconnecting.
            state: InstanceState::Connected,
            ..held
        };
        let successor = Successor { entry, of };
        let entered = self.succeed(&session, caller.spoke.as_deref(), successor, gone).await;
        let registration = entered.inspect_err(|_| self.not_entered(&session))?;
        session.hold(charge);
        tracing::info!(
            spoke.id = %session.spoke, instance.id = %session.instance, generation = registration.generation(),
            "a spoke has come from another hub with its session"
        );
        Ok(registration)
    }

    /// Makes a record the next one of its instance, by one compare-and-set, and enters it into this hub's directory.
    ///
    /// # Errors
    /// `CONFLICT`: the instance has registered anew meanwhile.
    pub(super) async fn succeed(
        self: &Arc<Self>,
        session: &Arc<Session>,
        policy: Option<&SpokePolicy>,
        successor: Successor<'_>,
        gone: &CancellationToken,
    ) -> Result<Registration, CallError> {
        if !session.is_registered() {
            return Err(connection_ended());
        }
        let Successor { entry, of } = successor;
        let _enters = self.directory.entering.begin(&entry.spoke, &entry.instance);
        let taken = self.cluster.take_over_unless(gone, entry.clone(), of).await;
        let generation = taken.map_err(|error| match error {
            Error::Taken => CallError::new(Code::Conflict, REPLACED),
            Error::GivenUp => connection_ended(),
            error => not_taken(&error),
        })?;
        self.entered(policy, session, DirectoryEntry { generation, ..entry })
    }
}
