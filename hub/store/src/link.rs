//! The state of the link to Postgres, which every statement reads, and the notification that makes the task of `watch`
//! check it.

use alkhub_retry::LinkState;
use tokio::sync::{Notify, watch};

use crate::metrics::Metrics;

/// Whether statements can be expected to succeed, for everybody to read, and the notification that makes the task
/// check.
#[derive(Debug)]
pub(crate) struct Link {
    state: watch::Sender<LinkState>,
    suspect: Notify,
    /// What identifies a table of the schema since it was made; 0 before the first check.
    incarnation: watch::Sender<i64>,
}

// === impl Link ===

impl Link {
    pub(crate) fn new() -> Self {
        Self {
            state: watch::Sender::new(LinkState::Down("not connected yet".to_owned())),
            suspect: Notify::new(),
            incarnation: watch::Sender::new(0),
        }
    }

    pub(crate) fn state(&self) -> LinkState {
        self.state.borrow().clone()
    }

    pub(crate) fn subscribe(&self) -> watch::Receiver<LinkState> {
        self.state.subscribe()
    }

    pub(crate) fn incarnation(&self) -> &watch::Sender<i64> {
        &self.incarnation
    }

    /// Makes the task check now.
    pub(crate) fn suspect(&self) {
        self.suspect.notify_one();
    }

    /// Resolves when somebody has asked the task to check.
    pub(crate) async fn suspected(&self) {
        self.suspect.notified().await;
    }

    /// Sets the state; logs each change from or to up once.
    pub(crate) fn set(&self, state: LinkState, metrics: &Metrics) {
        metrics.up.set(i64::from(state.is_up()));
        self.state.send_if_modified(|old| {
            match (&*old, &state) {
                (LinkState::Up, LinkState::Up) => return false,
                (_, LinkState::Up) => tracing::info!("Postgres is connected"),
                (LinkState::Down(old), LinkState::Down(new)) if old == new => return false,
                (_, LinkState::Down(reason)) => tracing::warn!(reason, "Postgres is not available; trying again"),
            }
            *old = state;
            true
        });
    }

    /// Marks the link as down because the store is closed, or by an error that its caller gets: nobody checks again,
    /// and nothing is logged.
    pub(crate) fn end(&self, reason: String, metrics: &Metrics) {
        metrics.up.set(0);
        self.state.send_replace(LinkState::Down(reason));
    }
}
