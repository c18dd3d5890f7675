//! `hub.register` on a socket, and a registration that must be narrowed.

use std::sync::Arc;

use alkhub_calls::{Caller, Registration};
use alkhub_edge::envelope;
use alkhub_protocol::frame::{Requested, encode};
use alkhub_protocol::register::RegisterInput;
use alkhub_protocol::{CallError, Code, RawJson};

use super::Conversation;
use crate::code;
use crate::pending::Done;
use crate::spoke::RegistrationEnd;

/// As much of what is wrong with a registration is sent, in characters: it repeats what the peer wrote.
const SHOWN: usize = 500;

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
        let (calls, caller, outbox) = (self.sockets.calls().clone(), self.key.caller(), self.outbox.clone());
        self.spoke.begin();
        self.pending.add(async move {
            let result = calls.register(&caller, input, outbox).await;
            Done::Registered(Box::new(RegistrationEnd {
                request_id,
                caller,
                result,
            }))
        });
    }

    /// Brings the spoke's registration within what its declaration allows.
    pub(super) fn narrow(&mut self, caller: &Caller) {
        if let Some(registration) = self.spoke.registration() {
            let narrowing = self.sockets.calls().narrow(registration, caller);
            self.pending
                .add(async move { Done::Narrowed(Box::new(narrowing.await)) });
        }
    }

    /// Takes a narrowed registration over; a spoke whose registration was lost with it has to come again.
    pub(super) fn narrowed(&mut self, narrowed: Result<Option<Registration>, CallError>) {
        match narrowed {
            Ok(Some(registration)) if registration.is_current() => self.spoke.replace(registration),
            Ok(_) => {}
            Err(error) => {
                tracing::warn!(%error, "a spoke could not be held to its declaration and has to register again");
                let reason = "the spoke's declaration has changed: connect and register again";
                self.outbox.close(code::GOING_AWAY, reason);
            }
        }
    }

    /// Answers a registration.
    pub(super) fn registered(&mut self, end: RegistrationEnd) {
        let RegistrationEnd {
            request_id,
            caller,
            result,
        } = end;
        match result {
            Ok((output, registration)) => {
                let data = serde_json::to_vec(&output).expect("the answer is a plain struct");
                let output = RawJson::parse(envelope::local(&data, Some("hub.register")));
                let output = output.expect("an answer of ours is JSON and shallow");
                self.say(encode::call_responded(self.dialect(), request_id.as_str(), &output));
                self.spoke.settle(Some(registration));
                let now = self.key.caller();
                if !Arc::ptr_eq(&caller, &now) {
                    // The declaration changed while it was examined.
                    self.narrow(&now);
                }
            }
            Err(error) => {
                self.spoke.settle(None);
                self.fail(&request_id, &error);
            }
        }
    }
}
