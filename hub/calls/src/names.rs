//! Distinguishes an operation that was offered once from one that never was, where this hub does not remember.
//!
//! A hub remembers the names that nobody offers now, up to a bound and since its start; the store knows those whose
//! specifications it keeps. A call of a name that is not remembered waits for one look into the store before it is
//! refused: `NO_PROVIDER`, which is worth another try, or `OPERATION_NOT_FOUND`, which is not.
//!
//! Invariants
//! - Looks are few: many names in one statement, one statement at a time, a pause after each, and a name that the store
//!   did not know is not asked for again for a while.
//! - Without a look, for want of Postgres, time or room, the hub answers by what it remembers.
//! - What waits is bounded in number and bytes.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use alkhub_protocol::{CallRequest, OperationName};
use alkhub_store::Store;
use parking_lot::Mutex;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::call::CallTimes;
use crate::caller::Caller;
use crate::directory::{Directory, Pool};
use crate::journal::Journal;
use crate::outcome::End;
use crate::router::{self, Wanted};
use crate::sink::Sink;

/// Calls that wait for a look at most.
const WAITING: usize = 1_024;

/// Bytes of their inputs at most.
const BYTES: usize = 8 * 1024 * 1024;

/// Calls answered by one look.
const BATCH: usize = 256;

/// Between two looks.
const PAUSE: Duration = Duration::from_millis(20);

/// A look may take so long.
const LOOK: Duration = Duration::from_secs(1);

/// A name that the store does not know is not asked for again for this long.
const UNKNOWN: Duration = Duration::from_secs(10);

/// Names that the store does not know, remembered at most.
const UNKNOWN_NAMES: usize = 10_000;

/// Calls of names that this hub does not remember.
#[derive(Debug)]
pub(crate) struct UnknownNames {
    directory: Arc<Directory>,
    store: Store,
    journal: Journal,
    stop: CancellationToken,
    sender: mpsc::Sender<Box<Missed>>,
    receiver: Mutex<Option<mpsc::Receiver<Box<Missed>>>>,
    bytes: AtomicUsize,
    unknown: Mutex<HashMap<OperationName, Instant>>,
}

/// A call that waits to be refused.
#[derive(Debug)]
pub(crate) struct Missed {
    pub(crate) caller: Arc<Caller>,
    pub(crate) request: CallRequest,
    pub(crate) times: CallTimes,
    pub(crate) sink: Sink,
}

// === impl UnknownNames ===

impl UnknownNames {
    pub(crate) fn new(directory: Arc<Directory>, store: Store, journal: Journal, stop: CancellationToken) -> Self {
        let (sender, receiver) = mpsc::channel(WAITING);
        Self {
            directory,
            store,
            journal,
            stop,
            sender,
            receiver: Mutex::new(Some(receiver)),
            bytes: AtomicUsize::new(0),
            unknown: Mutex::default(),
        }
    }

    /// Whether the store was asked for a name a moment ago and did not know it.
    fn is_unknown(&self, name: &OperationName) -> bool {
        let since = self.unknown.lock().get(name).copied();
        since.is_some_and(|since| since.elapsed() < UNKNOWN)
    }

    fn note_unknown(&self, name: OperationName) {
        let mut unknown = self.unknown.lock();
        if unknown.len() >= UNKNOWN_NAMES {
            unknown.retain(|_, since| since.elapsed() < UNKNOWN);
        }
        if unknown.len() < UNKNOWN_NAMES {
            unknown.insert(name, Instant::now());
        }
    }

    /// Queues a call; gives it back when there is no room.
    fn queue(&self, missed: Box<Missed>) -> Result<(), Box<Missed>> {
        let size = missed.request.input_or_null().len();
        if self.bytes.fetch_add(size, Ordering::AcqRel) + size > BYTES {
            self.bytes.fetch_sub(size, Ordering::AcqRel);
            return Err(missed);
        }
        self.sender.try_send(missed).map_err(|full| {
            self.bytes.fetch_sub(size, Ordering::AcqRel);
            full.into_inner()
        })
    }

    /// Whether the store may know a name that this hub does not remember.
    pub(crate) fn may_have_forgotten(&self, name: &OperationName) -> bool {
        self.store.ready() && !self.is_unknown(name)
    }

    /// Refuses a call of a name that this hub does not know: after a look into the store, or at once where there is no
    /// room for another look.
    pub(crate) fn refuse_after_look(&self, missed: Missed) {
        if let Err(missed) = self.queue(Box::new(missed)) {
            self.refuse_missed(*missed);
        }
    }

    /// Looks up names until the end.
    pub(crate) async fn run(self: Arc<Self>) {
        let Some(mut receiver) = self.receiver.lock().take() else {
            return;
        };
        let mut batch = Vec::with_capacity(BATCH);
        loop {
            let received = self.stop.run_until_cancelled(receiver.recv_many(&mut batch, BATCH));
            if matches!(received.await, None | Some(0)) {
                return;
            }
            let names = batch.iter().map(|missed| missed.request.operation.clone()).collect();
            self.look_up(names).await;
            for missed in batch.drain(..) {
                let size = missed.request.input_or_null().len();
                self.bytes.fetch_sub(size, Ordering::AcqRel);
                self.refuse_missed(*missed);
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    async fn look_up(&self, mut names: BTreeSet<OperationName>) {
        names.retain(|name| self.directory.pool(name).is_none() && !self.is_unknown(name));
        if names.is_empty() {
            return;
        }
        let asked: Vec<OperationName> = names.iter().cloned().collect();
        match tokio::time::timeout(LOOK, self.store.operations().known(&asked)).await {
            Ok(Ok(known)) => {
                for name in &known {
                    self.directory.remember(name);
                    names.remove(name);
                }
                names.into_iter().for_each(|name| self.note_unknown(name));
            }
            Ok(Err(error)) => tracing::debug!(%error, "names of operations could not be looked up"),
            Err(_) => tracing::debug!("names of operations could not be looked up in time"),
        }
    }

    /// Refuses a call by what the hub knows now.
    fn refuse_missed(&self, missed: Missed) {
        let Missed {
            caller,
            request,
            times,
            mut sink,
        } = missed;
        let pool = self.directory.pool(&request.operation);
        let error = match &pool {
            Some(pool) => router::refusal(pool, Wanted::default()),
            None => router::not_found(&request.operation),
        };
        let series = pool.as_deref().and_then(Pool::series);
        self.journal.refused(&caller, &request, &times, &error.code, series);
        sink.end(&request.request_id, End::Failed(error));
    }
}
