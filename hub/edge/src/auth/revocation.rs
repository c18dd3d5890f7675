//! Keys that end or change while in use, and the record of their last use.

use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;
use std::time::Duration;

use alkhub_hub_cluster::KeyChange;
use alkhub_protocol::{Chain, SpokeName};
use jiff::Timestamp;
use parking_lot::Mutex;
use tokio::sync::{Notify, mpsc};
use tokio::time::MissedTickBehavior;

use super::KeyRing;
use crate::key::Key;
use crate::scope::Scope;

/// How often last uses are written.
const USES: Duration = Duration::from_secs(60);

/// How often to look for open connections and streams whose key has expired.
const ENDS: Duration = Duration::from_secs(1);

/// A check that found Postgres away is tried again after this long.
const RETRY: Duration = Duration::from_secs(2);

/// How many keys are looked up, or have their uses written, in one statement.
const BATCH: usize = 500;

/// Keys that have to be looked up again.
#[derive(Debug, Default)]
enum Which {
    #[default]
    All,
    /// Those of the given spokes.
    Of(BTreeSet<SpokeName>),
}

/// The keys that are due for a look-up, and a notification for the task that does it. Requests that come together
/// become one look-up.
#[derive(Debug, Default)]
struct Due {
    which: Mutex<Option<Which>>,
    some: Notify,
}

/// Until the hub ends: follows the changes of keys, looks at the keys of what is open once per `auth.cache-ttl`, and
/// writes last uses once a minute and at the end. A revocation never waits for any of the others.
pub async fn watch(keys: Arc<KeyRing>, changes: mpsc::Receiver<KeyChange>, scope: Scope) {
    let due = Due::default();
    tokio::join!(
        follow(&keys, changes, &due, &scope),
        check(&keys, &due, &scope),
        write_uses(&keys, &scope)
    );
}

/// Acts on revocations at once and hands over what takes longer.
async fn follow(keys: &KeyRing, mut changes: mpsc::Receiver<KeyChange>, due: &Due, scope: &Scope) {
    let mut ends = ticks(ENDS);
    loop {
        tokio::select! {
            () = scope.stop.cancelled() => return,
            Some(change) = changes.recv() => match change {
                KeyChange::Revoked(ids) => keys.revoke(&ids),
                KeyChange::RecheckSpokes(spokes) => due.add(Which::Of(spokes)),
                KeyChange::Recheck => due.add(Which::All),
            },
            _ = ends.tick() => keys.open.review(),
        }
    }
}

/// Checks the keys in use: when asked to through `due`, for as long as it takes, and at regular intervals.
async fn check(keys: &KeyRing, due: &Due, scope: &Scope) {
    let mut checks = ticks(keys.ttl);
    loop {
        let which = tokio::select! {
            () = scope.stop.cancelled() => return,
            which = due.take() => Some(which),
            _ = checks.tick() => None,
        };
        if let Some(which) = &which {
            keys.invalidate(which);
        }
        let patient = which.is_some().then_some(scope);
        keys.recheck(&which.unwrap_or_default(), patient).await;
    }
}

async fn write_uses(keys: &KeyRing, scope: &Scope) {
    let mut is_late = false;
    loop {
        let goes_on = scope.pause(USES).await;
        let failed = keys.write_uses().await;
        match (&failed, is_late) {
            (Some(error), false) => {
                tracing::warn!(error = %Chain::of(error), "last uses of keys were not written");
            }
            (None, true) => tracing::info!("last uses of keys are written again"),
            (Some(_), true) | (None, false) => {}
        }
        is_late = failed.is_some();
        if !goes_on {
            return;
        }
    }
}

/// Writes uses in parts, so that a statement stays within its time limit and a failed one affects no other; what could
/// not be written goes back to the keys. Returns the last failure.
async fn in_parts<E, W: Future<Output = Result<(), E>>>(
    uses: &[(Arc<Key>, Timestamp)],
    mut write: impl FnMut(Vec<(String, Timestamp)>) -> W,
) -> Option<E> {
    let mut failed = None;
    for part in uses.chunks(BATCH) {
        let named = part.iter().map(|(key, at)| (key.id.to_string(), *at));
        if let Err(error) = write(named.collect()).await {
            part.iter().for_each(|(key, at)| key.used_before(*at));
            failed = Some(error);
        }
    }
    failed
}

fn ticks(period: Duration) -> tokio::time::Interval {
    let period = period.max(Duration::from_secs(1));
    let mut ticks = tokio::time::interval_at(tokio::time::Instant::now() + period, period);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks
}

// === impl Which ===

impl Which {
    fn has(&self, key: &Key) -> bool {
        match self {
            Self::All => true,
            Self::Of(spokes) => {
                let caller = key.caller();
                caller.spoke.as_ref().is_some_and(|spoke| spokes.contains(&spoke.name))
            }
        }
    }

    fn and(self, more: Self) -> Self {
        match (self, more) {
            (Self::Of(mut spokes), Self::Of(more)) => {
                spokes.extend(more);
                Self::Of(spokes)
            }
            (Self::All, _) | (_, Self::All) => Self::All,
        }
    }
}

// === impl Due ===

impl Due {
    fn add(&self, more: Which) {
        let mut which = self.which.lock();
        *which = Some(match which.take() {
            Some(before) => before.and(more),
            None => more,
        });
        drop(which);
        self.some.notify_one();
    }

    /// Waits until something is due, and takes it.
    async fn take(&self) -> Which {
        loop {
            if let Some(which) = self.which.lock().take() {
                return which;
            }
            self.some.notified().await;
        }
    }
}

// === impl KeyRing ===

impl KeyRing {
    /// Ends keys on every hub, and what they have open.
    pub async fn end(&self, ids: &[String]) {
        if ids.is_empty() {
            return;
        }
        self.revoke(ids);
        let change = KeyChange::Revoked(ids.to_vec());
        self.cluster.announce_key_change(change).await;
    }

    /// Makes every hub look up the keys of a spoke again: those of what is open at once, the others when they are next
    /// used.
    pub async fn recheck_spoke(&self, spoke: &SpokeName) {
        let spokes = BTreeSet::from([spoke.clone()]);
        self.recheck_everywhere(Which::Of(spokes.clone()), KeyChange::RecheckSpokes(spokes))
            .await;
    }

    /// The same for every key.
    pub async fn recheck_all(&self) {
        self.recheck_everywhere(Which::All, KeyChange::Recheck).await;
    }

    async fn recheck_everywhere(&self, which: Which, change: KeyChange) {
        self.invalidate(&which);
        self.recheck(&which, None).await;
        self.cluster.announce_key_change(change).await;
    }

    /// Closes what a key has open if it is no longer good; called right after something was entered.
    pub fn close_if_faulty(&self, key: &Key) {
        if self.look_again(key).is_some() {
            self.open.review();
        }
    }

    /// Ends keys on this hub, and what they have open.
    fn revoke(&self, ids: &[String]) {
        let ids: HashSet<&str> = ids.iter().map(String::as_str).collect();
        // First noted, then searched for: whoever adds something meanwhile looks at the key again.
        let news = self.note_revoked(&ids);
        for key in self.all().iter().chain(&self.open.keys()) {
            if ids.contains(&*key.id) {
                key.revoke_by(news);
            }
        }
        self.open.review();
    }

    /// Looks up those of the keys that are used by what is open. With `patient`, waits for Postgres while it is away.
    async fn recheck(&self, which: &Which, patient: Option<&Scope>) {
        let mut keys = self.open.keys();
        keys.retain(|key| which.has(key));
        for keys in keys.chunks(BATCH) {
            while let Err(error) = self.refresh_all(keys).await {
                tracing::debug!(%error, "keys in use cannot be checked now");
                let Some(scope) = patient else { return };
                if !scope.pause(RETRY).await {
                    return;
                }
            }
            self.open.review();
        }
    }

    /// Remembers that keys have ended; returns the number of this news.
    fn note_revoked(&self, ids: &HashSet<&str>) -> u64 {
        let news = self.next_news();
        for &id in ids {
            let entry = self.revoked.entry(id.into());
            entry.and_upsert_with(|noted| noted.map_or(news, |noted| noted.into_value().max(news)));
        }
        news
    }

    /// Makes these keys due for a look-up before they are trusted again. Keys that were not found may exist by now.
    fn invalidate(&self, which: &Which) {
        let news = self.next_news();
        self.unknown.invalidate_all();
        for key in self.all().into_iter().filter(|key| which.has(key)) {
            key.invalidate(news);
        }
    }

    /// Writes the last uses; returns why some were not written, if so.
    async fn write_uses(&self) -> Option<alkhub_store::Error> {
        let uses = self.all().into_iter().filter_map(|key| {
            let at = key.take_last_used()?;
            Some((key, at))
        });
        let uses: Vec<_> = uses.collect();
        let (keys, hash_key) = (self.store.keys(), self.hasher.hash_key());
        in_parts(&uses, |part| async move { keys.touch(&part, hash_key).await }).await
    }
}

#[cfg(test)]
mod tests {
    use alkhub_store::{KeyHash, KeyRecord};

    use super::*;
    use crate::key::record;

    #[tokio::test]
    async fn of_uses_that_are_written_only_a_part_that_failed_comes_back() {
        let used = Timestamp::now();
        let uses: Vec<_> = (0..2 * BATCH + 1)
            .map(|number| {
                let id = number.to_string();
                let key = Key::new(KeyHash([0; 32]), &KeyRecord { id, ..record() }, 0);
                (Arc::new(key), used)
            })
            .collect();
        let again = used + Duration::from_secs(1);
        let mut sizes = Vec::new();

        let failed = in_parts(&uses, |part| {
            sizes.push(part.len());
            uses[BATCH + 1].0.used(again);
            let is_second = part.iter().any(|(id, _)| *id == BATCH.to_string());
            std::future::ready(if is_second { Err("too slow") } else { Ok(()) })
        })
        .await;

        assert_eq!(failed, Some("too slow"));
        assert_eq!(sizes, [BATCH, BATCH, 1]);
        let left: Vec<_> = uses.iter().map(|(key, _)| key.take_last_used()).collect();
        assert!(left[..BATCH].iter().chain(&left[2 * BATCH..]).all(Option::is_none));
        assert!(left[BATCH..2 * BATCH].iter().all(Option::is_some));
        assert_eq!((left[BATCH], left[BATCH + 1]), (Some(used), Some(again)));
    }
}
