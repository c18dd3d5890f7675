//! Keys that end or change while they are in use, and the record of their use.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use alkhub_events::KeyChange;
use jiff::Timestamp;
use tokio::sync::{Notify, mpsc};
use tokio::time::MissedTickBehavior;

use super::KeyRing;
use super::key::{Key, Standing};
use crate::app::App;
use crate::ws::{Sockets, code};

/// Last uses are written this often.
const USES: Duration = Duration::from_secs(60);

/// Streams of keys whose time is over are looked for this often. (WebSockets have a beat of their own.)
const ENDS: Duration = Duration::from_secs(1);

/// A check that found Postgres away is tried again after this long.
const RETRY: Duration = Duration::from_secs(2);

/// Keys looked up in one statement.
const BATCH: usize = 500;

/// Until the hub ends: follows the changes of keys, looks at the keys of open connections once per `auth.cache-ttl`, and
/// writes last uses once a minute and at the end. A revocation never waits for any of the others.
pub(crate) async fn watch(app: App, changes: mpsc::Receiver<KeyChange>) {
    let due = Notify::new();
    tokio::join!(follow(&app, changes, &due), check(&app, &due), write_uses(&app));
}

/// Acts on revocations at once and hands on what takes longer.
async fn follow(app: &App, mut changes: mpsc::Receiver<KeyChange>, due: &Notify) {
    let mut ends = ticks(ENDS);
    loop {
        tokio::select! {
            () = app.scope.stop.cancelled() => return,
            Some(change) = changes.recv() => match change {
                KeyChange::Revoked(ids) => app.revoke(&ids),
                KeyChange::Recheck => due.notify_one(),
            },
            _ = ends.tick() => app.streams.end_bad(),
        }
    }
}

/// Checks the keys in use: when it is `due`, for as long as it takes, and now and then.
async fn check(app: &App, due: &Notify) {
    let mut checks = ticks(app.config.auth.cache_ttl);
    loop {
        let patient = tokio::select! {
            () = app.scope.stop.cancelled() => return,
            () = due.notified() => true,
            _ = checks.tick() => false,
        };
        if patient {
            app.keys.doubt_all();
        }
        recheck(app, patient).await;
    }
}

async fn write_uses(app: &App) {
    let mut uses = ticks(USES);
    loop {
        tokio::select! {
            () = app.scope.stop.cancelled() => break,
            _ = uses.tick() => app.keys.write_uses().await,
        }
    }
    app.keys.write_uses().await;
}

fn ticks(period: Duration) -> tokio::time::Interval {
    let period = period.max(Duration::from_secs(1));
    let mut ticks = tokio::time::interval_at(tokio::time::Instant::now() + period, period);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks
}

/// Looks the keys of open connections up now; the others when they are next used.
pub(crate) async fn recheck_in_use(app: &App) {
    app.keys.doubt_all();
    recheck(app, false).await;
}

/// Looks the keys of open connections up; a `patient` check waits for Postgres where it is away.
async fn recheck(app: &App, patient: bool) {
    for keys in app.keys_in_use().chunks(BATCH) {
        while let Err(error) = app.keys.refresh_all(keys).await {
            tracing::debug!(%error, "keys in use cannot be checked now");
            if !patient {
                return;
            }
            tokio::select! {
                () = app.scope.stop.cancelled() => return,
                () = tokio::time::sleep(RETRY) => {}
            }
        }
        app.end_bad();
    }
}

// === impl App ===

impl App {
    /// Ends keys on this hub, and their connections.
    pub(crate) fn revoke(&self, ids: &[String]) {
        if ids.is_empty() {
            return;
        }
        let ids: HashSet<&str> = ids.iter().map(String::as_str).collect();
        // Known first, then looked for: what comes up meanwhile is looked at again by the one who brings it.
        self.keys.note_revoked(&ids);
        for key in self.keys.all().iter().chain(&self.keys_in_use()) {
            if ids.contains(&*key.id) {
                key.revoke();
            }
        }
        self.end_bad();
    }

    /// Ends the connections of a key that is no longer good, one that has just been entered included.
    pub(crate) fn end_if_bad(&self, key: &Key) {
        if self.keys.look_again(key) != Standing::Good {
            self.end_bad();
        }
    }

    /// Ends the connections whose keys are no longer good, and what keys do not allow any more on the others.
    fn end_bad(&self) {
        self.sockets.close_bad();
        self.sockets.look_again();
        self.streams.end_bad();
    }

    /// The keys of open connections, each once.
    fn keys_in_use(&self) -> Vec<Arc<Key>> {
        let mut keys = self.sockets.keys();
        keys.extend(self.streams.keys());
        keys.sort_by_key(Arc::as_ptr);
        keys.dedup_by(|a, b| Arc::ptr_eq(a, b));
        keys
    }
}

// === impl KeyRing ===

impl KeyRing {
    fn note_revoked(&self, ids: &HashSet<&str>) {
        for &id in ids {
            self.revoked.insert(id.into(), ());
        }
    }

    /// Every key has to be looked up before it is trusted again.
    fn doubt_all(&self) {
        for key in self.all() {
            key.doubt();
        }
    }

    async fn write_uses(&self) {
        let uses: Vec<(String, Timestamp)> = self
            .all()
            .iter()
            .filter_map(|key| Some((key.id.to_string(), key.take_last_used()?)))
            .collect();
        if uses.is_empty() {
            return;
        }
        if let Err(error) = self.store.keys().touch(&uses, self.hasher.hash_key()).await {
            tracing::debug!(%error, "last uses of keys were not written");
        }
    }
}

// === impl Sockets ===

impl Sockets {
    /// Closes the sockets whose keys are no longer good.
    fn close_bad(&self) {
        let now = Timestamp::now();
        let closes = [
            (Standing::Revoked, code::REVOKED, "the key was revoked"),
            (Standing::Expired, code::REVOKED, "the key has expired"),
            (Standing::Suspended, code::SUSPENDED, "the spoke is suspended"),
        ];
        for (standing, code, reason) in closes {
            self.close(code, reason, |socket| socket.key.standing(now) == standing);
        }
    }
}
