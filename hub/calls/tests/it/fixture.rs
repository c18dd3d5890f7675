//! Hubs, spokes and callers for the tests.

use std::future::Future;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use alkhub_calls::{
    Answer, Caller, Calls, Connection, Limits, Outgoing, OutgoingItem, Parts, Reply, Session, SpokePolicy, outbox,
};
use alkhub_config::{CallsConfig, EventsConfig, StoreConfig};
use alkhub_events::{Fabric, LinkState, Scope};
use alkhub_protocol::frame::Requested;
use alkhub_protocol::register::{RegisterInput, RegisterOutput};
use alkhub_protocol::{CallError, CallRequest, Dialect, Frame, RawJson, RequestId, Scopes};
use alkhub_store::Store;
use bytes::Bytes;
use prometheus::Registry;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// How long a test waits for anything.
const PATIENCE: Duration = Duration::from_secs(20);

/// One hub.
pub(crate) struct Hub {
    pub(crate) calls: Calls,
    pub(crate) registry: Registry,
    pub(crate) fabric: Fabric,
    tasks: TaskTracker,
    stop: CancellationToken,
}

/// What a hub is made of.
pub(crate) struct HubOptions {
    pub(crate) name: &'static str,
    pub(crate) calls: CallsConfig,
    pub(crate) redis: Option<String>,
    pub(crate) postgres: Option<String>,
}

impl Default for HubOptions {
    fn default() -> Self {
        Self {
            name: "hub-a1",
            calls: CallsConfig::default(),
            redis: None,
            postgres: None,
        }
    }
}

impl Hub {
    /// Events in process, no database.
    pub(crate) async fn local() -> Self {
        Self::start(HubOptions::default()).await
    }

    pub(crate) async fn with(calls: CallsConfig) -> Self {
        Self::start(HubOptions {
            calls,
            ..HubOptions::default()
        })
        .await
    }

    pub(crate) async fn start(options: HubOptions) -> Self {
        let (tasks, stop, registry) = (TaskTracker::new(), CancellationToken::new(), Registry::new());
        let hub = options.name.parse().expect("a hub's id");
        let events = EventsConfig {
            redis_url: options.redis.clone().map(Into::into),
            lease_ttl: Duration::from_secs(2),
            lease_interval: Duration::from_millis(500),
            ..EventsConfig::default()
        };
        let scope = Scope {
            tasks: tasks.clone(),
            stop: stop.clone(),
        };
        let fabric = Fabric::start(&events, &hub, scope, &registry).expect("the fabric starts");
        let url = options.postgres.clone();
        let store = StoreConfig {
            database_url: Some(
                url.unwrap_or_else(|| "postgres://nobody@127.0.0.1:1/none".to_owned())
                    .into(),
            ),
            ..StoreConfig::default()
        };
        let store = Store::open(&store, &registry).expect("a store");
        if options.postgres.is_some() {
            store.prepare(&stop).await.expect("a schema");
        }
        let calls = Calls::start(Parts {
            config: options.calls,
            heartbeat: Duration::from_secs(10),
            lease_ttl: events.lease_ttl,
            hub,
            cluster: fabric.cluster().clone(),
            store,
            tasks: tasks.clone(),
            stop: stop.clone(),
            registry: registry.clone(),
        })
        .expect("fresh metrics");
        let hub = Self {
            calls,
            registry,
            fabric,
            tasks,
            stop,
        };
        if options.redis.is_some() {
            let mut link = hub.fabric.link();
            let up = link.wait_for(|state| *state == LinkState::Up);
            tokio::time::timeout(PATIENCE, up)
                .await
                .expect("Redis comes up")
                .expect("the fabric lives");
        }
        hub
    }

    /// Calls and waits, as an administrator.
    pub(crate) async fn call(&self, operation: &str, input: Value) -> Result<Value, CallError> {
        let output = self.calls.call(&admin(), request(operation, input)).await?;
        Ok(output.to().expect("an envelope"))
    }

    /// Starts a call whose answers come by a channel.
    pub(crate) fn dispatch(
        &self,
        request: CallRequest,
    ) -> (Result<alkhub_calls::Ticket, CallError>, mpsc::Receiver<Answer>) {
        let (sender, answers) = mpsc::channel(8);
        (self.calls.dispatch(&admin(), request, Reply::Channel(sender)), answers)
    }

    /// A metric without labels, or the sum over those of the family.
    pub(crate) fn metric(&self, name: &str) -> f64 {
        let families = self.registry.gather();
        let family = families
            .iter()
            .find(|family| family.name() == name)
            .expect("a metric of this name");
        let value = |m: &prometheus::proto::Metric| m.get_counter().get_value() + m.get_gauge().get_value();
        family.get_metric().iter().map(value).sum()
    }

    /// Ends the hub without a word to anybody, as a crash does: its lease runs out.
    pub(crate) async fn stop(self) {
        self.stop.cancel();
        self.tasks.close();
        tokio::time::timeout(PATIENCE, self.tasks.wait())
            .await
            .expect("every task ends");
    }
}

/// A connection that has registered, with what its program would do.
#[derive(Debug)]
pub(crate) struct Spoke {
    pub(crate) output: RegisterOutput,
    pub(crate) session: Session,
    pub(crate) outgoing: Outgoing,
    pub(crate) connection: Connection,
}

impl Spoke {
    /// Registers as an administrator may: under any name, with any operation.
    pub(crate) async fn connect(hub: &Hub, name: &str, operations: &[Value]) -> Self {
        Self::register(hub, &admin(), registration(name, operations), connection())
            .await
            .expect("registers")
    }

    pub(crate) async fn register(
        hub: &Hub,
        caller: &Arc<Caller>,
        input: Value,
        (connection, outgoing): (Connection, Outgoing),
    ) -> Result<Self, CallError> {
        let input: RegisterInput = serde_json::from_value(input).expect("a registration");
        let (output, session) = hub.calls.register(caller, input, connection.clone()).await?;
        Ok(Self {
            output,
            session,
            outgoing,
            connection,
        })
    }

    /// The next message to the spoke.
    pub(crate) async fn next(&mut self) -> OutgoingItem {
        within("a message to the spoke", self.outgoing.next())
            .await
            .expect("the connection is open")
    }

    pub(crate) async fn next_frame(&mut self) -> Frame {
        match self.next().await {
            OutgoingItem::Message(message) => decode(&message),
            OutgoingItem::Close { code, reason } => panic!("closed with {code}: {reason}"),
        }
    }

    /// The next call.
    pub(crate) async fn next_call(&mut self) -> Requested {
        match self.next_frame().await {
            Frame::Requested(requested) => requested,
            other => panic!("not a call: {other:?}"),
        }
    }

    /// The id of the call that the spoke is told to stop.
    pub(crate) async fn next_abort(&mut self) -> RequestId {
        match self.next_frame().await {
            Frame::Aborted { request_id } => request_id,
            other => panic!("not an abort: {other:?}"),
        }
    }

    /// The close code that the connection ends with.
    pub(crate) async fn next_close(&mut self) -> u16 {
        match self.next().await {
            OutgoingItem::Close { code, .. } => code,
            OutgoingItem::Message(message) => panic!("not a close: {message:?}"),
        }
    }

    pub(crate) fn has_nothing(&mut self) -> bool {
        self.outgoing.try_next().is_none()
    }

    pub(crate) fn respond(&self, id: &RequestId, output: Value) {
        self.session.received(Frame::Responded {
            request_id: id.clone(),
            output: RawJson::from(output),
        });
    }

    pub(crate) fn complete(&self, id: &RequestId) {
        self.session.received(Frame::Completed { request_id: id.clone() });
    }

    pub(crate) fn fail(&self, id: &RequestId, error: CallError) {
        self.session.received(Frame::Failed {
            request_id: id.clone(),
            error,
        });
    }
}

pub(crate) fn decode(message: &Bytes) -> Frame {
    Frame::decode(message).expect("a frame").0
}

/// A connection without a socket.
pub(crate) fn connection() -> (Connection, Outgoing) {
    connection_of(Limits {
        messages: 10_000,
        bytes: 64 << 20,
    })
}

pub(crate) fn connection_of(limits: Limits) -> (Connection, Outgoing) {
    static NEXT: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(1);
    let number = NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    let (outbox, outgoing) = outbox(limits);
    let connection = Connection {
        id: format!("c{number}"),
        outbox,
        dialect: Dialect::Payload,
    };
    (connection, outgoing)
}

/// The input of `hub.register`.
pub(crate) fn registration(name: &str, operations: &[Value]) -> Value {
    json!({ "name": name, "operations": operations })
}

/// An operation that accepts and answers anything; `more` changes it.
pub(crate) fn operation(name: &str, kind: &str, more: &Value) -> Value {
    let (namespace, name) = name.split_once('.').expect("dotted");
    let mut spec = json!({
        "namespace": namespace, "name": name, "type": kind, "description": "for a test",
        "inputSchema": {}, "outputSchema": {},
    });
    let fields = spec.as_object_mut().expect("an object");
    fields.extend(more.as_object().expect("an object").clone());
    spec
}

pub(crate) fn query(name: &str) -> Value {
    operation(name, "query", &json!({}))
}

pub(crate) fn mutation(name: &str) -> Value {
    operation(name, "mutation", &json!({}))
}

pub(crate) fn subscription(name: &str) -> Value {
    operation(name, "subscription", &json!({}))
}

pub(crate) fn request(operation: &str, input: Value) -> CallRequest {
    static NEXT: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(1);
    let number = NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    CallRequest {
        request_id: format!("r{number}").parse().expect("valid"),
        operation: operation.parse().expect("valid"),
        input: RawJson::from(input),
        timeout: None,
        idle_timeout: None,
        parent: None,
        target: None,
        traceparent: None,
    }
}

pub(crate) fn admin() -> Arc<Caller> {
    client(&["admin"])
}

/// A key without a spoke.
pub(crate) fn client(scopes: &[&str]) -> Arc<Caller> {
    Arc::new(Caller {
        key_id: scopes.join("+").into(),
        scopes: Arc::new(Scopes::new(scopes.iter().copied())),
        spoke: None,
    })
}

/// The key of a declared spoke.
pub(crate) fn spoke_key(name: &str, operations: &[&str], concurrency: Option<u32>, suspended: bool) -> Arc<Caller> {
    Arc::new(Caller {
        key_id: name.into(),
        scopes: Arc::default(),
        spoke: Some(Arc::new(SpokePolicy {
            name: name.parse().expect("valid"),
            operations: operations.iter().map(|&o| o.to_owned()).collect(),
            concurrency,
            suspended,
            uid: format!("uid-of-{name}"),
        })),
    })
}

/// Waits for a future, with a bound.
pub(crate) async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future)
        .await
        .unwrap_or_else(|_| panic!("waited {PATIENCE:?} for {what}"))
}

/// Looks again and again until `look` is content; it answers what it saw last.
pub(crate) async fn until(what: &str, mut look: impl FnMut() -> Result<(), String>) {
    let end = tokio::time::Instant::now() + PATIENCE;
    loop {
        match look() {
            Ok(()) => return,
            Err(seen) => assert!(tokio::time::Instant::now() < end, "waited for {what}; last: {seen}"),
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// The same for what has to be asked for, with what was found at last; a task of its own cannot run it (`Send`).
pub(crate) async fn until_found<T>(what: &str, mut look: impl AsyncFnMut() -> Result<T, String>) -> T {
    let end = tokio::time::Instant::now() + PATIENCE;
    loop {
        match look().await {
            Ok(found) => return found,
            Err(seen) => assert!(tokio::time::Instant::now() < end, "waited for {what}; last: {seen}"),
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// A Redis of one's own; it ends with the value.
pub(crate) struct Redis {
    process: Child,
    port: u16,
    folder: TempDir,
}

impl Redis {
    pub(crate) async fn start() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let port = std::net::TcpListener::bind("127.0.0.1:0")
            .expect("a port")
            .local_addr()
            .expect("bound")
            .port();
        let process = Self::spawn(port, &folder).await;
        Self { process, port, folder }
    }

    async fn spawn(port: u16, folder: &TempDir) -> Child {
        let process = Command::new("redis-server")
            .args(["--port", &port.to_string(), "--bind", "127.0.0.1"])
            .args(["--save", "", "--appendonly", "no", "--dir"])
            .arg(folder.path())
            .stdout(Stdio::null())
            .spawn()
            .expect("redis-server is installed");
        until("Redis to listen", || {
            let connected = std::net::TcpStream::connect(("127.0.0.1", port));
            connected.map(drop).map_err(|error| error.to_string())
        })
        .await;
        process
    }

    /// Ends it with everything that it knew.
    pub(crate) fn stop(&mut self) {
        drop(self.process.kill());
        drop(self.process.wait());
    }

    /// Starts it again where it was, empty.
    pub(crate) async fn start_again(&mut self) {
        self.process = Self::spawn(self.port, &self.folder).await;
    }

    pub(crate) fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        self.stop();
    }
}
