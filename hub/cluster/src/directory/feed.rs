//! The change feed: `{epoch} {number} {change}` on one channel, numbered without a hole.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use alkhub_protocol::HubId;
use alkhub_protocol::json::strict;
use bytes::Bytes;
use tokio::sync::mpsc;

use super::record::{self, InstanceKey};
use crate::entry::DirectoryEntry;
use crate::lease::Lease;

/// Changes between the link and the actor; beyond it the directory is loaded anew.
const QUEUE: usize = 8_192;

/// Where the link puts what it receives. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Feed {
    messages: mpsc::Sender<Bytes>,
    overflowed: Arc<AtomicBool>,
}

/// Where the actor takes it.
#[derive(Debug)]
pub(super) struct Messages {
    messages: mpsc::Receiver<Bytes>,
    overflowed: Arc<AtomicBool>,
}

/// A place in the feed. Another epoch is another life of the directory: its numbers mean nothing to this one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Position {
    pub(crate) epoch: String,
    pub(crate) number: u64,
}

/// What a message says.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum FeedChange {
    Put(DirectoryEntry),
    Remove {
        key: InstanceKey,
        generation: u64,
        hub: HubId,
    },
    Gone(HubId),
    /// A hub says something new of itself.
    Lease(HubId, Lease),
    /// From a hub of a later version; nothing that this one can use.
    Unknown,
}

pub(super) fn channel() -> (Feed, Messages) {
    let (sender, messages) = mpsc::channel(QUEUE);
    let overflowed = Arc::new(AtomicBool::new(false));
    (
        Feed {
            messages: sender,
            overflowed: overflowed.clone(),
        },
        Messages { messages, overflowed },
    )
}

// === impl Feed ===

impl Feed {
    /// Never waits: the actor sees by the numbers, and by the mark, that it missed something.
    pub(crate) fn push(&self, message: Bytes) {
        if self.messages.try_send(message).is_err() {
            self.overflowed.store(true, Ordering::Release);
        }
    }
}

// === impl Messages ===

impl Messages {
    /// The next message; `None` when some were lost.
    pub(super) async fn next(&mut self) -> Option<Bytes> {
        match self.messages.recv().await {
            Some(message) if !self.overflowed.swap(false, Ordering::AcqRel) => Some(message),
            Some(_) => None,
            None => std::future::pending().await,
        }
    }
}

// === impl FeedChange ===

/// Reads a message; `None` when it is not even numbered.
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

    #[test]
    fn an_entry_under_another_field_is_not_taken() {
        assert_eq!(record::read("other/a/1", &format!("1 h {ENTRY}")), None);
    }
}
