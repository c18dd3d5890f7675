//! One registration of an instance, as its surface holds it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use alkhub_hub_cluster::{Cluster, DirectoryEntry};
use alkhub_protocol::{CallError, Code, Delivered, Frame, RequestId};
use tokio::runtime::Handle;
use tokio_util::task::TaskTracker;

use super::{OccupiedSlots, Session, spoken};
use crate::directory::Instance;
use crate::directory::operation::BAD_GATEWAY;
use crate::leg::answer::Answers;
use crate::leg::call::Call;
use crate::leg::call_id::LegIds;
use crate::leg::departure::Departures;
use crate::leg::outcome::End;
use crate::leg::table::CallTable;
use crate::relay::late::LateAnswers;

/// How long a registration that is closed waits until the directory has noted that its spoke has left.
const UNREGISTER_WAIT: Duration = Duration::from_secs(5);

/// A spoke that is back this soon has not been away: when a network fails, many connections are lost and come back
/// together.
const BLIP: Duration = Duration::from_millis(200);

/// What makes a session an instance of a spoke. Dropping or closing it ends the session, and fails the calls that run
/// on it with `SPOKE_LOST`.
///
/// A session that registers again gets a new one; the old one has no further effect.
#[derive(Debug)]
pub struct Registration {
    context: Arc<RegistrationContext>,
    session: Arc<Session>,
    generation: u64,
    /// Whether its end has begun.
    ended: AtomicBool,
}

/// What registrations act on.
#[derive(Debug)]
pub(crate) struct RegistrationContext {
    pub(crate) answers: Arc<Answers>,
    pub(crate) late: LateAnswers,
    pub(crate) table: Arc<CallTable>,
    pub(crate) legs: LegIds,
    pub(crate) departures: Arc<Departures>,
    pub(crate) cluster: Cluster,
    pub(crate) tasks: TaskTracker,
    /// For tasks that are spawned when a session is dropped, which may happen outside the runtime.
    pub(crate) runtime: Handle,
}

// === impl Registration ===

impl Registration {
    pub(crate) fn new(context: &Arc<RegistrationContext>, session: &Arc<Session>, generation: u64) -> Self {
        Self {
            context: Arc::clone(context),
            session: Arc::clone(session),
            generation,
            ended: AtomicBool::new(false),
        }
    }

    /// The fencing number of its record.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// Takes a message of the spoke about a call: responded, completed, failed or aborted. It is ignored if the call
    /// was not sent over this very session, since answers may be late. But if the spoke got the call from a hub that is
    /// now gone, the answer goes to the hub of the call's caller.
    pub fn received(&self, mut frame: Frame) {
        let id = match &frame {
            Frame::Responded { request_id, .. }
            | Frame::Completed { request_id }
            | Frame::Aborted { request_id }
            | Frame::Failed { request_id, .. } => request_id,
            _ => return,
        };
        self.session.hear();
        let Some((call, attempt)) = self.call(id) else {
            return self.context.late.received(&self.session, frame);
        };
        // That an earlier attempt came to nothing says nothing about the present one.
        if attempt.is_none() && matches!(frame, Frame::Completed { .. } | Frame::Aborted { .. }) {
            return;
        }
        if let Frame::Failed { error, .. } = &mut frame {
            spoken::bound(error, &call.operation.spec.error_schemas);
        }
        self.context.answers.take(&call, frame, attempt);
    }

    /// Takes a message of the spoke about a call that cannot be read: the call ends, because its answer is lost.
    pub fn broken(&self, request_id: &RequestId, fault: &CallError) {
        self.session.hear();
        if let Some((call, attempt)) = self.call(request_id) {
            let code = match fault.code {
                Code::PayloadTooLarge => Code::PayloadTooLarge,
                _ => Code::OutputInvalid,
            };
            let message = format!("the spoke's answer cannot be read: {}", fault.message);
            let mut error = CallError::new(code, message).delivered(Delivered::Yes);
            // A declared status, because nothing that the caller sent was too large.
            error.declared_status = Some(BAD_GATEWAY);
            let end = End::Failed(error);
            if call.operation.is_subscription() {
                self.context.table.end(call.key, end, Some("an item cannot be read"));
            } else {
                self.context.table.answered(call.key, end, attempt);
            }
        }
    }

    /// The running call that the spoke means, and the attempt: none if the spoke means an earlier one than the present.
    fn call(&self, id: &RequestId) -> Option<(Arc<Call>, Option<u8>)> {
        let key = self.context.legs.key(id)?;
        let (call, attempt) = self.context.table.attempt_on(&self.session, key)?;
        let is_present = LegIds::is_again(id) == call.was_lost();
        Some((call, is_present.then_some(attempt)))
    }

    /// Its record, if that is still the current one of the instance.
    pub(crate) fn entry(&self) -> Option<DirectoryEntry> {
        self.held().map(|held| held.entry.clone())
    }

    /// Its instance in the directory, if that still stands for this session.
    fn held(&self) -> Option<Arc<Instance>> {
        let (spoke, instance) = (&self.session.spoke, &self.session.instance);
        let held = self.context.departures.directory.instance(spoke, instance);
        held.filter(|held| held.is_of(&self.session))
    }

    /// The ids of the calls that run on it, as the spoke knows them.
    pub fn running(&self) -> Vec<String> {
        let RegistrationContext { table, legs, .. } = &*self.context;
        let running = self.session.running().into_iter();
        let running = running.filter_map(|key| table.get(key));
        running.map(|call| call.leg_id(legs)).collect()
    }

    /// Whether nothing runs on it, and no call of this hub is sent to it any more because another registration of the
    /// instance has taken its place.
    pub fn is_over(&self) -> bool {
        self.held().is_none() && self.session.running().is_empty()
    }

    /// The slots of its instance, for the calls that the hub from which it came still has running on it.
    pub fn slots(&self) -> OccupiedSlots {
        OccupiedSlots::new(&self.session.load)
    }

    /// Its session.
    pub(crate) fn session(&self) -> &Arc<Session> {
        &self.session
    }

    /// Whether no later session of the connection has taken over.
    pub fn is_current(&self) -> bool {
        self.session.generation() == self.generation
    }

    /// Notes that the spoke has sent something; this is written to the store at most once a minute.
    pub fn heartbeat(&self) {
        self.session.hear();
    }

    /// Notes whether the connection of the spoke is lost while its session waits for another one. All hubs learn of it,
    /// and prefer other instances. The last call counts.
    pub fn set_reconnecting(&self, is_reconnecting: bool) {
        let Some(told) = self.session.set_reconnecting(is_reconnecting, self.generation) else {
            return;
        };
        self.context.departures.reconnecting(&self.session, is_reconnecting);
        let (cluster, session, generation) = (self.context.cluster.clone(), Arc::clone(&self.session), self.generation);
        let tell = async move {
            if is_reconnecting {
                tokio::time::sleep(BLIP).await;
            }
            let instance = (session.spoke.clone(), session.instance.clone());
            // This fails only while the hub ends.
            drop(cluster.state_changed(instance, generation, told).await);
        };
        self.context.tasks.spawn_on(tell, &self.context.runtime);
    }

    /// Notes that another hub goes on with its session, which still runs calls here.
    pub fn moved(&self) {
        self.context.departures.moved(&self.session);
    }

    /// Ends the registration: running calls fail at once, and then the directory learns of it. If the future is
    /// dropped, a task does the rest.
    pub async fn close(self, reason: &str) {
        tracing::debug!(spoke.id = %self.session.spoke, instance.id = %self.session.instance, reason, "a spoke's session is closed");
        let Some(unregistered) = self.end() else { return };
        // The task goes on even if this is dropped.
        if tokio::time::timeout(UNREGISTER_WAIT, unregistered).await.is_err() {
            tracing::warn!(spoke.id = %self.session.spoke, "the directory has not noted yet that a spoke left");
        }
    }

    /// Ends the registration, once, unless a later one of the session has taken over.
    ///
    /// The session may have ended already, by an earlier registration or by a newer session of the instance. The record
    /// of this registration is taken away all the same.
    fn end(&self) -> Option<tokio::task::JoinHandle<()>> {
        if self.ended.swap(true, Ordering::AcqRel) || self.session.generation() != self.generation {
            return None;
        }
        if !self.context.departures.end(&self.session) {
            self.context.departures.forget(&self.session);
        }
        let (cluster, session) = (self.context.cluster.clone(), Arc::clone(&self.session));
        let generation = self.generation;
        // This is fenced, so a later registration of the instance stays. There is no time limit, however many wait
        // before it: otherwise the record of a spoke that is gone would be asserted again and again. The directory
        // bounds each of its waits.
        let unregister = async move {
            let unregistered = cluster.unregister(&session.spoke, &session.instance, generation).await;
            if let Err(error) = unregistered {
                tracing::warn!(spoke.id = %session.spoke, %error, "a spoke that left could not be taken out of the directory");
            }
        };
        Some(self.context.tasks.spawn_on(unregister, &self.context.runtime))
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        drop(self.end());
    }
}
