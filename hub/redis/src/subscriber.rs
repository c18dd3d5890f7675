//! Keeps Redis subscribed to exactly what the [`TopicTable`] holds.
//!
//! Invariants
//! - Only this task subscribes and unsubscribes an entry's channel in Redis, one command after the other, so that a
//!   subscribe that follows an unsubscribe of the same topic takes effect after it.
//! - A waiter is woken only after Redis has confirmed.
//! - A channel without an entry stays subscribed no longer than the grace period and one command.
//! - An entry that nobody wants ends after the grace period whether or not there is an incarnation.

use std::collections::{HashMap, VecDeque};
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use alkhub_protocol::TopicFilter;
use parking_lot::Mutex;
use tokio::sync::{Notify, mpsc, oneshot};
use tokio::time::{Instant, sleep_until};

use crate::channel::Names;
use crate::error::Error;
use crate::incarnation::Incarnation;
use crate::receive::{Expiry, Idle, TopicTable};

/// The most channels in one SUBSCRIBE: Redis serves nobody else meanwhile.
const BATCH: usize = 512;

/// How many subscribers may wait for confirmation; more wait to be queued.
const QUEUE: usize = 4_096;

/// Takes commands. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct SubscribeHandle {
    wanted: mpsc::Sender<SubscribeCommand>,
    idle: Arc<IdleEntries>,
}

/// The end of the queue from which the link's task takes them.
pub(crate) struct SubscribeQueue {
    wanted: mpsc::Receiver<SubscribeCommand>,
    idle: Arc<IdleEntries>,
}

/// The part of the link's task that executes them.
pub(crate) struct Subscribing {
    topics: Arc<dyn TopicTable>,
    names: Arc<Names>,
    wanted: mpsc::Receiver<SubscribeCommand>,
    idle: Arc<IdleEntries>,
}

#[derive(Debug)]
struct SubscribeCommand {
    filter: TopicFilter,
    waiter: oneshot::Sender<Result<(), Error>>,
}

/// Entries without subscribers, in the order of their deadlines. An entry is listed at most once.
#[derive(Debug)]
struct IdleEntries {
    grace: Duration,
    queue: Mutex<VecDeque<(Instant, Idle)>>,
    first: Notify,
}

pub(crate) fn new(grace: Duration) -> (SubscribeHandle, SubscribeQueue) {
    let (sender, wanted) = mpsc::channel(QUEUE);
    let idle = Arc::new(IdleEntries {
        grace,
        queue: Mutex::default(),
        first: Notify::new(),
    });
    let handle = SubscribeHandle {
        wanted: sender,
        idle: idle.clone(),
    };
    (handle, SubscribeQueue { wanted, idle })
}

// === impl SubscribeHandle ===

impl SubscribeHandle {
    /// Waits until an entry is confirmed; `None`: the link went down first.
    pub(crate) async fn confirm(&self, filter: &TopicFilter) -> Option<Result<(), Error>> {
        let (waiter, confirmed) = oneshot::channel();
        self.wanted
            .send(SubscribeCommand {
                filter: filter.clone(),
                waiter,
            })
            .await
            .ok()?;
        confirmed.await.ok()
    }

    /// Removes an entry after the grace period, unless somebody wants it by then.
    pub(crate) fn release(&self, idle: Idle) {
        self.idle.push(idle);
    }
}

// === impl Subscribing ===

impl Subscribing {
    pub(crate) fn new(queue: SubscribeQueue, topics: Arc<dyn TopicTable>, names: Arc<Names>) -> Self {
        let SubscribeQueue { wanted, idle } = queue;
        Self {
            topics,
            names,
            wanted,
            idle,
        }
    }

    /// In a new incarnation, subscribes the hub's own channels and every entry.
    pub(crate) async fn resubscribe(&mut self, incarnation: &Incarnation, own: &[&str]) -> Result<(), Error> {
        expired(&*self.topics, &self.idle, Instant::now() + self.idle.grace);
        let filters = self.topics.begin();
        incarnation
            .subscriptions
            .clone()
            .subscribe(own)
            .await
            .map_err(|error| incarnation.failed(error))?;
        for batch in filters.chunks(BATCH) {
            match self.subscribe(incarnation, batch).await {
                Err(Error::Refused(_)) => self.resubscribe_singly(incarnation, batch).await?,
                outcome => outcome?,
            }
        }
        Ok(())
    }

    /// Executes commands until the incarnation ends.
    pub(crate) async fn serve(&mut self, incarnation: &Incarnation) {
        let mut commands = Vec::new();
        loop {
            let (due, idle) = (self.idle.due(), self.idle.clone());
            tokio::select! {
                biased;
                () = incarnation.teardown().begun() => return,
                // Before the commands, which may never pause; after it nothing is due for a while.
                () = until(due) => {
                    if self.release(incarnation).await.is_err() {
                        incarnation.teardown().begin("an unsubscribe was not confirmed");
                    }
                }
                count = self.wanted.recv_many(&mut commands, BATCH) => {
                    if count == 0 {
                        return incarnation.teardown().begun().await;
                    }
                    self.execute(incarnation, &mut commands).await;
                }
                () = idle.first.notified() => {}
            }
        }
    }

    /// While there is no incarnation, removes entries that nobody wants, until it is dropped.
    pub(crate) fn rest(&self) -> impl Future<Output = Infallible> + Send + use<> {
        let (topics, idle) = (self.topics.clone(), self.idle.clone());
        async move {
            loop {
                tokio::select! {
                    () = until(idle.due()) => drop(expired(&*topics, &idle, Instant::now())),
                    () = idle.first.notified() => {}
                }
            }
        }
    }

    /// The link is down: every waiter gets that as an error.
    pub(crate) fn fail_all(&mut self) {
        while let Ok(request) = self.wanted.try_recv() {
            drop(request);
        }
    }

    async fn execute(&self, incarnation: &Incarnation, commands: &mut Vec<SubscribeCommand>) {
        let mut waiting: HashMap<TopicFilter, Vec<oneshot::Sender<Result<(), Error>>>> = HashMap::new();
        for SubscribeCommand { filter, waiter } in commands.drain(..) {
            // No entry: the subscriber left and its entry expired, so nobody is waiting.
            match self.topics.incarnation(&filter) {
                Some(confirmed) if confirmed == incarnation.number => drop(waiter.send(Ok(()))),
                Some(_) => waiting.entry(filter).or_default().push(waiter),
                None => {}
            }
        }
        let filters: Vec<TopicFilter> = waiting.keys().cloned().collect();
        match self.subscribe(incarnation, &filters).await {
            Ok(()) => waiting
                .into_values()
                .flatten()
                .for_each(|waiter| drop(waiter.send(Ok(())))),
            Err(Error::Refused(_)) => self.one_by_one(incarnation, waiting).await,
            Err(_) => incarnation.teardown().begin("a subscribe was not confirmed"),
        }
    }

    /// Redis refused a batch, for example by its access rules: the other channels in it must not suffer.
    async fn one_by_one(
        &self,
        incarnation: &Incarnation,
        waiting: HashMap<TopicFilter, Vec<oneshot::Sender<Result<(), Error>>>>,
    ) {
        for (filter, waiting) in waiting {
            let outcome = self.subscribe(incarnation, std::slice::from_ref(&filter)).await;
            for waiter in waiting {
                let _ = waiter.send(outcome.clone());
            }
        }
    }

    /// Redis no longer allows a topic of a batch: the link comes up without it.
    async fn resubscribe_singly(&self, incarnation: &Incarnation, batch: &[TopicFilter]) -> Result<(), Error> {
        for filter in batch {
            match self.subscribe(incarnation, std::slice::from_ref(filter)).await {
                Err(Error::Refused(error)) => tracing::error!(%error, topic = %filter, "Redis refuses a subscription"),
                outcome => outcome?,
            }
        }
        Ok(())
    }

    async fn subscribe(&self, incarnation: &Incarnation, filters: &[TopicFilter]) -> Result<(), Error> {
        let (channels, patterns) = self.split(filters);
        let mut connection = incarnation.subscriptions.clone();
        if !channels.is_empty() {
            connection
                .subscribe(&channels)
                .await
                .map_err(|error| incarnation.failed(error))?;
        }
        if !patterns.is_empty() {
            connection
                .psubscribe(&patterns)
                .await
                .map_err(|error| incarnation.failed(error))?;
        }
        for filter in filters {
            self.topics.mark(filter, incarnation.number);
        }
        Ok(())
    }

    async fn release(&mut self, incarnation: &Incarnation) -> Result<(), Error> {
        let filters = expired(&*self.topics, &self.idle, Instant::now());
        let mut connection = incarnation.subscriptions.clone();
        for batch in filters.chunks(BATCH) {
            let (channels, patterns) = self.split(batch);
            if !channels.is_empty() {
                connection
                    .unsubscribe(&channels)
                    .await
                    .map_err(|error| incarnation.failed(error))?;
            }
            if !patterns.is_empty() {
                connection
                    .punsubscribe(&patterns)
                    .await
                    .map_err(|error| incarnation.failed(error))?;
            }
        }
        Ok(())
    }

    fn split(&self, filters: &[TopicFilter]) -> (Vec<String>, Vec<String>) {
        let (topics, types): (Vec<_>, Vec<_>) =
            filters.iter().partition(|filter| matches!(filter, TopicFilter::One(_)));
        let names = |filters: Vec<&TopicFilter>| filters.into_iter().map(|filter| self.names.filter(filter)).collect();
        (names(topics), names(types))
    }
}

// === impl IdleEntries ===

impl IdleEntries {
    fn push(&self, idle: Idle) {
        let mut queue = self.queue.lock();
        queue.push_back((Instant::now() + self.grace, idle));
        if queue.len() == 1 {
            self.first.notify_one();
        }
    }

    fn due(&self) -> Option<Instant> {
        self.queue.lock().front().map(|(due, _)| *due)
    }

    fn take(&self, now: Instant) -> Vec<Idle> {
        let mut queue = self.queue.lock();
        let count = queue.iter().take_while(|(due, _)| *due <= now).count();
        queue.drain(..count).map(|(_, idle)| idle).collect()
    }
}

/// Ends the entries whose grace period ends by `now`, and lists them.
fn expired(topics: &dyn TopicTable, entries: &IdleEntries, now: Instant) -> Vec<TopicFilter> {
    let mut filters = Vec::new();
    for idle in entries.take(now) {
        match topics.expire(&idle) {
            Expiry::Removed => filters.push(idle.filter),
            Expiry::Again(idle) => entries.push(idle),
            Expiry::Wanted => {}
        }
    }
    filters
}

async fn until(due: Option<Instant>) {
    match due {
        Some(due) => sleep_until(due).await,
        None => std::future::pending().await,
    }
}
