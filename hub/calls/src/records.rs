//! Records of ended calls: queued by the calls, written to Postgres in batches, and dropped when they are old.
//!
//! Invariants
//! - Adding a record never waits, and wakes the writer at most twice per batch.
//! - The queue is bounded in records, none of which exceeds 2 KiB ([`RECORD_BYTES`]). While Postgres is away it fills
//!   up; then records are dropped and counted.
//! - At the hub's end, all queued records are written, as far as Postgres takes them in time; the rest are counted and
//!   logged. Nothing that can wait, least of all the removal of old records, delays this.

pub(crate) mod journal;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use alkhub_protocol::id::ID_LIMIT_BYTES;
use alkhub_protocol::{CallRequest, CallStatus, Code, HubId, SpokeName};
use alkhub_retry::Backoff;
use alkhub_store::{CallRow, Store};
use jiff::Timestamp;
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::caller::Caller;
use crate::leg::call_id::CallId;
use crate::metrics::Metrics;

/// Records written by one statement.
const BATCH: usize = 1_000;

/// The most characters of a code; the rest is cut off.
const CODE_CHARS: usize = 128;

/// The most bytes of a record; most have about a quarter of that. Names and ids are bounded where they enter, and the
/// code is cut here. So `calls.record-queue` also bounds bytes: its largest value means 2 GB.
const RECORD_BYTES: usize = 2 * 1024;
const _: () = {
    // The operation, the spoke, the hub, the key, the call's id and its parent's, each with its reference counts; and
    // the trace.
    let names = 6 * (ID_LIMIT_BYTES + 16) + 32;
    assert!(size_of::<CallRow>() + names + 4 * CODE_CHARS <= RECORD_BYTES);
};

/// How long the first record of a batch waits for others.
const COLLECT: Duration = Duration::from_millis(200);

/// The pauses between tries to write a batch.
const BACKOFF: Backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(5));

/// At the hub's end, the time to write what is queued.
const LAST_WRITE: Duration = Duration::from_secs(5);

/// How often old records are dropped.
const PRUNE: Duration = Duration::from_secs(600);

/// The queue of records.
#[derive(Debug)]
pub(crate) struct Records {
    waiting: Mutex<Waiting>,
    bound: usize,
    /// The queue is no longer empty.
    first: Notify,
    /// The queue has a full batch.
    full: Notify,
    metrics: Arc<Metrics>,
}

#[derive(Debug, Default)]
struct Waiting {
    /// Records are taken from the front, a batch at a time, however long the queue is.
    rows: VecDeque<CallRow>,
    /// The writer has ended: no more records are taken.
    closed: bool,
}

/// An ended call.
#[derive(Debug)]
pub(crate) struct Ended<'a> {
    pub(crate) id: CallId,
    pub(crate) request: &'a CallRequest,
    pub(crate) caller: &'a Caller,
    pub(crate) hub: &'a HubId,
    pub(crate) spoke: Option<&'a SpokeName>,
    pub(crate) status: CallStatus,
    pub(crate) code: Option<&'a Code>,
    pub(crate) started_at: Timestamp,
    pub(crate) duration: Duration,
    pub(crate) input_bytes: usize,
    pub(crate) output_bytes: u64,
}

// === impl Records ===

impl Records {
    pub(crate) fn new(bound: usize, metrics: Arc<Metrics>) -> Self {
        Self {
            waiting: Mutex::default(),
            bound,
            first: Notify::new(),
            full: Notify::new(),
            metrics,
        }
    }

    /// Queues a record, or drops and counts it.
    pub(crate) fn add(&self, ended: Ended<'_>) {
        let row = ended.into_row();
        let mut waiting = self.waiting.lock();
        if waiting.closed || waiting.rows.len() >= self.bound {
            drop(waiting);
            self.metrics.records_dropped.inc();
            return;
        }
        waiting.rows.push_back(row);
        let len = waiting.rows.len();
        drop(waiting);
        self.metrics.records_waiting.inc();
        if len == 1 {
            self.first.notify_one();
        }
        if len == BATCH {
            self.full.notify_one();
        }
    }

    /// Writes until the hub ends, and then what is left.
    pub(crate) async fn write(&self, store: &Store, retention: Duration, stop: &CancellationToken) {
        let mut prune_at = Instant::now() + PRUNE.mul_f64(fastrand::f64());
        loop {
            tokio::select! {
                () = stop.cancelled() => break,
                () = tokio::time::sleep_until(prune_at) => {
                    prune_at = Instant::now() + PRUNE;
                    // What remains to be removed is left to another hub, or to the next time.
                    if stop.run_until_cancelled(prune(store, retention)).await.is_none() {
                        break;
                    }
                }
                () = self.first.notified() => {
                    if stop.run_until_cancelled(self.write_waiting(store)).await.is_none() {
                        break;
                    }
                }
            }
        }
        // What is not written in this time is dropped.
        let _ = tokio::time::timeout(LAST_WRITE, self.write_all(store)).await;
        let left = self.close();
        if left > 0 {
            self.metrics.records_dropped.inc_by(left as u64);
            tracing::warn!(records = left, "call records were not written before the end");
        }
    }

    /// Collects a batch, and writes until less than a batch waits; that is left for the next collection. Dropping the
    /// future loses nothing: what is being written stays queued, and writing it again changes nothing.
    async fn write_waiting(&self, store: &Store) {
        // Whichever comes first: the batch is full, or its first record has waited long enough.
        drop(tokio::time::timeout(COLLECT, self.full.notified()).await);
        let mut left = self.write_batch(store).await;
        while left >= BATCH {
            left = self.write_batch(store).await;
        }
        if left > 0 {
            self.first.notify_one();
        }
    }

    /// Writes until nothing waits.
    async fn write_all(&self, store: &Store) {
        while self.write_batch(store).await > 0 {}
    }

    /// Writes a batch, trying until Postgres takes it; returns how many records wait then.
    async fn write_batch(&self, store: &Store) -> usize {
        let mut backoff = BACKOFF;
        loop {
            let batch: Vec<CallRow> = self.waiting.lock().rows.iter().take(BATCH).cloned().collect();
            if batch.is_empty() {
                return 0;
            }
            match store.calls().insert(&batch).await {
                Ok(()) => self.metrics.records_written.inc_by(batch.len() as u64),
                Err(error) if error.is_transient() => {
                    tracing::debug!(%error, "call records wait for Postgres");
                    tokio::time::sleep(backoff.pause()).await;
                    continue;
                }
                Err(error) => {
                    self.metrics.records_dropped.inc_by(batch.len() as u64);
                    tracing::error!(%error, records = batch.len(), "call records cannot be written and are dropped");
                }
            }
            return self.remove(batch.len());
        }
    }

    /// Takes the first records out; returns how many wait then.
    fn remove(&self, count: usize) -> usize {
        let mut waiting = self.waiting.lock();
        waiting.rows.drain(..count);
        let left = waiting.rows.len();
        if left == 0 {
            waiting.rows.shrink_to(BATCH);
        }
        drop(waiting);
        self.waits_no_more(count);
        left
    }

    /// Closes the queue; returns how many records were left.
    fn close(&self) -> usize {
        let left = {
            let mut waiting = self.waiting.lock();
            waiting.closed = true;
            std::mem::take(&mut waiting.rows).len()
        };
        self.waits_no_more(left);
        left
    }

    fn waits_no_more(&self, count: usize) {
        let count = i64::try_from(count).unwrap_or(i64::MAX);
        self.metrics.records_waiting.sub(count);
    }
}

// === impl Ended ===

impl Ended<'_> {
    fn into_row(self) -> CallRow {
        let request = self.request;
        CallRow {
            call_id: self.id.id,
            root_call_id: self.id.root,
            parent_call_id: self.id.parent,
            request_id: request.request_id.clone(),
            parent_request_id: request.parent.clone(),
            operation: request.operation.clone(),
            status: self.status,
            code: self.code.map(|code| code.as_str().chars().take(CODE_CHARS).collect()),
            caller: Arc::clone(&self.caller.key_id),
            spoke: self.spoke.cloned(),
            hub_id: self.hub.clone(),
            started_at: self.started_at,
            duration: self.duration,
            input_bytes: self.input_bytes as u64,
            output_bytes: self.output_bytes,
            trace_id: request.traceparent.as_deref().and_then(trace_id),
        }
    }
}

/// Drops old records. If the future is dropped, some of them are left to the next time.
async fn prune(store: &Store, retention: Duration) {
    if let Err(error) = store.calls().prune(retention).await {
        tracing::debug!(%error, "old call records were not dropped");
    }
}

/// The trace id of `{version}-{trace id}-{span id}-{flags}`.
fn trace_id(traceparent: &str) -> Option<String> {
    let id = traceparent.split('-').nth(1)?;
    let valid = id.len() == 32 && id.bytes().all(|b| b.is_ascii_hexdigit());
    valid.then(|| id.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_trace_id_that_is_one_is_kept() {
        let id = "0af7651916cd43dd8448eb211c80319c";

        assert_eq!(trace_id(&format!("00-{id}-b7ad6b7169203331-01")).as_deref(), Some(id));
        assert_eq!(trace_id("nonsense"), None);
        assert_eq!(trace_id("00-xyz-1-01"), None);
    }
}
