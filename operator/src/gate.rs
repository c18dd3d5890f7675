//! The gate that every write to the Kubernetes API passes: open only while this process holds the Lease.
//!
//! Invariants
//! - No write begins after the gate's deadline or after [`Gate::close`], whatever the tasks of this process believe: a
//!   process that was suspended for a minute finds the gate shut when it resumes.
//! - No write is waited for beyond the deadline: by then another candidate may lead.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{OwnedRwLockReadGuard, RwLock};
use tokio::time::Instant;

/// A write is given up after this long.
const WRITE_LIMIT: Duration = Duration::from_secs(10);

/// Clones share one gate, which is shut at first.
#[derive(Clone, Debug, Default)]
pub(crate) struct Gate {
    open_until: Arc<Mutex<Option<Instant>>>,
    writes: Arc<RwLock<()>>,
}

/// One write on its way; dropped when it has ended.
#[derive(Debug)]
pub(crate) struct Pass {
    /// When the write must be given up.
    pub(crate) deadline: Instant,
    _writing: OwnedRwLockReadGuard<()>,
}

/// This process does not hold the Lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("this operator does not lead")]
pub(crate) struct Shut;

// === impl Gate ===

impl Gate {
    /// Opens the gate, or keeps it open, until `deadline`.
    pub(crate) fn open_until(&self, deadline: Instant) {
        *self.open_until.lock() = Some(deadline);
    }

    /// Lets no further write begin.
    pub(crate) fn close(&self) {
        *self.open_until.lock() = None;
    }

    /// Lets one write through.
    pub(crate) fn pass(&self) -> Result<Pass, Shut> {
        // Taken before the deadline is checked, so that `close` followed by `idle` misses no write.
        let writing = Arc::clone(&self.writes).try_read_owned().map_err(|_| Shut)?;
        let now = Instant::now();
        let until = self.open_until.lock().filter(|until| now < *until).ok_or(Shut)?;
        Ok(Pass {
            deadline: until.min(now + WRITE_LIMIT),
            _writing: writing,
        })
    }

    /// Waits until the writes under way have ended.
    pub(crate) async fn idle(&self) {
        drop(self.writes.write().await);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_gate_is_open_until_its_deadline_and_no_longer() {
        let gate = Gate::default();
        assert_eq!(gate.pass().map(|_| ()), Err(Shut));

        gate.open_until(Instant::now() + Duration::from_secs(5));
        assert!(
            gate.pass()
                .is_ok_and(|pass| pass.deadline <= Instant::now() + Duration::from_secs(5))
        );

        tokio::time::advance(Duration::from_secs(5)).await;
        assert_eq!(gate.pass().map(|_| ()), Err(Shut));
    }

    #[tokio::test(start_paused = true)]
    async fn idle_waits_for_the_writes_under_way() {
        let gate = Gate::default();
        gate.open_until(Instant::now() + Duration::from_secs(60));
        let pass = gate.pass().expect("open");
        gate.close();

        let early = tokio::time::timeout(Duration::from_secs(1), gate.idle()).await;
        drop(pass);
        let late = tokio::time::timeout(Duration::from_secs(1), gate.idle()).await;

        assert!(early.is_err() && late.is_ok());
        assert_eq!(gate.pass().map(|_| ()), Err(Shut));
    }
}
