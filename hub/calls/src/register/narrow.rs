//! What a declaration no longer allows ends on the instances that are connected, and nothing else of them does.
//!
//! Invariants
//! - A narrowed registration is a registration: with a generation of its own, in the turn of its connection, known to all
//!   hubs. Calls that run go on, but for subscriptions to operations that may not be offered any more.
//! - Nothing grows here: what a declaration allows anew is offered when the spoke registers again.

use std::sync::Arc;

use alkhub_hub_cluster::DirectoryEntry;
use alkhub_protocol::{CallError, Code, Delivered};
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use super::Registrar;
use crate::caller::SpokePolicy;
use crate::link::Link;
use crate::outcome::End;
use crate::session::Session;

impl Registrar {
    /// Brings what a connection has registered within what its spoke may do; `None` when it is. Dropping the future ends
    /// the registration, where it was narrowed.
    pub(crate) async fn narrow(
        self: &Arc<Self>,
        link: &Arc<Link>,
        policy: Arc<SpokePolicy>,
    ) -> Result<Option<Session>, CallError> {
        let (done, result) = oneshot::channel();
        let (registrar, link) = (Arc::clone(self), Arc::clone(link));
        let gone = CancellationToken::new();
        let _waits = gone.clone().drop_guard();
        let mut turn = self.sessions.turns.take(&link.connection.id);
        self.tasks.spawn(async move {
            turn.comes().await;
            let narrowed = registrar.narrow_to(&link, policy, &gone).await;
            drop(done.send(narrowed));
            drop(turn);
        });
        result
            .await
            .map_err(|_| CallError::new(Code::Unavailable, "the hub is going away").retryable())?
    }

    async fn narrow_to(
        self: &Arc<Self>,
        link: &Arc<Link>,
        policy: Arc<SpokePolicy>,
        gone: &CancellationToken,
    ) -> Result<Option<Session>, CallError> {
        let current = self.directory.instance(&link.spoke, &link.instance);
        let Some(current) = current.filter(|instance| instance.is_on(link)) else {
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
        let session = self.enter(Some(&policy), link, narrowed, gone).await?;
        tracing::info!(
            spoke.id = %link.spoke, instance.id = %link.instance, generation = session.generation(), withdrawn,
            concurrency, "a spoke's declaration allows less than it had registered"
        );
        self.end_withdrawn(link, &policy);
        Ok(Some(session))
    }

    /// Ends the subscriptions that run on operations which the spoke may not offer any more.
    fn end_withdrawn(&self, link: &Arc<Link>, policy: &SpokePolicy) {
        for key in link.running() {
            let call = self.table.on(link, key);
            let Some(call) = call.filter(|call| call.operation.is_subscription()) else {
                continue;
            };
            let name = &call.operation.name;
            if !policy.allows(name) {
                let message = format!("spoke `{}` may not offer `{name}` any more", link.spoke);
                let error = CallError::new(Code::NoProvider, message).delivered(Delivered::Yes);
                let reason = "the spoke may not offer the operation any more";
                self.table.end(key, End::Failed(error), Some(reason));
            }
        }
    }
}
