//! Keeps the directory in Redis and the mirror in step.
//!
//! Invariants
//! - After every return of the link, every gap in the feed and every expiry of this hub's lease, its entries
//!   are asserted, what it no longer holds is removed, and the mirror is loaded, in this order.
//! - A registration whose connection has ended by its turn is not made: it would take the place of the one that the
//!   instance has come back with.

use std::sync::Arc;
use std::time::Duration;

use alkhub_redis::{DirectoryWrite, Error, Incarnation, LinkState, Redis, Written};
use bytes::Bytes;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use super::feed::Messages;
use super::mirror::Mirror;
use super::record::{self, InstanceKey};
use crate::entry::DirectoryEntry;
use crate::lease::Leases;

/// Commands, or assertions, in one write at most.
const BATCH: usize = 64;

/// A load that failed while the link is up is tried again after this.
const RETRY: Duration = Duration::from_secs(1);

/// What the actor is asked for.
#[derive(Debug)]
pub(super) enum Command {
    Register {
        entry: DirectoryEntry,
        /// Nobody wants it any more.
        gone: CancellationToken,
        done: oneshot::Sender<u64>,
    },
    Unregister {
        key: InstanceKey,
        generation: u64,
        done: oneshot::Sender<()>,
    },
}

/// The task behind the directory.
pub(crate) struct DirectoryActor {
    redis: Option<Redis>,
    leases: Arc<Leases>,
    commands: mpsc::Receiver<Command>,
    messages: Messages,
    mirror: Mirror,
    /// When the directory has to be loaded, as soon as the link is up.
    load_at: Option<Instant>,
}

enum Wake {
    Stop,
    /// Changes may have been missed, or Redis may have lost what it knew.
    OutOfStep,
    Load,
    Commands,
    Message(Bytes),
    Room,
}

// === impl Command ===

impl Command {
    /// Whether it must not be executed any more: its connection has ended, and another one may have come since.
    fn is_void(&self) -> bool {
        match self {
            Self::Register { gone, .. } => gone.is_cancelled(),
            Self::Unregister { .. } => false,
        }
    }
}

// === impl DirectoryActor ===

impl DirectoryActor {
    pub(super) fn new(
        redis: Option<Redis>,
        leases: Arc<Leases>,
        commands: mpsc::Receiver<Command>,
        messages: Messages,
        mirror: Mirror,
    ) -> Self {
        Self {
            redis,
            leases,
            commands,
            messages,
            mirror,
            load_at: None,
        }
    }

    /// Runs until the end.
    pub(crate) async fn run(mut self, stop: CancellationToken) {
        let mut link = self.redis.as_ref().map(Redis::state);
        if let Some(link) = &mut link {
            link.mark_changed();
        }
        let mut batch = Vec::with_capacity(BATCH);
        loop {
            let event = tokio::select! {
                biased;
                () = stop.cancelled() => Wake::Stop,
                event = self.next(&mut link, &mut batch) => event,
            };
            match event {
                Wake::Stop => return,
                Wake::Load => self.load().await,
                Wake::Commands => self.execute(&mut batch).await,
                Wake::Message(message) => {
                    if self.mirror.follow(&message, &self.leases).is_err() {
                        self.fall_out_of_step();
                    }
                }
                Wake::OutOfStep => self.fall_out_of_step(),
                Wake::Room => self.mirror.snapshot(),
            }
        }
    }

    async fn next(&mut self, link: &mut Option<watch::Receiver<LinkState>>, batch: &mut Vec<Command>) -> Wake {
        let is_up = link.as_ref().is_some_and(|link| *link.borrow() == LinkState::Up);
        let load_at = self.load_at.filter(|_| is_up);
        tokio::select! {
            biased;
            () = changed(link) => Wake::OutOfStep,
            () = self.leases.expired.notified() => Wake::OutOfStep,
            () = until(load_at) => Wake::Load,
            count = self.commands.recv_many(batch, BATCH) => if count == 0 { Wake::Stop } else { Wake::Commands },
            message = self.messages.next() => message.map_or(Wake::OutOfStep, Wake::Message),
            () = self.mirror.room() => Wake::Room,
        }
    }

    fn fall_out_of_step(&mut self) {
        self.mirror.leave_feed();
        self.load_at = Some(Instant::now());
    }

    /// Takes what came together to Redis together.
    async fn execute(&mut self, batch: &mut Vec<Command>) {
        batch.retain(|command| !command.is_void());
        if batch.is_empty() {
            return;
        }
        let writes: Vec<DirectoryWrite> = batch.iter_mut().map(|command| self.prepare(command)).collect();
        let mut results = self.write(&writes).await.into_iter();
        for command in batch.drain(..) {
            let written = results.next().and_then(Result::ok);
            match command {
                Command::Register { entry, done, .. } => drop(done.send(self.registered(entry, written))),
                Command::Unregister { key, generation, done } => {
                    self.mirror.unregister(&key, generation);
                    let _ = done.send(());
                }
            }
        }
    }

    fn prepare(&mut self, command: &mut Command) -> DirectoryWrite {
        match command {
            Command::Register { entry, .. } => {
                self.mirror.adopt(entry);
                DirectoryWrite::Register(record::write(entry))
            }
            Command::Unregister { key, generation, .. } => DirectoryWrite::Unregister {
                field: key.field(),
                generation: *generation,
            },
        }
    }

    /// One result for each write, or none at all: then the entries are asserted later.
    async fn write(&mut self, writes: &[DirectoryWrite]) -> Vec<Result<Written, Error>> {
        let Some(redis) = &self.redis else { return Vec::new() };
        let written = match redis.incarnation() {
            Ok(incarnation) => incarnation.write_directory(writes).await,
            Err(error) => Err(error),
        };
        match written {
            Ok(written) if written.iter().all(Result::is_ok) => written,
            Ok(written) => {
                self.load_at = Some(Instant::now() + RETRY);
                tracing::warn!("Redis refuses changes of the directory; they are kept and tried again");
                written
            }
            Err(error) => {
                self.load_at = Some(Instant::now() + RETRY);
                tracing::debug!(%error, "changes of the directory are kept until the link is back");
                Vec::new()
            }
        }
    }

    fn registered(&mut self, mut entry: DirectoryEntry, written: Option<Written>) -> u64 {
        match written {
            Some(Written::Stored { generation, .. }) => {
                entry.generation = generation;
                self.mirror.seen(generation);
            }
            // Redis may have taken the proposed one, and more may have been given since: this one was given to nobody.
            Some(Written::Removed) | None if self.redis.is_some() => {
                entry.generation = self.mirror.next_generation();
            }
            Some(Written::Removed) | None => {}
        }
        let generation = entry.generation;
        self.mirror.register(entry);
        generation
    }

    async fn load(&mut self) {
        self.load_at = None;
        let Some(redis) = &self.redis else { return };
        let loaded = match redis.incarnation() {
            Ok(incarnation) => self.try_load(&incarnation).await,
            Err(error) => Err(error),
        };
        if let Err(error) = loaded {
            tracing::warn!(%error, "directory was not loaded");
            self.mirror.leave_feed();
            self.load_at = Some(Instant::now() + RETRY);
        }
    }

    async fn try_load(&mut self, incarnation: &Incarnation) -> Result<(), Error> {
        self.leases.renew(incarnation, false).await?;
        self.assert_own(incarnation).await?;
        let stored = incarnation.load_directory().await?;
        // What leases held up to here is skipped with the rest; the renewal before may not have seen it.
        self.leases.renew(incarnation, false).await?;
        let stale = self.mirror.load(stored);
        if !stale.is_empty() {
            incarnation.write_directory(&stale).await?;
        }
        Ok(())
    }

    /// Writes this hub's entries again; those that another hub holds by now are given up.
    async fn assert_own(&mut self, incarnation: &Incarnation) -> Result<(), Error> {
        let own = self.mirror.own();
        let (keys, writes): (Vec<InstanceKey>, Vec<DirectoryWrite>) = own
            .map(|(key, entry)| (key.clone(), DirectoryWrite::Assert(record::write(entry))))
            .unzip();
        for (keys, writes) in keys.chunks(BATCH).zip(writes.chunks(BATCH)) {
            for (key, written) in keys.iter().zip(incarnation.write_directory(writes).await?) {
                if matches!(written?, Written::Stored { is_own: false, .. }) {
                    self.mirror.give_up(key);
                }
            }
        }
        Ok(())
    }
}

async fn changed(link: &mut Option<watch::Receiver<LinkState>>) {
    let alive = match link {
        Some(link) => link.changed().await.is_ok(),
        None => false,
    };
    if !alive {
        std::future::pending().await
    }
}

async fn until(at: Option<Instant>) {
    match at {
        Some(at) => sleep_until(at).await,
        None => std::future::pending().await,
    }
}
