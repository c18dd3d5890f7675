//! The newest connection of each instance: an older one yields to it if its registration is still under way.
//!
//! Invariants
//! - If two connections ask for one instance, the one that asked later is registered, however long each waits.
//! - Nothing is kept for an instance that has no registration under way.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use alkhub_protocol::{InstanceId, SpokeName};
use dashmap::DashMap;
use tokio_util::sync::CancellationToken;

/// The last registration under way of each instance.
#[derive(Debug, Default)]
pub(crate) struct Newest {
    last: DashMap<(SpokeName, InstanceId), Last>,
    count: AtomicU64,
}

#[derive(Debug)]
struct Last {
    number: u64,
    connection: String,
    /// Shared by all registrations of the connection.
    gone: CancellationToken,
}

/// A registration under way.
#[derive(Debug)]
pub(super) struct Asking {
    newest: Arc<Newest>,
    instance: (SpokeName, InstanceId),
    number: u64,
    gone: CancellationToken,
}

// === impl Newest ===

impl Newest {
    /// Begins a registration, and ends one of another connection of the same instance that is still under way.
    pub(super) fn ask(self: &Arc<Self>, spoke: &SpokeName, instance: &InstanceId, connection: &str) -> Asking {
        let number = self.count.fetch_add(1, Ordering::Relaxed);
        let instance = (spoke.clone(), instance.clone());
        let mut last = self.last.entry(instance.clone()).or_insert_with(|| Last {
            number,
            connection: connection.to_owned(),
            gone: CancellationToken::new(),
        });
        if last.connection != connection {
            last.gone.cancel();
            last.connection = connection.to_owned();
            last.gone = CancellationToken::new();
        }
        last.number = number;
        Asking {
            newest: Arc::clone(self),
            instance,
            number,
            gone: last.gone.child_token(),
        }
    }
}

// === impl Asking ===

impl Asking {
    /// Cancelled when the registration must no longer take effect: its connection has ended, or is not the newest.
    pub(super) fn gone(&self) -> &CancellationToken {
        &self.gone
    }
}

impl Drop for Asking {
    fn drop(&mut self) {
        self.newest
            .last
            .remove_if(&self.instance, |_, last| last.number == self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_connection_that_asks_later_ends_the_one_before_it() {
        let newest = Arc::new(Newest::default());
        let (spoke, one, two) = ("text", "one", "two");
        let ask = |instance: &str, connection: &str| {
            newest.ask(
                &spoke.parse().expect("valid"),
                &instance.parse().expect("valid"),
                connection,
            )
        };

        let first = ask(one, "c1");
        let again = ask(one, "c1");
        let other = ask(two, "c2");
        assert!(!first.gone().is_cancelled(), "the same connection");
        let second = ask(one, "c2");

        assert!(first.gone().is_cancelled() && again.gone().is_cancelled());
        assert!(!second.gone().is_cancelled() && !other.gone().is_cancelled());
        drop((first, again, second, other));
        assert!(newest.last.is_empty());
    }
}
