//! `hub.register`: which connection becomes an instance of which spoke, and what it may offer.
//!
//! Invariants
//! - A registration may wait for long, and its connection may end meanwhile. Then nothing of it takes effect; above
//!   all, it replaces no connection with which the instance has come back.
//! - A registration that is not entered leaves its session as it was: the peer may ask again, and an earlier
//!   registration stands.

use std::sync::Arc;
use std::time::Duration;

use alkhub_budget::{Budgets, Held, Kept};
use alkhub_hub_cluster::{Cluster, DirectoryEntry, Error, OfferedOperation};
use alkhub_protocol::admin::InstanceState;
use alkhub_protocol::register::{OperationResult, RegisterInput, RegisterOutput};
use alkhub_protocol::{CallError, CloseCode, Code, HubId, RawJson};
use futures::future::join_all;
use jiff::Timestamp;
use tokio::sync::oneshot;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::caller::{Caller, SpokePolicy};
use crate::directory::operation::Operation;
use crate::directory::specs::SpecKeeper;
use crate::directory::{ChangeResult, Directory, Instance};
use crate::leg::call_id::LegIds;
use crate::leg::departure::{Departures, REPLACED};
use crate::leg::table::CallTable;
use crate::metrics::Metrics;
use crate::relay::Destination;
use crate::relay::visibility::Visibility;
use crate::session::outbox::Outbox;
use crate::session::presence::Presence;
use crate::session::sessions::Sessions;
use crate::session::{Registration, RegistrationContext, Session};

mod door;
pub(crate) mod examine;
mod fields;
mod narrow;
pub(crate) mod newest;
pub(crate) mod recall;
mod registrant;
pub(crate) mod takeover;
pub(crate) mod turns;
mod update;

use examine::{Examiner, Offer};
use newest::Asking;
use registrant::Registrant;

/// A record of the instance counts as newer than a registration that waits if its connection came later by this much:
/// the clocks of two hubs may differ.
const CLOCKS: Duration = Duration::from_secs(2);

/// How long a hub that begins waits for what the other hubs hold.
const BEGINNING: Duration = Duration::from_secs(3);

/// Registers connections.
#[derive(Debug)]
pub(crate) struct Registrar {
    pub(crate) hub: HubId,
    pub(crate) cluster: Cluster,
    pub(crate) directory: Arc<Directory>,
    pub(crate) sessions: Arc<Sessions>,
    pub(crate) departures: Arc<Departures>,
    pub(crate) table: Arc<CallTable>,
    pub(crate) presence: Arc<Presence>,
    pub(crate) visibility: Arc<Visibility>,
    pub(crate) examiner: Examiner,
    pub(crate) spec_keeper: Arc<SpecKeeper>,
    pub(crate) legs: LegIds,
    pub(crate) budgets: Budgets,
    pub(crate) metrics: Arc<Metrics>,
    /// How often spokes are pinged.
    pub(crate) heartbeat: Duration,
    /// The context of the registrations that it makes.
    pub(crate) context: Arc<RegistrationContext>,
    pub(crate) tasks: TaskTracker,
}

/// A request for a registration, and when it was made.
struct Request {
    input: RegisterInput,
    outbox: Outbox,
    held: Held,
    asked_at: Timestamp,
    asking: Asking,
}

impl Registrar {
    /// Registers a connection. Dropping the future undoes what was done: the work runs in a task of its own, and a
    /// session that nobody takes ends at once. Registrations of one connection take effect in the order in which their
    /// futures are first polled.
    pub(crate) async fn register(
        self: &Arc<Self>,
        caller: &Arc<Caller>,
        input: RegisterInput,
        outbox: Outbox,
    ) -> Result<(RegisterOutput, Registration), CallError> {
        let registrant = Registrant::of(caller, &input, &outbox, &self.legs)?;
        door::check(&input)?;
        // Charged from here on, since the request may wait for its turn and for the directory.
        let held = self
            .budgets
            .key(&caller.key_id)
            .take(Kept::Registrations, door::weight(&input))?;
        let asking = self
            .sessions
            .newest
            .ask(&registrant.spoke, &registrant.instance, outbox.session());
        let (connection, gone) = (Arc::clone(outbox.session()), asking.gone().clone());
        let request = Request {
            input,
            outbox,
            held,
            asked_at: Timestamp::now(),
            asking,
        };
        let registrar = Arc::clone(self);
        let register = move || registrar.register_as(registrant, request);
        self.in_turn(&connection, gone, register).await
    }

    /// Does something about a connection in its turn, in a task of its own. The end of the connection drops this
    /// future, and the work learns of that by `gone`.
    async fn in_turn<T: Send + 'static, F: Future<Output = Result<T, CallError>> + Send>(
        &self,
        connection: &str,
        gone: CancellationToken,
        work: impl FnOnce() -> F + Send + 'static,
    ) -> Result<T, CallError> {
        let (done, result) = oneshot::channel();
        let _waits = gone.drop_guard();
        let mut turn = self.sessions.turns.take(connection);
        self.tasks.spawn(async move {
            turn.comes().await;
            drop(done.send(work().await));
            drop(turn);
        });
        result
            .await
            .map_err(|_| CallError::new(Code::Unavailable, "the hub is going away").retryable())?
    }

    async fn register_as(
        self: Arc<Self>,
        registrant: Registrant,
        request: Request,
    ) -> Result<(RegisterOutput, Registration), CallError> {
        let (input, gone) = (&request.input, request.asking.gone());
        let offered = gone
            .run_until_cancelled(self.offer(&registrant, &input.operations))
            .await;
        let offer = offered.ok_or_else(connection_ended)??;
        let session = self.session(&registrant, request.outbox)?;
        let entry = self.entry(&registrant, input, &session, &offer);
        if self.has_come_back(&session, request.asked_at) {
            self.not_entered(&session);
            return Err(connection_ended());
        }
        let concurrency = entry.concurrency;
        let registration = self.enter(registrant.policy.as_deref(), &session, entry, gone).await?;
        let generation = registration.generation();
        session.hold(request.held);
        let rejected = offer.results.len() - offer.accepted.len();
        self.metrics.registered(offer.accepted.len(), rejected);
        tracing::info!(
            spoke.id = %registrant.spoke, instance.id = %registrant.instance, generation,
            operations = offer.accepted.len(), rejected, "a spoke has registered"
        );
        let output = self.output(&session, generation, concurrency, offer.results);
        Ok((output, registration))
    }

    /// The answer to the registration of a session, with its generation and the number of calls that it takes at once.
    fn output(
        &self,
        session: &Session,
        generation: u64,
        concurrency: Option<u32>,
        operations: Vec<OperationResult>,
    ) -> RegisterOutput {
        RegisterOutput {
            spoke_id: session.spoke.clone(),
            instance_id: session.instance.clone(),
            generation,
            hub_id: self.hub.clone(),
            heartbeat_ms: u64::try_from(self.heartbeat.as_millis()).unwrap_or(u64::MAX),
            concurrency,
            lagging_hubs: Vec::new(),
            operations,
        }
    }

    /// Waits until a registration can be called through every live hub, or for a second; returns the hubs through which
    /// it then still cannot be called.
    pub(crate) async fn visible(&self, session: &Session, generation: u64) -> Vec<HubId> {
        let about = Destination {
            spoke: session.spoke.clone(),
            instance: session.instance.clone(),
            generation,
        };
        let lagging = self.visibility.wait(&about).await;
        if !lagging.is_empty() {
            self.metrics.registrations_lagging.inc();
            tracing::info!(
                spoke.id = %session.spoke, instance.id = %session.instance, generation, hubs = ?lagging,
                "some hubs cannot call a spoke yet that has registered"
            );
        }
        lagging
    }

    /// Waits until the directory is loaded, and each specification that it names; but only for a time.
    pub(crate) async fn caught_up(&self) {
        let all = async {
            if let Err(error) = self.cluster.catch_up().await {
                return tracing::warn!(%error, "the hub begins without the directory");
            }
            let names = self.directory.loading();
            join_all(names.iter().map(|name| self.directory.settled(name, false))).await;
        };
        if timeout(BEGINNING, all).await.is_err() {
            tracing::warn!("the hub begins without each specification of the other hubs' operations");
        }
    }

    /// Enters a registration into the directory in Redis, and into this hub's.
    ///
    /// Once that directory has answered, the record belongs to the session: whatever happens here or later, dropping
    /// the session takes the record away, unless a later registration of the connection has it.
    async fn enter(
        self: &Arc<Self>,
        policy: Option<&SpokePolicy>,
        session: &Arc<Session>,
        entry: DirectoryEntry,
        gone: &CancellationToken,
    ) -> Result<Registration, CallError> {
        if !session.is_registered() {
            return Err(connection_ended());
        }
        let _enters = self.directory.entering.begin(&entry.spoke, &entry.instance);
        let registered = self.cluster.register_unless(gone, entry.clone()).await;
        let generation = registered.map_err(|error| {
            self.not_entered(session);
            if gone.is_cancelled() {
                return connection_ended();
            }
            not_taken(&error)
        })?;
        self.entered(policy, session, DirectoryEntry { generation, ..entry })
    }

    /// Enters what the directory in Redis now has into this hub's.
    fn entered(
        self: &Arc<Self>,
        policy: Option<&SpokePolicy>,
        session: &Arc<Session>,
        entry: DirectoryEntry,
    ) -> Result<Registration, CallError> {
        session.set_generation(entry.generation);
        let registration = Registration::new(&self.context, session, entry.generation);
        let before = self.directory.instance(&session.spoke, &session.instance);
        let before = before.filter(|before| before.is_of(session));
        let instance = Instance::new(entry, Some(Arc::clone(session))).after(before.as_deref());
        let instance = Arc::new(instance);
        match self.directory.put(&instance) {
            ChangeResult::Put(Some(old)) if !old.is_of(session) => self.departures.replaced(&old),
            ChangeResult::Put(_) | ChangeResult::Back => {}
            ChangeResult::Stale => {
                session.outbox.close(CloseCode::Replaced, REPLACED);
                return Err(CallError::new(Code::Conflict, REPLACED));
            }
        }
        let undeclared = policy.is_none_or(|policy| policy.uid.is_empty());
        self.presence.came(&session.spoke, undeclared);
        self.departures.count_instances();
        self.departures.came(Some(&instance));
        // After the record is in: a connection that ends later finds it, and one that ended before is noticed here.
        if session.is_registered() {
            Ok(registration)
        } else {
            Err(connection_ended())
        }
    }

    /// Forgets a session that has not registered before. This ends nothing: the outbox belongs to the peer, which may
    /// ask again.
    fn not_entered(&self, session: &Arc<Session>) {
        if session.generation() == 0 {
            self.sessions.remove(session);
        }
    }

    /// Examines what is offered, and has it saved.
    async fn offer(&self, registrant: &Registrant, operations: &[RawJson]) -> Result<Offer, CallError> {
        let offer = self.examiner.examine(registrant, operations).await?;
        self.spec_keeper.save(&offer.accepted).await;
        Ok(offer)
    }

    /// Whether the instance has registered over another connection since this one asked. Then this is the older
    /// connection, perhaps one that ended without a word.
    fn has_come_back(&self, session: &Arc<Session>, asked_at: Timestamp) -> bool {
        let standing = self.directory.instance(&session.spoke, &session.instance);
        let newer = standing.filter(|standing| !standing.is_of(session));
        let since = asked_at.checked_add(CLOCKS).unwrap_or(Timestamp::MAX);
        newer.is_some_and(|newer| newer.entry.connected_at > since)
    }

    /// The session of the connection: a new one, or the one over which it has registered before.
    fn session(&self, registrant: &Registrant, outbox: Outbox) -> Result<Arc<Session>, CallError> {
        let session = self.sessions.session(&registrant.spoke, &registrant.instance, outbox);
        if session.spoke == registrant.spoke && session.instance == registrant.instance {
            return Ok(session);
        }
        let message = format!(
            "this connection is instance `{}` of spoke `{}`: open another one to register as something else",
            session.instance, session.spoke
        );
        Err(CallError::new(Code::Conflict, message))
    }

    fn entry(
        &self,
        registrant: &Registrant,
        input: &RegisterInput,
        session: &Session,
        offer: &Offer,
    ) -> DirectoryEntry {
        let allowed = registrant.policy.as_ref().and_then(|policy| policy.concurrency);
        DirectoryEntry {
            spoke: registrant.spoke.clone(),
            instance: registrant.instance.clone(),
            hub: self.hub.clone(),
            connection: session.id().to_string(),
            generation: 0,
            state: InstanceState::Connected,
            spoke_type: input.spoke_type,
            labels: input.labels.clone(),
            concurrency: [allowed, input.concurrency].into_iter().flatten().min(),
            connected_at: Timestamp::now(),
            host_info: input.host_info.clone(),
            operations: offer.accepted.iter().map(offered).collect(),
        }
    }
}

/// An operation in the form that the directory has.
fn offered(operation: &Arc<Operation>) -> OfferedOperation {
    OfferedOperation {
        name: operation.name.clone(),
        hash: operation.hash.to_string(),
    }
}

/// The answer to a registration that the directory in Redis refused, or may not have.
fn not_taken(error: &Error) -> CallError {
    let message = format!("the directory did not take the registration: {error}");
    CallError::new(Code::Unavailable, message).retryable()
}

/// The answer to a registration whose connection ended, or was replaced, before the directory in Redis had it.
fn connection_ended() -> CallError {
    CallError::new(
        Code::Aborted,
        "the connection ended, or a newer one of the instance came, before its registration was entered",
    )
    .retryable()
}
