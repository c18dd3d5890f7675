//! Puts the parts of this crate together and starts their tasks.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use alkhub_budget::Budgets;
use alkhub_config::CallsConfig;
use alkhub_hub_cluster::Cluster;
use alkhub_protocol::HubId;
use alkhub_schema::cache::Capacity;
use alkhub_store::Store;
use alkhub_tasks::Supervisor;
use parking_lot::Mutex;
use prometheus::Registry;
use tokio::runtime::Handle;

use crate::admission::Admission;
use crate::admission::quota::Quota;
use crate::builtin::Builtins;
use crate::calls::Calls;
use crate::directory::Directory;
use crate::directory::compiled::Specs;
use crate::directory::feed::DirectoryFollower;
use crate::directory::housekeeping::Housekeeping;
use crate::directory::names::NameLooks;
use crate::directory::specs::SpecKeeper;
use crate::leg::answer::Answers;
use crate::leg::call_id::LegIds;
use crate::leg::departure::Departures;
use crate::leg::dispatch::Dispatch;
use crate::leg::outcome::Bounds;
use crate::leg::placement::Placement;
use crate::leg::table::CallTable;
use crate::metrics::Metrics;
use crate::records::Records;
use crate::records::journal::Journal;
use crate::register::Registrar;
use crate::register::examine::Examiner;
use crate::register::recall::Recall;
use crate::relay::Relay;
use crate::relay::arrivals::Arrivals;
use crate::relay::late::LateAnswers;
use crate::relay::peers::Peers;
use crate::relay::visibility::Visibility;
use crate::session::RegistrationContext;
use crate::session::moves::Moves;
use crate::session::presence::Presence;
use crate::session::sessions::Sessions;

/// The arguments of [`Calls::start`].
#[derive(Debug)]
pub struct Parts {
    /// Limits and deadlines.
    pub config: CallsConfig,
    /// How often spokes are pinged (`server.ping-interval`); sent to them when they register.
    pub heartbeat: Duration,
    /// How long a hub may be silent before it counts as gone (`events.lease-ttl`).
    pub lease_ttl: Duration,
    /// This process.
    pub hub: HubId,
    /// The directory and the relay.
    pub cluster: Cluster,
    /// Specifications and call records.
    pub store: Store,
    /// Watches over the loops, and ends them.
    pub supervisor: Supervisor,
    /// Takes the metrics.
    pub registry: Registry,
    /// Bounds on what callers and spokes may make this hub keep.
    pub budgets: Budgets,
}

/// The parts that calls need before anybody registers or calls.
struct Ground {
    metrics: Arc<Metrics>,
    specs: Arc<Specs>,
    directory: Arc<Directory>,
    relay: Arc<Relay>,
    moves: Moves,
    visibility: Arc<Visibility>,
    records: Arc<Records>,
    journal: Journal,
    legs: LegIds,
    table: Arc<CallTable>,
    placement: Arc<Placement>,
    answers: Arc<Answers>,
    late: LateAnswers,
}

/// The parts that keep the hub in step with the other hubs and with the store.
struct Upkeep {
    sessions: Arc<Sessions>,
    presence: Arc<Presence>,
    departures: Arc<Departures>,
    spec_keeper: Arc<SpecKeeper>,
    names: Arc<NameLooks>,
    admission: Arc<Admission>,
}

// === impl Calls ===

impl Calls {
    /// Starts routing: spawns its tasks and returns at once.
    ///
    /// # Errors
    /// A metric with the same name is already registered.
    pub fn start(parts: Parts) -> Result<Self, prometheus::Error> {
        let ground = Ground::new(&parts)?;
        let upkeep = Upkeep::new(&parts, &ground);
        keep(&parts, &ground, &upkeep);
        let registrar = registrar(&parts, &ground, &upkeep);
        let dispatch = Arc::new(Dispatch {
            admission: upkeep.admission,
            builtins: Builtins::new(Arc::clone(&ground.directory)),
            directory: Arc::clone(&ground.directory),
            names: upkeep.names,
            placement: ground.placement,
            table: Arc::clone(&ground.table),
            legs: ground.legs,
            journal: ground.journal,
            tasks: parts.supervisor.tasks().clone(),
        });
        dispatch.readmits();
        Ok(Self::new(
            ground.directory,
            dispatch,
            registrar,
            ground.table,
            (parts.budgets, ground.moves),
        ))
    }
}

// === impl Ground ===

impl Ground {
    fn new(parts: &Parts) -> Result<Self, prometheus::Error> {
        let config = &parts.config;
        let metrics = Arc::new(Metrics::register(&parts.registry)?);
        let capacity = Capacity {
            total: config.spec_bytes,
            per_spoke: config.spec_bytes_per_spoke,
        };
        let specs = Arc::new(Specs::new(Arc::clone(&metrics), capacity, &parts.registry)?);
        let directory = Arc::new(Directory::new(Arc::clone(&specs)));
        let conduits = parts.cluster.conduits().clone();
        let relay = Arc::new(Relay::new(conduits, Arc::clone(&metrics)));
        let visibility = Visibility::new(
            parts.cluster.clone(),
            parts.hub.clone(),
            (Arc::clone(&directory), Arc::clone(&relay)),
            parts.supervisor.tasks().clone(),
            parts.supervisor.stop().clone(),
        );
        let records = Arc::new(Records::new(config.record_queue, Arc::clone(&metrics)));
        let journal = Journal::new(parts.hub.clone(), Arc::clone(&metrics), Arc::clone(&records));
        let legs = LegIds::new(&parts.hub);
        let table = Arc::new(CallTable::new(
            Arc::clone(&relay),
            legs.clone(),
            journal.clone(),
            Arc::clone(&metrics),
        ));
        let placement = Arc::new(Placement {
            directory: Arc::clone(&directory),
            cluster: parts.cluster.clone(),
            relay: Arc::clone(&relay),
            table: Arc::clone(&table),
            legs: legs.clone(),
            metrics: Arc::clone(&metrics),
            tasks: parts.supervisor.tasks().clone(),
            readmission: OnceLock::new(),
        });
        let bounds = Bounds {
            items: config.subscription_items,
            bytes: config.subscription_bytes,
        };
        let answers = Arc::new(Answers {
            table: Arc::clone(&table),
            bounds,
        });
        let late = LateAnswers {
            hub: parts.hub.clone(),
            cluster: parts.cluster.clone(),
            legs: legs.clone(),
            table: Arc::clone(&table),
            arrivals: Arc::new(Arrivals::new(
                Arc::clone(&answers),
                Arc::clone(&placement),
                Arc::clone(&table),
                parts.supervisor.tasks().clone(),
                parts.budgets.clone(),
            )),
            relay: Arc::clone(&relay),
        };
        Ok(Self {
            answers,
            late,
            metrics,
            specs,
            directory,
            moves: Moves::new(
                parts.hub.clone(),
                parts.cluster.clone(),
                Arc::clone(&relay),
                &parts.budgets,
            ),
            relay,
            visibility: Arc::new(visibility),
            records,
            journal,
            legs,
            table,
            placement,
        })
    }
}

// === impl Upkeep ===

impl Upkeep {
    fn new(parts: &Parts, ground: &Ground) -> Self {
        let (store, stop) = (&parts.store, parts.supervisor.stop());
        let directory = || Arc::clone(&ground.directory);
        let sessions = Arc::<Sessions>::default();
        let presence = Arc::new(Presence::new(store.clone(), Arc::clone(&sessions), stop.clone()));
        let departures = Arc::new(Departures {
            hub: parts.hub.clone(),
            directory: directory(),
            sessions: Arc::clone(&sessions),
            table: Arc::clone(&ground.table),
            placement: Arc::clone(&ground.placement),
            arrivals: Arc::clone(&ground.late.arrivals),
            relay: Arc::clone(&ground.relay),
            moves: ground.moves.clone(),
            visibility: Arc::clone(&ground.visibility),
            presence: Arc::clone(&presence),
            cluster: parts.cluster.clone(),
            metrics: Arc::clone(&ground.metrics),
            lease_ttl: parts.lease_ttl,
            tasks: parts.supervisor.tasks().clone(),
            stop: stop.clone(),
            counting: Mutex::default(),
        });
        let spec_keeper = Arc::new(SpecKeeper::new(
            directory(),
            Arc::clone(&ground.specs),
            store.clone(),
            &parts.config,
            Arc::clone(&ground.metrics),
            stop.clone(),
        ));
        let names = NameLooks::new(
            directory(),
            parts.cluster.clone(),
            store.clone(),
            parts.supervisor.tasks().clone(),
            stop.clone(),
        );
        let table = Arc::clone(&ground.table);
        let admission = Admission::new(directory(), table, parts.budgets.clone(), &parts.config);
        Self {
            sessions,
            presence,
            departures,
            spec_keeper,
            names: Arc::new(names),
            admission: Arc::new(admission),
        }
    }
}

/// Starts the loops that calls live by.
fn keep(parts: &Parts, ground: &Ground, upkeep: &Upkeep) {
    let supervisor = &parts.supervisor;
    let stop = || supervisor.stop().clone();
    let table = Arc::clone(&ground.table);
    let until = stop();
    supervisor.keep("calls.deadlines", async move {
        until.run_until_cancelled(table.watch()).await;
    });
    let feed = DirectoryFollower {
        hub: parts.hub.clone(),
        cluster: parts.cluster.clone(),
        directory: Arc::clone(&ground.directory),
        departures: Arc::clone(&upkeep.departures),
        specs: Arc::clone(&upkeep.spec_keeper),
        stop: stop(),
    };
    supervisor.keep("calls.directory", feed.run());
    supervisor.keep("calls.hubs", peers(parts, ground, upkeep).run());
    let (records, store, until) = (Arc::clone(&ground.records), parts.store.clone(), stop());
    let retention = parts.config.record_retention;
    supervisor.keep("calls.records", async move {
        records.write(&store, retention, &until).await;
    });
    supervisor.keep("calls.names", Arc::clone(&upkeep.names).run());
    supervisor.keep("calls.presence", Arc::clone(&upkeep.presence).run());
    let housekeeping = Housekeeping {
        store: parts.store.clone(),
        specs: Arc::clone(&upkeep.spec_keeper),
        undeclared_retention: parts.config.undeclared_retention,
        operation_retention: parts.config.operation_retention,
        stop: stop(),
    };
    supervisor.keep("calls.housekeeping", housekeeping.run());
    supervisor.keep("calls.save-specs", Arc::clone(&upkeep.spec_keeper).save_specs());
    supervisor.keep("calls.load-specs", Arc::clone(&upkeep.spec_keeper).load_specs());
}

fn peers(parts: &Parts, ground: &Ground, upkeep: &Upkeep) -> Peers {
    Peers {
        cluster: parts.cluster.clone(),
        directory: Arc::clone(&ground.directory),
        specs: Arc::clone(&ground.specs),
        admission: Arc::clone(&upkeep.admission),
        placement: Arc::clone(&ground.placement),
        table: Arc::clone(&ground.table),
        arrivals: Arc::clone(&ground.late.arrivals),
        late: ground.late.clone(),
        departures: Arc::clone(&upkeep.departures),
        relay: Arc::clone(&ground.relay),
        moves: ground.moves.clone(),
        visibility: Arc::clone(&ground.visibility),
        metrics: Arc::clone(&ground.metrics),
        relayed: Quota::default(),
        limit: parts.config.relay_queue,
        tasks: parts.supervisor.tasks().clone(),
        stop: parts.supervisor.stop().clone(),
    }
}

fn registrar(parts: &Parts, ground: &Ground, upkeep: &Upkeep) -> Arc<Registrar> {
    let tasks = || parts.supervisor.tasks().clone();
    let context = RegistrationContext {
        answers: Arc::clone(&ground.answers),
        late: ground.late.clone(),
        table: Arc::clone(&ground.table),
        legs: ground.legs.clone(),
        departures: Arc::clone(&upkeep.departures),
        cluster: parts.cluster.clone(),
        tasks: tasks(),
        runtime: Handle::current(),
    };
    Arc::new(Registrar {
        hub: parts.hub.clone(),
        cluster: parts.cluster.clone(),
        directory: Arc::clone(&ground.directory),
        sessions: Arc::clone(&upkeep.sessions),
        departures: Arc::clone(&upkeep.departures),
        table: Arc::clone(&ground.table),
        presence: Arc::clone(&upkeep.presence),
        visibility: Arc::clone(&ground.visibility),
        examiner: Examiner {
            specs: Arc::clone(&ground.specs),
            directory: Arc::clone(&ground.directory),
            recall: Recall::new(Arc::clone(&ground.specs), parts.store.clone(), parts.budgets.clone()),
            max_operations: parts.config.max_operations,
        },
        spec_keeper: Arc::clone(&upkeep.spec_keeper),
        legs: ground.legs.clone(),
        budgets: parts.budgets.clone(),
        metrics: Arc::clone(&ground.metrics),
        heartbeat: parts.heartbeat,
        context: Arc::new(context),
        tasks: tasks(),
    })
}
