//! What a part of a hub lives on, in a test of it alone: tasks, the word to end, and metrics.

use prometheus::Registry;
use prometheus::proto::Metric;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::wait::within;

/// What the server gives the parts of a hub.
#[derive(Clone, Debug, Default)]
pub struct Host {
    /// Every task of the part.
    pub tasks: TaskTracker,
    /// What asks for the end.
    pub stop: CancellationToken,
    /// Every metric of the part.
    pub registry: Registry,
}

// === impl Host ===

impl Host {
    /// The value of a counter or a gauge, summed over its labels.
    ///
    /// # Panics
    /// There is no metric of this name.
    pub fn metric(&self, name: &str) -> f64 {
        let families = self.registry.gather();
        let family = families.iter().find(|family| family.name() == name);
        let family = family.unwrap_or_else(|| panic!("no metric is called {name}"));
        let value = |metric: &Metric| metric.get_counter().get_value() + metric.get_gauge().get_value();
        family.get_metric().iter().map(value).sum()
    }

    /// Asks for the end and waits for it.
    ///
    /// # Panics
    /// A task goes on.
    pub async fn end(self) {
        self.stop.cancel();
        self.tasks.close();
        within("every task ends", self.tasks.wait()).await;
    }
}
