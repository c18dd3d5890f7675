//! Changes of keys that wait, merged so that they are bounded.

use parking_lot::Mutex;
use tokio::sync::Notify;

use super::change::KeyChange;

/// Revoked keys that wait for their reader; beyond it all keys are checked again.
const BACKLOG_KEYS: usize = 10_000;

/// What waits, and a bell for whoever takes it.
#[derive(Debug, Default)]
pub(super) struct Backlog {
    news: Mutex<Merged>,
    pub(super) some: Notify,
}

#[derive(Debug, Default)]
struct Merged {
    revoked: Vec<String>,
    recheck: bool,
    /// Changes until now.
    count: u64,
}

// === impl Backlog ===

impl Backlog {
    /// Adds a change and answers its number, from 1.
    pub(super) fn add(&self, change: KeyChange) -> u64 {
        let mut news = self.news.lock();
        news.merge(change);
        news.count += 1;
        let number = news.count;
        drop(news);
        self.some.notify_one();
        number
    }

    /// Adds what was taken before; wakes nobody.
    pub(super) fn put_back(&self, change: KeyChange) {
        self.news.lock().merge(change);
    }

    /// What waits, and the number of the last change in it.
    pub(super) fn take(&self) -> (Vec<KeyChange>, u64) {
        let mut news = self.news.lock();
        let revoked = std::mem::take(&mut news.revoked);
        let recheck = std::mem::take(&mut news.recheck).then_some(KeyChange::Recheck);
        let revoked = (!revoked.is_empty()).then_some(KeyChange::Revoked(revoked));
        (revoked.into_iter().chain(recheck).collect(), news.count)
    }
}

// === impl Merged ===

impl Merged {
    fn merge(&mut self, change: KeyChange) {
        match change {
            KeyChange::Revoked(mut keys) if self.revoked.len() + keys.len() <= BACKLOG_KEYS => {
                self.revoked.append(&mut keys);
            }
            KeyChange::Revoked(_) => {
                self.revoked = Vec::new();
                self.recheck = true;
            }
            KeyChange::Recheck => self.recheck = true,
        }
    }
}
