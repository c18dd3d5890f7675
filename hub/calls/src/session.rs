//! The spoke leg of one connection, as its surface holds it.

pub(crate) mod spoken;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use alkhub_hub_cluster::Cluster;
use alkhub_protocol::{CallError, Code, Delivered, Frame, RequestId};
use tokio::runtime::Handle;
use tokio_util::task::TaskTracker;

use crate::answer::Answers;
use crate::call::Call;
use crate::call_id::LegIds;
use crate::departure::Departures;
use crate::link::Link;
use crate::operation::BAD_GATEWAY;
use crate::outcome::End;
use crate::table::CallTable;

/// How long a closed session waits until the directory has noted that its spoke has left.
const UNREGISTER_WAIT: Duration = Duration::from_secs(5);

/// A registered connection: dropping it, or closing it, fails the calls that run on it with `SPOKE_LOST`.
///
/// A connection that registers again gets a new session; the one before does nothing more then.
#[derive(Debug)]
pub struct Session {
    context: Arc<SessionContext>,
    link: Arc<Link>,
    generation: u64,
    /// Whether its end has begun.
    ended: AtomicBool,
}

/// What sessions act on.
#[derive(Debug)]
pub(crate) struct SessionContext {
    pub(crate) answers: Arc<Answers>,
    pub(crate) table: Arc<CallTable>,
    pub(crate) legs: LegIds,
    pub(crate) departures: Arc<Departures>,
    pub(crate) cluster: Cluster,
    pub(crate) tasks: TaskTracker,
    /// For what is spawned when a session is dropped: that may happen outside the runtime.
    pub(crate) runtime: Handle,
}

// === impl Session ===

impl Session {
    pub(crate) fn new(context: &Arc<SessionContext>, link: &Arc<Link>, generation: u64) -> Self {
        Self {
            context: Arc::clone(context),
            link: Arc::clone(link),
            generation,
            ended: AtomicBool::new(false),
        }
    }

    /// The fencing number of its record.
    pub(crate) fn generation(&self) -> u64 {
        self.generation
    }

    /// Takes what the spoke says of a call: responded, completed, failed, aborted. What concerns no call that was
    /// sent to this very connection is ignored: the answer may be late.
    pub fn received(&self, mut frame: Frame) {
        let id = match &frame {
            Frame::Responded { request_id, .. }
            | Frame::Completed { request_id }
            | Frame::Aborted { request_id }
            | Frame::Failed { request_id, .. } => request_id,
            _ => return,
        };
        self.link.hear();
        if let Some(call) = self.call(id) {
            if let Frame::Failed { error, .. } = &mut frame {
                spoken::bound(error, &call.operation.spec.error_schemas);
            }
            self.context.answers.take(&call, frame);
        }
    }

    /// Takes a message of the spoke about a call that cannot be read: the call ends, for its answer is lost.
    pub fn broken(&self, request_id: &RequestId, fault: &CallError) {
        self.link.hear();
        if let Some(call) = self.call(request_id) {
            let code = match fault.code {
                Code::PayloadTooLarge => Code::PayloadTooLarge,
                _ => Code::OutputInvalid,
            };
            let message = format!("the spoke's answer cannot be read: {}", fault.message);
            let mut error = CallError::new(code, message).delivered(Delivered::Yes);
            // Nothing that the caller sent is too large.
            error.declared_status = Some(BAD_GATEWAY);
            let running = call.operation.is_subscription().then_some("an item cannot be read");
            self.context.table.end(call.key, End::Failed(error), running);
        }
    }

    /// The running call that the spoke means.
    fn call(&self, id: &RequestId) -> Option<Arc<Call>> {
        let key = self.context.legs.key(id)?;
        self.context.table.on(&self.link, key)
    }

    /// The connection, and what has run on it.
    pub(crate) fn link(&self) -> &Arc<Link> {
        &self.link
    }

    /// Whether no later session of the connection has taken over.
    pub fn is_current(&self) -> bool {
        self.link.generation() == self.generation
    }

    /// Notes that the spoke was heard; written to the store once a minute at most.
    pub fn heartbeat(&self) {
        self.link.hear();
    }

    /// Ends the registration: running calls fail at once, then the directory is told. Dropping the future leaves the
    /// rest to a task.
    pub async fn close(self, reason: &str) {
        tracing::debug!(spoke.id = %self.link.spoke, instance.id = %self.link.instance, reason, "a spoke's session is closed");
        let Some(told) = self.end() else { return };
        // The task goes on when this is dropped.
        if tokio::time::timeout(UNREGISTER_WAIT, told).await.is_err() {
            tracing::warn!(spoke.id = %self.link.spoke, "the directory has not noted yet that a spoke left");
        }
    }

    /// Ends the registration, once, unless a later session of the connection has taken over.
    ///
    /// The link may be lost already, by an earlier session or by a newer connection of the instance: the record of this
    /// one is taken away all the same.
    fn end(&self) -> Option<tokio::task::JoinHandle<()>> {
        if self.ended.swap(true, Ordering::AcqRel) || self.link.generation() != self.generation {
            return None;
        }
        if !self.context.departures.lose(&self.link) {
            self.context.departures.forget(&self.link);
        }
        let (cluster, link) = (self.context.cluster.clone(), Arc::clone(&self.link));
        let generation = self.generation;
        // Fenced: a later registration of the instance stays. Not given up in time, however many wait before it: the
        // record would be asserted again and again, of a spoke that is not there. The directory bounds each of its waits.
        let tell = async move {
            let told = cluster.unregister(&link.spoke, &link.instance, generation).await;
            if let Err(error) = told {
                tracing::warn!(spoke.id = %link.spoke, %error, "the directory was not told that a spoke left");
            }
        };
        Some(self.context.tasks.spawn_on(tell, &self.context.runtime))
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        drop(self.end());
    }
}
