//! Keeps Redis subscribed to exactly what the [`Subscriptions`] hold.
//!
//! Invariants
//! - Only this task adds an entry's channel to Redis or takes it away, one command after the other, so a subscribe
//!   that follows an unsubscribe of the same topic takes effect after it.
//! - A confirmation is told only after Redis sent it.
//! - A channel without an entry is not subscribed for longer than the grace and one command.
//! - An entry that nobody wants ends after the grace whether there is a session or not.

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
use crate::receive::{Expiry, Idle, Subscriptions};
use crate::session::Session;

/// Channels in one SUBSCRIBE at most: Redis serves nobody else meanwhile.
const BATCH: usize = 512;

/// Subscribers that may wait to be confirmed; more wait to be queued.
const QUEUE: usize = 4_096;

/// Takes wishes. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Requests {
    wanted: mpsc::Sender<Request>,
    idle: Arc<IdleEntries>,
}

/// Where the link's task takes them.
pub(crate) struct Requested {
    wanted: mpsc::Receiver<Request>,
    idle: Arc<IdleEntries>,
}

/// The part of the link's task that fulfils them.
pub(crate) struct Subscribing {
    subscriptions: Arc<dyn Subscriptions>,
    names: Arc<Names>,
    wanted: mpsc::Receiver<Request>,
    idle: Arc<IdleEntries>,
}

#[derive(Debug)]
struct Request {
    filter: TopicFilter,
    done: oneshot::Sender<Result<(), Error>>,
}

/// Entries without subscribers, in the order of their deadlines. An entry is in here at most once.
#[derive(Debug)]
struct IdleEntries {
    grace: Duration,
    queue: Mutex<VecDeque<(Instant, Idle)>>,
    first: Notify,
}

pub(crate) fn new(grace: Duration) -> (Requests, Requested) {
    let (sender, wanted) = mpsc::channel(QUEUE);
    let idle = Arc::new(IdleEntries {
        grace,
        queue: Mutex::default(),
        first: Notify::new(),
    });
    let requests = Requests {
        wanted: sender,
        idle: idle.clone(),
    };
    (requests, Requested { wanted, idle })
}

// === impl Requests ===

impl Requests {
    /// Waits until an entry is confirmed; `None`: the link went down first.
    pub(crate) async fn confirm(&self, filter: &TopicFilter) -> Option<Result<(), Error>> {
        let (done, confirmed) = oneshot::channel();
        self.wanted
            .send(Request {
                filter: filter.clone(),
                done,
            })
            .await
            .ok()?;
        confirmed.await.ok()
    }

    /// Takes an entry out after the grace, unless somebody wants it by then.
    pub(crate) fn release(&self, idle: Idle) {
        self.idle.push(idle);
    }
}

// === impl Subscribing ===

impl Subscribing {
    pub(crate) fn new(requested: Requested, subscriptions: Arc<dyn Subscriptions>, names: Arc<Names>) -> Self {
        let Requested { wanted, idle } = requested;
        Self {
            subscriptions,
            names,
            wanted,
            idle,
        }
    }

    /// Subscribes the hub's own channels and every entry, in a new session.
    pub(crate) async fn resubscribe(&mut self, session: &Session, own: &[&str]) -> Result<(), Error> {
        expired(&*self.subscriptions, &self.idle, Instant::now() + self.idle.grace);
        let filters = self.subscriptions.begin();
        session
            .subscriptions
            .clone()
            .subscribe(own)
            .await
            .map_err(|error| session.failed(error))?;
        for batch in filters.chunks(BATCH) {
            match self.subscribe(session, batch).await {
                Err(Error::Refused(_)) => self.resubscribe_singly(session, batch).await?,
                outcome => outcome?,
            }
        }
        Ok(())
    }

    /// Fulfils wishes until the session ends.
    pub(crate) async fn serve(&mut self, session: &Session) {
        let mut requests = Vec::new();
        loop {
            let (due, idle) = (self.idle.due(), self.idle.clone());
            tokio::select! {
                biased;
                () = session.end().wait() => return,
                // Before the wishes, which may never pause; after it nothing is due for a while.
                () = until(due) => {
                    if self.release(session).await.is_err() {
                        session.end().now("an unsubscribe was not confirmed");
                    }
                }
                count = self.wanted.recv_many(&mut requests, BATCH) => {
                    if count == 0 {
                        return session.end().wait().await;
                    }
                    self.fulfil(session, &mut requests).await;
                }
                () = idle.first.notified() => {}
            }
        }
    }

    /// Takes entries that nobody wants out while there is no session, until it is dropped.
    pub(crate) fn rest(&self) -> impl Future<Output = Infallible> + Send + use<> {
        let (subscriptions, idle) = (self.subscriptions.clone(), self.idle.clone());
        async move {
            loop {
                tokio::select! {
                    () = until(idle.due()) => drop(expired(&*subscriptions, &idle, Instant::now())),
                    () = idle.first.notified() => {}
                }
            }
        }
    }

    /// The link is down: whoever waits hears of it.
    pub(crate) fn fail_all(&mut self) {
        while let Ok(request) = self.wanted.try_recv() {
            drop(request);
        }
    }

    async fn fulfil(&self, session: &Session, requests: &mut Vec<Request>) {
        let mut waiting: HashMap<TopicFilter, Vec<oneshot::Sender<Result<(), Error>>>> = HashMap::new();
        for Request { filter, done } in requests.drain(..) {
            // No entry: the subscriber left and its entry expired, so there is nobody to confirm to.
            match self.subscriptions.session(&filter) {
                Some(confirmed) if confirmed == session.number => drop(done.send(Ok(()))),
                Some(_) => waiting.entry(filter).or_default().push(done),
                None => {}
            }
        }
        let filters: Vec<TopicFilter> = waiting.keys().cloned().collect();
        match self.subscribe(session, &filters).await {
            Ok(()) => waiting.into_values().flatten().for_each(|done| drop(done.send(Ok(())))),
            Err(Error::Refused(_)) => self.one_by_one(session, waiting).await,
            Err(_) => session.end().now("a subscribe was not confirmed"),
        }
    }

    /// Redis refused a batch, for example by its access rules: the others in it shall not suffer.
    async fn one_by_one(
        &self,
        session: &Session,
        waiting: HashMap<TopicFilter, Vec<oneshot::Sender<Result<(), Error>>>>,
    ) {
        for (filter, waiting) in waiting {
            let outcome = self.subscribe(session, std::slice::from_ref(&filter)).await;
            for done in waiting {
                let _ = done.send(outcome.clone());
            }
        }
    }

    /// Redis no longer allows a topic of a batch: the link shall come up without it.
    async fn resubscribe_singly(&self, session: &Session, batch: &[TopicFilter]) -> Result<(), Error> {
        for filter in batch {
            match self.subscribe(session, std::slice::from_ref(filter)).await {
                Err(Error::Refused(error)) => tracing::error!(%error, topic = %filter, "Redis refuses a subscription"),
                outcome => outcome?,
            }
        }
        Ok(())
    }

    async fn subscribe(&self, session: &Session, filters: &[TopicFilter]) -> Result<(), Error> {
        let (channels, patterns) = self.split(filters);
        let mut connection = session.subscriptions.clone();
        if !channels.is_empty() {
            connection
                .subscribe(&channels)
                .await
                .map_err(|error| session.failed(error))?;
        }
        if !patterns.is_empty() {
            connection
                .psubscribe(&patterns)
                .await
                .map_err(|error| session.failed(error))?;
        }
        for filter in filters {
            self.subscriptions.mark(filter, session.number);
        }
        Ok(())
    }

    async fn release(&mut self, session: &Session) -> Result<(), Error> {
        let filters = expired(&*self.subscriptions, &self.idle, Instant::now());
        let mut connection = session.subscriptions.clone();
        for batch in filters.chunks(BATCH) {
            let (channels, patterns) = self.split(batch);
            if !channels.is_empty() {
                connection
                    .unsubscribe(&channels)
                    .await
                    .map_err(|error| session.failed(error))?;
            }
            if !patterns.is_empty() {
                connection
                    .punsubscribe(&patterns)
                    .await
                    .map_err(|error| session.failed(error))?;
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

/// Ends the entries whose grace ends by `now`, and lists them.
fn expired(subscriptions: &dyn Subscriptions, entries: &IdleEntries, now: Instant) -> Vec<TopicFilter> {
    let mut filters = Vec::new();
    for idle in entries.take(now) {
        match subscriptions.expire(&idle) {
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
