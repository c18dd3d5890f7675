//! Keeps a session with Redis alive: connect, subscribe everything, prove it, serve, and again.
//!
//! Invariants
//! - The link is up only after every topic that is wanted was confirmed in this session and a message of this hub to
//!   itself came back behind the confirmations: every gap lies in its reader's queue by then.
//! - It is down at once when the session ends; what still waited for an answer gets an error.
//! - The messages of a session are spread to the last one before those of the next begin.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::channel::Names;
use crate::endpoint::Endpoint;
use crate::error::Error;
use crate::link::Link;
use crate::metrics::Metrics;
use crate::probe::Probe;
use crate::reader::{Push, Reading};
use crate::session::{self, End, Session};
use crate::subscriber::Subscribing;

/// Between two attempts at most; the first ones follow sooner.
const BACKOFF_LIMIT: Duration = Duration::from_secs(5);

/// The first attempt that failed is followed by another after this at most.
const BACKOFF_STEP: Duration = Duration::from_millis(50);

/// Times and sizes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    pub(crate) timeout: Duration,
    pub(crate) probe_interval: Duration,
    /// Messages received and not yet spread.
    pub(crate) queue: usize,
}

/// The task that keeps the link.
pub(crate) struct Keeper {
    pub(crate) endpoint: Endpoint,
    pub(crate) limits: Limits,
    pub(crate) link: Link,
    pub(crate) names: Arc<Names>,
    pub(crate) metrics: Metrics,
    pub(crate) subscribing: Subscribing,
    pub(crate) reading: Arc<Reading>,
    pub(crate) probe: Probe,
    pub(crate) tasks: TaskTracker,
    /// Sessions opened so far.
    pub(crate) sessions: u64,
    pub(crate) was_up: bool,
}

// === impl Keeper ===

impl Keeper {
    /// Keeps the link until the end of the hub.
    pub(crate) async fn run(mut self, stop: CancellationToken) {
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
        self.metrics.up.set(0);
        self.link.down(reason.to_owned());
        self.subscribing.fail_all();
    }

    /// Opens both connections and starts the reader.
    async fn open(&mut self) -> Result<(Arc<Session>, JoinHandle<()>), redis::RedisError> {
        self.sessions += 1;
        let end = End::default();
        let (queue, messages) = mpsc::channel(self.limits.queue);
        let push = Push::new(queue, end.clone(), self.metrics.overflowed.clone());
        let (held, timeout) = (push.held(), self.limits.timeout);
        let receiving = self.endpoint.connect_receiving(timeout, move |info| push.take(info));
        let subscriptions = receiving.await?;
        let commands = self.endpoint.connect(timeout).await?;
        let names = self.names.clone();
        let session = Session::new(self.sessions, names, subscriptions, commands, end.clone(), timeout);
        let run = self.reading.clone().run(messages, held, end);
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
        self.metrics.up.set(1);
        self.metrics.reconnects.inc_by(u64::from(self.was_up));
        self.was_up = true;
        self.link.up(session.clone());
        let ending = async {
            stop.cancelled().await;
            tokio::time::timeout(self.limits.timeout, self.link.released()).await
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
