//! One running call: who asked, where it was sent, where its answers go.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use alkhub_protocol::call::Identity;
use alkhub_protocol::frame::encode::RequestOptions;
use alkhub_protocol::{CallRequest, HubId, RequestId, SpokeName};
use jiff::Timestamp;
use parking_lot::Mutex;
use tokio::time::Instant;

use crate::admission::quota::KeyPlace;
use crate::caller::Caller;
use crate::directory::Instance;
use crate::directory::operation::Operation;
use crate::leg::call_id::{CallId, LegIds};
use crate::leg::input::Input;
use crate::leg::pending::Timed;
use crate::leg::sink::Sink;
use crate::relay::RemoteCall;
use crate::relay::arrival_queue::ArrivalQueue;

/// An entry of the pending table.
#[derive(Debug)]
pub(crate) struct Call {
    /// Its place in the table of this hub.
    pub(crate) key: u64,
    pub(crate) id: CallId,
    pub(crate) source: CallSource,
    pub(crate) operation: Arc<Operation>,
    /// Its input is not in here.
    pub(crate) request: CallRequest,
    pub(crate) input: Arc<Input>,
    /// Its place among the running calls of the caller's key.
    pub(crate) running: KeyPlace,
    pub(crate) times: CallTimes,
    pub(crate) leg: Mutex<Leg>,
    /// The spoke with which it was lost, once it is on its way to another one; set under the lock of its leg.
    lost_with: OnceLock<SpokeName>,
    pub(crate) sink: Mutex<Sink>,
    /// What came back from another hub and is not checked yet.
    pub(crate) arrivals: ArrivalQueue,
    /// The bytes of its output so far.
    pub(crate) output_bytes: AtomicU64,
    /// Whether its caller's rights have changed since it was admitted.
    has_other_rights: AtomicBool,
}

/// What a call begins with.
pub(crate) struct CallParts {
    pub(crate) key: u64,
    pub(crate) id: CallId,
    pub(crate) source: CallSource,
    pub(crate) operation: Arc<Operation>,
    /// Its input is not in here.
    pub(crate) request: CallRequest,
    pub(crate) input: Input,
    pub(crate) running: KeyPlace,
    pub(crate) times: CallTimes,
    pub(crate) sink: Sink,
}

/// How long a call may take; `None` means without end.
#[derive(Clone, Copy, Debug)]
pub(crate) struct TimeLimits {
    /// For the whole call.
    pub(crate) timeout: Option<Duration>,
    /// From one item to the next.
    pub(crate) idle: Option<Duration>,
}

/// Who sent the call here.
#[derive(Debug)]
pub(crate) enum CallSource {
    /// A caller of this hub.
    Caller(Arc<Caller>),
    /// Another hub, which checks and records the call; with what it says about the caller.
    Hub {
        call: RemoteCall,
        identity: Option<Box<Identity>>,
        /// Whether this hub may give it back, for another instance to take it.
        may_come_back: bool,
        /// Its place among the calls of other hubs.
        place: KeyPlace,
    },
}

/// When the call began, and when it ends by itself.
#[derive(Debug)]
pub(crate) struct CallTimes {
    pub(crate) started: Instant,
    pub(crate) started_at: Timestamp,
    pub(crate) deadline: Option<Instant>,
    pub(crate) idle: Option<Duration>,
    /// When the last item came, in milliseconds after `started`.
    heard_ms: AtomicU64,
}

/// Where the call is.
#[derive(Debug, Default)]
pub(crate) struct Leg {
    pub(crate) to: To,
    /// How many times it was sent again.
    pub(crate) resent: u8,
}

/// The other end of a leg.
#[derive(Debug, Default)]
pub(crate) enum To {
    /// Not sent yet.
    #[default]
    Nobody,
    /// To a connection of this hub, under this number of its outbox.
    Spoke { instance: Arc<Instance>, number: u64 },
    /// To the hub that holds the instance.
    Hub { instance: Arc<Instance> },
    /// The call has ended.
    Ended,
}

// === impl CallSource ===

impl CallSource {
    /// The id of the key that pays for the call.
    pub(crate) fn payer(&self) -> Arc<str> {
        match self {
            Self::Caller(caller) => Arc::clone(&caller.key_id),
            Self::Hub { call, identity, .. } => payer(&call.hub, identity.as_deref()),
        }
    }
}

// === impl Call ===

impl Call {
    /// A call that has been sent to nobody.
    pub(crate) fn new(parts: CallParts) -> Self {
        Self {
            key: parts.key,
            id: parts.id,
            source: parts.source,
            operation: parts.operation,
            request: parts.request,
            input: Arc::new(parts.input),
            running: parts.running,
            times: parts.times,
            leg: Mutex::default(),
            lost_with: OnceLock::new(),
            sink: Mutex::new(parts.sink),
            arrivals: ArrivalQueue::default(),
            output_bytes: AtomicU64::new(0),
            has_other_rights: AtomicBool::new(false),
        }
    }

    /// Notes that its caller's rights have changed.
    pub(crate) fn rights_changed(&self) {
        self.has_other_rights.store(true, Ordering::Release);
    }

    /// Whether its caller's rights have changed since it was admitted.
    pub(crate) fn has_other_rights(&self) -> bool {
        self.has_other_rights.load(Ordering::Acquire)
    }

    /// Notes that it leaves for another spoke because this one, which may have got it, is lost.
    pub(crate) fn note_loss(&self, spoke: &SpokeName) {
        // It happens once.
        drop(self.lost_with.set(spoke.clone()));
    }

    /// The spoke with which it was lost, if it was sent again for that.
    pub(crate) fn lost_with(&self) -> Option<&SpokeName> {
        self.lost_with.get()
    }

    /// Whether it was sent again because a spoke that may have got it was lost.
    pub(crate) fn was_lost(&self) -> bool {
        self.lost_with.get().is_some()
    }

    /// How often it was sent again because nobody had got it, by its leg.
    pub(crate) fn came_back(&self, leg: &Leg) -> u8 {
        leg.resent - u8::from(self.was_lost())
    }

    /// The hub that it goes to or comes from. It is never both, because a call crosses between hubs only once.
    pub(crate) fn other_hub(&self) -> Option<HubId> {
        if let CallSource::Hub { call, .. } = &self.source {
            return Some(call.hub.clone());
        }
        match &self.leg.lock().to {
            To::Hub { instance } => Some(instance.entry.hub.clone()),
            To::Nobody | To::Spoke { .. } | To::Ended => None,
        }
    }

    /// The registration of another hub to which it was sent, if that is still its place, in this attempt.
    pub(crate) fn at_hub(&self, remote: &RemoteCall) -> Option<Arc<Instance>> {
        let leg = self.leg.lock();
        match &leg.to {
            To::Hub { instance } if instance.entry.hub == remote.hub && leg.resent == remote.attempt => {
                Some(Arc::clone(instance))
            }
            To::Hub { .. } | To::Spoke { .. } | To::Nobody | To::Ended => None,
        }
    }

    /// The id by which a spoke of this hub knows it.
    pub(crate) fn leg_id(&self, legs: &LegIds) -> String {
        let origin = match &self.source {
            CallSource::Hub { call, .. } => Some((&call.hub, call.key)),
            CallSource::Caller(_) => None,
        };
        legs.id(self.key, origin, self.was_lost())
    }

    /// Who asks, as the spoke sees it, according to the hub that holds the caller's key.
    pub(crate) fn identity(&self) -> Option<Identity> {
        match &self.source {
            CallSource::Caller(caller) => Some(caller.identity(&self.operation.spec.access_control)),
            CallSource::Hub { identity, .. } => identity.as_deref().cloned(),
        }
    }

    /// What its `call.requested` carries now besides the input.
    pub(crate) fn options<'a>(&'a self, identity: Option<&'a Identity>) -> RequestOptions<'a> {
        RequestOptions {
            parent: self.request.parent.as_ref().map(RequestId::as_str),
            traceparent: self.request.traceparent.as_deref(),
            metadata: self.request.metadata.as_ref(),
            identity,
            ..self.times.options()
        }
    }

    /// Whether the spoke has answered anything yet.
    pub(crate) fn has_output(&self) -> bool {
        self.output_bytes.load(Ordering::Relaxed) > 0
    }

    /// Whether its caller is on another hub.
    pub(crate) fn is_relayed(&self) -> bool {
        matches!(self.source, CallSource::Hub { .. })
    }
}

impl Timed for Call {
    fn due(&self) -> Option<Instant> {
        let silent = self.times.idle.map(|idle| self.times.heard() + idle);
        [self.times.deadline, silent].into_iter().flatten().min()
    }
}

// === impl CallTimes ===

impl CallTimes {
    /// Starts now, without an end.
    pub(crate) fn start() -> Self {
        Self {
            started: Instant::now(),
            started_at: Timestamp::now(),
            deadline: None,
            idle: None,
            heard_ms: AtomicU64::new(0),
        }
    }

    /// The same start, but without an end.
    pub(crate) fn anew(&self) -> Self {
        Self {
            started: self.started,
            started_at: self.started_at,
            deadline: None,
            idle: None,
            heard_ms: AtomicU64::new(0),
        }
    }

    /// Sets the ends.
    pub(crate) fn until(mut self, limits: TimeLimits) -> Self {
        self.deadline = limits.timeout.and_then(|timeout| self.started.checked_add(timeout));
        self.idle = limits.idle;
        self
    }

    /// Notes an item: the silence begins again.
    pub(crate) fn hear(&self) {
        if self.idle.is_some() {
            let ms = u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX);
            self.heard_ms.store(ms, Ordering::Release);
        }
    }

    /// The times that its `call.requested` carries now.
    fn options(&self) -> RequestOptions<'static> {
        let now = Instant::now();
        let started_ms = u64::try_from(self.started_at.as_millisecond()).unwrap_or_default();
        let passed_ms = u64::try_from(now.saturating_duration_since(self.started).as_millis()).unwrap_or_default();
        RequestOptions {
            timeout: self.deadline.map(|deadline| deadline.saturating_duration_since(now)),
            idle_timeout: self.idle,
            now_ms: started_ms.saturating_add(passed_ms),
            ..RequestOptions::default()
        }
    }

    /// Whether the deadline has ended the call, and not a silence.
    pub(crate) fn is_past_deadline(&self) -> bool {
        self.deadline.is_some_and(|deadline| deadline <= Instant::now())
    }

    fn heard(&self) -> Instant {
        self.started + Duration::from_millis(self.heard_ms.load(Ordering::Acquire))
    }
}

// === impl To ===

impl To {
    /// At an instance, whose outbox has the call under this number if its session is here.
    pub(crate) fn at(instance: Arc<Instance>, number: Option<u64>) -> Self {
        match number {
            Some(number) => Self::Spoke { instance, number },
            None => Self::Hub { instance },
        }
    }

    pub(crate) fn instance(&self) -> Option<&Arc<Instance>> {
        match self {
            Self::Spoke { instance, .. } | Self::Hub { instance } => Some(instance),
            Self::Nobody | Self::Ended => None,
        }
    }
}

/// The id of the key that pays for a call from another hub. One that names no caller is paid for by its hub.
pub(crate) fn payer(hub: &HubId, identity: Option<&Identity>) -> Arc<str> {
    match identity {
        Some(identity) => Arc::from(identity.id.as_str()),
        None => Arc::from(format!("hub {hub}")),
    }
}
