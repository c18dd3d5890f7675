//! The spoke: operations offered over WebSockets that reconnect and register again by themselves. If there is more than
//! one hub, a spoke has two of them, to different hubs.
//!
//! [`Builder::start`] resolves with the first registration; [`Spoke::status`] shows what happens later. When a call is
//! aborted or its deadline passes, its handler ends: the future is dropped, and [`Context::aborted`] is cancelled for
//! whatever the handler spawned. [`Spoke::shutdown`] lets running calls finish, including those that still arrive
//! meanwhile.

mod attachment;
mod beside;
mod context;
mod drain;
mod failure;
mod handler;
mod keep;
mod lent;
mod offers;
mod operation;
mod registering;
mod session;
mod share;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use alkhub_protocol::register::{RegisterInput, RegisterOutput, SpokeType};
use alkhub_protocol::{InstanceId, OperationName, SpokeName};
use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use self::attachment::Attachment;
pub use self::context::Context;
pub use self::failure::Failure;
pub use self::handler::{Handler, StreamHandler};
use self::offers::Offers;
pub use self::operation::{Answer, Operation};
use crate::Error;
use crate::client::access_settings;
use crate::endpoint::HubEndpoint;

/// Indices of the two sessions that a spoke may hold.
const FIRST: usize = 0;
const SECOND: usize = 1;

/// How long running calls may take to finish at the end.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(30);

/// A running spoke; dropping it cuts the connection and aborts what runs.
#[derive(Debug)]
pub struct Spoke {
    shared: Arc<Shared>,
}

/// Settings of a [`Spoke`].
#[derive(Debug)]
#[must_use]
pub struct Builder {
    url: String,
    token: Option<String>,
    ca_file: Option<PathBuf>,
    name: Option<String>,
    instance_id: Option<String>,
    spoke_type: SpokeType,
    labels: BTreeMap<String, String>,
    concurrency: Option<u32>,
    sessions: u8,
    drain_timeout: Duration,
    operations: Vec<Operation>,
}

/// The state of a spoke.
#[derive(Clone, Debug)]
pub enum Status {
    /// Not registered; with the reason, once something went wrong.
    Connecting(Option<Error>),
    /// Registered. After a reconnect some operations may be refused: look at their results.
    Registered(Arc<RegisterOutput>),
    /// Ended: shut down, or for the reason given.
    Ended(Option<Error>),
}

/// Why a call is not started.
enum NoRoom {
    /// The spoke, over all its sessions, already runs as many calls as it takes at once.
    Full,
    /// It takes no more calls.
    Closed,
}

/// What the spoke, its sessions and its calls share.
#[derive(Debug)]
struct Shared {
    /// The registration of each session, except for its instance, its share of the concurrency, and what is offered.
    register: RegisterInput,
    offers: Offers,
    /// One session, or two that should not be on the same hub.
    sessions: Vec<Arc<Attachment>>,
    /// Where each of them dials.
    endpoints: Vec<HubEndpoint>,
    /// The calls that the program takes at once ...
    concurrency: Option<u32>,
    /// ... and those that the hubs allow it, as far as they have said so.
    most: Mutex<Option<u32>>,
    /// Locked while a session is being registered with its share of them, or with a changed offer.
    dividing: tokio::sync::Mutex<()>,
    /// The answers to calls of sessions that are over, whose hubs may be dead.
    left: Mutex<Vec<Bytes>>,
    drain_timeout: Duration,
    status: watch::Sender<Status>,
    /// Running calls, for the drain.
    running: watch::Sender<usize>,
    /// Set when it will not connect again.
    draining: AtomicBool,
    /// Set when it takes no more calls; changed only while `running` is locked.
    closed: AtomicBool,
    stop: CancellationToken,
    tasks: TaskTracker,
}

// === impl Spoke ===

impl Spoke {
    /// Settings for a hub at `url`: `http://`, `https://`, `ws://` or `wss://`.
    pub fn builder(url: impl Into<String>) -> Builder {
        Builder {
            url: url.into(),
            token: None,
            ca_file: None,
            name: None,
            instance_id: None,
            spoke_type: SpokeType::default(),
            labels: BTreeMap::new(),
            concurrency: None,
            sessions: 2,
            drain_timeout: DRAIN_TIMEOUT,
            operations: Vec::new(),
        }
    }

    /// The state of the spoke, and each change of it.
    pub fn status(&self) -> watch::Receiver<Status> {
        self.shared.status.subscribe()
    }

    /// The hubs that it is connected to now, by their `hubId`: one for each session, of which there are two if there is
    /// more than one hub. Each change shows as a change of [`Spoke::status`].
    pub fn hubs(&self) -> Vec<String> {
        let sessions = self.shared.sessions.iter();
        sessions.filter_map(|session| session.hub()).collect()
    }

    /// Calls that run now.
    pub fn running(&self) -> usize {
        *self.shared.running.borrow()
    }

    /// Offers one more operation. See [`Spoke::update`].
    ///
    /// # Errors
    /// Those of [`Spoke::update`].
    pub async fn add(&self, operation: Operation) -> Result<(), Error> {
        self.update(vec![operation], Vec::new()).await
    }

    /// Stops offering an operation. See [`Spoke::update`].
    ///
    /// # Errors
    /// The name is not valid, and those of [`Spoke::update`].
    pub async fn remove(&self, name: &str) -> Result<(), Error> {
        self.update(Vec::new(), vec![name.parse()?]).await
    }

    /// Changes what the spoke offers while it runs, either all of it or nothing. An added operation replaces one of the
    /// same name; a removed name that is not offered is ignored. Running calls go on.
    ///
    /// Resolves once every hub that the spoke is connected to routes by the change. A session whose connection is lost,
    /// or whose hub is silent, is updated later. Dropping the future does not undo anything: the spoke goes on telling
    /// its hubs.
    ///
    /// # Errors
    /// An operation is not valid, all operations together exceed the size of one message, a hub rejects an operation
    /// ([`Error::Rejected`]), or the spoke ends. Then it offers what it offered before.
    pub async fn update(&self, add: Vec<Operation>, remove: Vec<OperationName>) -> Result<(), Error> {
        self.shared.update(add, remove).await
    }

    /// Resolves when the spoke has ended.
    ///
    /// # Errors
    /// What ended it, unless it was shut down: the hub refuses its key or its operations, or could not be trusted from
    /// the start.
    pub async fn ended(&self) -> Result<(), Error> {
        let mut status = self.status();
        let ended = status.wait_for(|status| matches!(status, Status::Ended(_))).await;
        match ended.as_deref() {
            Ok(Status::Ended(Some(error))) => Err(error.clone()),
            _ => Ok(()),
        }
    }

    /// Takes no more calls, lets the running ones finish (30 s unless set otherwise) and closes the connection.
    ///
    /// The operations are withdrawn first. Until the hub has confirmed that, calls may still be on their way: they are
    /// taken and finished like the others. If the future is dropped, the spoke keeps draining.
    pub async fn shutdown(&self) {
        self.shared.drain().await;
    }
}

impl Drop for Spoke {
    fn drop(&mut self) {
        self.shared.stop.cancel();
    }
}

// === impl Builder ===

impl Builder {
    access_settings!();

    /// The spoke's name; implied by the key of a spoke.
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = Some(name.into());
        self
    }

    /// Tells this running program apart from others of the same spoke; random unless set. A second connection of the
    /// same instance replaces the first.
    pub fn instance_id(mut self, id: impl Into<String>) -> Self {
        self.instance_id = Some(id.into());
        self
    }

    /// The kind of spoke.
    pub fn spoke_type(mut self, kind: SpokeType) -> Self {
        self.spoke_type = kind;
        self
    }

    /// Adds a label.
    pub fn label(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.labels.insert(key.into(), value.into());
        self
    }

    /// The most calls taken at once; unlimited unless set. Further ones are answered with `OVERLOADED`.
    pub fn concurrency(mut self, calls: u32) -> Self {
        self.concurrency = Some(calls);
        self
    }

    /// How many sessions the spoke holds if there is more than one hub, 1 or 2; 2 unless set. The two are on different
    /// hubs, so that the end of one hub takes no operation away. The second registers as `{instance id}#2`. The
    /// concurrency, or what the spoke's declaration allows an instance if that is less, is divided between the two; a
    /// spoke that takes only one call at once therefore has one session.
    pub fn sessions(mut self, sessions: u8) -> Self {
        self.sessions = sessions;
        self
    }

    /// Time for running calls to finish at [`Spoke::shutdown`].
    pub fn drain_timeout(mut self, timeout: Duration) -> Self {
        self.drain_timeout = timeout;
        self
    }

    /// Adds an operation.
    pub fn operation(mut self, operation: Operation) -> Self {
        self.operations.push(operation);
        self
    }

    /// Connects and waits for the first registration; if the hub is away, waits for it.
    ///
    /// # Errors
    /// A setting or a name is not valid, the hub cannot be trusted ([`Error::Untrusted`]), it refuses the key, or it
    /// refuses an operation ([`Error::Rejected`]).
    pub async fn start(self) -> Result<Spoke, Error> {
        let spoke = self.spawn()?;
        let mut status = spoke.status();
        let settled = status.wait_for(|status| !matches!(status, Status::Connecting(_))).await;
        match settled.as_deref() {
            Ok(Status::Ended(Some(error))) => Err(error.clone()),
            Ok(Status::Ended(None) | Status::Connecting(_)) | Err(_) => Err(Error::Closed),
            Ok(Status::Registered(_)) => {
                drop(settled);
                Ok(spoke)
            }
        }
    }

    /// Starts to connect and returns at once; [`Spoke::status`] shows the progress.
    ///
    /// # Errors
    /// A setting or a name is not valid.
    pub fn spawn(self) -> Result<Spoke, Error> {
        let Self {
            url,
            token,
            ca_file,
            name,
            instance_id,
            spoke_type,
            labels,
            concurrency,
            sessions,
            drain_timeout,
            operations,
        } = self;
        if !(1..=2).contains(&sessions) {
            return Err(Error::Setting {
                setting: "the number of sessions",
                reason: format!("it is {sessions}: give 1 or 2"),
            });
        }
        let endpoint = HubEndpoint::new(&url, token.as_deref(), ca_file.as_deref())?;
        let instance_id: InstanceId = match instance_id {
            Some(id) => id.parse()?,
            None => uuid::Uuid::new_v4().to_string().parse()?,
        };
        let offers: Vec<_> = operations.into_iter().map(Operation::offer).collect::<Result<_, _>>()?;
        let host = serde_json::json!({ "os": std::env::consts::OS, "arch": std::env::consts::ARCH });
        let second = second(&instance_id, concurrency).filter(|_| sessions > 1);
        let sessions = [Some(instance_id), second].into_iter().flatten();
        let sessions: Vec<_> = sessions.map(|id| Arc::new(Attachment::new(id))).collect();
        let endpoints = endpoints(&endpoint, &sessions);
        let register = RegisterInput {
            name: name.map(|name| name.parse::<SpokeName>()).transpose()?,
            instance_id: Some(sessions[FIRST].instance.clone()),
            spoke_type,
            labels,
            host_info: Some(host.into()),
            concurrency,
            operations: offers.iter().map(|(_, spec, _)| spec.clone()).collect(),
        };
        crate::client::payload(&register)?;
        let shared = Arc::new(Shared {
            register: RegisterInput {
                operations: Vec::new(),
                ..register
            },
            offers: Offers::new(offers),
            sessions,
            endpoints,
            concurrency,
            most: Mutex::new(concurrency),
            dividing: tokio::sync::Mutex::default(),
            left: Mutex::default(),
            drain_timeout,
            status: watch::Sender::new(Status::Connecting(None)),
            running: watch::Sender::new(0),
            draining: AtomicBool::new(false),
            closed: AtomicBool::new(false),
            stop: CancellationToken::new(),
            tasks: TaskTracker::new(),
        });
        shared.tasks.spawn(keep::keep_open(shared.clone()));
        Ok(Spoke { shared })
    }
}

/// Where each session is to dial: if there are two, away from the hub of the other one.
fn endpoints(endpoint: &HubEndpoint, sessions: &[Arc<Attachment>]) -> Vec<HubEndpoint> {
    let [first, second] = sessions else {
        return vec![endpoint.clone()];
    };
    let avoiding = |other: &Arc<Attachment>| {
        let other = Arc::clone(other);
        endpoint.avoiding(move || other.last_hub())
    };
    vec![avoiding(second), avoiding(first)]
}

/// The instance id of a second session; `None` if there can be none: the id is too long or already ends like a second
/// one's, or the spoke takes only one call at once, which cannot be divided.
fn second(instance: &InstanceId, concurrency: Option<u32>) -> Option<InstanceId> {
    let second = instance
        .twin()
        .filter(|twin| twin.as_str().len() > instance.as_str().len());
    second.filter(|_| concurrency.is_none_or(|calls| calls > 1))
}
