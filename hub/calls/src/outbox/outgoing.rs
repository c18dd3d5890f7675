//! The reading end of an outbox.

use std::future::poll_fn;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};

use bytes::Bytes;

use super::contents::Taken;
use super::item::OutgoingItem;
use super::shared::Shared;

/// The reading end, which belongs to the session and goes from connection to connection with it. Dropping it ends the
/// session's queue.
#[derive(Debug)]
pub struct Outgoing(Arc<Shared>);

// === impl Outgoing ===

impl Outgoing {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self(shared)
    }

    /// Begins for a connection that serves the session from now on: what the one before it has taken, and did not get
    /// rid of, comes again, before everything else and in its order. Of what went out in part that is all of it: a peer that
    /// may have read some of it has to say how much, before anything is attached to its session a second time.
    pub fn attach(&mut self) {
        self.0.contents.lock().rewind();
    }

    /// The next item, or `Pending` with the task registered to be woken. `None` once the close was handed out.
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

    /// Notes that everything that was taken so far is written, but for the ends of streams that still wait. That is all
    /// that can be known of a peer that acknowledges nothing.
    pub fn written(&mut self) {
        self.0.contents.lock().acknowledge();
    }

    /// The next item when there is one.
    pub fn try_next(&mut self) -> Option<OutgoingItem> {
        match self.0.contents.lock().take() {
            Taken::Item(item) => Some(item),
            Taken::Nothing | Taken::End => None,
        }
    }

    /// Waits for the next item; `None` once the close was handed out. Dropping the future loses nothing.
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
        // Backlogs and messages are released outside the lock.
        drop(messages);
    }
}
