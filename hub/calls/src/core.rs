//! What all parts of this crate share, and the tasks that run beside the calls.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use alkhub_budget::Budgets;
use alkhub_config::CallsConfig;
use alkhub_hub_cluster::Cluster;
use alkhub_protocol::id::InvalidId;
use alkhub_protocol::{CallError, Code, HubId, InstanceId, RequestId};
use alkhub_store::Store;
use alkhub_tasks::Supervisor;
use dashmap::DashMap;
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::call::Call;
use crate::calls::Parts;
use crate::compiled::{Budget, Specs};
use crate::directory::Directory;
use crate::lane::LaneBytes;
use crate::link::Link;
use crate::metrics::Metrics;
use crate::names::Names;
use crate::pending::Pending;
use crate::presence::Presence;
use crate::records::Records;
use crate::register::newest::Newest;
use crate::register::turns::Turns;
use crate::relay::Relay;
use crate::specs::SpecStore;

/// One hub's calls.
#[derive(Debug)]
pub(crate) struct Core {
    pub(crate) config: CallsConfig,
    pub(crate) heartbeat: Duration,
    pub(crate) lease_ttl: Duration,
    pub(crate) hub: HubId,
    pub(crate) cluster: Cluster,
    pub(crate) store: Store,
    pub(crate) tasks: TaskTracker,
    /// For what is spawned when a value is dropped: that may happen outside the runtime.
    pub(crate) runtime: Handle,
    pub(crate) stop: CancellationToken,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) specs: Arc<Specs>,
    pub(crate) spec_store: SpecStore,
    pub(crate) directory: Directory,
    pub(crate) pending: Pending<Call>,
    pub(crate) lane_bytes: LaneBytes,
    pub(crate) relay: Arc<Relay>,
    /// Calls of other hubs, by hub and its key.
    pub(crate) inbound: DashMap<(HubId, u64), u64>,
    /// Registered connections by their id.
    pub(crate) links: DashMap<String, Arc<Link>>,
    /// Registrations under way.
    pub(crate) turns: Arc<Turns>,
    pub(crate) newest: Arc<Newest>,
    pub(crate) quota: Quota,
    pub(crate) budgets: Budgets,
    pub(crate) records: Records,
    pub(crate) names: Names,
    pub(crate) presence: Presence,
    /// Starts the ids that spokes see: `{epoch}-{key}`.
    epoch: String,
}

/// Running calls of each key.
#[derive(Debug, Default)]
pub(crate) struct Quota(DashMap<Arc<str>, Arc<AtomicUsize>>);

/// Keys remembered without running calls.
const IDLE_KEYS: usize = 4_096;

// === impl Core ===

impl Core {
    pub(crate) fn start(parts: Parts) -> Result<Arc<Self>, prometheus::Error> {
        let Parts {
            config,
            heartbeat,
            lease_ttl,
            hub,
            cluster,
            store,
            supervisor,
            registry,
            budgets,
        } = parts;
        let metrics = Arc::new(Metrics::register(&registry)?);
        let specs = Arc::new(Specs::new(
            Arc::clone(&metrics),
            Budget {
                hub: config.spec_bytes,
                spoke: config.spec_bytes_per_spoke,
            },
        ));
        let core = Arc::new(Self {
            relay: Arc::new(Relay::new(cluster.clone(), hub.clone(), Arc::clone(&metrics))),
            records: Records::new(config.record_queue, Arc::clone(&metrics)),
            directory: Directory::new(Arc::clone(&specs)),
            epoch: epoch(&hub),
            names: Names::new(),
            pending: Pending::new(),
            lane_bytes: LaneBytes::default(),
            inbound: DashMap::new(),
            links: DashMap::new(),
            turns: Arc::default(),
            newest: Arc::default(),
            quota: Quota::default(),
            budgets,
            presence: Presence::default(),
            spec_store: SpecStore::default(),
            config,
            heartbeat,
            lease_ttl,
            hub,
            cluster,
            store,
            tasks: supervisor.tasks().clone(),
            runtime: Handle::current(),
            stop: supervisor.stop().clone(),
            metrics,
            specs,
        });
        core.spawn(&supervisor);
        Ok(core)
    }

    fn spawn(self: &Arc<Self>, supervisor: &Supervisor) {
        let core = || Arc::clone(self);
        supervisor.keep("calls.deadlines", core().end_late_calls());
        supervisor.keep("calls.directory", core().follow_directory());
        supervisor.keep("calls.inbox", core().follow_inbox());
        supervisor.keep("calls.compare", core().compare_after_breaks());
        supervisor.keep("calls.late-ends", core().send_late_ends());
        supervisor.keep("calls.records", core().write_records());
        supervisor.keep("calls.names", core().look_up_names());
        supervisor.keep("calls.presence", core().keep_presence());
        supervisor.keep("calls.housekeeping", core().keep_house());
        supervisor.keep("calls.save-specs", core().save_specs());
        supervisor.keep("calls.load-specs", core().load_specs());
    }

    async fn end_late_calls(self: Arc<Self>) {
        let ended = self.pending.watch(|call| self.expire(&call));
        self.stop.run_until_cancelled(ended).await;
    }

    async fn send_late_ends(self: Arc<Self>) {
        let sent = self.relay.late.run(|end| self.relay.send_late(end));
        self.stop.run_until_cancelled(sent).await;
    }

    async fn write_records(self: Arc<Self>) {
        let retention = self.config.record_retention;
        self.records.write(&self.store, retention, &self.stop).await;
    }

    /// The id of a call on the spoke's leg.
    pub(crate) fn leg_id(&self, key: u64) -> String {
        format!("{}-{key}", self.epoch)
    }

    /// An id for the instance of a connection that names none: no other hub makes the same.
    pub(crate) fn instance_id(&self, connection: &str) -> Result<InstanceId, InvalidId> {
        format!("{}-{connection}", self.epoch).parse()
    }

    /// The key in an id that a spoke says.
    pub(crate) fn leg_key(&self, id: &RequestId) -> Option<u64> {
        id.as_str().strip_prefix(&self.epoch)?.strip_prefix('-')?.parse().ok()
    }
}

/// The boot nonce, the last part of `{pod}-{nonce}`: short, and another one after each start.
fn epoch(hub: &HubId) -> String {
    let nonce = hub.as_str().rsplit('-').next().unwrap_or_default();
    nonce.chars().take(32).collect()
}

// === impl Quota ===

impl Quota {
    /// Counts one more call of a key, unless it runs `limit`.
    pub(crate) fn take(&self, key: &Arc<str>, limit: usize) -> Result<Arc<AtomicUsize>, CallError> {
        let running = self.running(key);
        if running.fetch_add(1, Ordering::AcqRel) < limit {
            return Ok(running);
        }
        running.fetch_sub(1, Ordering::AcqRel);
        let message = format!("the key runs {limit} calls on this hub, as many as it may");
        Err(CallError::new(Code::Overloaded, message).retryable())
    }

    fn running(&self, key: &Arc<str>) -> Arc<AtomicUsize> {
        if let Some(running) = self.0.get(key) {
            return Arc::clone(&running);
        }
        if self.0.len() >= IDLE_KEYS {
            self.0.retain(|_, running| Arc::strong_count(running) > 1);
        }
        Arc::clone(&self.0.entry(Arc::clone(key)).or_default())
    }
}
