//! How the mirror becomes true, and stays it.

use redis::Pipeline;
use tokio::time::Instant;

use super::{Actor, BATCH, RETRY};
use crate::Error;
use crate::cluster::directory::Key;
use crate::cluster::directory::feed::{self, Change, Position};
use crate::cluster::{DirectoryChange, DirectoryEntry};
use crate::target::redis::Session;
use crate::target::redis::scripts;

impl Actor {
    pub(super) async fn load(&mut self) {
        self.load_at = None;
        let Some(redis) = &self.redis else { return };
        let loaded = match redis.link().session() {
            Ok(session) => self.try_load(&session).await,
            Err(error) => Err(error),
        };
        if let Err(error) = loaded {
            tracing::warn!(%error, "directory was not loaded");
            self.position = None;
            self.load_at = Some(Instant::now() + RETRY);
        }
    }

    async fn try_load(&mut self, session: &Session) -> Result<(), Error> {
        self.leases.renew(session, false).await?;
        self.assert_own(session).await?;
        let (epoch, number, fields): (String, u64, Vec<(String, String)>) =
            session.query(&scripts::load(&self.names)).await?;
        // What hubs said of themselves up to here is skipped with the rest; the renewal before may not have seen it.
        self.leases.renew(session, false).await?;
        self.position = Some(Position { epoch, number });
        self.others.clear();
        let mut stale = Pipeline::new();
        for (field, value) in &fields {
            let Some(entry) = feed::entry(field, value) else {
                continue;
            };
            let key = Key::of(&entry);
            self.highest = self.highest.max(entry.generation);
            if entry.hub != self.hub {
                self.own.remove(&key);
                self.others.insert(key, entry);
            } else if !self.own.contains_key(&key) {
                stale.add_command(scripts::unregister(
                    &self.names,
                    field,
                    self.hub.as_str(),
                    entry.generation,
                ));
            }
        }
        self.snapshot_due = true;
        if !stale.is_empty() {
            session.query_all(&stale).await?;
        }
        Ok(())
    }

    /// Writes this hub's entries again; those that another hub holds by now are given up.
    async fn assert_own(&mut self, session: &Session) -> Result<(), Error> {
        let keys: Vec<Key> = self.own.keys().cloned().collect();
        for keys in keys.chunks(BATCH) {
            let mut pipeline = Pipeline::with_capacity(keys.len());
            for entry in keys.iter().filter_map(|key| self.own.get(key)) {
                pipeline.add_command(self.record(entry, scripts::assert));
            }
            for (key, answer) in keys.iter().zip(session.query_all(&pipeline).await?) {
                let (_, stands): (u64, bool) = session.read(answer)?;
                if !stands {
                    self.own.remove(key);
                }
            }
        }
        Ok(())
    }

    pub(super) fn hear(&mut self, message: &[u8]) {
        let Some(at) = &mut self.position else { return };
        let Some((position, change)) = feed::read(message) else {
            return self.lost();
        };
        if position.epoch != at.epoch || position.number > at.number + 1 {
            return self.lost();
        }
        if position.number > at.number {
            *at = position;
            self.apply(change);
        }
    }

    fn apply(&mut self, change: Change) {
        match change {
            Change::Put(entry) => self.put(entry),
            Change::Remove { key, generation, hub } => {
                let same = |entry: &mut DirectoryEntry| entry.hub == hub && entry.generation <= generation;
                if self.others.get_mut(&key).is_some_and(same) {
                    self.others.remove(&key);
                    let Key { spoke, instance } = key;
                    self.tell(DirectoryChange::Remove {
                        spoke,
                        instance,
                        generation,
                        hub,
                    });
                }
            }
            // This hub was taken for dead: everything it holds has to be asserted again.
            Change::Gone(hub) if hub == self.hub => self.lost(),
            Change::Gone(hub) => {
                self.others.retain(|_, entry| entry.hub != hub);
                self.leases.forget(&hub);
                self.tell(DirectoryChange::HubGone(hub));
            }
            Change::Lease(hub, lease) => self.leases.hear(&hub, &lease),
            Change::Unknown => {}
        }
    }

    fn put(&mut self, entry: DirectoryEntry) {
        let key = Key::of(&entry);
        self.highest = self.highest.max(entry.generation);
        // Its own were told when they were made; an older one of another hub came before one of its own.
        if entry.hub == self.hub || self.own.get(&key).is_some_and(|own| own.fence() > entry.fence()) {
            return;
        }
        self.own.remove(&key);
        self.others.insert(key, entry.clone());
        self.tell(DirectoryChange::Put(entry));
    }
}
