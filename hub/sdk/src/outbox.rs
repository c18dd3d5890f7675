//! What is to be sent to the hub, in order and within bounds.
//!
//! The queue may outlive the socket: if the hub keeps the session, it goes on over another socket ([`crate::session`]).
//!
//! Invariants
//! - Messages are sent in the order in which they were queued.
//! - Whatever was queued before [`Outbox::close`] is sent before the queue ends.
//! - Refusals of what the hub asks for are bounded: if the hub does not read them, [`Outbox::stalled`] reports it.

use std::future::poll_fn;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use alkhub_protocol::frame::session::Migrate;
use alkhub_queue::{Full, Limits, Queue, Weigh};
use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::{Notify, watch};
use tokio_tungstenite::tungstenite::{Message, Utf8Bytes};
use tokio_util::sync::CancellationToken;

use crate::kept::{HubMessage, KeptSession};

/// How much may wait to be sent; beyond that senders wait.
const OUTBOX_LIMITS: Limits = Limits {
    items: 65_536,
    bytes: 4 * 1024 * 1024,
};

/// How much is sent at once: a part of what is kept of unacknowledged messages.
const BATCH: Limits = Limits {
    items: 256,
    bytes: 64 * 1024,
};

/// Refusals that may wait to be sent.
const REFUSALS: usize = 4_096;

/// How the answers to calls begin, as they are encoded here.
const ANSWERS: [&[u8]; 2] = [b"{\"type\":\"call.responded\"", b"{\"type\":\"call.error\""];

/// The queue of one socket; its clones share it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Outbox(Arc<Shared>);

/// The socket is gone; the message was not sent.
#[derive(Debug)]
pub(crate) struct Gone;

#[derive(Debug, Default)]
struct Shared {
    waiting: Mutex<Waiting>,
    /// Notified when there is room again.
    room: Notify,
    /// Notified when the hub asks for the session to move to another one.
    moves: Notify,
    /// Cancelled when more refusals wait than are allowed.
    is_stalled: CancellationToken,
    /// How many hubs take connections; 0 until a hub has said so.
    hubs: watch::Sender<u32>,
    /// Whether the hub accepts hashes of specifications; `None` until it has said so.
    hashes: watch::Sender<Option<bool>>,
}

#[derive(Debug, Default)]
struct Waiting {
    /// Ended when the socket is to close.
    queue: Queue<Unsent>,
    /// How many of the queued messages are refusals.
    refusals: usize,
    /// The close frame is on its way, or the session has ended.
    is_gone: bool,
    /// The answers that the hub of an ended session may lack.
    left: Vec<Bytes>,
    /// What is known of the session at the hub.
    kept: KeptSession,
}

#[derive(Debug)]
enum Unsent {
    Message(Bytes),
    /// A refusal; there may be [`REFUSALS`] of them.
    Refusal(Bytes),
    Ping,
    /// Tells the hub what was received so far.
    Ack,
}

// === impl Outbox ===

impl Outbox {
    /// Queues a message, waiting for room. If the future is dropped, nothing was queued.
    pub(crate) async fn send(&self, message: Bytes) -> Result<(), Gone> {
        loop {
            let room = self.0.room.notified();
            tokio::pin!(room);
            room.as_mut().enable();
            {
                let mut waiting = self.0.waiting.lock();
                // The last message may exceed the limit by its own size: otherwise a large one would wait while small
                // ones overtake it.
                match waiting.queue.room(0, OUTBOX_LIMITS) {
                    Ok(()) => {
                        let waiter = waiting.queue.add(Unsent::Message(message));
                        drop(waiting);
                        waiter.wake();
                        return Ok(());
                    }
                    Err(Full::Ended) => return Err(Gone),
                    Err(Full::Queue) => {}
                }
            }
            room.await;
        }
    }

    /// Queues a short message, of which there is at most one per running call or topic, whether there is room or not.
    /// This works even while the socket is closing, until the close frame has been sent.
    pub(crate) fn push(&self, message: Bytes) {
        self.add(Unsent::Message(message));
    }

    /// Queues the refusal of something that the hub asked for. The hub may ask as often as it likes: if too many
    /// refusals wait, it is not reading, and the socket is given up.
    pub(crate) fn refuse(&self, message: Bytes) {
        {
            let mut waiting = self.0.waiting.lock();
            if waiting.refusals < REFUSALS {
                waiting.refusals += 1;
            } else {
                drop(waiting);
                self.0.is_stalled.cancel();
                return;
            }
        }
        self.add(Unsent::Refusal(message));
    }

    /// Whether messages are accepted.
    pub(crate) fn is_open(&self) -> bool {
        !self.0.waiting.lock().queue.has_ended()
    }

    /// Lets the socket close once everything queued is sent.
    pub(crate) fn close(&self) {
        let waiter = self.0.waiting.lock().queue.end();
        waiter.wake();
        self.0.room.notify_waiters();
    }

    /// Sends the hub a ping.
    pub(crate) fn ping(&self) {
        self.add(Unsent::Ping);
    }

    /// Resolves when the hub asks for more without reading the answers.
    pub(crate) async fn stalled(&self) {
        self.0.is_stalled.cancelled().await;
    }

    fn add(&self, unsent: Unsent) {
        let mut waiting = self.0.waiting.lock();
        if !waiting.is_gone {
            let waiter = waiting.queue.add(unsent);
            drop(waiting);
            waiter.wake();
        }
    }

    /// Ends the queue: nothing more is accepted and what waits is dropped, except for the answers to calls, which stay
    /// for [`Outbox::take_left`].
    pub(crate) fn end(&self) {
        let mut waiting = self.0.waiting.lock();
        waiting.is_gone = true;
        let answers = waiting.answers();
        waiting.left.extend(answers);
        let (waiter, unsent) = (waiting.queue.end(), waiting.queue.take_all());
        drop(unsent);
        waiting.kept.forget_sent();
        drop(waiting);
        waiter.wake();
        self.0.room.notify_waiters();
    }

    /// The answers to calls that the hub may lack, in order; while the session has no connection, none of them is sent.
    pub(crate) fn answers(&self) -> Vec<Bytes> {
        self.0.waiting.lock().answers()
    }

    /// Whether its hub, which keeps the session, may lack answers to calls.
    pub(crate) fn owes_answers(&self) -> bool {
        let waiting = self.0.waiting.lock();
        waiting.kept.time().is_some() && !waiting.answers().is_empty()
    }

    /// [`Outbox::answers`] of a session that has ended.
    pub(crate) fn take_left(&self) -> Vec<Bytes> {
        std::mem::take(&mut self.0.waiting.lock().left)
    }

    /// Resolves when the queue is to close.
    pub(crate) async fn closed(&self) {
        loop {
            let changed = self.0.room.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            if !self.is_open() {
                return;
            }
            changed.await;
        }
    }

    /// Waits until the hub asks for the session to move. Dropping the future loses nothing.
    pub(crate) async fn migrate(&self) -> Migrate {
        loop {
            if let Some(migrate) = self.kept(KeptSession::take_migrate) {
                return migrate;
            }
            self.0.moves.notified().await;
        }
    }

    /// Moves the session to another hub, as if its hub had asked for that, provided the hub keeps it.
    pub(crate) fn move_on(&self, time: Duration) {
        self.kept(|kept| kept.move_on(time));
        self.0.moves.notify_one();
    }

    /// How many hubs take connections, and each change of that; 0 until a hub has said so.
    pub(crate) fn hubs(&self) -> watch::Receiver<u32> {
        self.0.hubs.subscribe()
    }

    /// Notes how many hubs there are, according to a hub.
    pub(crate) fn hubs_are(&self, hubs: u32) {
        self.0
            .hubs
            .send_if_modified(|known| std::mem::replace(known, hubs) != hubs);
    }

    /// Whether the hub accepts hashes of specifications, if it has said so.
    pub(crate) fn is_by_hash(&self) -> Option<bool> {
        self.kept(|kept| kept.hashes())
    }

    /// The same, once the hub has said so.
    pub(crate) async fn says_by_hash(&self) -> bool {
        let mut said = self.0.hashes.subscribe();
        // Cannot fail: we hold the sender.
        drop(said.wait_for(Option::is_some).await);
        // The session may have moved to another hub since.
        self.is_by_hash() == Some(true)
    }

    /// Reads or changes what is known of the session at the hub.
    pub(crate) fn kept<T>(&self, look: impl FnOnce(&mut KeptSession) -> T) -> T {
        look(&mut self.0.waiting.lock().kept)
    }

    /// Queues what the hub did not receive to be sent again, before what already waits.
    ///
    /// # Errors
    /// Something that it did not receive is no longer kept.
    pub(crate) fn rewind(&self, received: u64) -> Result<(), String> {
        let mut waiting = self.0.waiting.lock();
        let again = waiting.kept.rewind(received)?;
        let rest = waiting.queue.take_all();
        let again = again.into_iter().map(Unsent::Message);
        for unsent in again.chain(rest) {
            // Nobody waits for it yet: the writer starts after this.
            drop(waiting.queue.add(unsent));
        }
        Ok(())
    }

    /// Notes a message from the hub; returns it if it is for the reader.
    pub(crate) fn received(&self, message: Bytes) -> Option<Bytes> {
        let mut waiting = self.0.waiting.lock();
        let (was_full, before) = (waiting.kept.is_full(), waiting.kept.hashes());
        let received = waiting.kept.received(&message);
        if was_full && !waiting.kept.is_full() {
            waiting.queue.reader().wake();
        }
        if waiting.kept.hashes() != before {
            self.0.hashes.send_replace(waiting.kept.hashes());
        }
        match received {
            HubMessage::Message { ack } => {
                let waiter = ack.then(|| waiting.queue.add(Unsent::Ack));
                drop(waiting);
                if let Some(waiter) = waiter {
                    waiter.wake();
                }
                Some(message)
            }
            HubMessage::Control => None,
            HubMessage::Migrate => {
                drop(waiting);
                self.0.moves.notify_one();
                None
            }
            HubMessage::Hubs(hubs) => {
                drop(waiting);
                self.hubs_are(hubs);
                None
            }
        }
    }

    /// The hub sent a ping: it is told what was received, if there is anything new.
    pub(crate) fn beat(&self) {
        let mut waiting = self.0.waiting.lock();
        if waiting.kept.has_news() && !waiting.is_gone {
            let waiter = waiting.queue.add(Unsent::Ack);
            drop(waiting);
            waiter.wake();
        }
    }

    /// Takes up to [`BATCH`] from the queue to be sent now; from then on it counts as sent. Nothing is taken while as
    /// much is unacknowledged as can be kept. `None` when closing and nothing is left.
    pub(crate) async fn batch(&self) -> Option<Vec<Message>> {
        let batch = poll_fn(|context| {
            let mut waiting = self.0.waiting.lock();
            let may_leave = !waiting.kept.is_full() || waiting.queue.has_ended();
            if !waiting.queue.is_empty() && may_leave {
                let waiting = &mut *waiting;
                let mut batch = Vec::new();
                let begin = waiting.queue.bytes();
                while batch.len() < BATCH.items
                    && begin - waiting.queue.bytes() < BATCH.bytes
                    && (batch.is_empty() || !waiting.kept.is_full())
                    && let Some(unsent) = waiting.queue.pop()
                {
                    waiting.refusals -= usize::from(matches!(unsent, Unsent::Refusal(_)));
                    batch.push(unsent.leaves(&mut waiting.kept));
                }
                return Poll::Ready(Some(batch));
            }
            if waiting.queue.has_ended() && waiting.queue.is_empty() {
                waiting.is_gone = true;
                return Poll::Ready(None);
            }
            waiting.queue.wait(context);
            Poll::Pending
        })
        .await;
        self.0.room.notify_waiters();
        batch
    }
}

// === impl Waiting ===

impl Waiting {
    /// The answers to calls that the hub may lack, in order.
    fn answers(&self) -> Vec<Bytes> {
        let unsent = self.queue.waiting().filter_map(Unsent::message);
        let answers = self.kept.unreceived().chain(unsent);
        answers.filter(|message| is_answer(message)).cloned().collect()
    }
}

// === impl Unsent ===

impl Unsent {
    /// The message, if it is one that the hub counts and that may have to be sent again.
    fn message(&self) -> Option<&Bytes> {
        match self {
            Self::Message(message) | Self::Refusal(message) => Some(message),
            Self::Ping | Self::Ack => None,
        }
    }

    /// Notes that it is sent; returns it as it is on the wire.
    fn leaves(self, kept: &mut KeptSession) -> Message {
        let message = match self {
            Self::Ping => return Message::Ping(Bytes::new()),
            Self::Ack => kept.ack(),
            Self::Message(message) | Self::Refusal(message) => {
                kept.sent(&message);
                message
            }
        };
        text(message)
    }
}

impl Weigh for Unsent {
    fn bytes(&self) -> usize {
        match self {
            Self::Message(message) | Self::Refusal(message) => message.len(),
            Self::Ping | Self::Ack => 0,
        }
    }
}

/// Whether one of our messages answers a call.
fn is_answer(message: &Bytes) -> bool {
    ANSWERS.iter().any(|begins| message.starts_with(begins))
}

/// One of our messages as it is on the wire.
pub(crate) fn text(message: Bytes) -> Message {
    Message::Text(Utf8Bytes::try_from(message).expect("what is encoded here is UTF-8"))
}

#[cfg(test)]
mod tests {
    use alkhub_protocol::frame::encode;
    use alkhub_protocol::frame::session::{RESUME, Welcome};
    use alkhub_protocol::{CallError, Code, Dialect};
    use futures::FutureExt as _;

    use super::*;

    fn queued(outbox: &Outbox) -> usize {
        outbox.0.waiting.lock().queue.len()
    }

    #[tokio::test]
    async fn the_answers_of_a_session_that_has_ended_are_left_whether_or_not_they_were_sent() {
        let outbox = Outbox::default();
        let ask = "text.upper".parse().expect("valid");
        let asked = encode::call_requested(Dialect::Id, "r", &ask, None, &encode::RequestOptions::default());
        let output = |n: u64| encode::call_responded(Dialect::Id, "n1-7", &serde_json::json!(n).into());
        let failed = encode::call_error(Dialect::Id, "n1-8", &CallError::new(Code::NotFound, "no"));
        [asked, output(1)].into_iter().for_each(|sent| outbox.push(sent));
        outbox.batch().await.expect("both leave");
        [failed.clone(), encode::call_completed(Dialect::Id, "n1-9"), output(2)]
            .into_iter()
            .for_each(|waits| outbox.push(waits));

        outbox.end();

        assert_eq!(outbox.take_left(), [output(1), failed, output(2)]);
        assert!(outbox.take_left().is_empty());
    }

    #[tokio::test]
    async fn a_hub_that_reads_no_refusals_is_given_up_and_they_stay_bounded() {
        let outbox = Outbox::default();
        (0..REFUSALS).for_each(|_| outbox.refuse(Bytes::from_static(b"no")));
        (0..BATCH.items).for_each(|_| outbox.push(Bytes::from_static(b"an item")));
        let mut left = 0;
        while queued(&outbox) > BATCH.items {
            left += outbox.batch().await.expect("it is open").len();
        }
        assert_eq!(left, REFUSALS);

        (0..REFUSALS).for_each(|_| outbox.refuse(Bytes::from_static(b"no")));
        assert!(!outbox.0.is_stalled.is_cancelled(), "those before were taken");
        (0..3).for_each(|_| outbox.refuse(Bytes::from_static(b"no")));

        assert!(outbox.0.is_stalled.is_cancelled());
        let waits = BATCH.items + REFUSALS;
        assert_eq!(queued(&outbox), waits);
        outbox.push(Bytes::from_static(b"the answer of a call that runs"));
        assert_eq!(queued(&outbox), waits + 1, "these are as many as the calls");
    }

    /// A queue whose hub keeps the session.
    fn granted() -> Outbox {
        let outbox = Outbox::default();
        outbox.kept(|kept| kept.hello());
        let welcome = encode::welcome(&Welcome {
            session_id: "s".to_owned(),
            hub_id: "hub".to_owned(),
            heartbeat_ms: 10_000,
            resume_ms: 30_000,
            max_inflight: 0,
            features: vec![RESUME.to_owned()],
        });
        assert_eq!(outbox.received(welcome), None, "the session's own");
        outbox
    }

    #[tokio::test]
    async fn what_counts_as_sent_can_be_sent_again_however_much_waits() {
        let outbox = granted();
        (0..3 * 4_096).for_each(|_| outbox.push(Bytes::from_static(b"an item")));
        assert!(outbox.batch().await.is_some_and(|sent| sent.len() == BATCH.items));
        while let Some(Some(_)) = outbox.batch().now_or_never() {}

        outbox.rewind(0).expect("everything that left is kept");

        assert_eq!(queued(&outbox), 3 * 4_096);
    }

    #[tokio::test]
    async fn what_waits_for_an_acknowledgement_leaves_with_it() {
        let outbox = granted();
        (0..4_097).for_each(|_| outbox.push(Bytes::from_static(b"an item")));
        while let Some(Some(_)) = outbox.batch().now_or_never() {}
        assert_eq!(queued(&outbox), 1);
        let rest = outbox.batch();
        tokio::pin!(rest);
        assert!(futures::poll!(&mut rest).is_pending());

        assert_eq!(outbox.received(encode::ack(64)), None);

        assert!(rest.await.is_some_and(|sent| sent.len() == 1));
    }
}
