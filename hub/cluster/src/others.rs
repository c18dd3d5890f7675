//! The state of the other hubs, from their latest announcements and from the list in Redis.
//!
//! Invariants
//! - Of the leases of one hub the last one counts, but whether it drains follows from its turns, in whatever order they
//!   arrive.
//! - A list does not undo an announcement that came after the list was asked for.

use std::collections::{BTreeMap, BTreeSet};

use alkhub_protocol::HubId;

use crate::lease::Lease;

/// The state of the other hubs.
#[derive(Debug, Default)]
pub(crate) struct OtherHubs {
    leases: BTreeMap<HubId, Lease>,
    /// Those of them whose lease is gone and to which there is a link.
    lapsed: BTreeSet<HubId>,
    /// What became of those, until somebody asks.
    returns: Returns,
    /// For each hub that has announced something, or ended, since the last list was asked for: the number of that news.
    news: BTreeMap<HubId, u64>,
    number: u64,
}

/// What became of hubs that had no lease while there was a link to them.
#[derive(Debug, Default)]
pub(crate) struct Returns {
    /// Those that are gone, because their links ended too.
    pub(crate) gone: Vec<HubId>,
    /// Whether one of them has its lease again.
    pub(crate) has_returned: bool,
}

// === impl OtherHubs ===

impl OtherHubs {
    /// The last lease of each.
    pub(crate) fn leases(&self) -> impl Iterator<Item = (&HubId, &Lease)> {
        self.leases.iter()
    }

    /// The hubs whose lease is gone and to which there is a link.
    pub(crate) fn lapsed(&self) -> &BTreeSet<HubId> {
        &self.lapsed
    }

    /// The number of the latest news: a list that is asked for from now on includes it.
    pub(crate) fn number(&self) -> u64 {
        self.number
    }

    /// Whether [`OtherHubs::take_returns`] has something to tell.
    pub(crate) fn has_returns(&self) -> bool {
        self.returns.has_returned || !self.returns.gone.is_empty()
    }

    /// What has become of the hubs without a lease since this was last asked.
    pub(crate) fn take_returns(&mut self) -> Returns {
        std::mem::take(&mut self.returns)
    }

    /// Notes that there is no link to a hub any more: the hub is gone if it has no lease either.
    pub(crate) fn unlinked(&mut self, hub: &HubId) {
        if self.lapsed.contains(hub) {
            self.lapse(hub, true);
            self.returns.gone.push(hub.clone());
        }
    }

    /// Notes that a hub announced something: a list that was asked for earlier does not include it.
    pub(crate) fn news_of(&mut self, hub: &HubId) {
        self.number += 1;
        self.news.insert(hub.clone(), self.number);
    }

    /// Applies the list of living hubs as it was when it was `asked` for. That answer and the news come over two
    /// connections.
    pub(crate) fn listed(&mut self, living: Vec<(HubId, Lease)>, asked: u64, is_linked: impl Fn(&HubId) -> bool) {
        self.news.retain(|_, number| *number > asked);
        let lives: BTreeSet<&HubId> = living.iter().map(|(hub, _)| hub).collect();
        let is_away = |hub: &&HubId| !self.news.contains_key(*hub) && !lives.contains(*hub);
        let away: Vec<HubId> = self.leases.keys().filter(is_away).cloned().collect();
        for hub in away {
            self.lapse(&hub, !is_linked(&hub));
        }
        for (hub, lease) in living {
            if !self.news.contains_key(&hub) {
                self.lives(hub, lease);
            }
        }
    }

    /// Notes that a hub has a lease. An older message may come after the one by which the hub began to drain, or
    /// stopped. Of two leases of one turn, the draining one counts, so that everybody who hears both knows the same, in
    /// whatever order they come.
    pub(crate) fn lives(&mut self, hub: HubId, mut lease: Lease) {
        self.returns.has_returned |= self.lapsed.remove(&hub);
        if let Some(known) = self.leases.get(&hub) {
            let word = |lease: &Lease| (lease.turn, lease.draining);
            (lease.turn, lease.draining) = word(known).max(word(&lease));
        }
        self.leases.insert(hub, lease);
    }

    /// Notes that a hub has no lease.
    pub(crate) fn lapse(&mut self, hub: &HubId, is_gone: bool) {
        if is_gone {
            self.leases.remove(hub);
            self.lapsed.remove(hub);
        } else if self.leases.contains_key(hub) {
            self.lapsed.insert(hub.clone());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whether_a_hub_drains_follows_from_its_latest_turn_and_all_else_from_the_last_message() {
        let hub: HubId = "a".parse().expect("an id");
        let lease = |turn, draining, connections| Lease {
            turn,
            draining,
            connections,
            ..Lease::default()
        };
        let mut others = OtherHubs::default();
        let mut hears = |heard: Lease| {
            others.lives(hub.clone(), heard);
            let known = &others.leases[&hub];
            (known.draining, known.connections)
        };

        assert_eq!(hears(lease(1, true, 1)), (true, 1));
        assert_eq!(hears(lease(0, false, 2)), (true, 2), "it is older");
        assert_eq!(hears(lease(2, false, 3)), (false, 3));
        assert_eq!(hears(lease(1, true, 4)), (false, 4), "it is older");
    }

    #[test]
    fn two_leases_of_one_turn_say_the_same_in_either_order() {
        let hub: HubId = "a".parse().expect("an id");
        let draining_after = |heard: [bool; 2]| {
            let mut others = OtherHubs::default();
            for draining in heard {
                let lease = Lease {
                    draining,
                    ..Lease::default()
                };
                others.lives(hub.clone(), lease);
            }
            others.leases[&hub].draining
        };

        assert!(draining_after([true, false]));
        assert!(draining_after([false, true]));
    }
}
