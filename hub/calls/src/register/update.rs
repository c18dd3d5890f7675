//! `hub.register.update`: a registered instance offers more operations, or fewer.
//!
//! Invariants
//! - Either all of it takes effect, by one record with a generation of its own, or nothing does.
//! - It changes the registration that stands, in the turn of its session and by one compare-and-set of the record. A
//!   registration that the instance has made over another connection, or on another hub, is left as it is.
//! - Running calls go on, even those of operations that are no longer offered.

use std::collections::HashSet;
use std::sync::Arc;

use alkhub_budget::{Held, Kept};
use alkhub_hub_cluster::{DirectoryEntry, OfferedOperation};
use alkhub_protocol::register::{OperationResult, RefusedDetails, RegisterOutput, Registered, UpdateInput};
use alkhub_protocol::{CallError, Code, OperationName, RawJson};
use tokio_util::sync::CancellationToken;

use super::examine::Offer;
use super::registrant::Registrant;
use super::takeover::Successor;
use super::{Registrar, connection_ended, door, offered};
use crate::caller::Caller;
use crate::directory::Instance;
use crate::session::outbox::Outbox;
use crate::session::{Registration, Session};

/// The most bytes of rejected operations that the refusal of an update names.
const REJECTED_BYTES: usize = 128 * 1024;

/// The requested change.
struct Change {
    input: UpdateInput,
    outbox: Outbox,
    /// Charged for as long as the change is examined.
    _held: Held,
}

// === impl Registrar ===

impl Registrar {
    /// Changes what the session of an outbox offers. Dropping the future undoes what was done, as with a registration;
    /// the requests of one connection take effect in the order in which their futures are first polled.
    pub(crate) async fn update(
        self: &Arc<Self>,
        caller: &Arc<Caller>,
        input: UpdateInput,
        outbox: Outbox,
    ) -> Result<(RegisterOutput, Registration), CallError> {
        let budget = self.budgets.key(&caller.key_id);
        let held = budget.take(Kept::Registrations, door::weight_of_update(&input))?;
        let (connection, gone) = (Arc::clone(outbox.session()), CancellationToken::new());
        let change = Change {
            input,
            outbox,
            _held: held,
        };
        let (registrar, caller, is_gone) = (Arc::clone(self), Arc::clone(caller), gone.clone());
        let update = move || async move { registrar.update_as(&caller, change, &is_gone).await };
        self.in_turn(&connection, gone, update).await
    }

    async fn update_as(
        self: Arc<Self>,
        caller: &Caller,
        change: Change,
        gone: &CancellationToken,
    ) -> Result<(RegisterOutput, Registration), CallError> {
        let (session, standing) = self.standing(&change.outbox)?;
        let registrant = Registrant::again(caller, &session)?;
        let examined = self.examiner.examine(&registrant, &change.input.add);
        let examined = gone.run_until_cancelled(examined).await;
        let offer = examined.ok_or_else(connection_ended)??;
        let rejected = offer.results.len() - offer.accepted.len();
        if rejected > 0 {
            self.metrics.registered(0, rejected);
            return Err(refused(&offer.results));
        }
        let entry = self.changed(&standing, &offer, &change.input.remove)?;
        self.spec_keeper.save(&offer.accepted).await;
        let budget = self.budgets.key(&caller.key_id);
        let charge = budget.take(Kept::Registrations, door::weight_of(&entry))?;
        let operations = entry.operations.len();
        let (policy, concurrency) = (registrant.policy.as_deref(), entry.concurrency);
        let successor = Successor {
            entry,
            of: standing.entry.fence(),
        };
        let entered = self.succeed(&session, policy, successor, gone).await;
        let registration = entered.map_err(|error| ended(error, gone))?;
        session.hold(charge);
        self.metrics.registered(offer.accepted.len(), 0);
        tracing::info!(
            spoke.id = %session.spoke, instance.id = %session.instance, generation = registration.generation(), operations,
            added = offer.accepted.len(), "a spoke has changed what it offers"
        );
        let output = self.output(&session, registration.generation(), concurrency, offer.results);
        Ok((output, registration))
    }

    /// The session of an outbox, and the instance as which it is registered.
    fn standing(&self, outbox: &Outbox) -> Result<(Arc<Session>, Arc<Instance>), CallError> {
        let session = self.sessions.get(outbox.session());
        let standing = session.and_then(|session| {
            let instance = self.directory.instance(&session.spoke, &session.instance)?;
            instance.is_of(&session).then_some((session, instance))
        });
        let message = "nothing is registered over this connection: begin with `hub.register`";
        standing.ok_or_else(|| CallError::new(Code::Conflict, message))
    }

    /// A registration, with what is added and without what is removed.
    fn changed(
        &self,
        standing: &Instance,
        offer: &Offer,
        removed: &[OperationName],
    ) -> Result<DirectoryEntry, CallError> {
        let added = offer.accepted.iter().map(|operation| &operation.name);
        let out: HashSet<&OperationName> = removed.iter().chain(added).collect();
        let kept = standing.entry.operations.iter();
        let kept = kept.filter(|offered| !out.contains(&offered.name)).cloned();
        let operations: Vec<OfferedOperation> = kept.chain(offer.accepted.iter().map(offered)).collect();
        let most = self.examiner.max_operations;
        if operations.len() > most {
            let message = format!(
                "one instance may offer {most} operations, and would offer {}: name some in `remove`, or raise \
                 `calls.max-operations`",
                operations.len()
            );
            return Err(CallError::new(Code::BadRequest, message));
        }
        Ok(DirectoryEntry {
            operations,
            ..standing.entry.clone()
        })
    }
}

/// The answer to an update whose session ended while its peer waited: whether this hub or the directory noticed first,
/// there is nothing left to change.
fn ended(mut error: CallError, gone: &CancellationToken) -> CallError {
    if error.code == Code::Aborted && !gone.is_cancelled() {
        error.code = Code::Conflict;
        error.retryable = false;
    }
    error
}

/// The answer to an update some of whose operations are rejected.
fn refused(results: &[OperationResult]) -> CallError {
    let rejected = results.iter().filter(|result| result.result == Registered::Rejected);
    let mut bytes = 0;
    let named = rejected.clone().take_while(|result| {
        bytes += result.name.len() + result.reason.as_ref().map_or(0, String::len);
        bytes <= REJECTED_BYTES
    });
    let details = RefusedDetails {
        rejected: named.cloned().collect(),
        ..RefusedDetails::default()
    };
    let first = rejected.clone().next();
    let first = first.map_or_else(String::new, |first| {
        let reason = first.reason.as_deref().unwrap_or_default();
        format!("; the first: `{}`: {reason}", first.name)
    });
    let message = format!(
        "nothing is changed, for {} operations are rejected{first}",
        rejected.count()
    );
    let mut error = CallError::new(Code::BadRequest, message);
    error.details = RawJson::from_value(&details).ok();
    error
}
