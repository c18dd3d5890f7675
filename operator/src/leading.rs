//! One term of leadership: watches, stores and the two controllers, from winning the Lease to losing it.
//!
//! Invariants
//! - No reconcile looks at a store that has not been filled yet.
//! - When the term ends, what is under way may keep reading for a second; the gate lets no write through.
//! - A controller, or another task of the term, that ends before the term does ends the process ([`Term::lost`]).

mod housekeeping;
mod unreadable;
mod wake;

use std::future::{Future, ready};
use std::sync::Arc;
use std::time::Duration;

use alkhub_crds::{Hub, Spoke};
use alkhub_tasks::{Lost, Supervisor};
use futures::{FutureExt as _, StreamExt as _};
use k8s_openapi::api::apps::v1::{ControllerRevision, ReplicaSet, StatefulSet};
use k8s_openapi::api::core::v1::{ConfigMap, Pod, Secret, Service, ServiceAccount};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use kube::core::PartialObjectMeta;
use kube::runtime::Controller;
use kube::runtime::controller;
use kube::runtime::reflector::ObjectRef;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::admin::Admin;
use crate::apply::Applied;
use crate::args::Args;
use crate::context::{Context, CountTimes, DeclarationTimes, Polls, Wake};
use crate::events::EventRecorder;
use crate::failures::Failures;
use crate::gate::Gate;
use crate::health::Health;
use crate::in_flight::InFlight;
use crate::kubernetes::{Clients, Kubernetes};
use crate::metrics::Metrics;
use crate::secrets::Facts;
use crate::turn::{self, error_policy};
use crate::watch::{Stores, UnreadableObjects, Watched, Watches};
use crate::{hub, spoke};

/// Spokes that wait to be reconciled because something around them changed; beyond this many they wait for the next
/// resync.
const WAKE_QUEUE: usize = 16_384;

/// How long reconciles under way are waited for when a term ends.
const LAST_RECONCILES: Duration = Duration::from_secs(1);

/// Changes within this time are reconciled together.
const DEBOUNCE: Duration = Duration::from_millis(50);

/// What belongs to the process, the same in each of its terms.
#[derive(Debug)]
pub(crate) struct Process {
    pub(crate) options: Arc<Args>,
    pub(crate) clients: Clients,
    pub(crate) gate: Gate,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) health: Arc<Health>,
    pub(crate) admin: Admin,
}

/// A term that has begun.
#[derive(Debug)]
pub(crate) struct Term {
    pub(crate) stop: CancellationToken,
    supervisor: Supervisor,
    health: Arc<Health>,
}

/// The streams that trigger reconciles.
struct Triggers {
    hubs: Watched<Hub>,
    spokes: Watched<Spoke>,
    revisions: Watched<ControllerRevision>,
    replica_sets: Watched<ReplicaSet>,
    pods: Watched<Pod>,
    sets: Watched<StatefulSet>,
    services: Watched<Service>,
    configs: Watched<ConfigMap>,
    accounts: Watched<ServiceAccount>,
    disruptions: Watched<PodDisruptionBudget>,
    secrets: Watched<PartialObjectMeta<Secret>>,
}

/// Begins a term: watches, and a controller for each kind.
pub(crate) fn start(process: &Process) -> Term {
    let Process {
        options,
        clients,
        gate,
        metrics,
        health,
        admin,
    } = process;
    let unreadable = Arc::new(UnreadableObjects::default());
    let triggers = Triggers::new(&Watches {
        client: clients.watches.clone(),
        namespace: options.watch_namespace.clone(),
        metrics: Arc::clone(metrics),
        health: Arc::clone(health),
        unreadable: Arc::clone(&unreadable),
    });
    let (sender, woken) = mpsc::channel(WAKE_QUEUE);
    let kubernetes = Kubernetes::new(clients.requests.clone(), gate.clone(), Arc::clone(metrics));
    let context = Arc::new(Context {
        options: Arc::clone(options),
        stores: Arc::new(triggers.stores()),
        unreadable,
        admin: admin.clone(),
        metrics: Arc::clone(metrics),
        events: EventRecorder::new(&kubernetes, &options.identity),
        kubernetes,
        applied: Applied::default(),
        facts: Facts::default(),
        failures: Failures::default(),
        polls: Polls::default(),
        count_times: CountTimes::default(),
        declaration_times: DeclarationTimes::default(),
        others: hub::Others::default(),
        auths: hub::Auths::default(),
        steps: hub::Steps::default(),
        foreigners: hub::Foreigners::default(),
        in_flight: InFlight::new(usize::from(options.concurrency)),
        wake: Wake::new(sender),
    });
    health.observe(Some(Arc::clone(&context.stores)));
    let stop = CancellationToken::new();
    let term = Term {
        supervisor: Supervisor::new(TaskTracker::new(), stop.clone()),
        stop,
        health: Arc::clone(health),
    };
    term.run(triggers, woken, &context);
    term
}

// === impl Term ===

impl Term {
    /// Waits until everything of the term has ended.
    pub(crate) async fn join(self) {
        let Self {
            stop,
            supervisor,
            health,
        } = self;
        stop.cancel();
        supervisor.tasks().close();
        supervisor.tasks().wait().await;
        health.observe(None);
    }

    /// Resolves with the first task that ended before the term; never if none does.
    pub(crate) async fn lost(&self) -> Lost {
        self.supervisor.lost().await
    }

    fn run(&self, triggers: Triggers, woken: mpsc::Receiver<ObjectRef<Spoke>>, context: &Arc<Context>) {
        let config = controller::Config::default()
            .concurrency(context.options.concurrency)
            .debounce(DEBOUNCE);
        let Triggers {
            hubs,
            spokes,
            revisions,
            replica_sets,
            pods,
            sets,
            services,
            configs,
            accounts,
            disruptions,
            secrets,
        } = triggers;
        let hub_touched = wake::of_changed_hubs(hubs.touched, context);
        let secret_touched = wake::of_secrets(secrets.touched, context);
        let hubs = Controller::for_stream(hub_touched, hubs.store)
            .with_config(config.clone())
            .owns_stream(revisions.touched)
            .owns_stream(replica_sets.touched)
            .watches_stream(pods.touched, |pod| wake::hub_of_pod(&pod))
            .owns_stream(sets.touched)
            .owns_stream(services.touched)
            .owns_stream(configs.touched)
            .owns_stream(accounts.touched)
            .owns_stream(disruptions.touched)
            .watches_stream(secret_touched, |secret| wake::hub_of(&secret))
            .graceful_shutdown_on(self.stop.clone().cancelled_owned())
            .run(
                |hub, context| turn::run(hub, context, hub::reconcile, hub::panicked),
                error_policy::<Hub>,
                Arc::clone(context),
            );
        let spokes = Controller::for_stream(spokes.touched, spokes.store)
            .with_config(config)
            .reconcile_on(wake::queue(woken))
            .graceful_shutdown_on(self.stop.clone().cancelled_owned())
            .run(
                |spoke, context| turn::run(spoke, context, spoke::reconcile, spoke::panicked),
                error_policy::<Spoke>,
                Arc::clone(context),
            );
        let keep = |name, task| self.supervisor.keep(name, until(self.stop.clone(), task));
        keep("operator.hubs", hubs.for_each(|_| ready(())).boxed());
        keep("operator.spokes", spokes.for_each(|_| ready(())).boxed());
        keep(
            "operator.housekeeping",
            housekeeping::housekeeping(Arc::clone(context)).boxed(),
        );
        keep("operator.unreadable", unreadable::report(Arc::clone(context)).boxed());
    }
}

// === impl Triggers ===

impl Triggers {
    fn new(watches: &Watches) -> Self {
        Self {
            hubs: watches.resources(),
            spokes: watches.resources(),
            revisions: watches.children(),
            replica_sets: watches.children(),
            pods: watches.children(),
            sets: watches.children(),
            services: watches.children(),
            configs: watches.children(),
            accounts: watches.children(),
            disruptions: watches.children(),
            secrets: watches.secrets(),
        }
    }

    fn stores(&self) -> Stores {
        Stores {
            hubs: self.hubs.store.clone(),
            spokes: self.spokes.store.clone(),
            revisions: self.revisions.store.clone(),
            replica_sets: self.replica_sets.store.clone(),
            pods: self.pods.store.clone(),
            sets: self.sets.store.clone(),
            services: self.services.store.clone(),
            configs: self.configs.store.clone(),
            accounts: self.accounts.store.clone(),
            disruptions: self.disruptions.store.clone(),
            secrets: self.secrets.store.clone(),
            filled: vec![
                self.hubs.filled.clone(),
                self.spokes.filled.clone(),
                self.revisions.filled.clone(),
                self.replica_sets.filled.clone(),
                self.pods.filled.clone(),
                self.sets.filled.clone(),
                self.services.filled.clone(),
                self.configs.filled.clone(),
                self.accounts.filled.clone(),
                self.disruptions.filled.clone(),
                self.secrets.filled.clone(),
            ],
        }
    }
}

/// The stores of watches that nobody runs.
#[cfg(test)]
pub(crate) fn stores(watches: &Watches) -> Stores {
    let triggers = Triggers::new(watches);
    let stores = triggers.stores();
    // Dropped streams would report that the stores are never filled.
    std::mem::forget(triggers);
    stores
}

/// Runs a task to its end, or for a moment after `stop`; dropping a controller aborts its reconciles.
async fn until(stop: CancellationToken, task: impl Future<Output = ()>) {
    let late = async {
        stop.cancelled().await;
        tokio::time::sleep(LAST_RECONCILES).await;
    };
    tokio::select! {
        () = task => {}
        () = late => {}
    }
}
