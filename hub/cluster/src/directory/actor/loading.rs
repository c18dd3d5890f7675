//! When the mirror is loaded anew, and how.
//!
//! Invariants
//! - A load asserts this hub's entries first, then loads those in Redis, then removes those that this hub no longer
//!   holds.
//! - If Redis has lost the entries of a hub to which there is a link, they stay until that hub has written them again.

use alkhub_redis::{DirectoryWrite, Error, Incarnation, Written};
use tokio::time::Instant;

use super::{BATCH, DirectoryActor, RETRY};
use crate::directory::record::{self, InstanceKey};
use crate::others::Returns;

// === impl DirectoryActor ===

impl DirectoryActor {
    /// Drops what was kept of a hub while it had no lease: because the hub is gone, or once it has written what it
    /// holds again, which it does right after its lease.
    pub(super) fn take_returns(&mut self) {
        let Returns { gone, has_returned } = self.leases.take_returns();
        gone.into_iter().for_each(|hub| self.mirror.hub_gone(hub));
        if has_returned {
            self.load_later();
        }
    }

    /// Schedules a load for when the others have written what they hold.
    fn load_later(&mut self) {
        let load_at = Instant::now() + self.leases.interval();
        self.load_at = Some(self.load_at.map_or(load_at, |at| at.min(load_at)));
    }

    pub(super) fn fall_out_of_step(&mut self) {
        self.mirror.leave_feed();
        self.load_at = Some(Instant::now());
    }

    pub(super) async fn load(&mut self) {
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
        // Everything that leases said up to here is skipped too, and the previous renewal may not have seen it.
        self.leases.renew(incarnation, false).await?;
        let mut kept = self.leases.lapsed();
        kept.extend(self.suspects.iter().cloned());
        let stale = self.mirror.load(stored, &kept);
        self.has_loaded = true;
        if !std::mem::take(&mut self.suspects).is_empty() {
            self.load_later();
        }
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
