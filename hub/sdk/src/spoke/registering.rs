//! How a session registers: by hash if its hub may know the specifications, in full otherwise; and how it changes what
//! it has registered.
//!
//! Invariants
//! - No hashes are sent to a hub that has not said that it accepts them.
//! - Whatever a hub does not know is sent to it in full, with the third message at the latest. So is everything if the
//!   session has meanwhile moved to a hub that does not accept hashes.
//! - A change is sent alone only to a session that is registered with the previous one.
//! - A change that a hub rejects is taken back: it holds for all sessions, or for none once they have registered anew.

use std::time::Duration;

use alkhub_protocol::frame::{encode, kind};
use alkhub_protocol::register::{RefusedDetails, RegisterInput, RegisterOutput, Registered, UpdateInput};
use alkhub_protocol::{Dialect, OperationName, RawJson, RequestId};
use bytes::Bytes;
use futures::future::join_all;
use tokio::time::timeout;

use super::attachment::Attachment;
use super::offers::{Answered, Change, Sent};
use super::operation::NewOffer;
use super::session::Session;
use super::{Operation, Shared};
use crate::Error;
use crate::outbox::Outbox;

/// Time for the hub to answer a first registration. It may have many schemas to compile while others wait for the same,
/// and giving up early only makes it begin again. A hub that is gone is noticed much earlier by the silence of its
/// socket.
const FIRST_TIMEOUT: Duration = Duration::from_secs(60);

/// Time for a hub to say whether it accepts hashes, which it does at once.
const WELCOME_TIMEOUT: Duration = Duration::from_secs(5);

/// How many messages by hash are tried before everything is sent in full.
const TRIES: u8 = 2;

/// Through what a session registers.
#[derive(Clone, Copy)]
pub(super) enum Way<'a> {
    /// It is not registered yet.
    First(&'a Session),
    /// It is registered.
    Again(&'a Attachment),
}

/// A session that registers.
#[derive(Clone, Copy)]
pub(super) struct Registering<'a> {
    pub(super) way: Way<'a>,
    pub(super) attachment: &'a Attachment,
    pub(super) outbox: &'a Outbox,
}

/// When dropped, makes the task that keeps the sessions in step look at them.
struct LookAgain<'a>(&'a Shared);

// === impl Way ===

impl Way<'_> {
    async fn ask(self, message: impl FnOnce(&RequestId) -> Bytes) -> Result<RegisterOutput, Error> {
        match self {
            Self::First(session) => {
                let answer = timeout(FIRST_TIMEOUT, session.ask(message)).await;
                match answer {
                    Ok(answer) => answer.map_err(|_| Error::Lost)?,
                    Err(_) => Err(Error::Timeout(FIRST_TIMEOUT)),
                }
            }
            Self::Again(attachment) => attachment.ask(message).await,
        }
    }
}

// === impl Shared ===

impl Shared {
    /// Registers a session with this concurrency; without any operations once the spoke is ending.
    ///
    /// # Errors
    /// The hub refuses or is silent, or there is no session.
    pub(super) async fn register(&self, session: Registering<'_>, concurrency: Option<u32>) -> Result<Answered, Error> {
        let Registering {
            way,
            attachment,
            outbox,
        } = session;
        let mut tries = if self.offers.has_hashes() && takes_hashes(outbox).await {
            TRIES
        } else {
            0
        };
        loop {
            let mut sent = None;
            let answer = way.ask(|id| {
                let (input, offers) = self.registration(attachment, concurrency, tries > 0);
                sent = Some(offers);
                request(id, kind::REGISTER, &input)
            });
            let (error, unknown) = match (answer.await, sent) {
                // The session has meanwhile moved to a hub that takes the hashes for operations, and refuses each of
                // them.
                (Ok(_), Some(_)) if tries > 0 && outbox.is_by_hash() != Some(true) => {
                    tries = 0;
                    continue;
                }
                (Ok(output), Some(sent)) => {
                    sent.learn(&output);
                    let number = sent.number;
                    return Ok(Answered { output, number });
                }
                (Ok(_), None) => return Err(Error::Closed),
                (Err(error), _) => {
                    let unknown = refused(&error).unknown;
                    (error, unknown)
                }
            };
            if tries == 0 || unknown.is_empty() {
                return Err(error);
            }
            tracing::debug!(
                specifications = unknown.len(),
                "the hub does not know all specifications of the spoke: they are sent"
            );
            self.offers.forget(&unknown);
            tries -= 1;
        }
    }

    /// [`Shared::register`] for a session that is registered.
    pub(super) async fn register_again(
        &self,
        attachment: &Attachment,
        concurrency: Option<u32>,
    ) -> Result<Answered, Error> {
        let outbox = attachment.outbox().ok_or(Error::Closed)?;
        let session = Registering {
            way: Way::Again(attachment),
            attachment,
            outbox: &outbox,
        };
        self.register(session, concurrency).await
    }

    /// How a session registers, and with which operations.
    fn registration(&self, session: &Attachment, concurrency: Option<u32>, by_hash: bool) -> (RawJson, Sent) {
        let mut offers = self.offers.all();
        if self.is_ending() {
            offers.offers.clear();
        }
        let input = RegisterInput {
            instance_id: Some(session.instance.clone()),
            concurrency,
            operations: offers.entries(by_hash),
            ..self.register.clone()
        };
        (payload(&input), offers)
    }

    /// Changes what the spoke offers, over each of its sessions. If the future is dropped, the task that keeps the
    /// sessions in step tells the hubs.
    ///
    /// # Errors
    /// An operation is not valid, all together are too large, a hub rejects one, or the spoke ends: then nothing is
    /// changed.
    pub(super) async fn update(&self, add: Vec<Operation>, remove: Vec<OperationName>) -> Result<(), Error> {
        let add = add.into_iter().map(Operation::offer).collect::<Result<Vec<_>, _>>()?;
        let _one_at_a_time = self.dividing.lock().await;
        if self.is_ending() {
            return Err(Error::Closed);
        }
        self.check_size(&add, &remove)?;
        let Some(change) = self.offers.change(add, remove) else {
            return Ok(());
        };
        // This happens even if nobody waits for the change any more.
        let _then = LookAgain(self);
        let told = join_all(self.sessions.iter().map(|session| self.tell(session, &change))).await;
        let rejected = told.into_iter().find_map(Result::err);
        if rejected.is_some() {
            self.offers.undo(change);
        }
        self.forget_handlers();
        match rejected {
            Some(error) => Err(error),
            None if self.is_ending() => Err(Error::Closed),
            None => Ok(()),
        }
    }

    /// Checks that everything could be sent to a hub that knows nothing in one message.
    fn check_size(&self, add: &[NewOffer], remove: &[OperationName]) -> Result<(), Error> {
        crate::client::payload(&RegisterInput {
            operations: self.offers.with(add, remove),
            ..self.register.clone()
        })
        .map(drop)
    }

    /// Tells the hub of one session about a change. If the session is not connected, or its hub is silent, it is told
    /// later.
    ///
    /// # Errors
    /// The hub rejects an operation.
    async fn tell(&self, attachment: &Attachment, change: &Change) -> Result<(), Error> {
        let (Some(outbox), Some(concurrency)) = (attachment.outbox(), attachment.concurrency()) else {
            return Ok(());
        };
        // Sent alone, the change would leave out an earlier one that was not told or was taken back.
        if outbox.is_by_hash() != Some(true) || !attachment.offers(change.added.number - 1) {
            return self.register_with(attachment, concurrency, change).await;
        }
        let update = |id: &RequestId| {
            let is_ending = self.is_ending();
            let input = payload(&UpdateInput {
                add: if is_ending {
                    Vec::new()
                } else {
                    change.added.entries(false)
                },
                remove: change.removed.clone(),
            });
            request(id, kind::REGISTER_UPDATE, &input)
        };
        let answer = attachment.ask(update).await;
        match answer {
            Ok(output) => {
                change.added.learn(&output);
                let gone = change.removed.iter().map(ToString::to_string).collect();
                attachment.updated(output, gone, change.added.number);
                Ok(())
            }
            // The spoke's withdrawal came after it, or the connection is lost: the task that keeps the sessions in step
            // tells the next hub.
            Err(Error::Lost | Error::Closed) => Ok(()),
            Err(error) => {
                let rejected = refused(&error).rejected;
                if !rejected.is_empty() {
                    return Err(Error::Rejected(rejected));
                }
                // The session may have moved to a hub that does not know this message, or the hub is full.
                tracing::debug!(%error, "the hub did not take a change: the session registers anew");
                self.register_with(attachment, concurrency, change).await
            }
        }
    }

    /// Registers a session anew, including a change.
    async fn register_with(
        &self,
        attachment: &Attachment,
        concurrency: Option<u32>,
        change: &Change,
    ) -> Result<(), Error> {
        let Ok(answered) = self.register_again(attachment, concurrency).await else {
            return Ok(());
        };
        let is_added = |name: &str| change.added.offers.iter().any(|offer| offer.is(name));
        let rejected = answered.output.operations.iter();
        let rejected = rejected.filter(|o| o.result == Registered::Rejected && is_added(&o.name));
        let rejected: Vec<_> = rejected.cloned().collect();
        attachment.set_registered(answered, concurrency);
        if rejected.is_empty() {
            Ok(())
        } else {
            Err(Error::Rejected(rejected))
        }
    }

    /// Forgets the handlers of operations that no session offers any more.
    pub(super) fn forget_handlers(&self) {
        let number = self.offers.number();
        if self.sessions.iter().all(|session| session.offers(number)) {
            self.offers.settled(number);
        }
    }
}

// === impl LookAgain ===

impl Drop for LookAgain<'_> {
    fn drop(&mut self) {
        self.0.status.send_modify(|_| {});
    }
}

/// Whether the hub accepts hashes, once it has said so.
async fn takes_hashes(outbox: &Outbox) -> bool {
    timeout(WELCOME_TIMEOUT, outbox.says_by_hash()).await.unwrap_or(false)
}

/// What a refusal says about operations.
fn refused(error: &Error) -> RefusedDetails {
    let details = match error {
        Error::Call(error) => error.details.as_ref().and_then(|details| details.to().ok()),
        _ => None,
    };
    details.unwrap_or_default()
}

/// `hub.register`, or `hub.register.update`.
fn request(id: &RequestId, operation: &str, input: &RawJson) -> Bytes {
    let name = operation.parse().expect("a valid name");
    let options = encode::RequestOptions {
        spelled: Some(operation),
        ..encode::RequestOptions::default()
    };
    encode::call_requested(Dialect::Id, id.as_str(), &name, Some(input), &options)
}

/// The payload of a message, whose size was checked before.
fn payload(input: &impl serde::Serialize) -> RawJson {
    RawJson::from_value(input).expect("its parts were encoded before")
}
