//! Hubs, spokes and callers for the tests.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use alkhub_budget::{Budget, Budgets};
use alkhub_calls::{
    CallAnswer, Caller, Calls, Items, Limits, Outbox, Outgoing, OutgoingItem, Parts, Registration, Reply, SpokePolicy,
    Ticket, outbox,
};
use alkhub_config::{BudgetConfig, CallsConfig, EventsConfig, StoreConfig};
use alkhub_devdb::Server;
use alkhub_hub_cluster::{Cluster, DirectoryEntry, LinkState, OfferedOperation, PeerSetup};
use alkhub_protocol::frame::Requested;
use alkhub_protocol::register::{RegisterInput, RegisterOutput, SpokeType};
use alkhub_protocol::{CallError, CallRequest, CloseCode, Frame, HubId, RawJson, RequestId, Scopes};
use alkhub_redis::Connector;
use alkhub_store::Store;
use alkhub_tasks::Supervisor;
use alkhub_test_support::{Host, comes_to, until, within};
use bytes::Bytes;
use jiff::Timestamp;
use prometheus::Registry;
use serde_json::{Value, json};
use tokio::sync::{mpsc, watch};

/// A call that was started or refused, and its answers.
pub(crate) type Dispatched = (Result<Ticket, CallError>, mpsc::Receiver<CallAnswer>);

/// How long a hub that ended without a word is waited for.
pub(crate) const LEASE_TTL: Duration = Duration::from_secs(2);

/// Keeps the only thread for checks of large answers from working until it is dropped. Needs a runtime that has only
/// one thread for such work ([`with_one_thread_for_checks`]).
pub(crate) struct ChecksHeld {
    _release: std::sync::mpsc::Sender<()>,
}

impl ChecksHeld {
    pub(crate) fn now() -> Self {
        let (release, released) = std::sync::mpsc::channel::<()>();
        tokio::task::spawn_blocking(move || released.recv());
        Self { _release: release }
    }
}

/// Runs a test in which [`ChecksHeld`] can hold up the checks of large answers.
pub(crate) fn with_one_thread_for_checks(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(1)
        .build();
    runtime.expect("a runtime").block_on(test);
}

/// An output that is large enough to be checked on a thread of its own.
pub(crate) fn large_output() -> Value {
    json!("x".repeat(64 * 1024))
}

/// The default budget of a key.
pub(crate) fn budget() -> Budget {
    let budgets = Budgets::new(&BudgetConfig::default(), &Registry::new()).expect("a fresh registry");
    budgets.key(&Arc::from("key"))
}

/// A hub's part in the cluster, on a link of its own.
pub(crate) fn cluster(
    events: &EventsConfig,
    hub: &HubId,
    host: &Host,
    (budget, peers): (&BudgetConfig, Option<PeerSetup>),
) -> (Supervisor, Budgets, Cluster) {
    let supervisor = Supervisor::new(host.tasks.clone(), host.stop.clone());
    let mut connector = Connector::new(events, hub, &host.registry).expect("settings");
    let budgets = Budgets::new(budget, &host.registry).expect("a fresh registry");
    let counts = (&host.registry, &budgets);
    let cluster = Cluster::start(events, &mut connector, &supervisor, counts, peers).expect("fresh metrics");
    connector.start(&supervisor);
    (supervisor, budgets, cluster)
}

pub(crate) struct Hub {
    pub(crate) calls: Calls,
    pub(crate) cluster: Cluster,
    pub(crate) host: Host,
}

/// What a hub consists of.
pub(crate) struct HubOptions {
    pub(crate) name: &'static str,
    pub(crate) calls: CallsConfig,
    pub(crate) budget: BudgetConfig,
    pub(crate) redis: Option<String>,
    /// How long Redis may be silent.
    pub(crate) redis_timeout: Duration,
    pub(crate) lease_ttl: Duration,
    pub(crate) postgres: Option<String>,
    /// Where other hubs can dial it; without this, everything goes through Redis.
    pub(crate) peers: Option<PeerSetup>,
}

impl Default for HubOptions {
    fn default() -> Self {
        Self {
            name: "hub-a1",
            calls: CallsConfig::default(),
            budget: BudgetConfig::default(),
            redis: None,
            redis_timeout: EventsConfig::default().timeout,
            lease_ttl: LEASE_TTL,
            postgres: None,
            peers: None,
        }
    }
}

impl Hub {
    /// A hub with events in process and no database.
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

    /// A hub with events in process and this database.
    pub(crate) async fn on(postgres: &Server, name: &'static str) -> Self {
        Self::start(HubOptions {
            name,
            postgres: Some(postgres.url()),
            ..HubOptions::default()
        })
        .await
    }

    pub(crate) async fn start(options: HubOptions) -> Self {
        let host = Host::default();
        let hub = options.name.parse().expect("a hub's id");
        let events = EventsConfig {
            redis_url: options.redis.clone().map(Into::into),
            timeout: options.redis_timeout,
            probe_interval: options.redis_timeout,
            lease_ttl: options.lease_ttl,
            lease_interval: Duration::from_millis(500),
            ..EventsConfig::default()
        };
        let (supervisor, budgets, cluster) = cluster(&events, &hub, &host, (&options.budget, options.peers));
        let url = options.postgres.clone();
        let store = StoreConfig {
            database_url: Some(
                url.unwrap_or_else(|| "postgres://nobody@127.0.0.1:1/none".to_owned())
                    .into(),
            ),
            ping_interval: Duration::from_millis(500),
            ..StoreConfig::default()
        };
        let store = Store::open(&store, &host.registry).expect("a store");
        if options.postgres.is_some() {
            store.prepare(&host.stop).await.expect("a schema");
        }
        let calls = Calls::start(Parts {
            config: options.calls,
            heartbeat: Duration::from_secs(10),
            lease_ttl: events.lease_ttl,
            hub,
            cluster: cluster.clone(),
            store,
            supervisor,
            budgets,
            registry: host.registry.clone(),
        })
        .expect("fresh metrics");
        let hub = Self { calls, cluster, host };
        if options.redis.is_some() {
            hub.is_up().await;
        }
        hub
    }

    /// Waits until its link to Redis is up.
    pub(crate) async fn is_up(&self) {
        comes_to("the link is up", &self.link(), LinkState::is_up).await;
    }

    /// The state of its link to Redis.
    pub(crate) fn link(&self) -> watch::Receiver<LinkState> {
        self.cluster.link().expect("there is Redis")
    }

    /// Makes a call as an administrator, and waits for its end.
    pub(crate) async fn call(&self, operation: &str, input: Value) -> Result<Value, CallError> {
        let output = self.calls.call(&admin(), request(operation, input)).await?;
        Ok(output.to().expect("an envelope"))
    }

    /// Subscribes as an administrator.
    pub(crate) async fn subscribe(&self, operation: &str) -> Items {
        let items = self.calls.subscribe(&admin(), request(operation, json!({}))).await;
        items.expect("routed")
    }

    /// Starts a call whose answers come over a channel.
    pub(crate) fn dispatch(&self, request: CallRequest) -> Dispatched {
        let (sender, answers) = mpsc::channel(8);
        (self.calls.dispatch(&admin(), request, Reply::Channel(sender)), answers)
    }

    /// The value of a metric without labels, or the sum over its family.
    pub(crate) fn metric(&self, name: &str) -> f64 {
        self.host.metric(name)
    }

    /// Waits until so many answers of [`large_output`] wait for their checks on this hub, where `before` bytes were
    /// charged without them, some of which may have been given back.
    pub(crate) async fn has_unchecked(&self, answers: u32, before: f64) {
        let wanted = f64::from(answers) * 48.0 * 1024.0;
        until("the answers wait for their checks", || async {
            let charged = self.metric("alkhub_budget_bytes") - before;
            if charged >= wanted { Ok(()) } else { Err(charged) }
        })
        .await;
    }

    /// Ends the hub without a word to anybody, as a crash does: its lease expires.
    pub(crate) async fn stop(self) {
        self.host.end().await;
    }
}

/// A registered connection, along with what its program would do.
#[derive(Debug)]
pub(crate) struct Spoke {
    pub(crate) output: RegisterOutput,
    pub(crate) registration: Registration,
    pub(crate) outgoing: Outgoing,
    pub(crate) outbox: Outbox,
}

impl Spoke {
    /// Registers as an administrator may: under any name, and with any operation.
    pub(crate) async fn connect(hub: &Hub, name: &str, operations: &[Value]) -> Self {
        Self::register(hub, &admin(), registration(name, operations), peer())
            .await
            .expect("registers")
    }

    pub(crate) async fn register(
        hub: &Hub,
        caller: &Arc<Caller>,
        input: Value,
        (outbox, outgoing): (Outbox, Outgoing),
    ) -> Result<Self, CallError> {
        let input = serde_json::from_value(input).expect("a registration");
        Self::register_as(hub, caller, input, (outbox, outgoing)).await
    }

    pub(crate) async fn register_as(
        hub: &Hub,
        caller: &Arc<Caller>,
        input: RegisterInput,
        peer: (Outbox, Outgoing),
    ) -> Result<Self, CallError> {
        let mut spoke = Self::register_unseen(hub, caller, input, peer).await?;
        spoke.output.lagging_hubs = hub.calls.visible(&spoke.registration).await;
        Ok(spoke)
    }

    /// The same without waiting until the other hubs can call it.
    pub(crate) async fn register_unseen(
        hub: &Hub,
        caller: &Arc<Caller>,
        input: RegisterInput,
        (outbox, outgoing): (Outbox, Outgoing),
    ) -> Result<Self, CallError> {
        let (output, registration) = hub.calls.register(caller, input, outbox.clone()).await?;
        Ok(Self {
            output,
            registration,
            outgoing,
            outbox,
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
            OutgoingItem::Message(message) | OutgoingItem::Last(message) => decode(&message),
            OutgoingItem::Close { code, reason } => panic!("closed with {code:?}: {reason}"),
        }
    }

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

    /// The same, where the spoke is told this reason.
    pub(crate) async fn next_abort_for(&mut self, reason: &str) -> RequestId {
        let item = self.next().await;
        let (OutgoingItem::Message(message) | OutgoingItem::Last(message)) = item else {
            panic!("not an abort: {item:?}");
        };
        assert!(String::from_utf8_lossy(&message).contains(reason), "{message:?}");
        match decode(&message) {
            Frame::Aborted { request_id } => request_id,
            other => panic!("not an abort: {other:?}"),
        }
    }

    /// The close code that the connection ends with.
    pub(crate) async fn next_close(&mut self) -> CloseCode {
        match self.next().await {
            OutgoingItem::Close { code, .. } => code,
            OutgoingItem::Message(message) | OutgoingItem::Last(message) => panic!("not a close: {message:?}"),
        }
    }

    pub(crate) fn has_nothing(&mut self) -> bool {
        self.outgoing.try_next().is_none()
    }

    pub(crate) fn respond(&self, id: &RequestId, output: Value) {
        self.registration.received(Frame::Responded {
            request_id: id.clone(),
            output: RawJson::from(output),
        });
    }

    pub(crate) fn complete(&self, id: &RequestId) {
        self.registration.received(Frame::Completed { request_id: id.clone() });
    }

    pub(crate) fn fail(&self, id: &RequestId, error: CallError) {
        self.registration.received(Frame::Failed {
            request_id: id.clone(),
            error,
        });
    }
}

pub(crate) fn decode(message: &Bytes) -> Frame {
    Frame::decode(message).expect("a frame").0
}

/// The limits of a peer's session where a test does not care about them.
pub(crate) const LIMITS: Limits = Limits {
    items: 10_000,
    bytes: 64 << 20,
};

/// The session of a peer that has no socket.
pub(crate) fn peer() -> (Outbox, Outgoing) {
    peer_of(LIMITS)
}

pub(crate) fn peer_of(limits: Limits) -> (Outbox, Outgoing) {
    static NEXT: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(1);
    let number = NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    outbox(format!("s{number}"), limits, &budget())
}

/// The input of `hub.register`.
pub(crate) fn registration(name: &str, operations: &[Value]) -> Value {
    json!({ "name": name, "operations": operations })
}

/// The record of an instance of `text` that has no connection.
pub(crate) fn record(hub: &str, instance: &str, operations: Vec<OfferedOperation>) -> DirectoryEntry {
    DirectoryEntry {
        spoke: "text".parse().expect("valid"),
        instance: instance.parse().expect("valid"),
        hub: hub.parse().expect("valid"),
        connection: "c1".to_owned(),
        generation: 0,
        state: alkhub_protocol::admin::InstanceState::Connected,
        spoke_type: SpokeType::default(),
        labels: BTreeMap::new(),
        concurrency: None,
        connected_at: Timestamp::now(),
        host_info: None,
        operations,
    }
}

/// An operation that accepts and returns anything; `more` changes it.
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
    CallRequest::new(
        format!("r{number}").parse().expect("valid"),
        operation.parse().expect("valid"),
        Some(RawJson::from(input)),
    )
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
