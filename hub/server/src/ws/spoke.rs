//! The spoke's side of a connection: registration, answers, heartbeat.
//!
//! Invariants
//! - What a spoke says of its calls is taken in the order in which it says it, while it registers too.
//! - What waits for a first registration has a bound in items and in bytes; over it the socket is not read.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Waker};

use std::sync::Arc;

use alkhub_calls::{Caller, Connection, Session};
use alkhub_edge::envelope;
use alkhub_protocol::frame::{Requested, encode};
use alkhub_protocol::register::{RegisterInput, RegisterOutput};
use alkhub_protocol::{CallError, Code, Frame, RawJson, RequestId};

use super::code;
use super::conversation::Conversation;
use super::pending::Done;

/// Answers kept while the first registration of a connection is being confirmed, before its socket is read no more.
const EARLY: usize = 1024;

/// Their bytes, as they were read.
const EARLY_BYTES: usize = 1024 * 1024;

/// As much of what is wrong with a registration is said, in characters: it repeats what the peer wrote.
const SHOWN: usize = 500;

/// What a connection is as a spoke.
#[derive(Default)]
pub(crate) struct Spoke {
    session: Option<Session>,
    /// Registrations under way.
    registering: usize,
    /// A call may arrive before the registration's own answer is read here, and be answered before it too.
    early: Vec<Said>,
    early_bytes: usize,
    /// The end of the session, once that of the connection is decided.
    leaving: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
}

/// What a peer says of a call that was sent to it.
pub(super) enum Said {
    /// Responded, completed, failed or aborted.
    Frame(Frame),
    /// A message of these that cannot be read: of which call, and what is wrong.
    Broken(RequestId, CallError),
}

/// How a registration ended.
pub(crate) struct Registration {
    request_id: RequestId,
    /// Who it was examined for.
    caller: Arc<Caller>,
    result: Result<(RegisterOutput, Session), CallError>,
}

// === impl Spoke ===

impl Spoke {
    /// Whether the peer is no spoke and not about to be one.
    pub(super) fn is_absent(&self) -> bool {
        self.session.is_none() && self.registering == 0
    }

    /// Takes what the peer says, in so many bytes, of a call that was sent to it. Without a session it is late and
    /// means nothing; one that registers again has the session of before until it has the new one.
    pub(super) fn received(&mut self, answer: Said, bytes: usize) {
        match (&self.session, answer) {
            (Some(session), Said::Frame(frame)) => session.received(frame),
            (Some(session), Said::Broken(id, fault)) => session.broken(&id, &fault),
            (None, answer) if self.registering > 0 => {
                self.early.push(answer);
                self.early_bytes += bytes;
            }
            (None, _) => {}
        }
    }

    /// Whether the message is what a spoke says of the calls that it gets: those it is sent at whatever rate.
    pub(super) fn is_answer(&self, frame: &Frame) -> bool {
        let answers = matches!(
            frame,
            Frame::Responded { .. } | Frame::Completed { .. } | Frame::Failed { .. } | Frame::Aborted { .. }
        );
        answers && self.session.is_some()
    }

    /// Bytes that wait for the first registration.
    pub(super) fn early_bytes(&self) -> usize {
        self.early_bytes
    }

    /// Whether so much waits for the registration that the socket must not be read.
    pub(super) fn is_full(&self) -> bool {
        self.early.len() >= EARLY || self.early_bytes >= EARLY_BYTES
    }

    /// Ends the session now; [`Spoke::end`] waits until the directory knows.
    pub(super) fn leave(&mut self, reason: &str) {
        self.registering = 0;
        self.early = Vec::new();
        self.early_bytes = 0;
        if let Some(session) = self.session.take() {
            let reason = reason.to_owned();
            let mut leaving: Pin<Box<dyn Future<Output = ()> + Send>> =
                Box::pin(async move { session.close(&reason).await });
            // Its first poll ends the calls.
            if leaving
                .as_mut()
                .poll(&mut Context::from_waker(Waker::noop()))
                .is_pending()
            {
                self.leaving = Some(leaving);
            }
        }
    }

    pub(super) fn heartbeat(&self) {
        if let Some(session) = &self.session {
            session.heartbeat();
        }
    }

    /// Ends the registration.
    pub(super) async fn end(mut self, reason: &str) {
        self.leave(reason);
        if let Some(leaving) = self.leaving {
            leaving.await;
        }
    }

    fn took(&mut self, session: Option<Session>) {
        self.registering -= 1;
        if session.is_some() {
            self.session = session;
        }
        if self.session.is_some() || self.registering == 0 {
            self.early_bytes = 0;
            for answer in std::mem::take(&mut self.early) {
                self.received(answer, 0);
            }
        }
    }
}

// === impl Conversation ===

impl Conversation {
    /// `hub.register`.
    pub(super) fn register(&mut self, requested: Requested) {
        let request_id = requested.request_id;
        let input = requested.input.unwrap_or_else(RawJson::null);
        let input = match input.to::<RegisterInput>() {
            Ok(input) => input,
            Err(error) => {
                let fault: String = error.to_string().chars().take(SHOWN).collect();
                let message = format!("input of `hub.register` is not valid: {fault}");
                return self.fail(&request_id, &CallError::new(Code::BadRequest, message));
            }
        };
        let connection = Connection {
            id: self.id.clone(),
            outbox: self.outbox.clone(),
            dialect: self.dialect(),
        };
        let (calls, caller) = (self.app.calls.clone(), self.key.caller());
        self.spoke.registering += 1;
        self.pending.add(async move {
            let result = calls.register(&caller, input, connection).await;
            Done::Registered(Box::new(Registration {
                request_id,
                caller,
                result,
            }))
        });
    }

    /// Brings the spoke's registration within what its declaration allows.
    pub(super) fn narrow(&mut self, caller: &Caller) {
        if let Some(session) = &self.spoke.session {
            let narrowing = self.app.calls.narrow(session, caller);
            self.pending
                .add(async move { Done::Narrowed(Box::new(narrowing.await)) });
        }
    }

    /// Takes a narrowed registration over; a spoke whose registration was lost with it has to come again.
    pub(super) fn narrowed(&mut self, narrowed: Result<Option<Session>, CallError>) {
        match narrowed {
            Ok(Some(session)) if session.is_current() => self.spoke.session = Some(session),
            Ok(_) => {}
            Err(error) => {
                tracing::warn!(%error, "a spoke could not be held to its declaration and has to register again");
                let reason = "the spoke's declaration has changed: connect and register again";
                self.outbox.close(code::GOING_AWAY, reason);
            }
        }
    }

    /// Answers a registration.
    pub(super) fn registered(&mut self, registration: Registration) {
        let Registration {
            request_id,
            caller,
            result,
        } = registration;
        match result {
            Ok((output, session)) => {
                let data = serde_json::to_vec(&output).expect("the answer is a plain struct");
                let output = RawJson::parse(envelope::local(&data, Some("hub.register")));
                let output = output.expect("an answer of ours is JSON and shallow");
                self.say(encode::call_responded(self.dialect(), request_id.as_str(), &output));
                self.spoke.took(Some(session));
                let now = self.key.caller();
                if !Arc::ptr_eq(&caller, &now) {
                    // The declaration changed while it was examined.
                    self.narrow(&now);
                }
            }
            Err(error) => {
                self.spoke.took(None);
                self.fail(&request_id, &error);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer() -> Said {
        let fault = CallError::new(Code::BadRequest, "it is cut off");
        Said::Broken("r".parse().expect("an id"), fault)
    }

    #[test]
    fn what_waits_for_a_first_registration_is_bounded_in_items_and_in_bytes() {
        let registering = || Spoke {
            registering: 1,
            ..Spoke::default()
        };
        let (mut many, mut large) = (registering(), registering());

        for _ in 0..EARLY {
            assert!(!many.is_full());
            many.received(answer(), 50);
        }
        large.received(answer(), EARLY_BYTES);

        assert!(many.is_full() && large.is_full());
        many.took(None);
        assert!(!many.is_full() && many.early.is_empty(), "no call was sent to it");
    }

    #[test]
    fn what_comes_from_no_spoke_is_not_kept() {
        let mut nobody = Spoke::default();

        nobody.received(answer(), 50);

        assert!(nobody.early.is_empty());
    }
}
