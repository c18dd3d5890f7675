//! The directory: which instance of which spoke is connected to which hub.
//!
//! Redis holds it, and every hub mirrors it. An actor ([`actor`]) owns this hub's entries and the mirror ([`mirror`]).
//! The change feed ([`feed`]) keeps the mirror current; a gap in its numbers, or another epoch, means that the mirror
//! is loaded anew.

mod actor;
mod changes;
mod command;
mod feed;
mod mirror;
mod record;

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use alkhub_protocol::{HubId, InstanceId, SpokeName};
use alkhub_redis::Redis;
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use crate::entry::{DirectoryEntry, FeedMark};
use crate::error::Error;
use crate::leases::Leases;
pub(crate) use actor::DirectoryActor;
pub use changes::DirectoryChanges;
pub(crate) use changes::Weighed;
use command::{Command, Refused, StateChange};
pub(crate) use feed::{Feed, Position};
use mirror::Mirror;
use record::InstanceKey;

/// How many commands may wait for the actor; beyond that, callers wait until theirs can be queued. Their bytes are
/// bounded by the senders: a registration, the only large command, is charged to its key's budget
/// (`Kept::Registrations`) from before it is sent until it is answered, whether or not its peer waits that long
/// (`calls/src/register.rs`).
const COMMANDS: usize = 1_024;

/// The handle to the directory. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct DirectoryHandle {
    commands: mpsc::Sender<Command>,
    states: mpsc::Sender<StateChange>,
}

/// The parts of one hub's directory.
pub(crate) struct DirectoryParts {
    pub(crate) directory: DirectoryHandle,
    /// Where the link to Redis puts changes.
    pub(crate) feed: Feed,
    pub(crate) actor: DirectoryActor,
    /// Where changes come out for the reader.
    pub(crate) changes: mpsc::Receiver<Weighed>,
}

pub(crate) fn new(hub: &HubId, redis: Option<Redis>, leases: Arc<Leases>) -> DirectoryParts {
    let (sender, commands) = mpsc::channel(COMMANDS);
    let (changer, states) = mpsc::channel(COMMANDS);
    let (feed, messages) = feed::channel();
    let (queue, changes) = changes::channel(changes::CHANGES);
    DirectoryParts {
        directory: DirectoryHandle {
            commands: sender,
            states: changer,
        },
        feed,
        actor: DirectoryActor::new(
            redis,
            leases,
            (commands, states),
            messages,
            Mirror::new(hub.clone(), queue),
        ),
        changes,
    }
}

// === impl DirectoryHandle ===

impl DirectoryHandle {
    pub(crate) async fn register(
        &self,
        entry: DirectoryEntry,
        from: Option<(HubId, u64)>,
        gone: &CancellationToken,
    ) -> Result<u64, Error> {
        let (done, registered) = oneshot::channel();
        let command = Command::Register {
            entry,
            from,
            gone: gone.clone(),
            done,
        };
        self.ask(command).await?;
        match registered.await {
            Ok(registered) => registered.map_err(|Refused| Error::Taken),
            Err(_) if gone.is_cancelled() => Err(Error::GivenUp),
            Err(_) => Err(Error::Ending),
        }
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

    /// Waits until the reader has applied everything up to a place in the feed, or everything that was loaded after
    /// this call.
    pub(crate) async fn catch_up(&self, to: Position) -> Result<(), Error> {
        let (mark, passed) = FeedMark::new();
        self.ask(Command::CatchUp { to, mark }).await?;
        passed.await;
        Ok(())
    }

    pub(crate) async fn state_changed(
        &self,
        (spoke, instance): (SpokeName, InstanceId),
        generation: u64,
        is_reconnecting: Arc<AtomicBool>,
    ) -> Result<(), Error> {
        let key = InstanceKey { spoke, instance };
        let change = StateChange {
            key,
            generation,
            is_reconnecting,
        };
        self.states.send(change).await.map_err(|_| Error::Ending)
    }

    async fn ask(&self, command: Command) -> Result<(), Error> {
        self.commands.send(command).await.map_err(|_| Error::Ending)
    }
}
