//! The model behind a lock, and a way to wait until it has seen something.

use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};

use crate::model::Model;
use crate::world::PATIENCE;

/// The model of a sequence, to which the reader of every connection reports what it sees.
#[derive(Debug)]
pub(crate) struct Scene {
    model: Mutex<Model>,
    changed: watch::Sender<()>,
}

// === impl Scene ===

impl Scene {
    pub(crate) fn new() -> Self {
        Self {
            model: Mutex::new(Model::new(Instant::now())),
            changed: watch::Sender::new(()),
        }
    }

    /// Looks at the model or changes it.
    pub(crate) fn with<T>(&self, act: impl FnOnce(&mut Model) -> T) -> T {
        let done = act(&mut self.model.lock());
        self.changed.send_replace(());
        done
    }

    /// Waits until the model has seen something.
    ///
    /// # Errors
    /// The model has not seen it within [`PATIENCE`]: returns what was last missing.
    pub(crate) async fn sees(&self, look: impl Fn(&Model) -> Result<(), String>) -> Result<(), String> {
        let end = Instant::now() + PATIENCE;
        let mut changed = self.changed.subscribe();
        loop {
            let Err(missing) = look(&self.model.lock()) else {
                return Ok(());
            };
            if timeout_at(end, changed.changed()).await.is_err() {
                return Err(format!("not within {PATIENCE:?}: {missing}"));
            }
        }
    }
}
