//! One of the sessions that a spoke holds, as the others of its parts see it.
//!
//! Invariants
//! - What is shown of it is of the session that is registered; between two it shows nothing.
//! - One request waits for its hub's answer at a time, and who waits for it learns when the session ends.

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

/// Time for the hub to answer a registration that takes the place of another one.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// Time for a session to reach another hub, when nobody else wants that.
const MOVING: Duration = Duration::from_secs(10);

/// A session of a spoke.
#[derive(Debug)]
pub(super) struct Attachment {
    /// As what it registers.
    pub(super) instance: InstanceId,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// A part of the spoke's concurrency is its own: it registers, is registered, or comes back.
    has_room: bool,
    /// Whether it has a connection.
    is_there: bool,
    /// Where it has gone on, as long as that is not known of the registration.
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
    /// The calls at once that it is registered with.
    concurrency: Option<u32>,
    /// The change of the spoke's offers that it is registered with.
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

    /// A session is about to register.
    pub(super) fn takes_room(&self) {
        let mut state = self.state.lock();
        (state.has_room, state.is_there) = (true, true);
    }

    /// Whether a part of the spoke's concurrency is the session's, whose connection may be lost.
    pub(super) fn has_room(&self) -> bool {
        self.state.lock().has_room
    }

    /// A session is registered, with so many calls at once.
    pub(super) fn begins(&self, outbox: Outbox, answered: Answered, concurrency: Option<u32>) {
        let mut state = self.state.lock();
        let mut session = RegisteredSession {
            outbox,
            output: Arc::new(answered.output),
            concurrency,
            number: answered.number,
        };
        // The answer may have been read before the connection was lost, and be looked at after that.
        if let Some(at) = state.at.take() {
            session.is_at(&at);
        }
        state.registered = Some(session);
    }

    /// Its connection is lost, or there is another one; whether that is of a session that is registered.
    pub(super) fn set_there(&self, is_there: bool) -> bool {
        let mut state = self.state.lock();
        if !is_there {
            // The answer may take as long as the session lasts: nobody waits for that.
            state.asked = None;
        }
        state.is_there = is_there;
        state.registered.is_some()
    }

    /// The session goes on here.
    pub(super) fn is_at(&self, at: &Whereabouts) {
        let mut state = self.state.lock();
        match &mut state.registered {
            Some(session) => session.is_at(at),
            None => state.at = Some(at.clone()),
        }
    }

    /// The session is over.
    pub(super) fn ends(&self) {
        *self.state.lock() = State::default();
    }

    /// What it is registered as, while it has a connection.
    pub(super) fn output(&self) -> Option<Arc<RegisterOutput>> {
        let state = self.state.lock();
        state.there().map(|session| session.output.clone())
    }

    /// The hub that has it, by its `hubId`, while it has a connection.
    pub(super) fn hub(&self) -> Option<String> {
        let state = self.state.lock();
        state.there().map(RegisteredSession::hub)
    }

    /// The hub that has it, or had it when its connection was lost: there it may come back to.
    pub(super) fn last_hub(&self) -> Option<String> {
        self.state.lock().registered.as_ref().map(RegisteredSession::hub)
    }

    /// The calls at once that it is registered with, while it has a connection.
    pub(super) fn concurrency(&self) -> Option<Option<u32>> {
        let state = self.state.lock();
        state.there().map(|session| session.concurrency)
    }

    /// Whether it is registered with this change of the spoke's offers, or there is no session, nor one about to register.
    pub(super) fn offers(&self, number: u64) -> bool {
        let state = self.state.lock();
        match &state.registered {
            Some(session) => session.number == number,
            None => !state.has_room,
        }
    }

    /// What is said over the session, where there is one.
    pub(super) fn outbox(&self) -> Option<Outbox> {
        let state = self.state.lock();
        state.registered.as_ref().map(|session| session.outbox.clone())
    }

    /// How many hubs there are, as its hub says, while it has a connection.
    pub(super) fn hubs(&self) -> Option<watch::Receiver<u32>> {
        let state = self.state.lock();
        state.there().map(|session| session.outbox.hubs())
    }

    /// Says so many messages over the session, where there is one.
    pub(super) fn send(&self, messages: impl Iterator<Item = Bytes>) {
        if let Some(outbox) = self.outbox() {
            messages.for_each(|message| outbox.push(message));
        }
    }

    /// Has the session go on over another connection, as when its hub asks for that.
    pub(super) fn move_on(&self) {
        let state = self.state.lock();
        if let Some(session) = state.there() {
            session.outbox.move_on(MOVING);
        }
    }

    /// Asks the session's hub for something about its registration, and waits for the answer, for a time: what it sent before
    /// comes before that. What `message` makes is sent before what a later call makes.
    ///
    /// # Errors
    /// There is no session, or its hub refuses, or is silent.
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

    /// What the session is registered as from now on, with so many calls at once.
    pub(super) fn set_registered(&self, answered: Answered, concurrency: Option<u32>) {
        if let Some(session) = &mut self.state.lock().registered {
            session.output = Arc::new(answered.output);
            session.concurrency = concurrency;
            session.number = answered.number;
        }
    }

    /// What the session is registered as after a change of this number: what the answer to it says of the operations that were
    /// added, and of the others what was said before, but for those that were removed.
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

    /// The hub has answered a request, perhaps that one.
    pub(super) fn answered(&self, request_id: &RequestId, output: Result<RegisterOutput, Error>) {
        let asked = self.state.lock().asked.take_if(|(id, _)| id == request_id);
        if let Some((_, waiting)) = asked {
            // Who waits may have run out of time.
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

    /// The hub's answer was read, then the end of the connection, and then the answer is looked at.
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
