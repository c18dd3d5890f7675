//! The change feed: `{epoch} {number} {change}` on one channel, numbered without a hole.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use alkhub_protocol::HubId;
use alkhub_protocol::json::strict;
use bytes::Bytes;
use tokio::sync::{Notify, mpsc};

use super::record::{self, InstanceKey};
use crate::entry::DirectoryEntry;
use crate::lease::Lease;

/// How many changes may wait between the link to Redis and the actor; beyond that, the directory is loaded anew.
const MESSAGES: usize = 8_192;

/// How many bytes they may have, not counting the first change: 4 KiB each, which is an instance with about fifty
/// operations.
const BYTES: usize = 32 * 1024 * 1024;

/// Where the link to Redis puts the changes that it receives. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Feed {
    messages: mpsc::Sender<Bytes>,
    held: Arc<AtomicUsize>,
    overflowed: Arc<Notify>,
}

/// Where the actor takes them from.
#[derive(Debug)]
pub(super) struct Messages {
    messages: mpsc::Receiver<Bytes>,
    held: Arc<AtomicUsize>,
    overflowed: Arc<Notify>,
}

/// A place in the feed. A different epoch is a different life of the directory: its numbers mean nothing in this one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Position {
    pub(crate) epoch: String,
    pub(crate) number: u64,
}

/// The content of a message.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum FeedChange {
    Put(DirectoryEntry),
    Remove {
        key: InstanceKey,
        generation: u64,
        hub: HubId,
    },
    Gone(HubId),
    /// A hub has a new lease.
    Lease(HubId, Lease),
    /// From a hub of a later version: nothing that this one can use.
    Unknown,
}

pub(super) fn channel() -> (Feed, Messages) {
    let (sender, messages) = mpsc::channel(MESSAGES);
    let (held, overflowed) = (Arc::<AtomicUsize>::default(), Arc::<Notify>::default());
    let feed = Feed {
        messages: sender,
        held: held.clone(),
        overflowed: overflowed.clone(),
    };
    let messages = Messages {
        messages,
        held,
        overflowed,
    };
    (feed, messages)
}

// === impl Feed ===

impl Feed {
    /// Queues a message. Never waits: if it is dropped, the actor learns that it missed something.
    pub(crate) fn push(&self, message: Bytes) {
        let size = message.len();
        let held = self.held.fetch_add(size, Ordering::AcqRel);
        let fits = held == 0 || held + size <= BYTES;
        if !fits || self.messages.try_send(message).is_err() {
            self.held.fetch_sub(size, Ordering::AcqRel);
            self.overflowed.notify_one();
        }
    }
}

// === impl Messages ===

impl Messages {
    /// The next message; `None` if some were lost. Then the directory is loaded anew, and everything that waits here is
    /// dropped too. Dropping the future loses nothing.
    pub(super) async fn next(&mut self) -> Option<Bytes> {
        let message = tokio::select! {
            biased;
            () = self.overflowed.notified() => {
                while let Ok(message) = self.messages.try_recv() {
                    self.taken(&message);
                }
                return None;
            }
            message = self.messages.recv() => message,
        };
        match message {
            Some(message) => {
                self.taken(&message);
                Some(message)
            }
            None => std::future::pending().await,
        }
    }

    fn taken(&self, message: &Bytes) {
        self.held.fetch_sub(message.len(), Ordering::AcqRel);
    }
}

// === impl FeedChange ===

/// Decodes a message; `None` if it does not even have a number.
pub(super) fn read(message: &[u8]) -> Option<(Position, FeedChange)> {
    let text = std::str::from_utf8(message).ok()?;
    let mut parts = text.splitn(4, ' ');
    let epoch = parts.next()?.to_owned();
    let number = parts.next()?.parse().ok()?;
    let (what, rest) = (parts.next()?, parts.next()?);
    Some((
        Position { epoch, number },
        change(what, rest).unwrap_or(FeedChange::Unknown),
    ))
}

fn change(what: &str, rest: &str) -> Option<FeedChange> {
    match what {
        "put" => {
            let (field, value) = rest.split_once(' ')?;
            record::read(field, value).map(FeedChange::Put)
        }
        "remove" => {
            let mut parts = rest.split(' ');
            let key = InstanceKey::read(parts.next()?)?;
            let generation = parts.next()?.parse().ok()?;
            Some(FeedChange::Remove {
                key,
                generation,
                hub: parts.next()?.parse().ok()?,
            })
        }
        "lease" => {
            let (hub, lease) = rest.split_once(' ')?;
            Some(FeedChange::Lease(hub.parse().ok()?, strict::from_str(lease).ok()?))
        }
        "gone" => rest.parse().ok().map(FeedChange::Gone),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ENTRY: &str =
        r#"{"spoke":"builder","instance":"a/1","hub":"old","connection":"c","connectedAt":"2026-01-01T00:00:00Z"}"#;

    #[test]
    fn an_entry_is_fenced_by_what_stands_before_its_json() {
        let text = format!("e1 7 put builder/a/1 42 hub-2 {ENTRY}");

        let (position, change) = read(text.as_bytes()).expect("numbered");

        assert_eq!(
            position,
            Position {
                epoch: "e1".to_owned(),
                number: 7
            }
        );
        let FeedChange::Put(entry) = change else {
            panic!("{change:?}")
        };
        assert_eq!((entry.generation, entry.hub.as_str()), (42, "hub-2"));
        assert_eq!(InstanceKey::of(&entry).field(), "builder/a/1");
    }

    #[test]
    fn a_change_that_nobody_knows_still_counts_in_the_numbers() {
        let (position, change) = read(b"e1 8 renamed builder x").expect("numbered");

        assert_eq!((position.number, change), (8, FeedChange::Unknown));
        assert_eq!(read(b"garbage"), None);
    }

    #[tokio::test]
    async fn what_is_too_much_in_messages_or_in_bytes_is_loaded_anew_with_all_that_waits() {
        let (feed, mut messages) = channel();
        let (small, large) = (Bytes::from_static(b"e 1 gone a"), Bytes::from(vec![b'x'; BYTES / 4]));

        for (message, most) in [(&small, MESSAGES), (&large, 4)] {
            for _ in 0..most {
                feed.push(message.clone());
            }
            assert_eq!(messages.next().await.as_ref(), Some(message), "as many as may wait");
            feed.push(message.clone());
            feed.push(message.clone());

            assert_eq!(messages.next().await, None);
            assert_eq!(feed.held.load(Ordering::Acquire), 0);
            feed.push(message.clone());
            assert_eq!(messages.next().await.as_ref(), Some(message));
        }
    }

    #[tokio::test]
    async fn a_change_that_is_larger_than_all_that_may_wait_passes_alone() {
        let (feed, mut messages) = channel();
        let huge = Bytes::from(vec![b'x'; BYTES + 1]);

        feed.push(huge.clone());

        assert_eq!(messages.next().await, Some(huge));
    }

    #[test]
    fn an_entry_under_another_field_is_not_taken() {
        assert_eq!(record::read("other/a/1", &format!("1 h {ENTRY}")), None);
    }
}
