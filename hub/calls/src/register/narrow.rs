//! Ends on connected instances what a declaration no longer allows, and nothing else of them.
//!
//! Invariants
//! - A narrowed registration is a registration: with a generation of its own, in the turn of its connection, known to
//!   all hubs. It takes the place of the one that is narrowed and of nothing newer: an instance that has come, or
//!   moved, meanwhile stays. Calls that run go on, but for subscriptions to operations that may not be offered any
//!   more: each ends on the hub where it was entered, though the session has moved to another one.
//! - Nothing grows here: what a declaration allows anew is offered when the spoke registers again.

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
    /// Brings what a connection has registered within what its spoke may do; `None` when it is. Dropping the future ends
    /// the registration, where it was narrowed.
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
            // It is narrowed where it is, and that hub has none of the calls that were entered here.
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
            // It was registered anew while this was decided, maybe at another hub, which looks for itself.
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

    /// Ends the subscriptions that run on operations which the spoke may not offer any more.
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
