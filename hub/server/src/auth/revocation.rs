//! Keys that end or change while they are in use, and the record of their use.

use std::sync::Arc;
use std::time::Duration;

use alkhub_events::KeyChange;
use jiff::Timestamp;
use tokio::sync::mpsc;
use tokio::time::MissedTickBehavior;

use super::KeyRing;
use super::key::{Key, Standing};
use crate::app::App;
use crate::ws::{Sockets, code};

/// Last uses are written this often.
const USES: Duration = Duration::from_secs(60);

/// A check that found Postgres away is tried again after this long.
const RETRY: Duration = Duration::from_secs(2);

/// Follows the changes of keys until the hub ends, looks at the keys of open sockets once per `auth.cache-ttl`, and
/// writes last uses once a minute and at the end.
pub(crate) async fn watch(app: App, mut changes: mpsc::Receiver<KeyChange>) {
    let mut uses = ticks(USES);
    let mut checks = ticks(app.config.auth.cache_ttl);
    loop {
        tokio::select! {
            () = app.scope.stop.cancelled() => break,
            Some(change) = changes.recv() => match change {
                KeyChange::Revoked(ids) => app.revoke(&ids),
                KeyChange::Recheck => recheck(&app, true).await,
            },
            _ = checks.tick() => recheck(&app, false).await,
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

/// Looks the keys of open sockets up now; the others when they are next used.
pub(crate) async fn recheck_in_use(app: &App) {
    for key in app.keys.all() {
        key.is_stale();
    }
    recheck(app, false).await;
}

/// Looks up the keys that may have changed unheard: those of open sockets now, the others when they are next used.
async fn recheck(app: &App, all: bool) {
    if all {
        for key in app.keys.all() {
            key.is_stale();
        }
    }
    for key in app.sockets.keys() {
        while let Err(error) = app.keys.refresh(&key).await {
            tracing::debug!(%error, "a key in use cannot be checked now");
            if !all {
                return;
            }
            tokio::select! {
                () = app.scope.stop.cancelled() => return,
                () = tokio::time::sleep(RETRY) => {}
            }
        }
    }
    app.sockets.close_bad();
}

// === impl App ===

impl App {
    /// Ends keys on this hub and closes their sockets.
    pub(crate) fn revoke(&self, ids: &[String]) {
        if ids.is_empty() {
            return;
        }
        self.keys.revoke(ids, &self.sockets.keys());
        self.sockets.close_bad();
    }
}

// === impl KeyRing ===

impl KeyRing {
    /// `in_use`: keys of open sockets, which may have outlived their place in memory.
    fn revoke(&self, ids: &[String], in_use: &[Arc<Key>]) {
        for id in ids {
            self.revoked.insert(id.as_str().into(), ());
        }
        for key in self.all().iter().chain(in_use) {
            if ids.iter().any(|id| **id == *key.id) {
                key.revoke();
            }
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
        if let Err(error) = self.store.keys().touch(&uses).await {
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
