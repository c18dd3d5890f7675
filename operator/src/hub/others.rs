//! Other installs of the operator, as far as this one has seen them.

use std::collections::HashMap;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

/// Leases of other installs: the version that was seen, and since when.
#[derive(Debug, Default)]
pub(crate) struct Others(Mutex<HashMap<String, (String, Instant)>>);

// === impl Others ===

impl Others {
    /// How long an install's Lease has had this version.
    pub(super) fn silence(&self, install: &str, version: &str) -> Duration {
        let mut seen = self.0.lock();
        match seen.get(install) {
            Some((known, since)) if known == version => since.elapsed(),
            _ => {
                seen.insert(install.to_owned(), (version.to_owned(), Instant::now()));
                Duration::ZERO
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn an_install_is_silent_since_its_lease_last_changed() {
        let others = Others::default();

        assert_eq!(others.silence("a/b", "1"), Duration::ZERO);
        let long = Duration::from_secs(20);
        tokio::time::advance(long).await;
        assert_eq!(others.silence("a/b", "1"), long);
        assert_eq!(others.silence("a/b", "2"), Duration::ZERO);
    }
}
