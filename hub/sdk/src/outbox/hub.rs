//! What the hub says to the queue of its session: what it has received and what it lacks, that the session is to move,
//! how many hubs there are, and whether it accepts hashes. Whoever waits for one of these is woken when it comes; whoever
//! needs to know whether the hub is there at all can wait for its silence.

use std::sync::atomic::Ordering;
use std::time::Duration;

use alkhub_protocol::frame::session::Migrate;
use bytes::Bytes;
use tokio::sync::watch;
use tokio::time::sleep;

use super::Outbox;
use super::unsent::Unsent;
use crate::kept::{HubMessage, KeptSession, MUCH_BYTES};

// === impl Outbox ===

impl Outbox {
    /// Notes that something has come from the hub, be it only the answer to a ping.
    pub(crate) fn heard(&self) {
        self.0.heard.fetch_add(1, Ordering::Relaxed);
    }

    /// Resolves when nothing at all has come from the hub for this long, although it was sent a ping. While much is
    /// known to be on its way, silence means nothing: the ping may be stuck behind that.
    pub(crate) async fn silent(&self, time: Duration) {
        loop {
            let before = self.0.heard.load(Ordering::Relaxed);
            self.ping();
            sleep(time).await;
            if self.0.heard.load(Ordering::Relaxed) == before && !self.has_much() {
                return;
            }
        }
    }

    /// Whether much waits to be sent, or was sent and is not acknowledged.
    fn has_much(&self) -> bool {
        let waiting = self.0.waiting.lock();
        let is_counted = waiting.kept.time().is_some();
        waiting.queue.bytes() > MUCH_BYTES || (is_counted && waiting.kept.owes(MUCH_BYTES))
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

    /// Whether its hub, which keeps the session, may lack answers to calls.
    pub(crate) fn owes_answers(&self) -> bool {
        let waiting = self.0.waiting.lock();
        waiting.kept.time().is_some() && !waiting.answers().is_empty()
    }
}
