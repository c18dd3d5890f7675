//! The spoke: operations offered over one WebSocket that reconnects and registers again by itself.
//!
//! [`Builder::start`] resolves with the first registration; [`Spoke::status`] shows what happens later. A call that is
//! aborted, or whose deadline passes, ends its handler: the future is dropped, and [`Context::aborted`] is cancelled
//! for what the handler spawned. [`Spoke::shutdown`] lets running calls finish, those that come meanwhile too.

mod context;
mod failure;
mod handler;
mod keep;
mod operation;
mod session;

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use alkhub_protocol::register::{RegisterInput, RegisterOutput, SpokeType};
use alkhub_protocol::{InstanceId, OperationName, RawJson, RequestId, SpokeName};
use parking_lot::Mutex;
use tokio::sync::{oneshot, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

pub use self::context::Context;
pub use self::failure::Failure;
pub use self::handler::{Handler, StreamHandler};
use self::operation::Run;
pub use self::operation::{Answer, Operation};
use crate::Error;
use crate::endpoint::HubEndpoint;
use crate::socket::Outbox;

/// Time for running calls to finish at the end.
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
    drain_timeout: Duration,
    operations: Vec<Operation>,
}

/// Where a spoke is.
#[derive(Clone, Debug)]
pub enum Status {
    /// Not registered; with the reason once something went wrong.
    Connecting(Option<Error>),
    /// Registered. After a reconnect some operations may be refused: look at their results.
    Registered(Arc<RegisterOutput>),
    /// Ended: shut down, or for the reason given.
    Ended(Option<Error>),
}

/// What the spoke, its connection and its calls share.
#[derive(Debug)]
struct Shared {
    endpoint: HubEndpoint,
    register: RawJson,
    /// The registration without operations, which ends new calls and leaves the running ones.
    withdraw: RawJson,
    /// The connection that is registered.
    outbox: Mutex<Option<Outbox>>,
    operations: HashMap<OperationName, Run>,
    concurrency: Option<usize>,
    drain_timeout: Duration,
    status: watch::Sender<Status>,
    /// Calls that run, for the drain.
    running: watch::Sender<usize>,
    /// It comes back no more.
    draining: AtomicBool,
    /// It takes no more calls; changes while `running` is locked.
    closed: AtomicBool,
    /// The withdrawal that waits for the hub's answer.
    withdrawal: Mutex<Option<(RequestId, oneshot::Sender<()>)>>,
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
            drain_timeout: DRAIN_TIMEOUT,
            operations: Vec::new(),
        }
    }

    /// Where the spoke is, and each change of it.
    pub fn status(&self) -> watch::Receiver<Status> {
        self.shared.status.subscribe()
    }

    /// Calls that run now.
    pub fn running(&self) -> usize {
        *self.shared.running.borrow()
    }

    /// Resolves when the spoke has ended.
    ///
    /// # Errors
    /// What ended it, unless it was shut down: the hub refuses its key or its operations, or could not be trusted from
    /// the beginning.
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
    /// taken and finished like the others. Dropping the future leaves the spoke draining.
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
    /// The key.
    pub fn token(mut self, token: impl Into<String>) -> Self {
        self.token = Some(token.into());
        self
    }

    /// PEM file with authorities to trust besides the system's.
    pub fn ca_file(mut self, path: impl Into<PathBuf>) -> Self {
        self.ca_file = Some(path.into());
        self
    }

    /// The spoke's name; a spoke's own key implies it.
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = Some(name.into());
        self
    }

    /// Names this running program among those of the same spoke; a random one unless set. A second connection of the
    /// same instance takes the place of the first.
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

    /// Calls taken at once, at most; unlimited unless set. More are answered `OVERLOADED`.
    pub fn concurrency(mut self, calls: u32) -> Self {
        self.concurrency = Some(calls);
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

    /// Connects and waits for the first registration; a hub that is away is waited for.
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

    /// Starts to connect and returns at once; [`Spoke::status`] shows the rest.
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
            drain_timeout,
            operations,
        } = self;
        let endpoint = HubEndpoint::new(&url, token.as_deref(), ca_file.as_deref())?;
        let instance_id: InstanceId = match instance_id {
            Some(id) => id.parse()?,
            None => uuid::Uuid::new_v4().to_string().parse()?,
        };
        let mut specs = Vec::with_capacity(operations.len());
        let mut runs = HashMap::with_capacity(operations.len());
        for operation in operations {
            let (name, spec, run) = operation.finish()?;
            specs.push(RawJson::from_value(&spec).map_err(Error::encode)?);
            runs.insert(name, run);
        }
        let host = serde_json::json!({ "os": std::env::consts::OS, "arch": std::env::consts::ARCH });
        let register = RegisterInput {
            name: name.map(|name| name.parse::<SpokeName>()).transpose()?,
            instance_id: Some(instance_id),
            spoke_type,
            labels,
            host_info: Some(host.into()),
            concurrency,
            operations: specs,
        };
        let shared = Arc::new(Shared {
            endpoint,
            register: crate::client::payload(&register)?,
            withdraw: crate::client::payload(&RegisterInput {
                operations: Vec::new(),
                ..register
            })?,
            outbox: Mutex::default(),
            operations: runs,
            concurrency: concurrency.map(|calls| usize::try_from(calls).unwrap_or(usize::MAX)),
            drain_timeout,
            status: watch::Sender::new(Status::Connecting(None)),
            running: watch::Sender::new(0),
            draining: AtomicBool::new(false),
            closed: AtomicBool::new(false),
            withdrawal: Mutex::default(),
            stop: CancellationToken::new(),
            tasks: TaskTracker::new(),
        });
        shared.tasks.spawn(keep::keep_open(shared.clone()));
        Ok(Spoke { shared })
    }
}
