//! What runs besides the requests: connecting to Postgres and Redis, the lease, the membership, keys, beats.

use std::time::Duration;

use alkhub_edge::auth::{self, FirstKey};
use alkhub_hub_cluster::{LinkState, PrefixReservation};
use alkhub_protocol::{ApiKey, Chain};
use alkhub_store::PRUNED;

use crate::app::App;
use crate::membership;
use crate::readiness::Prefix;

/// When a step that failed because something is away is tried again.
const RETRY: Duration = Duration::from_secs(1);

/// How often to look for keys that ended long ago.
const PRUNE: Duration = Duration::from_secs(3600);

/// How often the prefix is reserved again: Redis may have lost the reservation, or its holder may be gone.
const RESERVE: Duration = Duration::from_secs(10);

/// Spawns them all under the hub's supervisor.
pub(crate) fn start(app: &App, admin: Option<ApiKey>) {
    let scope = app.edge.scope();
    let supervisor = &scope.supervisor;
    supervisor.run("server.prepare", prepare(app.clone(), admin));
    supervisor.run("server.prefix", reserve_prefix(app.clone()));
    supervisor.run("server.loops", watch_loops(app.clone()));
    supervisor.keep("server.announce", announce(app.clone()));
    supervisor.keep("server.membership", membership::watch(app.clone()));
    let changes = app.cluster.key_changes();
    supervisor.keep(
        "server.keys",
        auth::watch(app.edge.keys().clone(), changes, scope.clone()),
    );
    supervisor.keep("server.suspect-keys", suspect_keys(app.clone()));
    supervisor.keep("server.prune-keys", prune_keys(app.clone()));
    supervisor.keep("server.sockets", app.sockets.clone().beat());
    supervisor.keep("server.sessions", alkhub_socket::attend(app.sockets.clone()));
    supervisor.keep("server.streams", app.api.clone().keep_alive());
}

/// Makes the hub permanently unready when a loop is lost.
async fn watch_loops(app: App) {
    let scope = app.edge.scope();
    let supervisor = &scope.supervisor;
    tokio::select! {
        () = scope.stop.cancelled() => {}
        lost = supervisor.lost() => app.readiness.lost(lost.to_string()),
        lost = app.store.lost() => {
            app.readiness.lost(lost.to_string());
            supervisor.lose(lost);
        }
    }
}

/// Brings the schema up to date, enters the first key, and follows the key's file.
async fn prepare(app: App, admin: Option<ApiKey>) {
    match app.store.prepare(&app.edge.scope().stop).await {
        Ok(()) => {}
        Err(alkhub_store::Error::Stopped) => return,
        Err(error) => {
            let reason = Chain::of(&error).to_string();
            tracing::error!(error = %reason, "the hub cannot use its database");
            return app.readiness.failed(reason);
        }
    }
    let Some(admin) = admin else {
        return app.readiness.prepared();
    };
    let scope = app.edge.scope().clone();
    let alone = !app.config.hub.uid.is_empty();
    let first = FirstKey::new(app.edge.keys().clone(), app.config.auth.clone(), alone, admin);
    while let Err(error) = first.enter().await {
        tracing::warn!(error = %Chain::of(&error), "the first admin key is not entered yet");
        if !scope.pause(RETRY).await {
            return;
        }
    }
    app.readiness.prepared();
    first.warn_of_others().await;
    first.follow(scope).await;
}

/// Waits for Redis and keeps reserving the prefix for this Hub.
async fn reserve_prefix(app: App) {
    let mut link = app.cluster.link();
    let uid = app.config.hub.uid.as_str();
    loop {
        if let Some(link) = &mut link {
            let up = tokio::select! {
                () = app.edge.scope().stop.cancelled() => return,
                state = link.wait_for(LinkState::is_up) => state.is_ok(),
            };
            if !up {
                return;
            }
        }
        app.readiness.redis_seen();
        if uid.is_empty() {
            return app.readiness.prefix(Prefix::Ours);
        }
        match app.cluster.reserve_prefix(uid).await {
            Ok(PrefixReservation::Mine) => app.readiness.prefix(Prefix::Ours),
            Ok(PrefixReservation::Taken(other)) => {
                tracing::error!(hub.uid = %other, "another Hub has this channel prefix in this Redis");
                app.readiness.prefix(Prefix::Taken(other));
            }
            Err(error) => tracing::debug!(error = %Chain::of(&error), "the prefix is not reserved yet"),
        }
        if !app.edge.scope().pause(RESERVE).await {
            return;
        }
    }
}

/// Keeps the numbers in the lease up to date.
async fn announce(app: App) {
    loop {
        app.cluster.announce(|| app.lease());
        if !app.edge.scope().pause(app.config.events.lease_interval).await {
            return;
        }
    }
}

/// Looks up keys from addresses that sent too many bad ones.
async fn suspect_keys(app: App) {
    tokio::select! {
        () = app.edge.scope().stop.cancelled() => {}
        () = app.edge.keys().look_up_suspect() => {}
    }
}

/// Deletes keys that ended long ago, in small batches.
async fn prune_keys(app: App) {
    // A random start, so that not all hubs do this at once.
    let mut wait = PRUNE.mul_f64(rand::random::<f64>());
    while app.edge.scope().pause(wait).await {
        wait = PRUNE;
        match app.store.keys().prune(app.config.auth.key_retention).await {
            Ok(0) => {}
            Ok(keys) => {
                tracing::info!(keys, "keys that ended long ago were deleted");
                // A full batch means that there is more.
                wait = if keys < PRUNED.unsigned_abs() { PRUNE } else { RETRY };
            }
            Err(error) => tracing::debug!(error = %Chain::of(&error), "keys that ended long ago were not deleted"),
        }
    }
}
