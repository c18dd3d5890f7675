//! What runs beside the requests: reaching for Postgres and Redis, the lease, keys, beats.

use std::time::Duration;

use alkhub_events::{Claim, LinkState};
use alkhub_protocol::ApiKey;

use crate::app::App;
use crate::error::Chain;
use crate::readiness::Prefix;
use crate::ws::Times;
use crate::{auth, sse};

/// A step that failed because something is away is tried again after this long.
const RETRY: Duration = Duration::from_secs(1);

/// A prefix is claimed again this often: Redis may have lost the claim, or its holder may be gone.
const CLAIM: Duration = Duration::from_secs(10);

/// Spawns them all on the hub's tracker.
pub(crate) fn start(app: &App, admin: Option<ApiKey>) {
    let (tasks, server) = (&app.scope.tasks, &app.config.server);
    tasks.spawn(prepare(app.clone(), admin));
    tasks.spawn(claim(app.clone()));
    tasks.spawn(announce(app.clone()));
    tasks.spawn(auth::watch(app.clone(), app.fabric.cluster().key_changes()));
    let stop = app.scope.stop.clone();
    let sockets = app.sockets.clone();
    let times = Times {
        ping_interval: server.ping_interval,
        dead_after: server.dead_after,
        write: server.write_timeout,
        message: server.message_timeout,
    };
    tasks.spawn(sockets.beat(times, stop.clone()));
    tasks.spawn(sse::beat(app.beat.clone(), stop));
}

/// Brings the schema up to date, enters the first key and follows its file.
async fn prepare(app: App, admin: Option<ApiKey>) {
    match app.store.prepare(&app.scope.stop).await {
        Ok(()) => {}
        Err(alkhub_store::Error::Stopped) => return,
        Err(error) => {
            let reason = Chain(&error).to_string();
            tracing::error!(error = %reason, "the hub cannot use its database");
            return app.readiness.failed(reason);
        }
    }
    let Some(admin) = admin else {
        return app.readiness.prepared();
    };
    while let Err(error) = auth::enter_admin(&app, &admin).await {
        tracing::warn!(error = %Chain(&error), "the first admin key is not entered yet");
        if !pause(&app, RETRY).await {
            return;
        }
    }
    app.readiness.prepared();
    auth::follow_admin(app, admin).await;
}

/// Waits for Redis and claims the prefix for this Hub, again and again.
async fn claim(app: App) {
    let mut link = app.fabric.link();
    let uid = app.config.hub.uid.as_str();
    loop {
        let up = tokio::select! {
            () = app.scope.stop.cancelled() => return,
            state = link.wait_for(|state| !matches!(state, LinkState::Down(_))) => state.is_ok(),
        };
        if !up {
            return;
        }
        app.readiness.redis_seen();
        if uid.is_empty() {
            return app.readiness.prefix(Prefix::Ours);
        }
        match app.fabric.cluster().claim_prefix(uid).await {
            Ok(Claim::Mine) => app.readiness.prefix(Prefix::Ours),
            Ok(Claim::Taken(other)) => {
                tracing::error!(hub.uid = %other, "another Hub has this channel prefix in this Redis");
                app.readiness.prefix(Prefix::Taken(other));
            }
            Err(error) => tracing::debug!(error = %Chain(&error), "the prefix is not claimed yet"),
        }
        if !pause(&app, CLAIM).await {
            return;
        }
    }
}

/// Keeps the lease's numbers true.
async fn announce(app: App) {
    loop {
        app.fabric.cluster().announce(app.lease());
        if !pause(&app, app.config.events.lease_interval).await {
            return;
        }
    }
}

/// Waits; false when the hub ends meanwhile.
async fn pause(app: &App, time: Duration) -> bool {
    tokio::select! {
        () = app.scope.stop.cancelled() => false,
        () = tokio::time::sleep(time) => true,
    }
}
