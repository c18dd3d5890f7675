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

    /// Calls and waits for the output, `{data, meta}`; of a subscription, for its first item. Dropping the future
    /// aborts the call at the spoke.
    ///
    /// # Errors
    /// Why there is no output.
    pub async fn call(&self, caller: &Arc<Caller>, request: CallRequest) -> Result<RawJson, CallError> {
        self.wait(|sink| self.dispatch.call(caller, request, sink)).await
    }

    /// [`Calls::call`] of a call that was prepared.
    ///
    /// # Errors
    /// Why there is no output.
    pub async fn call_prepared(&self, prepared: PreparedCall) -> Result<RawJson, CallError> {
        self.wait(|sink| self.dispatch.make(prepared, sink)).await
    }

    /// Finds out what a call is of, for a surface that answers each kind of operation in its own way: where that is not known,
    /// the call waits for the look for which it would wait when it is made, and does not wait again. Its deadline counts from
    /// here. Dropping the future ends the call.
    ///
    /// # Errors
    /// The call was refused: its caller may not make it, nobody is found, or its deadline has passed.
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

    /// [`Calls::subscribe`] of a call that was prepared.
    ///
    /// # Errors
    /// It was refused.
    pub fn subscribe_prepared(&self, prepared: PreparedCall) -> Result<Items, CallError> {
        let caller = Arc::clone(&prepared.caller);
        self.open(&caller, |sink| self.dispatch.make(prepared, sink))
    }

    /// Calls that one key may run on this hub at once.
    pub fn max_in_flight_per_key(&self) -> usize {
        self.dispatch.admission.in_flight_per_key()
    }

    /// Ends every running call with an error, which its caller gets; its spoke gets the reason. For a hub that goes
    /// away: who learns it later, by the end of a connection, may learn that the spoke is lost, or nothing.
    pub fn end_all(&self, error: &CallError, reason: &str) {
        for key in self.table.keys() {
            self.table.end(key, End::Failed(error.clone()), Some(reason));
        }
    }

    /// Makes the session of an outbox an instance of a spoke. A partly refused registration is an answer, no error. On a
    /// session that has registered before, the new set replaces the old one and the old registration does nothing more. Other
    /// hubs learn of it a little later: [`Calls::visible`].
    /// Dropping the future undoes what was done.
    ///
    /// # Errors
    /// The caller may not register, or names another spoke than its key.
    pub async fn register(
        &self,
        caller: &Arc<Caller>,
        input: RegisterInput,
        outbox: Outbox,
    ) -> Result<(RegisterOutput, Registration), CallError> {
        self.registrar.register(caller, input, outbox).await
    }

    /// Changes what the session of an outbox has registered: all of it takes effect, or nothing. Calls that run go on. The
    /// registration that the session had does nothing more then. Other hubs learn of it a little later: [`Calls::visible`].
    /// Dropping the future undoes what was done.
    ///
    /// # Errors
    /// Nothing is registered over the session, an operation is rejected or not known by its hash (the details have which), or
    /// the instance has registered over another connection since.
    pub async fn update(
        &self,
        caller: &Arc<Caller>,
        input: UpdateInput,
        outbox: Outbox,
    ) -> Result<(RegisterOutput, Registration), CallError> {
        self.registrar.update(caller, input, outbox).await
    }

    /// Waits until what was registered can be called through every live hub, or for a second; the hubs through which it cannot
    /// then, in order. The peer is answered when this has ended; its registration stands before. Dropping the future ends the
    /// waiting and nothing else.
    pub fn visible(&self, registration: &Registration) -> impl Future<Output = Vec<HubId>> + Send + 'static + use<> {
        let (registrar, session) = (Arc::clone(&self.registrar), Arc::clone(registration.session()));
        let generation = registration.generation();
        async move { registrar.visible(&session, generation).await }
    }

    /// Brings a registration within what the caller's spoke may do now: operations that it may not offer any more are
    /// withdrawn, its concurrency is lowered. The session that takes over, or `None` when nothing had to change.
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

    /// Goes on with an instance that another hub held, over the session of an outbox which has moved here from there. Its
    /// record changes hands in one step, from that hub's generation to a higher one. Dropping the future undoes that.
    ///
    /// # Errors
    /// The instance has registered over another connection since, or the hub has no room for it.
    pub async fn take_over(
        &self,
        caller: &Arc<Caller>,
        instance: HeldInstance,
        outbox: Outbox,
    ) -> Result<Registration, CallError> {
        self.registrar.take_over(caller, instance, outbox).await
    }

    /// The hub that has the other session of a program ([`alkhub_protocol::InstanceId::twin`]), of which this hub knows one by
    /// this id.
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

    /// Waits until this hub can call what the other hubs hold, or cannot for now: for a hub that begins.
    pub async fn caught_up(&self) {
        self.registrar.caught_up().await;
    }

    /// A page of the operations that spokes offer now: of those that the caller may call, unless the query asks for all.
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

    /// The first page of the operations that the caller may call and that have every word of `search`; none without the
    /// scope `operations:read`.
    pub fn operations(&self, caller: &Caller, search: Option<&str>) -> Vec<OperationInfo> {
        let query = ListQuery {
            search: search.unwrap_or_default().to_owned(),
            ..ListQuery::default()
        };
        self.operation_page(caller, &query)
            .map_or_else(|_| Vec::new(), |page| page.operations)
    }

    /// One operation; `None` when no spoke has offered it, or without the scope `operations:read`.
    pub fn operation(&self, caller: &Caller, name: &OperationName) -> Option<OperationInfo> {
        let allowed = caller.scopes.allows(scope::OPERATIONS_READ);
        allowed.then(|| builtin::info(&self.directory, name)).flatten()
    }

    /// Whether an operation is a query, a mutation or a subscription, for a surface that answers each in its own way;
    /// `None` when no spoke has offered it. Cheap enough to be asked for each call.
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

    /// Calls that run now on this hub or wait to be sent, those of other hubs' callers included.
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

    /// Makes a call, and hands out what it answers item by item.
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
