//! The spoke's side of a connection: registration, answers, heartbeat.
//!
//! Invariants
//! - A spoke's messages about its calls are taken in order, also while it registers.
//! - Messages that wait for a first registration are bounded in number and in bytes; beyond that the socket is not
//!   read.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Waker};

use alkhub_calls::{Caller, Registration};
use alkhub_protocol::register::RegisterOutput;
use alkhub_protocol::{CallError, Frame, RequestId};

/// How many answers are kept while the first registration of a connection is being confirmed, before its socket is no
/// longer read.
const EARLY: usize = 1024;

/// Their bytes, as they were read.
const EARLY_BYTES: usize = 1024 * 1024;

/// The spoke's side of a connection.
#[derive(Default)]
pub(crate) struct SpokeRole {
    registration: Option<Registration>,
    /// Registrations under way.
    registering: usize,
    /// A call may arrive before the registration's own answer is read here, and be answered before that too.
    early: Vec<SpokeMessage>,
    early_bytes: usize,
    /// The end of the registration, once the end of the session is decided.
    leaving: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
}

/// A peer's message about a call that was sent to it.
pub(crate) enum SpokeMessage {
    /// Responded, completed, failed or aborted.
    Frame(Frame),
    /// One of these that cannot be read: which call it is about, and what is wrong.
    Broken(RequestId, CallError),
}

/// How a registration ended.
pub(crate) struct RegistrationEnd {
    pub(crate) request_id: RequestId,
    /// The operation that was asked for.
    pub(crate) of: &'static str,
    /// The rights for which it was examined.
    pub(crate) caller: Arc<Caller>,
    pub(crate) result: Result<(RegisterOutput, Registration), CallError>,
}

// === impl SpokeRole ===

impl SpokeRole {
    /// Whether the peer is not a spoke and is not about to become one.
    pub(crate) fn is_absent(&self) -> bool {
        self.registration.is_none() && self.registering == 0
    }

    /// Whether a registration is under way.
    pub(crate) fn is_registering(&self) -> bool {
        self.registering > 0
    }

    /// Takes a message of the peer, of `bytes` bytes, about a call that was sent to it. Without a registration it is
    /// late and means nothing; a spoke that registers again keeps its previous registration until it has the new one.
    pub(crate) fn received(&mut self, answer: SpokeMessage, bytes: usize) {
        match (&self.registration, answer) {
            (Some(registration), SpokeMessage::Frame(frame)) => registration.received(frame),
            (Some(registration), SpokeMessage::Broken(id, fault)) => registration.broken(&id, &fault),
            (None, answer) if self.registering > 0 => {
                self.early.push(answer);
                self.early_bytes += bytes;
            }
            (None, _) => {}
        }
    }

    /// Whether the message is a spoke's about a call that it got; such messages do not count against a rate, since
    /// calls are sent to it at any rate.
    pub(crate) fn is_answer(&self, frame: &Frame) -> bool {
        let answers = matches!(
            frame,
            Frame::Responded { .. } | Frame::Completed { .. } | Frame::Failed { .. } | Frame::Aborted { .. }
        );
        answers && self.registration.is_some()
    }

    /// Bytes that wait for the first registration.
    pub(crate) fn early_bytes(&self) -> usize {
        self.early_bytes
    }

    /// Whether so much waits for the registration that the socket must not be read.
    pub(crate) fn is_full(&self) -> bool {
        self.early.len() >= EARLY || self.early_bytes >= EARLY_BYTES
    }

    /// Ends the registration now; [`SpokeRole::end`] waits until the directory knows.
    pub(crate) fn leave(&mut self, reason: &str) {
        self.registering = 0;
        self.early = Vec::new();
        self.early_bytes = 0;
        if let Some(registration) = self.registration.take() {
            let reason = reason.to_owned();
            let mut leaving: Pin<Box<dyn Future<Output = ()> + Send>> =
                Box::pin(async move { registration.close(&reason).await });
            // The first poll ends the calls.
            if leaving
                .as_mut()
                .poll(&mut Context::from_waker(Waker::noop()))
                .is_pending()
            {
                self.leaving = Some(leaving);
            }
        }
    }

    /// Notes that the peer answered a ping.
    pub(crate) fn heartbeat(&self) {
        if let Some(registration) = &self.registration {
            registration.heartbeat();
        }
    }

    /// Notes whether the connection is lost and another one awaited.
    pub(crate) fn set_reconnecting(&self, is_reconnecting: bool) {
        if let Some(registration) = &self.registration {
            registration.set_reconnecting(is_reconnecting);
        }
    }

    /// Ends the registration.
    pub(crate) async fn end(mut self, reason: &str) {
        self.leave(reason);
        if let Some(leaving) = self.leaving {
            leaving.await;
        }
    }

    /// Notes that a registration has begun.
    pub(crate) fn begin(&mut self) {
        self.registering += 1;
    }

    /// Its present registration.
    pub(crate) fn registration(&self) -> Option<&Registration> {
        self.registration.as_ref()
    }

    /// Goes on with a narrowed registration.
    pub(crate) fn replace(&mut self, registration: Registration) {
        self.registration = Some(registration);
    }

    /// Notes that a registration has ended, and what the session is registered as, if it was accepted.
    pub(crate) fn settle(&mut self, registration: Option<Registration>) {
        self.registering -= 1;
        // Two that finish together may arrive in either order: one that has been superseded replaces nothing.
        let registration = registration.filter(|new| self.registration.is_none() || new.is_current());
        if registration.is_some() {
            self.registration = registration;
        }
        if self.registration.is_some() || self.registering == 0 {
            self.early_bytes = 0;
            for answer in std::mem::take(&mut self.early) {
                self.received(answer, 0);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use alkhub_protocol::Code;

    use super::*;

    fn answer() -> SpokeMessage {
        let fault = CallError::new(Code::BadRequest, "it is cut off");
        SpokeMessage::Broken("r".parse().expect("an id"), fault)
    }

    #[test]
    fn what_waits_for_a_first_registration_is_bounded_in_items_and_in_bytes() {
        let registering = || SpokeRole {
            registering: 1,
            ..SpokeRole::default()
        };
        let (mut many, mut large) = (registering(), registering());

        for _ in 0..EARLY {
            assert!(!many.is_full());
            many.received(answer(), 50);
        }
        large.received(answer(), EARLY_BYTES);

        assert!(many.is_full() && large.is_full());
        many.settle(None);
        assert!(!many.is_full() && many.early.is_empty(), "no call was sent to it");
    }

    #[test]
    fn what_comes_from_no_spoke_is_not_kept() {
        let mut nobody = SpokeRole::default();

        nobody.received(answer(), 50);

        assert!(nobody.early.is_empty());
    }
}
