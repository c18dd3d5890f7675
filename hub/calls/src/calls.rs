//! The one handle of this crate.

use std::sync::Arc;

use alkhub_budget::Budgets;
use alkhub_protocol::admin::InstanceInfo;
use alkhub_protocol::operation::OperationInfo;
use alkhub_protocol::register::{RegisterInput, RegisterOutput, UpdateInput};
use alkhub_protocol::{CallError, CallRequest, Code, HubId, OperationKind, OperationName, RawJson, SpokeName, scope};
use tokio::sync::oneshot;

use crate::admission::prepared::PreparedCall;
use crate::builtin;
use crate::caller::Caller;
use crate::directory::Directory;
use crate::directory::connected::Connected;
use crate::directory::list::{self, ListQuery, OperationPage};
use crate::leg::dispatch::Dispatch;
use crate::leg::outcome::End;
use crate::leg::reply::Reply;
use crate::leg::sink::{ItemQueue, Sink};
use crate::leg::table::CallTable;
use crate::leg::ticket::{Items, Ticket, WaitingCaller};
use crate::metrics::CallTotals;
use crate::register::Registrar;
use crate::register::takeover::HeldInstance;
use crate::session::Registration;
use crate::session::moves::Moves;
use crate::session::outbox::Outbox;

/// Routes calls. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Calls {
    directory: Arc<Directory>,
    dispatch: Arc<Dispatch>,
    registrar: Arc<Registrar>,
    table: Arc<CallTable>,
    budgets: Budgets,
    moves: Moves,
}

// === impl Calls ===

impl Calls {
    /// Routes one call; synchronous, reads nothing remote. The answers go to `reply`, possibly before this returns.
    ///
    /// # Errors
    /// The call was refused; nothing goes to `reply`.
    pub fn dispatch(&self, caller: &Arc<Caller>, request: CallRequest, reply: Reply) -> Result<Ticket, CallError> {
        self.send(caller, request, Sink::new(reply)?)
    }

    /// Makes a call and waits for its output, `{data, meta}`, or for the first item of a subscription. Dropping the
    /// future aborts the call at the spoke.
    ///
    /// # Errors
    /// The reason why there is no output.
    pub async fn call(&self, caller: &Arc<Caller>, request: CallRequest) -> Result<RawJson, CallError> {
        self.wait(|sink| self.dispatch.call(caller, request, sink)).await
    }

    /// [`Calls::call`] for a call that was prepared.
    ///
    /// # Errors
    /// The reason why there is no output.
    pub async fn call_prepared(&self, prepared: PreparedCall) -> Result<RawJson, CallError> {
        self.wait(|sink| self.dispatch.make(prepared, sink)).await
    }

    /// Finds out which kind of operation a call is of, for a surface that answers each kind in its own way. If the hub
    /// does not know, the call waits here for the look that it would otherwise wait for when it is made, and does not
    /// wait again. Its deadline counts from here. Dropping the future ends the call.
    ///
    /// # Errors
    /// The call was refused: its caller may not make it, nobody offers the operation, or its deadline has passed.
    pub async fn prepare(&self, caller: &Arc<Caller>, request: CallRequest) -> Result<PreparedCall, CallError> {
        let (prepared, look) = self.dispatch.prepare(caller, request)?;
        let Some((key, looked)) = look else {
            return Ok(prepared);
        };
        let waiting = WaitingCaller(self.ticket(key));
        let looked = looked.await;
        drop(waiting);
        looked.unwrap_or_else(|_| Err(aborted()))?;
        self.dispatch.looked(prepared)
    }

    /// Starts a subscription; a query or a mutation is a subscription of one item. Dropping the items aborts it at
    /// the spoke.
    ///
    /// # Errors
    /// It was refused.
    pub async fn subscribe(&self, caller: &Arc<Caller>, request: CallRequest) -> Result<Items, CallError> {
        self.open(caller, |sink| self.dispatch.call(caller, request, sink))
    }

    /// [`Calls::subscribe`] for a call that was prepared.
    ///
    /// # Errors
    /// It was refused.
    pub fn subscribe_prepared(&self, prepared: PreparedCall) -> Result<Items, CallError> {
        let caller = Arc::clone(&prepared.caller);
        self.open(&caller, |sink| self.dispatch.make(prepared, sink))
    }

    /// How many calls one key may run on this hub at once.
    pub fn max_in_flight_per_key(&self) -> usize {
        self.dispatch.admission.in_flight_per_key()
    }

    /// Ends every running call with an error for its caller and a reason for its spoke. This is for a hub that goes
    /// away: a caller that only noticed its connection end might be told that the spoke is lost, or nothing at all.
    pub fn end_all(&self, error: &CallError, reason: &str) {
        for key in self.table.keys() {
            self.table.end(key, End::Failed(error.clone()), Some(reason));
        }
    }

    /// Makes the session of an outbox an instance of a spoke. A partly refused registration is an answer, not an error.
    /// On a session that has registered before, the new set replaces the old one, and the old registration has no
    /// further effect. Other hubs learn of it a little later: [`Calls::visible`].
    /// Dropping the future undoes what was done.
    ///
    /// # Errors
    /// The caller may not register, or names a spoke other than the one its key identifies.
    pub async fn register(
        &self,
        caller: &Arc<Caller>,
        input: RegisterInput,
        outbox: Outbox,
    ) -> Result<(RegisterOutput, Registration), CallError> {
        self.registrar.register(caller, input, outbox).await
    }

    /// Changes what the session of an outbox has registered: either all of it takes effect, or nothing. Running calls
    /// go on. The session's earlier registration has no further effect. Other hubs learn of the change a little later:
    /// [`Calls::visible`].
    /// Dropping the future undoes what was done.
    ///
    /// # Errors
    /// Nothing is registered over the session; or an operation is rejected, or not known by its hash (the details say
    /// which); or the instance has since registered over another connection.
    pub async fn update(
        &self,
        caller: &Arc<Caller>,
        input: UpdateInput,
        outbox: Outbox,
    ) -> Result<(RegisterOutput, Registration), CallError> {
        self.registrar.update(caller, input, outbox).await
    }

    /// Waits until a registration can be called through every live hub, or for a second; returns the hubs through which
    /// it then still cannot be called, in order. The peer is answered when this has ended; its registration takes
    /// effect earlier. Dropping the future ends the wait and nothing else.
    pub fn visible(&self, registration: &Registration) -> impl Future<Output = Vec<HubId>> + Send + 'static + use<> {
        let (registrar, session) = (Arc::clone(&self.registrar), Arc::clone(registration.session()));
        let generation = registration.generation();
        async move { registrar.visible(&session, generation).await }
    }

    /// Brings a registration within what the caller's spoke may do now: operations that it may no longer offer are
    /// withdrawn, and its concurrency is lowered. Returns the registration that takes over, or `None` if nothing had to
    /// change.
    ///
    /// # Errors
    /// The directory did not take it, and the registration has ended: the connection should end too.
    pub fn narrow(
        &self,
        registration: &Registration,
        caller: &Caller,
    ) -> impl Future<Output = Result<Option<Registration>, CallError>> + Send + 'static + use<> {
        let (registrar, session) = (Arc::clone(&self.registrar), Arc::clone(registration.session()));
        let policy = caller.spoke.clone();
        async move {
            match policy {
                Some(policy) => registrar.narrow(&session, policy).await,
                None => Ok(None),
            }
        }
    }

    /// Continues an instance that another hub held, over the session of an outbox that has moved here from there. Its
    /// record changes hands in one step, from that hub's generation to a higher one. Dropping the future undoes that.
    ///
    /// # Errors
    /// The instance has since registered over another connection, or the hub has no room for it.
    pub async fn take_over(
        &self,
        caller: &Arc<Caller>,
        instance: HeldInstance,
        outbox: Outbox,
    ) -> Result<Registration, CallError> {
        self.registrar.take_over(caller, instance, outbox).await
    }

    /// The hub that has the other session of the program whose session on this hub has this id
    /// ([`alkhub_protocol::InstanceId::twin`]).
    pub fn beside(&self, session: &str) -> Option<HubId> {
        let session = self.registrar.sessions.get(session)?;
        let twin = session.instance.twin()?;
        let other = self.directory.instance(&session.spoke, &twin)?;
        Some(other.entry.hub.clone())
    }

    /// The messages between hubs about sessions that move.
    pub fn moves(&self) -> &Moves {
        &self.moves
    }

    /// Waits until this hub can call what the other hubs hold, or has waited long enough: for a hub that has just
    /// started.
    pub async fn caught_up(&self) {
        self.registrar.caught_up().await;
    }

    /// A page of the operations that spokes offer now: those that the caller may call, or all of them if the query asks
    /// for that.
    ///
    /// # Errors
    /// The caller lacks the scope `operations:read`.
    pub fn operation_page(
        &self,
        caller: &Caller,
        query: &ListQuery,
    ) -> Result<OperationPage<OperationInfo>, CallError> {
        caller
            .scopes
            .require(scope::OPERATIONS_READ)
            .map_err(|scope| CallError::missing_scope(&scope))?;
        Ok(list::page(
            &list::listed(&self.directory, caller, query),
            query,
            list::info,
        ))
    }

    /// The first page of the operations that the caller may call and that contain every word of `search`; empty without
    /// the scope `operations:read`.
    pub fn operations(&self, caller: &Caller, search: Option<&str>) -> Vec<OperationInfo> {
        let query = ListQuery {
            search: search.unwrap_or_default().to_owned(),
            ..ListQuery::default()
        };
        self.operation_page(caller, &query)
            .map_or_else(|_| Vec::new(), |page| page.operations)
    }

    /// One operation; `None` if no spoke has offered it, or without the scope `operations:read`.
    pub fn operation(&self, caller: &Caller, name: &OperationName) -> Option<OperationInfo> {
        let allowed = caller.scopes.allows(scope::OPERATIONS_READ);
        allowed.then(|| builtin::info(&self.directory, name)).flatten()
    }

    /// Whether an operation is a query, a mutation or a subscription, for a surface that answers each kind in its own
    /// way; `None` if no spoke has offered it. Cheap enough to ask for each call.
    pub fn kind(&self, name: &OperationName) -> Option<OperationKind> {
        let pool = self.directory.pool(name)?;
        pool.operation.as_ref().map(|operation| operation.spec.kind)
    }

    /// Every connected instance of every hub, with the operations that it offers.
    pub fn instances(&self) -> Vec<(SpokeName, InstanceInfo, Vec<OperationName>)> {
        let shown = |one: &Connected| (one.spoke().clone(), one.info(), one.operations().cloned().collect());
        self.connected().iter().map(shown).collect()
    }

    /// Every connected instance of every hub, by spoke and id. Nothing is copied.
    pub fn connected(&self) -> Vec<Connected> {
        self.directory.instances().into_iter().map(Connected).collect()
    }

    /// Calls that run on this hub now or wait to be sent, including those of other hubs' callers.
    pub fn in_flight(&self) -> usize {
        self.table.count()
    }

    /// The outcomes of the calls of this hub's callers, in total.
    pub fn totals(&self) -> CallTotals {
        self.table.totals()
    }

    pub(crate) fn new(
        directory: Arc<Directory>,
        dispatch: Arc<Dispatch>,
        registrar: Arc<Registrar>,
        table: Arc<CallTable>,
        (budgets, moves): (Budgets, Moves),
    ) -> Self {
        Self {
            directory,
            dispatch,
            registrar,
            table,
            budgets,
            moves,
        }
    }

    fn send(&self, caller: &Arc<Caller>, request: CallRequest, sink: Sink) -> Result<Ticket, CallError> {
        let key = self.dispatch.call(caller, request, sink)?;
        Ok(self.ticket(key))
    }

    /// Makes a call, and waits for its output or its first item.
    async fn wait(&self, make: impl FnOnce(Sink) -> Result<u64, CallError>) -> Result<RawJson, CallError> {
        let (sender, answer) = oneshot::channel();
        let waiting = WaitingCaller(self.ticket(make(Sink::Once(sender))?));
        let result = answer.await;
        drop(waiting);
        result.unwrap_or_else(|_| Err(aborted()))
    }

    /// Makes a call, and hands out its answers item by item.
    fn open(&self, caller: &Caller, make: impl FnOnce(Sink) -> Result<u64, CallError>) -> Result<Items, CallError> {
        let queue = Arc::new(ItemQueue::new(&self.budgets.key(&caller.key_id)));
        let ticket = self.ticket(make(Sink::Queue(Arc::clone(&queue)))?);
        Ok(Items { queue, ticket })
    }

    fn ticket(&self, key: u64) -> Ticket {
        let table = Arc::clone(&self.table);
        Ticket { table, key }
    }
}

/// The error for a waiting caller whose call ended without an answer.
fn aborted() -> CallError {
    CallError::new(Code::Aborted, "the call was aborted")
}
