//! One of the sessions that a spoke holds, as the other parts of the spoke see it.
//!
//! Invariants
//! - What is shown belongs to the registered session; between two sessions nothing is shown.
//! - At most one request waits for the hub's answer at a time, and whoever waits for it learns when the session ends.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use alkhub_protocol::register::RegisterOutput;
use alkhub_protocol::{InstanceId, RequestId};
use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::{oneshot, watch};
use tokio::time::timeout;

use super::offers::Answered;
use crate::Error;
use crate::outbox::Outbox;
use crate::session::Whereabouts;

/// Time for the hub to answer a registration that replaces another.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// Time for a session to reach another hub, when it moves of its own accord.
const MOVING: Duration = Duration::from_secs(10);

/// A session of a spoke.
#[derive(Debug)]
pub(super) struct Attachment {
    /// The instance that it registers as.
    pub(super) instance: InstanceId,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// It occupies its share of the spoke's concurrency: it is registering, registered, or coming back.
    has_room: bool,
    /// Whether it has a connection.
    is_there: bool,
    /// Where it has moved, until the registration says so.
    at: Option<Whereabouts>,
    registered: Option<RegisteredSession>,
    /// The request that waits for the hub's answer.
    asked: Option<Asked>,
}

/// A request about a registration, and who waits for its answer.
pub(super) type Asked = (RequestId, oneshot::Sender<Result<RegisterOutput, Error>>);

#[derive(Debug)]
struct RegisteredSession {
    outbox: Outbox,
    output: Arc<RegisterOutput>,
    /// The concurrency that it is registered with.
    concurrency: Option<u32>,
    /// The number of the change of offers that it is registered with.
    number: u64,
}

// === impl Attachment ===

impl Attachment {
    pub(super) fn new(instance: InstanceId) -> Self {
        Self {
            instance,
            state: Mutex::default(),
        }
    }

    /// Notes that a session is about to register.
    pub(super) fn takes_room(&self) {
        let mut state = self.state.lock();
        (state.has_room, state.is_there) = (true, true);
    }

    /// Whether the session occupies its share of the spoke's concurrency, perhaps with its connection lost.
    pub(super) fn has_room(&self) -> bool {
        self.state.lock().has_room
    }

    /// Notes that a session is registered, with this concurrency.
    pub(super) fn begins(&self, outbox: Outbox, answered: Answered, concurrency: Option<u32>) {
        let mut state = self.state.lock();
        let mut session = RegisteredSession {
            outbox,
            output: Arc::new(answered.output),
            concurrency,
            number: answered.number,
        };
        // The answer may have been read before the connection was lost and be looked at only now.
        if let Some(at) = state.at.take() {
            session.is_at(&at);
        }
        state.registered = Some(session);
    }

    /// Notes that its connection is lost, or that there is a new one; returns whether the session is registered.
    pub(super) fn set_there(&self, is_there: bool) -> bool {
        let mut state = self.state.lock();
        if !is_there {
            // The answer may take as long as the session lasts, so nobody should wait for it.
            state.asked = None;
        }
        state.is_there = is_there;
        state.registered.is_some()
    }

    /// Notes where the session goes on.
    pub(super) fn is_at(&self, at: &Whereabouts) {
        let mut state = self.state.lock();
        match &mut state.registered {
            Some(session) => session.is_at(at),
            None => state.at = Some(at.clone()),
        }
    }

    /// Notes that the session is over.
    pub(super) fn ends(&self) {
        *self.state.lock() = State::default();
    }

    /// Its registration, while it has a connection.
    pub(super) fn output(&self) -> Option<Arc<RegisterOutput>> {
        let state = self.state.lock();
        state.there().map(|session| session.output.clone())
    }

    /// The hub that has it, by its `hubId`, while it has a connection.
    pub(super) fn hub(&self) -> Option<String> {
        let state = self.state.lock();
        state.there().map(RegisteredSession::hub)
    }

    /// The hub that has it, or had it when its connection was lost: it may come back there.
    pub(super) fn last_hub(&self) -> Option<String> {
        self.state.lock().registered.as_ref().map(RegisteredSession::hub)
    }

    /// The concurrency that it is registered with, while it has a connection.
    pub(super) fn concurrency(&self) -> Option<Option<u32>> {
        let state = self.state.lock();
        state.there().map(|session| session.concurrency)
    }

    /// Whether it is registered with this change of the spoke's offers, or there is neither a session nor one about to
    /// register.
    pub(super) fn offers(&self, number: u64) -> bool {
        let state = self.state.lock();
        match &state.registered {
            Some(session) => session.number == number,
            None => !state.has_room,
        }
    }

    /// The outbox of the session, if there is one.
    pub(super) fn outbox(&self) -> Option<Outbox> {
        let state = self.state.lock();
        state.registered.as_ref().map(|session| session.outbox.clone())
    }

    /// Whether its connection is lost, and its hub may lack answers to calls.
    pub(super) fn owes_answers(&self) -> bool {
        let state = self.state.lock();
        let registered = state.registered.as_ref().filter(|_| !state.is_there);
        registered.is_some_and(|session| session.outbox.owes_answers())
    }

    /// Whether its connection is lost, and it may come back.
    pub(super) fn comes_back(&self) -> bool {
        let state = self.state.lock();
        state.registered.is_some() && !state.is_there
    }

    /// How many hubs there are, according to its hub, while it has a connection.
    pub(super) fn hubs(&self) -> Option<watch::Receiver<u32>> {
        let state = self.state.lock();
        state.there().map(|session| session.outbox.hubs())
    }

    /// Sends messages over the session, if there is one.
    pub(super) fn send(&self, messages: impl Iterator<Item = Bytes>) {
        if let Some(outbox) = self.outbox() {
            messages.for_each(|message| outbox.push(message));
        }
    }

    /// Moves the session to another connection, as if its hub had asked for that.
    pub(super) fn move_on(&self) {
        let state = self.state.lock();
        if let Some(session) = state.there() {
            session.outbox.move_on(MOVING);
        }
    }

    /// Sends the session's hub a request about its registration and waits, for a limited time, for the answer; whatever
    /// the hub sent before arrives before it. The message that `message` makes is sent before that of any later call.
    ///
    /// # Errors
    /// There is no session, its hub refuses, or it is silent.
    pub(super) async fn ask(&self, message: impl FnOnce(&RequestId) -> Bytes) -> Result<RegisterOutput, Error> {
        let (sender, answer) = oneshot::channel();
        {
            let mut state = self.state.lock();
            let session = state.registered.as_ref().filter(|session| session.outbox.is_open());
            let (id, outbox) = (crate::client::new_id(), session.ok_or(Error::Closed)?.outbox.clone());
            state.asked = Some((id.clone(), sender));
            outbox.push(message(&id));
        }
        match timeout(ANSWER_TIMEOUT, answer).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(_)) => Err(Error::Lost),
            Err(_) => Err(Error::Timeout(ANSWER_TIMEOUT)),
        }
    }

    /// Resolves when the session's hub says nothing at all for this long, although it is sent pings; at once if there is
    /// no session.
    pub(super) async fn silent(&self, time: Duration) {
        if let Some(outbox) = self.outbox() {
            outbox.silent(time).await;
        }
    }

    /// Notes what the session is registered as from now on, with this concurrency.
    pub(super) fn set_registered(&self, answered: Answered, concurrency: Option<u32>) {
        if let Some(session) = &mut self.state.lock().registered {
            session.output = Arc::new(answered.output);
            session.concurrency = concurrency;
            session.number = answered.number;
        }
    }

    /// Notes the registration after a change with this number: the results of the added operations come from the
    /// answer, those of the others from before, without the removed ones.
    pub(super) fn updated(&self, mut output: RegisterOutput, removed: HashSet<String>, number: u64) {
        let mut state = self.state.lock();
        let before = state.registered.as_mut().filter(|session| session.number + 1 == number);
        if let Some(session) = before {
            let mut out = removed;
            out.extend(output.operations.iter().map(|added| added.name.clone()));
            let mut operations = session.output.operations.clone();
            operations.retain(|operation| !out.contains(&operation.name));
            operations.append(&mut output.operations);
            session.output = Arc::new(RegisterOutput { operations, ..output });
            session.number = number;
        }
    }

    /// Notes the hub's answer to a request, perhaps the one that is being waited for.
    pub(super) fn answered(&self, request_id: &RequestId, output: Result<RegisterOutput, Error>) {
        let asked = self.state.lock().asked.take_if(|(id, _)| id == request_id);
        if let Some((_, waiting)) = asked {
            // Whoever was waiting may have run out of time.
            let _ = waiting.send(output);
        }
    }
}

// === impl State, RegisteredSession ===

impl State {
    /// The session that is registered, while it has a connection.
    fn there(&self) -> Option<&RegisteredSession> {
        self.registered.as_ref().filter(|_| self.is_there)
    }
}

impl RegisteredSession {
    fn is_at(&mut self, at: &Whereabouts) {
        let before = &*self.output;
        self.output = Arc::new(RegisterOutput {
            hub_id: at.hub.parse().unwrap_or_else(|_| before.hub_id.clone()),
            generation: at.generation.unwrap_or(before.generation),
            ..before.clone()
        });
    }

    fn hub(&self) -> String {
        let named = self.outbox.kept(|kept| kept.hub().map(str::to_owned));
        named.unwrap_or_else(|| self.output.hub_id.to_string())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// The hub's answer is read, then the connection ends, and only then is the answer looked at.
    #[test]
    fn a_session_that_is_registered_after_its_connection_was_lost_is_not_there() {
        let attachment = Attachment::new("one".parse().expect("valid"));
        let output = json!({
            "spokeId": "text", "instanceId": "one", "generation": 1, "hubId": "h1", "heartbeatMs": 10_000, "operations": [],
        });
        let output = serde_json::from_value(output).expect("an answer");
        attachment.takes_room();

        assert!(!attachment.set_there(false));
        attachment.begins(Outbox::default(), Answered { output, number: 0 }, None);

        assert!(attachment.output().is_none() && attachment.hubs().is_none());
        attachment.is_at(&Whereabouts {
            hub: "h2".to_owned(),
            generation: Some(2),
        });
        assert!(attachment.set_there(true));
        let there = attachment.output().expect("it is back");
        assert_eq!((there.hub_id.as_str(), there.generation), ("h2", 2));
    }
}
