//! Keeps an incarnation with Redis alive: connect, subscribe everything, prove it, serve, and again.
//!
//! Invariants
//! - The link is up only after every wanted topic was confirmed in this incarnation, and a message of this hub to
//!   itself came back after the confirmations: by then every gap is in its reader's queue.
//! - It is down at once when the incarnation ends; whatever still waited for an answer gets an error.
//! - The messages of an incarnation are distributed to the last one before those of the next begin.

use std::sync::Arc;
use std::time::Duration;

use alkhub_protocol::Chain;
use alkhub_retry::Backoff;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::channel::Names;
use crate::error::Error;
use crate::incarnation::{self, Incarnation, Teardown};
use crate::link::Link;
use crate::metrics::Metrics;
use crate::probe::Probe;
use crate::reader::{Push, Receivers};
use crate::subscriber::Subscribing;
use crate::topology::Topology;

/// The longest pause between two attempts; the first ones follow sooner.
const BACKOFF_LIMIT: Duration = Duration::from_secs(5);

/// Pauses between two attempts.
const BACKOFF: Backoff = Backoff::new(Duration::from_millis(50), BACKOFF_LIMIT);

/// Timeouts and sizes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LinkSettings {
    pub(crate) timeout: Duration,
    pub(crate) probe_interval: Duration,
    /// How many messages may be received and not yet distributed.
    pub(crate) queue: usize,
}

/// The task that keeps the link.
pub(crate) struct Keeper {
    pub(crate) topology: Topology,
    pub(crate) settings: LinkSettings,
    pub(crate) link: Link,
    pub(crate) names: Arc<Names>,
    pub(crate) metrics: Metrics,
    pub(crate) subscribing: Subscribing,
    pub(crate) receivers: Arc<Receivers>,
    pub(crate) probe: Probe,
    pub(crate) tasks: TaskTracker,
    /// How many incarnations have been opened so far.
    pub(crate) incarnations: u64,
    pub(crate) was_up: bool,
}

// === impl Keeper ===

impl Keeper {
    /// Keeps the link until the end of the hub.
    pub(crate) async fn run(mut self, stop: CancellationToken) {
        let mut backoff = BACKOFF;
        while !stop.is_cancelled() {
            let rest = self.subscribing.rest();
            let opened = tokio::select! {
                () = stop.cancelled() => break,
                never = rest => match never {},
                opened = self.open() => opened,
            };
            let reason = match opened {
                Ok((incarnation, reader)) => {
                    let start = Instant::now();
                    let reason = self.live(&incarnation, &stop).await;
                    // An incarnation that ends soon after it began must not cause a storm of new ones.
                    if start.elapsed() > BACKOFF_LIMIT {
                        backoff.reset();
                    }
                    incarnation.teardown().begin(&reason);
                    self.down(&reason);
                    drop(incarnation);
                    if reader.await.is_err() {
                        tracing::error!("the reader of the link to Redis ended by a panic");
                    }
                    reason
                }
                Err(error) => Chain::of(&error).to_string(),
            };
            self.down(&reason);
            if stop.is_cancelled() {
                break;
            }
            if backoff.failures() == 0 {
                tracing::warn!(reason, "link to Redis is down");
            } else {
                tracing::debug!(reason, failures = backoff.failures(), "link to Redis is still down");
            }
            tokio::select! {
                () = stop.cancelled() => {}
                never = self.subscribing.rest() => match never {},
                () = tokio::time::sleep(backoff.pause()) => {}
            }
        }
        self.down("this hub is ending");
    }

    /// A replica accepts messages too, but passes them to nobody else. Other refusals (memory, access) concern only
    /// those who write.
    async fn is_writable(&self, incarnation: &Incarnation) -> Result<(), Error> {
        let milliseconds = u64::try_from(self.settings.timeout.as_millis())
            .unwrap_or(u64::MAX)
            .max(1);
        let mut write = redis::cmd("SET");
        write
            .arg(self.names.probe())
            .arg(incarnation.number)
            .arg("PX")
            .arg(milliseconds);
        match incarnation.query::<()>(&write).await {
            Err(Error::Refused(error)) if !incarnation::is_read_only(&error) => Ok(()),
            outcome => outcome,
        }
    }

    /// Fails everything that waits for the link.
    fn down(&mut self, reason: &str) {
        self.metrics.up.set(0);
        self.link.down(reason.to_owned());
        self.subscribing.fail_all();
    }

    /// Opens both connections and starts the reader.
    async fn open(&mut self) -> Result<(Arc<Incarnation>, JoinHandle<()>), redis::RedisError> {
        self.incarnations += 1;
        let teardown = Teardown::default();
        let (queue, messages) = mpsc::channel(self.settings.queue);
        let push = Push::new(queue, teardown.clone(), self.metrics.overflowed.clone());
        let (held, timeout) = (push.held(), self.settings.timeout);
        let receiving = self.topology.connect_receiving(timeout, move |info| push.take(info));
        let subscriptions = receiving.await?;
        let commands = self.topology.connect(timeout).await?;
        let names = self.names.clone();
        let incarnation = Incarnation::new(
            self.incarnations,
            names,
            subscriptions,
            commands,
            teardown.clone(),
            timeout,
        );
        let run = self.receivers.clone().run(messages, held, teardown);
        Ok((Arc::new(incarnation), self.tasks.spawn(run)))
    }

    /// Serves an incarnation until it ends; returns why.
    async fn live(&mut self, incarnation: &Arc<Incarnation>, stop: &CancellationToken) -> String {
        let settled = tokio::select! {
            reason = incarnation.teardown().reason() => Err(reason),
            settled = self.settle(incarnation) => settled.map_err(|error| Chain::of(&error).to_string()),
            () = stop.cancelled() => Err("this hub is ending".to_owned()),
        };
        if let Err(reason) = settled {
            return reason;
        }
        tracing::info!(incarnation = incarnation.number, "link to Redis is up");
        self.metrics.up.set(1);
        self.metrics.reconnects.inc_by(u64::from(self.was_up));
        self.was_up = true;
        self.link.up(incarnation.clone());
        let ending = async {
            stop.cancelled().await;
            tokio::time::timeout(self.settings.timeout, self.link.released()).await
        };
        tokio::select! {
            reason = incarnation.teardown().reason() => reason,
            () = self.subscribing.serve(incarnation) => incarnation.teardown().reason().await,
            () = self.probe.watch(incarnation, self.names.probe()) => "messages no longer come through".to_owned(),
            _ = ending => "this hub is ending".to_owned(),
        }
    }

    /// Subscribes everything, and waits for a message of this hub to itself that was sent afterwards.
    async fn settle(&mut self, incarnation: &Incarnation) -> Result<(), Error> {
        self.is_writable(incarnation).await?;
        self.subscribing.resubscribe(incarnation, &self.names.own()).await?;
        let timeout = self.settings.timeout;
        let probe = tokio::time::timeout(timeout, self.probe.once(incarnation, self.names.probe()));
        probe.await.map_err(|_| Error::Timeout(timeout))?
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cause_is_printed_once() {
        let refused = redis::RedisError::from(std::io::Error::from_raw_os_error(111));
        let lost = Error::Refused(refused);

        let text = Chain::of(&lost).to_string();

        assert_eq!(text.matches("Connection refused").count(), 1, "{text}");
        assert!(text.starts_with("Redis refused: "), "{text}");
    }
}
