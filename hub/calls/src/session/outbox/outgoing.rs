//! The reading end of an outbox.

use std::future::poll_fn;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};

use alkhub_queue::{Full, WrongCount};
use bytes::Bytes;

use super::contents::Taken;
use super::elsewhere::{DeliveryState, Elsewhere};
use super::item::OutgoingItem;
use super::shared::Shared;

/// The reading end. It belongs to the session, and goes with it from connection to connection. Dropping it ends the
/// session's queue.
#[derive(Debug)]
pub struct Outgoing(Arc<Shared>);

// === impl Outgoing ===

impl Outgoing {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self(shared)
    }

    /// Begins for a connection that serves the session from now on: what the previous one took and did not deliver
    /// comes again, in its order and before everything else. That includes the whole of what went out only in part: a
    /// peer that may have read some of it has to say how much before anything is attached to its session a second time.
    pub fn attach(&mut self) {
        self.0.contents.lock().rewind();
        self.0.detached.store(false, Ordering::Release);
    }

    /// [`Outgoing::attach`] for a peer that counts, and has received this many messages: the later ones come again.
    ///
    /// # Errors
    /// It cannot have received so many, or it lacks what is no longer kept; nothing changes.
    pub fn resume(&mut self, received: u64) -> Result<(), WrongCount> {
        let mut contents = self.0.contents.lock();
        contents.check(received)?;
        contents.acknowledge(received)?;
        contents.rewind();
        drop(contents);
        self.0.detached.store(false, Ordering::Release);
        // That applied to the previous connection.
        self.0.leaving.store(false, Ordering::Release);
        Ok(())
    }

    /// Passes every message of the session to another hub, which goes on with it: those that the peer lacks to `begin`,
    /// which is called with the queue locked; then those that the writer has `kept` to send later, and those that wait;
    /// and from now on whatever is pushed. Before this, the peer must have been resumed ([`Outgoing::resume`]).
    ///
    /// # Errors
    /// Something was not accepted: the session cannot go on anywhere.
    pub(crate) fn leave(
        &mut self,
        elsewhere: Arc<dyn Elsewhere>,
        kept: Vec<Bytes>,
        begin: impl FnOnce(DeliveryState) -> Result<(), Full>,
    ) -> Result<(), Full> {
        let mut contents = self.0.contents.lock();
        contents.leave(elsewhere, kept, begin)?;
        self.0.away.store(true, Ordering::Release);
        self.0.detached.store(false, Ordering::Release);
        Ok(())
    }

    /// Begins with what another hub has left over: what the peer lacks comes before everything else.
    ///
    /// # Errors
    /// The budget of the key has no room for it: the session cannot go on here.
    pub fn restore(&mut self, delivery: DeliveryState) -> Result<(), Full> {
        self.0.contents.lock().restore(delivery)
    }

    /// From now on no connection serves the session, and its peer may come back.
    pub fn detach(&mut self) {
        self.0.detached.store(true, Ordering::Release);
    }

    /// From now on the peer counts what it receives, beginning with the next message that is taken here.
    pub fn count(&mut self) {
        self.0.contents.lock().count();
    }

    /// Notes a message that leaves now and did not wait here: if the peer counts, it counts this one too.
    pub fn passes(&mut self, message: Bytes) {
        self.0.contents.lock().passes(message);
    }

    /// Waits until the end of the session is decided, while no connection serves it.
    pub fn poll_ended(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let mut contents = self.0.contents.lock();
        if contents.has_ended() {
            return Poll::Ready(());
        }
        contents.wait(cx);
        Poll::Pending
    }

    /// The next item, or `Pending` with the task registered to be woken. `None` once the close has been handed out.
    pub fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<OutgoingItem>> {
        let mut contents = self.0.contents.lock();
        match contents.take() {
            Taken::Item(item) => Poll::Ready(Some(item)),
            Taken::Nothing => {
                contents.wait(cx);
                Poll::Pending
            }
            Taken::End => Poll::Ready(None),
        }
    }

    /// Notes that the end of a stream, which was taken before, goes out now.
    pub fn sends(&mut self, last: Bytes) {
        self.0.contents.lock().send_last(last);
    }

    /// Whether the next message might make the session forget one that its peer, which counts, has not acknowledged
    /// yet.
    pub fn is_full(&self) -> bool {
        self.0.contents.lock().is_full()
    }

    /// Notes that everything taken so far is written, except for the ends of streams that still wait. That is all that
    /// can be known about a peer that acknowledges nothing; about one that counts, it says nothing.
    pub fn written(&mut self) {
        self.0.contents.lock().written();
    }

    /// The next item, if there is one.
    pub fn try_next(&mut self) -> Option<OutgoingItem> {
        match self.0.contents.lock().take() {
            Taken::Item(item) => Some(item),
            Taken::Nothing | Taken::End => None,
        }
    }

    /// Waits for the next item; `None` once the close has been handed out. Dropping the future loses nothing.
    pub async fn next(&mut self) -> Option<OutgoingItem> {
        poll_fn(|cx| self.poll_next(cx)).await
    }
}

impl Drop for Outgoing {
    fn drop(&mut self) {
        let mut contents = self.0.contents.lock();
        let messages = contents.end();
        self.0.closed.store(true, Ordering::Release);
        drop(contents);
        // Backlogs and messages are dropped outside the lock.
        drop(messages);
    }
}
