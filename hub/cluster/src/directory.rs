//! The directory: which instance of which spoke is connected to which hub.
//!
//! Redis holds it, every hub mirrors it. An actor ([`actor`]) owns this hub's entries and the mirror ([`mirror`]); the
//! change feed ([`feed`]) keeps the mirror true, and a gap in its numbers, or another epoch, loads it anew.

mod actor;
mod feed;
mod mirror;
mod record;

use std::sync::Arc;

use alkhub_protocol::{HubId, InstanceId, SpokeName};
use alkhub_redis::Redis;
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use crate::entry::{DirectoryChange, DirectoryEntry};
use crate::error::Error;
use crate::lease::Leases;
use actor::Command;
pub(crate) use actor::DirectoryActor;
pub(crate) use feed::Feed;
use mirror::Mirror;
use record::InstanceKey;

/// Registrations that wait for the actor; beyond it their callers wait to be queued.
const COMMANDS: usize = 1_024;

/// Changes that wait for their reader; beyond it the reader gets a snapshot.
const CHANGES: usize = 4_096;

/// The handle. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct DirectoryHandle {
    commands: mpsc::Sender<Command>,
}

/// What makes up the directory of one hub.
pub(crate) struct DirectoryParts {
    pub(crate) directory: DirectoryHandle,
    /// Where the link puts changes.
    pub(crate) feed: Feed,
    pub(crate) actor: DirectoryActor,
    /// Where they come out for the reader.
    pub(crate) changes: mpsc::Receiver<DirectoryChange>,
}

pub(crate) fn new(hub: &HubId, redis: Option<Redis>, leases: Arc<Leases>) -> DirectoryParts {
    let (sender, commands) = mpsc::channel(COMMANDS);
    let (feed, messages) = feed::channel();
    let (queue, changes) = mpsc::channel(CHANGES);
    DirectoryParts {
        directory: DirectoryHandle { commands: sender },
        feed,
        actor: DirectoryActor::new(redis, leases, commands, messages, Mirror::new(hub.clone(), queue)),
        changes,
    }
}

// === impl DirectoryHandle ===

impl DirectoryHandle {
    pub(crate) async fn register(&self, entry: DirectoryEntry, gone: &CancellationToken) -> Result<u64, Error> {
        let (done, registered) = oneshot::channel();
        let command = Command::Register {
            entry,
            gone: gone.clone(),
            done,
        };
        self.ask(command).await?;
        registered.await.map_err(|_| match gone.is_cancelled() {
            true => Error::GivenUp,
            false => Error::Ending,
        })
    }

    pub(crate) async fn unregister(
        &self,
        spoke: &SpokeName,
        instance: &InstanceId,
        generation: u64,
    ) -> Result<(), Error> {
        let (done, unregistered) = oneshot::channel();
        let key = InstanceKey {
            spoke: spoke.clone(),
            instance: instance.clone(),
        };
        self.ask(Command::Unregister { key, generation, done }).await?;
        unregistered.await.map_err(|_| Error::Ending)
    }

    async fn ask(&self, command: Command) -> Result<(), Error> {
        self.commands.send(command).await.map_err(|_| Error::Ending)
    }
}
