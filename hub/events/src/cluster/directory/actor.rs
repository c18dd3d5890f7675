//! Owns this hub's entries, mirrors those of the others, and tells the reader what changes.
//!
//! Invariants
//! - This hub's own entries are told when they are made, not when they come back through Redis: calls on this pod go
//!   on while Redis is away.
//! - After every return of the link, every gap in the feed and every funeral of this hub, its entries are asserted,
//!   what it no longer holds is removed, and the mirror is loaded, in this order.
//! - Generations are never given twice: by Redis from one counter, without it by each hub beyond all that it has seen,
//!   and between two hubs the higher id counts ([`Fence`](crate::Fence)).
//! - A registration whose connection has ended by its turn is not made: it would take the place of the one that the
//!   instance has come back with.
//! - The reader never holds up the feed: when its queue is full it gets a snapshot once there is room.

mod mirror;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use alkhub_protocol::HubId;
use bytes::Bytes;
use jiff::Timestamp;
use redis::{Cmd, Pipeline, Value};
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use super::feed::{Messages, Position};
use super::{Command, Key, Parts};
use crate::LinkState;
use crate::channel::Names;
use crate::cluster::lease::Leases;
use crate::cluster::{DirectoryChange, DirectoryEntry};
use crate::target::redis::Redis;
use crate::target::redis::scripts::{self, Record};

/// Commands, or assertions, in one write at most.
const BATCH: usize = 64;

/// A load that failed while the link is up is tried again after this.
const RETRY: Duration = Duration::from_secs(1);

/// The task behind the directory.
pub(in crate::cluster) struct Actor {
    hub: HubId,
    names: Arc<Names>,
    redis: Option<Redis>,
    leases: Arc<Leases>,
    commands: mpsc::Receiver<Command>,
    messages: Messages,
    changes: mpsc::Sender<DirectoryChange>,
    /// What this hub holds: the truth about it, wherever Redis stands.
    own: HashMap<Key, DirectoryEntry>,
    /// What the other hubs hold, as Redis says.
    others: HashMap<Key, DirectoryEntry>,
    /// The highest generation that this hub has given or seen: its next one is beyond it.
    highest: u64,
    /// Where the mirror stands in the feed; `None`: nowhere, it has to be loaded.
    position: Option<Position>,
    /// When the directory has to be loaded, as soon as the link is up.
    load_at: Option<Instant>,
    /// The reader has to get a snapshot before anything else.
    snapshot_due: bool,
}

enum Event {
    Stop,
    /// Changes may have been missed, or Redis may have lost what it knew.
    Lost,
    Load,
    Commands,
    Message(Bytes),
    Room,
}

// === impl Actor ===

impl Actor {
    pub(super) fn new(parts: Parts<'_>, commands: mpsc::Receiver<Command>, messages: Messages) -> Self {
        let Parts {
            hub,
            names,
            redis,
            leases,
            changes,
        } = parts;
        Self {
            hub: hub.clone(),
            names,
            redis,
            leases,
            commands,
            messages,
            changes,
            own: HashMap::new(),
            others: HashMap::new(),
            highest: 0,
            position: None,
            load_at: None,
            snapshot_due: true,
        }
    }

    /// Runs until the end.
    pub(in crate::cluster) async fn run(mut self, stop: CancellationToken) {
        let mut link = self.redis.as_ref().map(|redis| redis.link().state());
        if let Some(link) = &mut link {
            link.mark_changed();
        }
        let mut batch = Vec::with_capacity(BATCH);
        loop {
            let event = tokio::select! {
                biased;
                () = stop.cancelled() => Event::Stop,
                event = self.next(&mut link, &mut batch) => event,
            };
            match event {
                Event::Stop => return,
                Event::Load => self.load().await,
                Event::Commands => self.obey(&mut batch).await,
                Event::Message(message) => self.hear(&message),
                Event::Lost => self.lost(),
                Event::Room => self.snapshot(),
            }
        }
    }

    async fn next(&mut self, link: &mut Option<watch::Receiver<LinkState>>, batch: &mut Vec<Command>) -> Event {
        let is_up = link.as_ref().is_some_and(|link| *link.borrow() == LinkState::Up);
        let load_at = self.load_at.filter(|_| is_up);
        tokio::select! {
            biased;
            () = changed(link) => Event::Lost,
            () = self.leases.buried.notified() => Event::Lost,
            () = until(load_at) => Event::Load,
            count = self.commands.recv_many(batch, BATCH) => if count == 0 { Event::Stop } else { Event::Commands },
            message = self.messages.next() => message.map_or(Event::Lost, Event::Message),
            Ok(_) = self.changes.reserve(), if self.snapshot_due => Event::Room,
        }
    }

    fn lost(&mut self) {
        self.position = None;
        self.load_at = Some(Instant::now());
    }

    /// Takes what came together to Redis together.
    async fn obey(&mut self, batch: &mut Vec<Command>) {
        batch.retain(|command| !command.is_void());
        if batch.is_empty() {
            return;
        }
        let mut pipeline = Pipeline::with_capacity(batch.len());
        for command in batch.iter_mut() {
            pipeline.add_command(self.prepare(command));
        }
        let mut answers = self.ask(&pipeline).await.into_iter();
        for command in batch.drain(..) {
            let answer = answers.next();
            match command {
                Command::Register { entry, done, .. } => drop(done.send(self.registered(entry, answer))),
                Command::Unregister { key, generation, done } => {
                    self.unregistered(&key, generation);
                    let _ = done.send(());
                }
            }
        }
    }

    /// One answer for each command, or none at all: then the entries are asserted later.
    async fn ask(&mut self, pipeline: &Pipeline) -> Vec<Value> {
        let Some(redis) = &self.redis else { return Vec::new() };
        let answers = match redis.link().session() {
            Ok(session) => session.query_all(pipeline).await,
            Err(error) => Err(error),
        };
        match answers {
            Ok(answers) if !answers.iter().any(|answer| matches!(answer, Value::ServerError(_))) => answers,
            Ok(answers) => {
                self.load_at = Some(Instant::now() + RETRY);
                tracing::warn!("Redis refuses changes of the directory; they are kept and tried again");
                answers
            }
            Err(error) => {
                self.load_at = Some(Instant::now() + RETRY);
                tracing::debug!(%error, "changes of the directory are kept until the link is back");
                Vec::new()
            }
        }
    }

    fn prepare(&mut self, command: &mut Command) -> Cmd {
        match command {
            Command::Register { entry, .. } => {
                entry.hub = self.hub.clone();
                entry.generation = self.next_generation();
                self.record(entry, scripts::register)
            }
            Command::Unregister { key, generation, .. } => {
                scripts::unregister(&self.names, &key.field(), self.hub.as_str(), *generation)
            }
        }
    }

    fn record(&self, entry: &DirectoryEntry, script: fn(&Names, Record<'_>) -> Cmd) -> Cmd {
        let json = serde_json::to_string(entry).expect("an entry has a JSON form");
        let (field, hub) = (Key::of(entry).field(), self.hub.as_str());
        script(
            &self.names,
            Record {
                field: &field,
                hub,
                generation: entry.generation,
                entry: &json,
            },
        )
    }

    fn registered(&mut self, mut entry: DirectoryEntry, answer: Option<Value>) -> u64 {
        let answer = answer.and_then(|answer| redis::from_redis_value::<(u64, u8)>(answer).ok());
        if let Some((generation, _)) = answer {
            entry.generation = generation;
            self.highest = self.highest.max(generation);
        } else if self.redis.is_some() {
            // Redis may have taken the proposed one, and more may have been given since: this one was given to nobody.
            entry.generation = self.next_generation();
        }
        let (key, generation) = (Key::of(&entry), entry.generation);
        self.others.remove(&key);
        self.tell(DirectoryChange::Put(entry.clone()));
        self.own.insert(key, entry);
        generation
    }

    fn unregistered(&mut self, key: &Key, generation: u64) {
        if self.own.get(key).is_none_or(|entry| entry.generation > generation) {
            return;
        }
        if let Some(entry) = self.own.remove(key) {
            let Key { spoke, instance } = key.clone();
            self.tell(DirectoryChange::Remove {
                spoke,
                instance,
                generation: entry.generation,
                hub: entry.hub,
            });
        }
    }

    /// Beyond every generation that this hub has given or seen, and at least the clock.
    fn next_generation(&mut self) -> u64 {
        self.highest = self.highest.saturating_add(1).max(clock_ms());
        self.highest
    }

    fn tell(&mut self, change: DirectoryChange) {
        if !self.snapshot_due {
            self.snapshot_due = matches!(self.changes.try_send(change), Err(TrySendError::Full(_)));
        }
    }

    fn snapshot(&mut self) {
        let entries = self.own.values().chain(self.others.values()).cloned().collect();
        self.snapshot_due = matches!(
            self.changes.try_send(DirectoryChange::Snapshot(entries)),
            Err(TrySendError::Full(_))
        );
    }
}

fn clock_ms() -> u64 {
    u64::try_from(Timestamp::now().as_millisecond()).unwrap_or_default()
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
