//! Keeps a session with Redis alive: connect, subscribe everything, prove it, serve, and again.
//!
//! Invariants
//! - The link is up only after every entry of the table was confirmed in this session and a message of this hub to
//!   itself came back behind the confirmations: every gap lies in its reader's queue by then.
//! - It is down at once when the session ends; what still waited for an answer gets an error.
//! - The messages of a session are spread to the last one before those of the next begin.

use std::sync::Arc;
use std::time::Duration;

use alkhub_tasks::Supervisor;
use arc_swap::ArcSwapOption;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

use super::connect;
use super::probe::Probe;
use super::publisher::Publishing;
use super::reader::{Push, Reading, Routes};
use super::session::{self, End, Session};
use super::subscriber::Subscribing;
use crate::channel::Names;
use crate::metrics::Metrics;
use crate::{Error, LinkState};

/// Between two attempts at most; the first ones follow sooner.
const BACKOFF_LIMIT: Duration = Duration::from_secs(5);

/// The first attempt that failed is followed by another after this at most.
const BACKOFF_STEP: Duration = Duration::from_millis(50);

/// The session of now, for everybody who needs one.
#[derive(Clone, Debug)]
pub(crate) struct Link {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    session: ArcSwapOption<Session>,
    state: watch::Sender<LinkState>,
    /// Cancelled when what must be said before the end has been said.
    said: [CancellationToken; 2],
}

/// Times and sizes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    pub(super) timeout: Duration,
    pub(super) probe_interval: Duration,
    /// Messages received and not yet spread.
    pub(super) queue: usize,
}

/// What runs behind [`super::Redis`].
pub(crate) struct Runner {
    pub(super) client: redis::Client,
    pub(super) limits: Limits,
    pub(super) link: Link,
    pub(super) names: Arc<Names>,
    pub(super) metrics: Metrics,
    pub(super) publishing: Publishing,
    pub(super) subscribing: Subscribing,
    pub(super) reading: Reading,
}

/// The task that keeps the link.
struct Keeper {
    client: redis::Client,
    limits: Limits,
    link: Link,
    names: Arc<Names>,
    metrics: Metrics,
    subscribing: Subscribing,
    reading: Arc<Reading>,
    routes: Routes,
    probe: Probe,
    tasks: TaskTracker,
    sessions: u64,
    was_up: bool,
}

// === impl Link ===

impl Link {
    pub(super) fn new() -> Self {
        let (state, _) = watch::channel(LinkState::Down("not connected yet".to_owned()));
        Self {
            shared: Arc::new(Shared {
                session: ArcSwapOption::empty(),
                state,
                said: Default::default(),
            }),
        }
    }

    /// The session of now.
    pub(crate) fn session(&self) -> Result<Arc<Session>, Error> {
        self.shared.session.load_full().ok_or_else(|| self.why_down())
    }

    /// How the link is, now and later.
    pub(crate) fn state(&self) -> watch::Receiver<LinkState> {
        self.shared.state.subscribe()
    }

    pub(crate) fn why_down(&self) -> Error {
        match &*self.shared.state.borrow() {
            LinkState::Down(reason) => Error::Unavailable(reason.clone()),
            LinkState::Up | LinkState::Local => Error::Unavailable("it was just lost".to_owned()),
        }
    }

    /// The link stays until both guards are dropped: the publisher's and the lease's.
    pub(crate) fn hold_for_publisher(&self) -> DropGuard {
        self.shared.said[0].clone().drop_guard()
    }

    pub(crate) fn hold_for_lease(&self) -> DropGuard {
        self.shared.said[1].clone().drop_guard()
    }

    async fn all_said(&self) {
        for said in &self.shared.said {
            said.cancelled().await;
        }
    }

    fn up(&self, session: Arc<Session>) {
        self.shared.session.store(Some(session));
        self.shared.state.send_replace(LinkState::Up);
    }

    fn down(&self, reason: String) {
        self.shared.session.store(None);
        self.shared.state.send_replace(LinkState::Down(reason));
    }
}

// === impl Runner ===

impl Runner {
    /// Starts the tasks of the link.
    pub(crate) fn start(self, routes: Routes, supervisor: &Supervisor) {
        let Self {
            client,
            limits,
            link,
            names,
            metrics,
            publishing,
            subscribing,
            reading,
        } = self;
        let hold = link.hold_for_publisher();
        let stop = supervisor.stop();
        supervisor.keep("events.publisher", publishing.run(stop.clone(), hold));
        let probe = Probe::new(limits.probe_interval, metrics.link.probe_seconds.clone());
        let reading = Arc::new(reading);
        let keeper = Keeper {
            client,
            limits,
            link,
            names,
            metrics,
            subscribing,
            reading,
            routes,
            probe,
            tasks: supervisor.tasks().clone(),
            sessions: 0,
            was_up: false,
        };
        supervisor.keep("events.link", keeper.run(stop.clone()));
    }
}

// === impl Keeper ===

impl Keeper {
    async fn run(mut self, stop: CancellationToken) {
        let mut failures = 0;
        while !stop.is_cancelled() {
            let rest = self.subscribing.rest();
            let opened = tokio::select! {
                () = stop.cancelled() => break,
                never = rest => match never {},
                opened = self.open() => opened,
            };
            let reason = match opened {
                Ok((session, reader)) => {
                    let start = Instant::now();
                    let reason = self.live(&session, &stop).await;
                    // A session that ends soon after it began shall not make a storm of new ones.
                    failures = if start.elapsed() > BACKOFF_LIMIT { 0 } else { failures };
                    session.end().now(&reason);
                    self.down(&reason);
                    drop(session);
                    if reader.await.is_err() {
                        tracing::error!("the reader of the link to Redis ended by a panic");
                    }
                    reason
                }
                Err(error) => chain(&error),
            };
            self.down(&reason);
            if stop.is_cancelled() {
                break;
            }
            if failures == 0 {
                tracing::warn!(reason, "link to Redis is down");
            } else {
                tracing::debug!(reason, failures, "link to Redis is still down");
            }
            tokio::select! {
                () = stop.cancelled() => {}
                never = self.subscribing.rest() => match never {},
                () = tokio::time::sleep(backoff(failures)) => {}
            }
            failures += 1;
        }
        self.down("this hub is ending");
    }

    /// A replica takes messages too, and hands them to nobody else. Other refusals (memory, access) concern only those
    /// who write.
    async fn is_writable(&self, session: &Session) -> Result<(), Error> {
        let milliseconds = u64::try_from(self.limits.timeout.as_millis())
            .unwrap_or(u64::MAX)
            .max(1);
        let mut write = redis::cmd("SET");
        write
            .arg(self.names.probe())
            .arg(session.number)
            .arg("PX")
            .arg(milliseconds);
        match session.query::<()>(&write).await {
            Err(Error::Refused(error)) if !session::is_read_only(&error) => Ok(()),
            outcome => outcome,
        }
    }

    /// Whoever waits for the link hears that it is down.
    fn down(&mut self, reason: &str) {
        self.metrics.link.up.set(0);
        self.link.down(reason.to_owned());
        self.subscribing.fail_all();
    }

    /// Opens both connections and starts the reader.
    async fn open(&mut self) -> Result<(Arc<Session>, JoinHandle<()>), redis::RedisError> {
        self.sessions += 1;
        let end = End::default();
        let (queue, messages) = mpsc::channel(self.limits.queue);
        let push = Push::new(queue, end.clone(), self.metrics.clone());
        let held = push.held();
        let settings = connect::settings(self.limits.timeout);
        let receiving = settings.clone().set_push_sender(move |info| push.take(info));
        let subscriptions = self
            .client
            .get_multiplexed_async_connection_with_config(&receiving)
            .await?;
        let commands = self
            .client
            .get_multiplexed_async_connection_with_config(&settings)
            .await?;
        let session = Session::new(self.sessions, subscriptions, commands, end.clone(), self.limits.timeout);
        let run = self
            .reading
            .clone()
            .run(messages, held, self.routes.clone(), self.probe.clone(), end);
        Ok((Arc::new(session), self.tasks.spawn(run)))
    }

    /// Serves a session until it ends, and tells why it did.
    async fn live(&mut self, session: &Arc<Session>, stop: &CancellationToken) -> String {
        let settled = tokio::select! {
            reason = session.end().reason() => Err(reason),
            settled = self.settle(session) => settled.map_err(|error| chain(&error)),
            () = stop.cancelled() => Err("this hub is ending".to_owned()),
        };
        if let Err(reason) = settled {
            return reason;
        }
        tracing::info!(session = session.number, "link to Redis is up");
        self.metrics.link.up.set(1);
        self.metrics.link.reconnects.inc_by(u64::from(self.was_up));
        self.was_up = true;
        self.link.up(session.clone());
        let ending = async {
            stop.cancelled().await;
            tokio::time::timeout(self.limits.timeout, self.link.all_said()).await
        };
        tokio::select! {
            reason = session.end().reason() => reason,
            () = self.subscribing.serve(session) => session.end().reason().await,
            () = self.probe.watch(session, self.names.probe()) => "messages no longer come through".to_owned(),
            _ = ending => "this hub is ending".to_owned(),
        }
    }

    /// Subscribes everything, and waits for a message of this hub to itself that was sent after it.
    async fn settle(&mut self, session: &Session) -> Result<(), Error> {
        self.is_writable(session).await?;
        self.subscribing.resubscribe(session, &self.names.own()).await?;
        let timeout = self.limits.timeout;
        let probe = tokio::time::timeout(timeout, self.probe.once(session, self.names.probe()));
        probe.await.map_err(|_| Error::Timeout(timeout))?
    }
}

/// Full jitter: anything between nothing and a bound that doubles.
fn backoff(failures: u32) -> Duration {
    let bound = BACKOFF_STEP.saturating_mul(1 << failures.min(16)).min(BACKOFF_LIMIT);
    bound.mul_f64(fastrand::f64())
}

/// An error and its sources in one line, each told once: some repeat their source.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let told = cause.to_string();
        if !text.contains(&told) {
            text.push_str(": ");
            text.push_str(&told);
        }
        source = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cause_is_told_once() {
        let refused = redis::RedisError::from(std::io::Error::from_raw_os_error(111));
        let lost = Error::Refused(refused);

        let told = chain(&lost);

        assert_eq!(told.matches("Connection refused").count(), 1, "{told}");
        assert!(told.starts_with("Redis refused: "), "{told}");
    }
}
