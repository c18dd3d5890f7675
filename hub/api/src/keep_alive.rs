//! The one beat of all streams of server-sent events.

use std::time::Duration;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// How often a silent stream gets a comment, so that no proxy cuts it.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// Changes when silent streams need a sign of life.
#[derive(Debug)]
pub(crate) struct KeepAlive(watch::Sender<()>);

// === impl KeepAlive ===

impl KeepAlive {
    /// A beat that has not begun.
    pub(crate) fn new() -> Self {
        Self(watch::Sender::new(()))
    }

    /// One stream's view of it.
    pub(crate) fn subscribe(&self) -> watch::Receiver<()> {
        self.0.subscribe()
    }

    /// Beats until `stop`.
    pub(crate) async fn run(&self, stop: &CancellationToken) {
        let mut interval = tokio::time::interval(KEEP_ALIVE);
        interval.tick().await;
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                _ = interval.tick() => self.0.send_replace(()),
            }
        }
    }
}
