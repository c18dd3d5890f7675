//! Whether a registration of this hub can be called through the other hubs, as each of them is asked.
//!
//! Once the directory in Redis has a registration, its hub asks every other live hub to say when it can call the
//! instance by each operation that it offers. Each answers once, when it can. Nothing is asked twice, unless a conduit
//! broke.
//!
//! Invariants
//! - An answer states a fact about its hub: the entry is in its memory, and the specifications are compiled.
//! - A question ends with the last answer, after a second, or with the registration's connection. For a single hub it
//!   also ends with that hub.
//! - Waiting registrations and answers that are owed are bounded; whoever gets no answer learns that within a second.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use alkhub_hub_cluster::{Cluster, Fence};
use alkhub_protocol::HubId;
use parking_lot::Mutex;
use tokio::sync::{Semaphore, oneshot};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::directory::Directory;
use crate::relay::{Destination, Relay};

/// How long a question is open.
const WAIT: Duration = Duration::from_secs(1);

/// The most answers that this hub may owe at once; any others that ask wait in vain, and report that.
const OWED: usize = 16_384;

/// Asks and answers which hub can call which registration.
#[derive(Debug)]
pub(crate) struct Visibility {
    hub: HubId,
    cluster: Cluster,
    directory: Arc<Directory>,
    relay: Arc<Relay>,
    tasks: TaskTracker,
    stop: CancellationToken,
    next: AtomicU64,
    questions: Mutex<HashMap<u64, Question>>,
    owed: Arc<Semaphore>,
}

/// An open question of this hub.
#[derive(Debug)]
struct Question {
    about: Destination,
    /// The hubs that have not answered.
    open: BTreeSet<HubId>,
    /// The hubs that have answered that they cannot call it.
    cannot: BTreeSet<HubId>,
    /// Tells whoever waits; gone with the last answer.
    done: Option<oneshot::Sender<()>>,
}

/// Ends a question, however the wait for it ends.
struct Asked<'a> {
    visibility: &'a Visibility,
    key: u64,
}

// === impl Visibility ===

impl Visibility {
    pub(crate) fn new(
        cluster: Cluster,
        hub: HubId,
        (directory, relay): (Arc<Directory>, Arc<Relay>),
        tasks: TaskTracker,
        stop: CancellationToken,
    ) -> Self {
        Self {
            hub,
            cluster,
            directory,
            relay,
            tasks,
            stop,
            next: AtomicU64::new(1),
            questions: Mutex::default(),
            owed: Arc::new(Semaphore::new(OWED)),
        }
    }

    /// Waits until every live hub can call a registration of this one, or for a second; returns the hubs that still
    /// cannot then, in order. Dropping the future ends the question.
    pub(crate) async fn wait(&self, about: &Destination) -> Vec<HubId> {
        let Some((asked, answered)) = self.ask(about, || self.others()) else {
            return Vec::new();
        };
        let _ = timeout(WAIT, answered).await;
        asked.end()
    }

    /// Asks each of the other hubs; `None` if there are none.
    fn ask(
        &self,
        about: &Destination,
        others: impl FnOnce() -> BTreeSet<HubId>,
    ) -> Option<(Asked<'_>, oneshot::Receiver<()>)> {
        let key = self.next.fetch_add(1, Ordering::Relaxed);
        let (done, answered) = oneshot::channel();
        let open = {
            let mut questions = self.questions.lock();
            // Under the lock: if a hub that is seen here goes later, its end finds the question.
            let open = others();
            let question = Question {
                about: about.clone(),
                open: open.clone(),
                cannot: BTreeSet::new(),
                done: Some(done),
            };
            questions.insert(key, question);
            open
        };
        let asked = Asked { visibility: self, key };
        for hub in &open {
            self.relay.ask(hub, key, about);
        }
        (!open.is_empty()).then_some((asked, answered))
    }

    fn others(&self) -> BTreeSet<HubId> {
        let pods = self.cluster.pods();
        let others = pods.iter().map(|pod| &pod.hub_id);
        others.filter(|hub| **hub != self.hub).cloned().collect()
    }

    /// Takes the answer of another hub.
    pub(crate) fn answered(&self, hub: &HubId, key: u64, can: bool) {
        let mut questions = self.questions.lock();
        let Some(question) = questions.get_mut(&key) else {
            return;
        };
        if question.open.remove(hub) && !can {
            question.cannot.insert(hub.clone());
        }
        question.look();
    }

    /// Another hub is gone: nobody calls through it any more.
    pub(crate) fn hub_gone(&self, hub: &HubId) {
        for question in self.questions.lock().values_mut() {
            question.cannot.remove(hub);
            question.open.remove(hub);
            question.look();
        }
    }

    /// What was under way between this hub and another one is lost: open questions are asked again.
    pub(crate) fn conduit_broke(&self, hub: &HubId) {
        let open: Vec<(u64, Destination)> = {
            let questions = self.questions.lock();
            let open = questions.iter().filter(|(_, question)| question.open.contains(hub));
            open.map(|(key, question)| (*key, question.about.clone())).collect()
        };
        for (key, about) in open {
            self.relay.ask(hub, key, &about);
        }
    }

    /// Another hub asks; it gets its answer when this hub can call the registration, or never will.
    pub(crate) fn asked(self: &Arc<Self>, hub: HubId, key: u64, about: Destination) {
        let Ok(place) = Arc::clone(&self.owed).try_acquire_owned() else {
            tracing::warn!(hub.id = %hub, "too many hubs ask what can be called here");
            return;
        };
        let visibility = Arc::clone(self);
        self.tasks.spawn(async move {
            let (directory, stop) = (&visibility.directory, &visibility.stop);
            let instance = (about.spoke, about.instance);
            let fence = Fence {
                generation: about.generation,
                hub: &hub,
            };
            let callable = timeout(WAIT, directory.callable(&instance, fence));
            if let Some(Ok(can)) = stop.run_until_cancelled(callable).await {
                visibility.relay.answer_callable(&hub, key, can);
            }
            drop(place);
        });
    }
}

// === impl Question ===

impl Question {
    /// Tells whoever waits once no hub is left to answer.
    fn look(&mut self) {
        if self.open.is_empty()
            && let Some(done) = self.done.take()
        {
            // The wait may be over already.
            let _ = done.send(());
        }
    }
}

// === impl Asked ===

impl Asked<'_> {
    /// Ends the question; returns the hubs that cannot call the registration, or have not said that they can.
    fn end(self) -> Vec<HubId> {
        let question = self.visibility.questions.lock().remove(&self.key);
        question.map_or_else(Vec::new, |Question { open, cannot, .. }| {
            open.union(&cannot).cloned().collect()
        })
    }
}

impl Drop for Asked<'_> {
    fn drop(&mut self) {
        drop(self.visibility.questions.lock().remove(&self.key));
    }
}

#[cfg(test)]
mod tests {
    use alkhub_budget::Budgets;
    use alkhub_config::{BudgetConfig, EventsConfig};
    use alkhub_redis::Connector;
    use alkhub_tasks::Supervisor;
    use alkhub_test_support::Host;

    use super::*;
    use crate::fixture::{metrics, specs};

    /// The visibility of a hub that is alone.
    fn visibility(host: &Host) -> Visibility {
        let (hub, events) = ("pod-a-a1".parse().expect("valid"), EventsConfig::default());
        let supervisor = Supervisor::new(host.tasks.clone(), host.stop.clone());
        let mut connector = Connector::new(&events, &hub, &host.registry).expect("settings");
        let budgets = Budgets::new(&BudgetConfig::default(), &host.registry).expect("fresh metrics");
        let counts = (&host.registry, &budgets);
        let cluster = Cluster::start(&events, &mut connector, &supervisor, counts, None).expect("fresh metrics");
        let relay = Relay::new(cluster.conduits().clone(), metrics());
        let parts = (Arc::new(Directory::new(specs())), Arc::new(relay));
        Visibility::new(cluster, hub, parts, host.tasks.clone(), host.stop.clone())
    }

    /// The hub is in the list that was read, and its end is reported before the question is entered.
    #[tokio::test]
    async fn a_hub_that_goes_while_it_is_asked_holds_nobody_up() {
        let host = Host::default();
        let visibility = visibility(&host);
        let about = Destination {
            spoke: "text".parse().expect("valid"),
            instance: "i".parse().expect("valid"),
            generation: 1,
        };
        let (gone, begun): (HubId, _) = ("pod-b-b1".parse().expect("valid"), std::sync::Barrier::new(2));

        let (asked, mut answered) = std::thread::scope(|scope| {
            let going = || {
                scope.spawn(|| {
                    begun.wait();
                    visibility.hub_gone(&gone);
                });
                begun.wait();
                BTreeSet::from([gone.clone()])
            };
            visibility.ask(&about, going).expect("one is asked")
        });

        assert_eq!(answered.try_recv(), Ok(()));
        assert!(asked.end().is_empty());
        host.end().await;
    }
}
