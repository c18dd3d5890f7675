//! Turns: the registrations of one connection take effect one after another, in the order in which they came.
//!
//! Invariants
//! - When a turn is dropped, however its registration ends, the next one begins.
//! - Nothing is kept for a connection that has no registration under way.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use dashmap::DashMap;
use tokio::sync::oneshot;

/// The last registration under way of each connection.
#[derive(Debug, Default)]
pub(crate) struct Turns {
    last: DashMap<String, Last>,
    count: AtomicU64,
}

#[derive(Debug)]
struct Last {
    number: u64,
    /// Ends with the turn.
    ended: oneshot::Receiver<()>,
}

/// A place in the queue of a connection.
#[derive(Debug)]
pub(super) struct Turn {
    turns: Arc<Turns>,
    connection: String,
    number: u64,
    before: Option<oneshot::Receiver<()>>,
    /// Dropped with the turn, which is what the next one waits for.
    _open: oneshot::Sender<()>,
}

// === impl Turns ===

impl Turns {
    /// Takes the next place in the queue of a connection.
    pub(super) fn take(self: &Arc<Self>, connection: &str) -> Turn {
        let (open, ended) = oneshot::channel();
        let number = self.count.fetch_add(1, Ordering::Relaxed);
        let before = self.last.insert(connection.to_owned(), Last { number, ended });
        Turn {
            turns: Arc::clone(self),
            connection: connection.to_owned(),
            number,
            before: before.map(|last| last.ended),
            _open: open,
        }
    }
}

// === impl Turn ===

impl Turn {
    /// Waits until the turns before this one have ended.
    pub(super) async fn comes(&mut self) {
        if let Some(before) = &mut self.before {
            // Nothing is ever sent here: the channel is closed.
            drop(before.await);
        }
        self.before = None;
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.turns
            .last
            .remove_if(&self.connection, |_, last| last.number == self.number);
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;

    use super::*;

    #[test]
    fn a_turn_comes_when_all_before_it_on_the_connection_have_ended() {
        let turns = Arc::new(Turns::default());
        let mut first = turns.take("a");
        let mut second = turns.take("a");
        let mut third = turns.take("a");

        assert!(first.comes().now_or_never().is_some());
        assert!(turns.take("b").comes().now_or_never().is_some(), "another connection");
        assert!(second.comes().now_or_never().is_none());
        drop(first);
        assert!(second.comes().now_or_never().is_some());
        assert!(third.comes().now_or_never().is_none());
        drop(second);
        assert!(third.comes().now_or_never().is_some());
        drop(third);
        assert!(turns.last.is_empty());
    }
}
