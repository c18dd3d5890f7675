//! Key changes that wait, merged so that they are bounded.

use std::collections::BTreeSet;

use alkhub_protocol::SpokeName;
use parking_lot::Mutex;
use tokio::sync::Notify;

use super::change::KeyChange;

/// How many revoked keys may wait for their reader; beyond that, all keys are checked again.
const BACKLOG_KEYS: usize = 10_000;

/// For how many spokes the keys may wait to be checked again; beyond that, all keys are.
const BACKLOG_SPOKES: usize = 10_000;

/// The changes that wait, and a bell that rings for whoever takes them.
#[derive(Debug, Default)]
pub(super) struct Backlog {
    news: Mutex<Merged>,
    pub(super) some: Notify,
}

/// What waited.
#[derive(Debug)]
pub(super) struct Waiting {
    pub(super) changes: Vec<KeyChange>,
    /// The number of the last change that was added ([`Backlog::add`]).
    pub(super) last: u64,
}

#[derive(Debug, Default)]
struct Merged {
    revoked: Vec<String>,
    /// Empty if `recheck` is set, which includes them.
    spokes: BTreeSet<SpokeName>,
    recheck: bool,
    /// How many changes there have been.
    count: u64,
}

// === impl Backlog ===

impl Backlog {
    /// Adds a change and returns its number, counting from 1.
    pub(super) fn add(&self, change: KeyChange) -> u64 {
        let mut news = self.news.lock();
        news.merge(change);
        news.count += 1;
        let number = news.count;
        drop(news);
        self.some.notify_one();
        number
    }

    /// Puts back what was taken before; wakes nobody.
    pub(super) fn put_back(&self, change: KeyChange) {
        self.news.lock().merge(change);
    }

    /// Takes the changes that wait.
    pub(super) fn take(&self) -> Waiting {
        let mut news = self.news.lock();
        let revoked = std::mem::take(&mut news.revoked);
        let spokes = std::mem::take(&mut news.spokes);
        let recheck = std::mem::take(&mut news.recheck).then_some(KeyChange::Recheck);
        let revoked = (!revoked.is_empty()).then_some(KeyChange::Revoked(revoked));
        let spokes = (!spokes.is_empty()).then_some(KeyChange::RecheckSpokes(spokes));
        Waiting {
            changes: revoked.into_iter().chain(spokes).chain(recheck).collect(),
            last: news.count,
        }
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
            KeyChange::RecheckSpokes(mut spokes) => {
                self.spokes.append(&mut spokes);
                self.recheck |= self.spokes.len() > BACKLOG_SPOKES;
            }
            KeyChange::Recheck => self.recheck = true,
        }
        if self.recheck {
            self.spokes.clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spokes(numbers: std::ops::Range<usize>) -> KeyChange {
        KeyChange::RecheckSpokes(
            numbers
                .map(|number| format!("s{number}").parse().expect("a name"))
                .collect(),
        )
    }

    #[test]
    fn spokes_are_merged_until_they_are_too_many_or_everything_is_checked() {
        let backlog = Backlog::default();
        let merged = |changes: Vec<KeyChange>| {
            for change in changes {
                backlog.add(change);
            }
            backlog.take().changes
        };

        assert_eq!(merged(vec![spokes(0..2), spokes(1..3)]), [spokes(0..3)]);
        assert_eq!(
            merged(vec![spokes(0..2), KeyChange::Recheck, spokes(2..3)]),
            [KeyChange::Recheck]
        );
        assert_eq!(
            merged(vec![spokes(0..1), spokes(0..BACKLOG_SPOKES + 1)]),
            [KeyChange::Recheck]
        );
        let revoked = KeyChange::Revoked(vec!["k".to_owned()]);
        assert_eq!(merged(vec![spokes(0..1), revoked.clone()]), [revoked, spokes(0..1)]);
    }
}
