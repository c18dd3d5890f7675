//! Keeps the directory in Redis and the mirror in step.
//!
//! Invariants
//! - After every return of the link to Redis, every gap in the feed and every expiry of this hub's lease, its entries
//!   are asserted and the mirror is loaded ([`loading`]).
//! - Commands that arrive together go to Redis in one write, in order ([`execution`]).

mod execution;
mod loading;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use alkhub_protocol::HubId;
use alkhub_redis::{DirectoryWrite, Error, LinkState, Redis, Written};
use bytes::Bytes;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use super::command::{Command, StateChange};
use super::feed::Messages;
use super::mirror::Mirror;
use crate::leases::Leases;

/// The most commands, or assertions, in one write.
const BATCH: usize = 64;

/// How long to wait before repeating a load that failed while the link to Redis is up.
const RETRY: Duration = Duration::from_secs(1);

/// The task behind the directory.
pub(crate) struct DirectoryActor {
    redis: Option<Redis>,
    leases: Arc<Leases>,
    commands: mpsc::Receiver<Command>,
    states: mpsc::Receiver<StateChange>,
    messages: Messages,
    mirror: Mirror,
    /// When the directory has to be loaded, as soon as the link to Redis is up.
    load_at: Option<Instant>,
    /// Suspects: hubs that are alive but whose entries Redis may have lost, until they are written again.
    suspects: BTreeSet<HubId>,
    /// Whether it has been loaded before: what a hub finds when it starts is all there is.
    has_loaded: bool,
}

enum Wake {
    Stop,
    /// The link to Redis came or went: Redis may have lost what it knew.
    Link,
    /// Changes may have been missed.
    OutOfStep,
    Load,
    Commands,
    States(Vec<StateChange>),
    Message(Bytes),
    Room,
    /// A hub that had no lease is gone, or has one again.
    Returns,
}

// === impl DirectoryActor ===

impl DirectoryActor {
    pub(super) fn new(
        redis: Option<Redis>,
        leases: Arc<Leases>,
        (commands, states): (mpsc::Receiver<Command>, mpsc::Receiver<StateChange>),
        messages: Messages,
        mirror: Mirror,
    ) -> Self {
        Self {
            redis,
            leases,
            commands,
            states,
            messages,
            mirror,
            load_at: None,
            suspects: BTreeSet::new(),
            has_loaded: false,
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
                Wake::States(changes) => self.tell_states(changes).await,
                Wake::Message(message) => {
                    if self.mirror.follow(&message, &self.leases).is_err() {
                        self.fall_out_of_step();
                    }
                }
                Wake::Link => {
                    self.suspects = self.leases.linked();
                    if self.has_loaded {
                        self.leases.suspect_loss();
                    }
                    self.fall_out_of_step();
                }
                Wake::OutOfStep => self.fall_out_of_step(),
                Wake::Room => self.mirror.refill(),
                Wake::Returns => self.take_returns(),
            }
        }
    }

    async fn next(&mut self, link: &mut Option<watch::Receiver<LinkState>>, batch: &mut Vec<Command>) -> Wake {
        let is_up = link.as_ref().is_some_and(|link| link.borrow().is_up());
        let load_at = self.load_at.filter(|_| is_up);
        tokio::select! {
            biased;
            () = changed(link) => Wake::Link,
            () = self.leases.expired.notified() => Wake::OutOfStep,
            () = self.leases.returned.notified() => Wake::Returns,
            () = until(load_at) => Wake::Load,
            count = self.commands.recv_many(batch, BATCH) => if count == 0 { Wake::Stop } else { Wake::Commands },
            changes = received(&mut self.states) => Wake::States(changes),
            message = self.messages.next() => message.map_or(Wake::OutOfStep, Wake::Message),
            () = self.mirror.room() => Wake::Room,
        }
    }

    /// One result for each write, or none at all, in which case the entries are asserted later.
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

/// Takes what waits in a queue, up to a batch; waits for ever once nobody can send any more.
async fn received<T>(queue: &mut mpsc::Receiver<T>) -> Vec<T> {
    let mut batch = Vec::new();
    if queue.recv_many(&mut batch, BATCH).await == 0 {
        std::future::pending::<()>().await;
    }
    batch
}

async fn until(at: Option<Instant>) {
    match at {
        Some(at) => sleep_until(at).await,
        None => std::future::pending().await,
    }
}
