//! One term of leadership: watches, stores and the two controllers, from winning the Lease to losing it.
//!
//! Invariants
//! - No reconcile looks at a store that was not filled yet.
//! - When the term ends, what is under way may go on reading for a second; the gate lets nothing be written.

mod housekeeping;
mod wake;

use std::future::{Future, ready};
use std::sync::Arc;
use std::time::Duration;

use alkhub_crds::{Hub, Spoke};
use futures::StreamExt as _;
use k8s_openapi::api::apps::v1::{Deployment, StatefulSet};
use k8s_openapi::api::core::v1::{ConfigMap, Secret, Service, ServiceAccount};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use kube::ResourceExt as _;
use kube::core::PartialObjectMeta;
use kube::runtime::Controller;
use kube::runtime::controller::{self, Action};
use kube::runtime::reflector::ObjectRef;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::admin::Admin;
use crate::apply::Applied;
use crate::args::Args;
use crate::backoff::{Backoff, jitter};
use crate::context::{Context, Counted, Looks, Told, Wake};
use crate::error::{Cure, Error, chain};
use crate::events::Events;
use crate::gate::Gate;
use crate::kubernetes::{Clients, Kubernetes, Object};
use crate::metrics::Metrics;
use crate::secrets::Facts;
use crate::watch::{Stores, Watched, Watches};
use crate::{hub, spoke};

/// Spokes that wait to be reconciled because something around them changed; over it they wait for the next resync.
const WAKE_QUEUE: usize = 16_384;

/// Reconciles under way when a term ends are waited for this long.
const LAST_RECONCILES: Duration = Duration::from_secs(1);

/// A write that found the gate shut is tried again after this long, should the term go on.
const SHUT: Duration = Duration::from_secs(1);

/// Changes that come together are reconciled once.
const DEBOUNCE: Duration = Duration::from_millis(50);

/// A term that was begun.
#[derive(Debug)]
pub(crate) struct Term {
    pub(crate) stop: CancellationToken,
    tasks: TaskTracker,
    metrics: Arc<Metrics>,
}

/// How a reconcile ended, and when it is to be looked at again.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Done {
    /// As wanted, or on the way there.
    Well(Duration),
    /// Only a person can go on; a change of what they see wakes it earlier.
    Invalid(Duration),
}

/// The streams that trigger reconciles.
struct Triggers {
    hubs: Watched<Hub>,
    spokes: Watched<Spoke>,
    deployments: Watched<Deployment>,
    sets: Watched<StatefulSet>,
    services: Watched<Service>,
    configs: Watched<ConfigMap>,
    accounts: Watched<ServiceAccount>,
    disruptions: Watched<PodDisruptionBudget>,
    secrets: Watched<PartialObjectMeta<Secret>>,
}

/// Begins a term: watches, and a controller for each kind.
pub(crate) fn start(
    options: &Arc<Args>,
    clients: &Clients,
    gate: &Gate,
    metrics: &Arc<Metrics>,
    admin: &Admin,
) -> Term {
    let triggers = Triggers::new(&Watches {
        client: clients.watches.clone(),
        namespace: options.watch_namespace.clone(),
        metrics: Arc::clone(metrics),
    });
    let (sender, woken) = mpsc::channel(WAKE_QUEUE);
    let kubernetes = Kubernetes::new(clients.requests.clone(), gate.clone(), Arc::clone(metrics));
    let context = Arc::new(Context {
        options: Arc::clone(options),
        stores: Arc::new(triggers.stores()),
        admin: admin.clone(),
        metrics: Arc::clone(metrics),
        events: Events::new(&kubernetes, &options.identity),
        kubernetes,
        applied: Applied::default(),
        facts: Facts::default(),
        backoff: Backoff::default(),
        looks: Looks::default(),
        counted: Counted::default(),
        told: Told::default(),
        others: hub::Others::default(),
        auths: hub::Auths::default(),
        wake: Wake::new(sender),
    });
    metrics.observe(Some(Arc::clone(&context.stores)));
    let term = Term {
        stop: CancellationToken::new(),
        tasks: TaskTracker::new(),
        metrics: Arc::clone(metrics),
    };
    term.run(triggers, woken, &context);
    term
}

// === impl Term ===

impl Term {
    /// Waits until everything of the term has ended.
    pub(crate) async fn join(self) {
        let Self { stop, tasks, metrics } = self;
        stop.cancel();
        tasks.close();
        tasks.wait().await;
        metrics.observe(None);
    }

    fn run(&self, triggers: Triggers, woken: mpsc::Receiver<ObjectRef<Spoke>>, context: &Arc<Context>) {
        let config = controller::Config::default()
            .concurrency(context.options.concurrency)
            .debounce(DEBOUNCE);
        let Triggers {
            hubs,
            spokes,
            deployments,
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
            .owns_stream(deployments.touched)
            .owns_stream(sets.touched)
            .owns_stream(services.touched)
            .owns_stream(configs.touched)
            .owns_stream(accounts.touched)
            .owns_stream(disruptions.touched)
            .watches_stream(secret_touched, |secret| wake::hub_of(&secret))
            .graceful_shutdown_on(self.stop.clone().cancelled_owned())
            .run(
                |hub, context| reconciled(hub, context, hub::reconcile),
                policy::<Hub>,
                Arc::clone(context),
            );
        let spokes = Controller::for_stream(spokes.touched, spokes.store)
            .with_config(config)
            .reconcile_on(wake::queue(woken))
            .graceful_shutdown_on(self.stop.clone().cancelled_owned())
            .run(
                |spoke, context| reconciled(spoke, context, spoke::reconcile),
                policy::<Spoke>,
                Arc::clone(context),
            );
        self.tasks.spawn(until(self.stop.clone(), hubs.for_each(|_| ready(()))));
        self.tasks
            .spawn(until(self.stop.clone(), spokes.for_each(|_| ready(()))));
        self.tasks.spawn(until(
            self.stop.clone(),
            housekeeping::housekeeping(Arc::clone(context)),
        ));
    }
}

// === impl Triggers ===

impl Triggers {
    fn new(watches: &Watches) -> Self {
        Self {
            hubs: watches.resources(),
            spokes: watches.resources(),
            deployments: watches.children(),
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
            deployments: self.deployments.store.clone(),
            sets: self.sets.store.clone(),
            services: self.services.store.clone(),
            configs: self.configs.store.clone(),
            accounts: self.accounts.store.clone(),
            disruptions: self.disruptions.store.clone(),
            secrets: self.secrets.store.clone(),
            filled: vec![
                self.hubs.filled.clone(),
                self.spokes.filled.clone(),
                self.deployments.filled.clone(),
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

/// One reconcile with what goes around each: stores that are filled, metrics, backoff.
async fn reconciled<K, F>(
    object: Arc<K>,
    context: Arc<Context>,
    reconcile: impl FnOnce(Arc<K>, Arc<Context>) -> F,
) -> Result<Action, Error>
where
    K: Object,
    F: Future<Output = Result<Done, Error>>,
{
    if !context.stores.ready().await {
        return Err(Error::Stale);
    }
    let (kind, uid) = (K::kind(&()), object.uid().unwrap_or_default());
    let begun = Instant::now();
    let done = reconcile(object, Arc::clone(&context)).await;
    context
        .metrics
        .reconcile_duration
        .with_label_values(&[&kind])
        .observe(begun.elapsed().as_secs_f64());
    let (result, action) = match done {
        Ok(Done::Well(again)) => ("ok", Ok(Action::requeue(jitter(again)))),
        Ok(Done::Invalid(again)) => ("invalid", Ok(Action::requeue(jitter(again)))),
        Err(Error::Shut(shut)) => return Err(shut.into()),
        Err(error) => ("error", Err(error)),
    };
    context
        .metrics
        .reconciles
        .with_label_values(&[kind.as_ref(), result])
        .inc();
    if action.is_ok() {
        context.backoff.succeeded(&uid);
    }
    action
}

/// How long an object waits after a failure.
fn policy<K: Object>(object: Arc<K>, error: &Error, context: Arc<Context>) -> Action {
    if error.cure() == Cure::Leader {
        // Either the term is over, and nothing is run again, or a renewal was late and the gate opens again.
        return Action::requeue(jitter(SHUT));
    }
    let delay = context.backoff.failed(&object.uid().unwrap_or_default());
    let delay = match context.looks.of(&object.uid().unwrap_or_default()) {
        // A Hub that has pods is looked at in each interval, however often something of it cannot be applied.
        Some(look) if look.key.is_some() => delay.min(jitter(context.options.poll_interval)),
        _ => delay,
    };
    let delay = error.retry_after().map_or(delay, |asked| delay.max(asked));
    if error.is_namespace_going() {
        tracing::debug!(kind = %K::kind(&()), object.name = object.name_any(), "its namespace is being deleted");
        return Action::requeue(delay);
    }
    tracing::warn!(
        kind = %K::kind(&()),
        object.namespace = object.namespace(),
        object.name = object.name_any(),
        retry_ms = u64::try_from(delay.as_millis()).unwrap_or(u64::MAX),
        error = chain(error),
        "reconcile failed"
    );
    drop((object, context));
    Action::requeue(delay)
}

/// Whether a resource is being deleted.
pub(crate) trait Going {
    /// Whether `deletionTimestamp` is set.
    fn meta_is_going(&self) -> bool;
}

impl<K: Object> Going for K {
    fn meta_is_going(&self) -> bool {
        self.meta().deletion_timestamp.is_some()
    }
}
