//! The commands of the directory's actor.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use alkhub_protocol::HubId;
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use super::feed::Position;
use super::record::InstanceKey;
use crate::entry::{DirectoryEntry, FeedMark};

/// A command to the actor.
#[derive(Debug)]
pub(super) enum Command {
    Register {
        entry: DirectoryEntry,
        /// The hub that has given the instance up, and its generation there: the entry may replace only that record.
        from: Option<(HubId, u64)>,
        /// Nobody wants it any more.
        gone: CancellationToken,
        done: oneshot::Sender<Result<u64, Refused>>,
    },
    Unregister {
        key: InstanceKey,
        generation: u64,
        done: oneshot::Sender<()>,
    },
    /// Somebody waits until the reader has reached a place in the feed.
    CatchUp { to: Position, mark: FeedMark },
}

/// A registration other than the one that was given up stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Refused;

/// News of whether the connection of an instance is away.
#[derive(Debug)]
pub(super) struct StateChange {
    pub(super) key: InstanceKey,
    pub(super) generation: u64,
    /// Read when the change's turn comes.
    pub(super) is_reconnecting: Arc<AtomicBool>,
}

// === impl Command ===

impl Command {
    /// Whether it must no longer be executed: its connection has ended, and another one may have come since.
    pub(super) fn is_void(&self) -> bool {
        match self {
            Self::Register { gone, .. } => gone.is_cancelled(),
            Self::Unregister { .. } | Self::CatchUp { .. } => false,
        }
    }
}
