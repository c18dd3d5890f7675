//! The graceful end: one mechanism for SIGTERM, scale-down and roll-out.
//!
//! Not ready, which is announced to the other hubs: their calls go elsewhere wherever there is anybody else →
//! `drain-delay`, so that load balancers notice → no new connections, clients without a call under way are let go →
//! running calls finish, up to `drain-timeout` → those that still run end with UNAVAILABLE, while every caller can be
//! reached → sockets close with 1001 and a reason → everything ends.

use std::time::Duration;

use alkhub_config::drain::{CLOSING, ENDING, KILLING, STORING};
use alkhub_edge::error::unanswered;
use alkhub_edge::metrics::ConnectionKind;
use alkhub_edge::open::DRAINING;
use tokio::time::{Instant, timeout};

use crate::hub::Hub;

/// Time to announce it to the other hubs, while `drain-delay` runs.
const ANNOUNCING: Duration = Duration::from_secs(1);

/// How often it is looked whether calls still run.
const LOOK: Duration = Duration::from_millis(20);

// === impl Hub ===

impl Hub {
    /// The graceful end: not ready, `drain-delay`, stop accepting, finish calls up to `drain-timeout`, close sockets
    /// with 1001, end every task. Calling it again waits for the same end.
    pub async fn shutdown(&self) {
        self.ended.get_or_init(|| self.drain()).await;
    }

    /// Ends at once: nothing is drained, sockets are dropped without a close. Returns when every task is gone.
    pub async fn kill(&self) {
        self.ended.get_or_init(|| self.end()).await;
    }

    async fn drain(&self) {
        let app = &self.app;
        let (server, scope, open) = (app.edge.server(), app.edge.scope(), app.edge.open());
        app.readiness.draining();
        tracing::info!(hub.id = %app.edge.hub_id(), calls = app.calls.in_flight(), "the hub drains");
        let begun = Instant::now();
        tokio::join!(self.announce(), tokio::time::sleep(server.drain_delay));
        // Whoever runs the hub gives it no longer for this.
        let late = begun.elapsed().saturating_sub(server.drain_delay);
        scope.drain.cancel();
        open.drain();
        if !wait(server.drain_timeout.saturating_sub(late), || app.calls.in_flight() == 0).await {
            tracing::warn!(
                calls = app.calls.in_flight(),
                "calls still run at the end of `server.drain-timeout`"
            );
        }
        // While every caller can still be reached.
        app.calls.end_all(&unanswered(DRAINING), DRAINING);
        scope.close.cancel();
        open.close();
        let sockets = || open.count(ConnectionKind::Websocket);
        if !wait(CLOSING, || sockets() == 0 && app.edge.metrics().http() == 0).await {
            tracing::debug!(sockets = sockets(), "sockets did not answer their close");
            // Their spokes leave the directory while the link to it is still there.
            open.kill();
            wait(KILLING, || sockets() == 0).await;
        }
        self.end().await;
    }

    /// Announces to the other hubs that this one goes away, before anything else of it does.
    async fn announce(&self) {
        let announced = self.app.cluster.announce_now(self.app.lease());
        match timeout(ANNOUNCING, announced).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                tracing::warn!(%error, "it could not be announced to the other hubs that this one drains")
            }
            Err(_) => tracing::warn!("it was not announced in time to the other hubs that this one drains"),
        }
    }

    async fn end(&self) {
        let scope = self.app.edge.scope();
        scope.drain.cancel();
        scope.close.cancel();
        scope.stop.cancel();
        scope.tasks.close();
        if timeout(ENDING, scope.tasks.wait()).await.is_err() {
            tracing::warn!(tasks = scope.tasks.len(), "tasks did not end in time");
        }
        if timeout(STORING, self.app.store.close()).await.is_err() {
            tracing::warn!("Postgres did not take the last writes in time");
        }
        tracing::info!(hub.id = %self.app.edge.hub_id(), "the hub has ended");
    }
}

/// Waits until something holds; false when it does not in time.
async fn wait(limit: Duration, holds: impl Fn() -> bool) -> bool {
    let end = Instant::now() + limit;
    while !holds() {
        if Instant::now() >= end {
            return false;
        }
        tokio::time::sleep(LOOK).await;
    }
    true
}
