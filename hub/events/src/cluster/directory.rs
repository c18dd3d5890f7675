//! The directory: which instance of which spoke is connected to which hub.
//!
//! Redis holds it, every hub mirrors it. An actor ([`actor`]) owns this hub's entries and the mirror; the change feed
//! ([`feed`]) keeps the mirror true, and a gap in its numbers, or another epoch, loads it anew.

mod actor;
mod feed;

use std::sync::Arc;

use alkhub_protocol::{HubId, InstanceId, SpokeName};
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use super::lease::Leases;
use super::{DirectoryChange, DirectoryEntry};
use crate::Error;
use crate::channel::Names;
use crate::target::redis::Redis;
pub(super) use actor::Actor;
pub(crate) use feed::Feed;

/// Registrations that wait for the actor; beyond it their callers wait to be queued.
const COMMANDS: usize = 1_024;

/// What identifies a record: one program of one spoke.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Key {
    spoke: SpokeName,
    instance: InstanceId,
}

/// The handle. Cheap to clone.
#[derive(Clone, Debug)]
pub(super) struct Directory {
    commands: mpsc::Sender<Command>,
}

#[derive(Debug)]
enum Command {
    Register {
        entry: DirectoryEntry,
        /// Nobody wants it any more.
        gone: CancellationToken,
        done: oneshot::Sender<u64>,
    },
    Unregister {
        key: Key,
        generation: u64,
        done: oneshot::Sender<()>,
    },
}

/// What [`new`] needs.
pub(super) struct Parts<'a> {
    pub(super) hub: &'a HubId,
    pub(super) names: Arc<Names>,
    pub(super) redis: Option<Redis>,
    pub(super) leases: Arc<Leases>,
    pub(super) changes: mpsc::Sender<DirectoryChange>,
}

pub(super) fn new(parts: Parts<'_>) -> (Directory, Feed, Actor) {
    let (sender, commands) = mpsc::channel(COMMANDS);
    let (feed, messages) = feed::channel();
    (
        Directory { commands: sender },
        feed,
        Actor::new(parts, commands, messages),
    )
}

// === impl Directory ===

impl Directory {
    pub(super) async fn register(&self, entry: DirectoryEntry, gone: &CancellationToken) -> Result<u64, Error> {
        let (done, registered) = oneshot::channel();
        let command = Command::Register {
            entry,
            gone: gone.clone(),
            done,
        };
        self.ask(command).await?;
        registered.await.map_err(|_| match gone.is_cancelled() {
            true => Error::Unavailable("the registration was given up".to_owned()),
            false => ended(),
        })
    }

    pub(super) async fn unregister(
        &self,
        spoke: &SpokeName,
        instance: &InstanceId,
        generation: u64,
    ) -> Result<(), Error> {
        let (done, unregistered) = oneshot::channel();
        let key = Key {
            spoke: spoke.clone(),
            instance: instance.clone(),
        };
        self.ask(Command::Unregister { key, generation, done }).await?;
        unregistered.await.map_err(|_| ended())
    }

    async fn ask(&self, command: Command) -> Result<(), Error> {
        self.commands.send(command).await.map_err(|_| ended())
    }
}

// === impl Command ===

impl Command {
    /// Whether it must not be obeyed any more: its connection has ended, and another one may have come since.
    fn is_void(&self) -> bool {
        match self {
            Self::Register { gone, .. } => gone.is_cancelled(),
            Self::Unregister { .. } => false,
        }
    }
}

// === impl Key ===

impl Key {
    fn of(entry: &DirectoryEntry) -> Self {
        Self {
            spoke: entry.spoke.clone(),
            instance: entry.instance.clone(),
        }
    }

    /// The field in the hash. A spoke's name holds no `/`, and neither part holds a space.
    fn field(&self) -> String {
        format!("{}/{}", self.spoke, self.instance)
    }

    fn read(field: &str) -> Option<Self> {
        let (spoke, instance) = field.split_once('/')?;
        Some(Self {
            spoke: spoke.parse().ok()?,
            instance: instance.parse().ok()?,
        })
    }
}

fn ended() -> Error {
    Error::Unavailable("this hub is ending".to_owned())
}
