//! `hub.register` and `hub.register.update` on a socket, and registrations that must be narrowed.

use std::sync::Arc;

use alkhub_calls::{Caller, Registration};
use alkhub_edge::envelope;
use alkhub_protocol::frame::{Requested, encode, kind};
use alkhub_protocol::register::{RegisterInput, RegisterOutput, UpdateInput};
use alkhub_protocol::{CallError, CloseCode, Code, RawJson};
use serde::de::DeserializeOwned;

use super::Conversation;
use crate::pending::{Done, VisibleRegistration};
use crate::spoke::RegistrationEnd;

/// How much of the description of an invalid registration is sent, in characters: it repeats what the peer wrote.
const SHOWN: usize = 500;

impl Conversation {
    /// Acts on `hub.register`.
    pub(super) fn register(&mut self, requested: Requested) {
        let (calls, caller, outbox) = (self.sockets.calls().clone(), self.key.caller(), self.outbox.clone());
        self.begin_registration(requested, kind::REGISTER, |input: RegisterInput| async move {
            let result = calls.register(&caller, input, outbox).await;
            (caller, result)
        });
    }

    /// Acts on `hub.register.update`.
    pub(super) fn update_registration(&mut self, requested: Requested) {
        let (calls, caller, outbox) = (self.sockets.calls().clone(), self.key.caller(), self.outbox.clone());
        self.begin_registration(requested, kind::REGISTER_UPDATE, |input: UpdateInput| async move {
            let result = calls.update(&caller, input, outbox).await;
            (caller, result)
        });
    }

    /// Begins to make the session an instance, or to change its registration; `of` is the operation that was asked for.
    fn begin_registration<I: DeserializeOwned, F>(
        &mut self,
        requested: Requested,
        of: &'static str,
        register: impl FnOnce(I) -> F,
    ) where
        F: Future<Output = (Arc<Caller>, Result<(RegisterOutput, Registration), CallError>)> + Send + 'static,
    {
        let request_id = requested.request_id;
        let input = requested.input.unwrap_or_else(RawJson::null);
        let input = match input.to::<I>() {
            Ok(input) => input,
            Err(error) => {
                let fault: String = error.to_string().chars().take(SHOWN).collect();
                let message = format!("input of `{of}` is not valid: {fault}");
                return self.fail(&request_id, &CallError::new(Code::BadRequest, message));
            }
        };
        let registering = register(input);
        self.spoke.begin();
        self.pending.add(async move {
            let (caller, result) = registering.await;
            Done::Registered(Box::new(RegistrationEnd {
                request_id,
                of,
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

    /// Takes over a narrowed registration; a spoke that lost its registration in the process has to come again.
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

    /// Takes over a registration, and answers it once it can be called through the other hubs.
    pub(super) fn registered(&mut self, end: RegistrationEnd) {
        let RegistrationEnd {
            request_id,
            of,
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
                    Done::Visible(Box::new(VisibleRegistration { request_id, of, output }))
                });
                let now = self.key.caller();
                if !Arc::ptr_eq(&caller, &now) {
                    // The declaration changed while the registration was being examined.
                    self.narrow(&now);
                }
            }
            Err(error) => {
                self.spoke.settle(None);
                self.fail(&request_id, &error);
            }
        }
    }

    pub(super) fn answer_registration(&mut self, answer: &VisibleRegistration) {
        let data = serde_json::to_vec(&answer.output).expect("the answer is a plain struct");
        let output = RawJson::parse(envelope::local(&data, Some(answer.of)));
        let output = output.expect("an answer of ours is JSON and shallow");
        let request_id = answer.request_id.as_str();
        self.say(encode::call_responded(self.dialect(), request_id, &output));
    }
}
