//! The state of the other hubs, from their last announcements and from the list that Redis has.
//!
//! Invariants
//! - Of the leases of one hub the last one counts, but whether it drains follows from its turns, in whatever order they come.
//! - An announcement that came after a list was asked for is not undone by that list.

use std::collections::{BTreeMap, BTreeSet};

use alkhub_protocol::HubId;

use crate::lease::Lease;

/// The state of the other hubs.
#[derive(Debug, Default)]
pub(crate) struct OtherHubs {
    leases: BTreeMap<HubId, Lease>,
    /// Of these, the hubs whose lease is gone and to which there is a link.
    lapsed: BTreeSet<HubId>,
    /// Hubs that were among those, and are gone.
    gone: Vec<HubId>,
    /// Whether one that was among those has its lease again.
    has_returned: bool,
    /// The number of what a hub announced last, or of its end, since the last list was asked for.
    news: BTreeMap<HubId, u64>,
    number: u64,
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

    /// The number of the last news: a list that is asked for from now on has what they tell.
    pub(crate) fn number(&self) -> u64 {
        self.number
    }

    /// Whether [`OtherHubs::take_returns`] has something to tell.
    pub(crate) fn has_returns(&self) -> bool {
        self.has_returned || !self.gone.is_empty()
    }

    /// The hubs that are gone because their links ended after their leases; and whether one without a lease, to which there
    /// is a link, has its lease again.
    pub(crate) fn take_returns(&mut self) -> (Vec<HubId>, bool) {
        (std::mem::take(&mut self.gone), std::mem::take(&mut self.has_returned))
    }

    /// There is no link to a hub any more: it is gone when it has no lease either.
    pub(crate) fn unlinked(&mut self, hub: &HubId) {
        if self.lapsed.contains(hub) {
            self.lapse(hub, true);
            self.gone.push(hub.clone());
        }
    }

    /// A hub announced something: a list that was asked for before does not have it.
    pub(crate) fn news_of(&mut self, hub: &HubId) {
        self.number += 1;
        self.news.insert(hub.clone(), self.number);
    }

    /// Redis lists the living hubs, as they were when it was `asked`. Its answer and the news come by two connections.
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

    /// A hub has a lease. An older message may come after the one by which it began to drain, or stopped. Of two of one turn,
    /// the one by which it drains counts: so that whoever hears both knows the same, in whatever order they come.
    pub(crate) fn lives(&mut self, hub: HubId, mut lease: Lease) {
        self.has_returned |= self.lapsed.remove(&hub);
        if let Some(known) = self.leases.get(&hub) {
            let word = |lease: &Lease| (lease.turn, lease.draining);
            (lease.turn, lease.draining) = word(known).max(word(&lease));
        }
        self.leases.insert(hub, lease);
    }

    /// A hub has no lease.
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
