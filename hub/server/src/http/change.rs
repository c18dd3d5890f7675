//! Changes of keys and spokes: written, then told to every hub.
//!
//! Invariants
//! - What is written is told, whether the client still waits for the answer or not.

use std::panic::resume_unwind;

use alkhub_events::KeyChange;
use tracing::Instrument as _;

use crate::app::App;

// === impl App ===

impl App {
    /// Does work that must not stop halfway. Dropping the future leaves the work to its end, which a drain waits for.
    pub(super) async fn finish<T: Send + 'static>(&self, work: impl Future<Output = T> + Send + 'static) -> T {
        match self.scope.tasks.spawn(work.in_current_span()).await {
            Ok(done) => done,
            // Nobody cancels it.
            Err(ended) => resume_unwind(ended.into_panic()),
        }
    }

    /// Ends keys here and on the other hubs.
    pub(crate) async fn end_keys(&self, ids: &[String]) {
        if ids.is_empty() {
            return;
        }
        self.revoke(ids);
        self.fabric
            .cluster()
            .announce_key_change(KeyChange::Revoked(ids.to_vec()))
            .await;
    }

    /// Has every hub look its keys up again.
    pub(super) async fn recheck_keys(&self) {
        crate::auth::recheck_in_use(self).await;
        self.fabric.cluster().announce_key_change(KeyChange::Recheck).await;
    }
}
