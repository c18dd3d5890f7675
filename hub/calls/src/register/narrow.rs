//! Withdraws from connected instances what their declaration no longer allows, and nothing else.
//!
//! Invariants
//! - A narrowed registration is a registration like any other: it has a generation of its own, is made in the turn of
//!   its connection, and is known to all hubs. It takes the place of the one that is narrowed and of nothing newer: an
//!   instance that has come, or moved, meanwhile stays. Running calls go on, except for subscriptions to operations
//!   that may no longer be offered. Each of those ends on the hub where it was entered, even if the session has moved
//!   to another one.
//! - Nothing is added here: what a declaration newly allows is offered when the spoke registers again.

use std::sync::Arc;

use alkhub_hub_cluster::{DirectoryEntry, Fence};
use alkhub_protocol::{CallError, Code, Delivered};
use tokio_util::sync::CancellationToken;

use super::Registrar;
use super::takeover::Successor;
use crate::caller::SpokePolicy;
use crate::leg::outcome::End;
use crate::session::{Registration, Session};

impl Registrar {
    /// Brings what a connection has registered within what its spoke may do; `None` if it already is. Dropping the
    /// future ends the registration if it has been narrowed.
    pub(crate) async fn narrow(
        self: &Arc<Self>,
        session: &Arc<Session>,
        policy: Arc<SpokePolicy>,
    ) -> Result<Option<Registration>, CallError> {
        let gone = CancellationToken::new();
        let (registrar, narrowed, is_gone) = (Arc::clone(self), Arc::clone(session), gone.clone());
        let narrow = move || async move { registrar.narrow_to(&narrowed, policy, &is_gone).await };
        self.in_turn(session.id(), gone, narrow).await
    }

    async fn narrow_to(
        self: &Arc<Self>,
        session: &Arc<Session>,
        policy: Arc<SpokePolicy>,
        gone: &CancellationToken,
    ) -> Result<Option<Registration>, CallError> {
        if session.outbox.is_away() {
            // The session is narrowed on the hub where it is now, but that hub does not have the calls that were
            // entered here.
            self.end_withdrawn(session, &policy);
            return Ok(None);
        }
        let current = self.directory.instance(&session.spoke, &session.instance);
        let Some(current) = current.filter(|instance| instance.is_of(session)) else {
            return Ok(None);
        };
        let entry = &current.entry;
        let allowed = entry.operations.iter().filter(|offered| policy.allows(&offered.name));
        let operations: Vec<_> = allowed.cloned().collect();
        let concurrency = [entry.concurrency, policy.concurrency].into_iter().flatten().min();
        let withdrawn = entry.operations.len() - operations.len();
        if withdrawn == 0 && concurrency == entry.concurrency {
            return Ok(None);
        }
        let narrowed = DirectoryEntry {
            operations,
            concurrency,
            ..entry.clone()
        };
        let successor = Successor {
            entry: narrowed,
            of: Fence {
                generation: entry.generation,
                hub: &self.hub,
            },
        };
        let entered = self.succeed(session, Some(&policy), successor, gone).await;
        let registration = match entered {
            Ok(registration) => registration,
            // The instance has registered anew meanwhile, perhaps on another hub, which checks this itself.
            Err(error) if error.code == Code::Conflict => return Ok(None),
            Err(error) => return Err(error),
        };
        tracing::info!(
            spoke.id = %session.spoke, instance.id = %session.instance, generation = registration.generation(), withdrawn,
            concurrency, "a spoke's declaration allows less than it had registered"
        );
        self.end_withdrawn(session, &policy);
        Ok(Some(registration))
    }

    /// Ends the running subscriptions to operations that the spoke may no longer offer.
    fn end_withdrawn(&self, session: &Arc<Session>, policy: &SpokePolicy) {
        for key in session.running() {
            let call = self.table.on(session, key);
            let Some(call) = call.filter(|call| call.operation.is_subscription()) else {
                continue;
            };
            let name = &call.operation.name;
            if !policy.allows(name) {
                let message = format!("spoke `{}` may not offer `{name}` any more", session.spoke);
                let error = CallError::new(Code::NoProvider, message).delivered(Delivered::Yes);
                let reason = "the spoke may not offer the operation any more";
                self.table.end(key, End::Failed(error), Some(reason));
            }
        }
    }
}
