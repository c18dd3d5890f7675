//! `hub.register` on a socket, and a registration that must be narrowed.

use std::sync::Arc;

use alkhub_calls::{Caller, Registration};
use alkhub_edge::envelope;
use alkhub_protocol::frame::{Requested, encode, kind};
use alkhub_protocol::register::{RegisterInput, RegisterOutput};
use alkhub_protocol::{CallError, CloseCode, Code, RawJson, RequestId};

use super::Conversation;
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
            Ok(Some(registration)) if registration.is_current() => {
                self.spoke.replace(registration);
                self.tell_if_reconnecting();
            }
            Ok(_) => {}
            Err(error) => {
                tracing::warn!(%error, "a spoke could not be held to its declaration and has to register again");
                let reason = "the spoke's declaration has changed: connect and register again";
                self.outbox.close(CloseCode::GoingAway, reason);
            }
        }
    }

    /// The connection may have been lost meanwhile.
    pub(super) fn tell_if_reconnecting(&self) {
        if self.outbox.is_detached() {
            self.set_reconnecting(true);
        }
    }

    /// Takes a registration over, and answers it when it can be called through the other hubs.
    pub(super) fn registered(&mut self, end: RegistrationEnd) {
        let RegistrationEnd {
            request_id,
            caller,
            result,
        } = end;
        match result {
            Ok((output, registration)) => {
                let visible = self.sockets.calls().visible(&registration);
                self.spoke.settle(Some(registration));
                self.tell_if_reconnecting();
                self.pending.add(async move {
                    let lagging_hubs = visible.await;
                    let output = RegisterOutput { lagging_hubs, ..output };
                    Done::Visible(Box::new((request_id, output)))
                });
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

    pub(super) fn answer_registration(&mut self, request_id: &RequestId, output: &RegisterOutput) {
        let data = serde_json::to_vec(output).expect("the answer is a plain struct");
        let output = RawJson::parse(envelope::local(&data, Some(kind::REGISTER)));
        let output = output.expect("an answer of ours is JSON and shallow");
        self.say(encode::call_responded(self.dialect(), request_id.as_str(), &output));
    }
}
