//! Hubs to which the link has broken: the process at the other end may be dead, while its record still shows its old
//! load for some seconds.
//!
//! Invariants
//! - A hub to which there never was a link is not in doubt, nor is one whose record is still renewed long after its
//!   link broke.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use alkhub_protocol::HubId;

/// How much older than the break of its link a hub's record may be: as long as a record lives, plus a second.
const DOUBT: Duration = Duration::from_secs(6);

/// The links from pod to pod, compared from look to look.
#[derive(Debug, Default)]
pub(crate) struct BrokenLinks {
    up: BTreeSet<HubId>,
    /// When each link broke that is not up again.
    broken: BTreeMap<HubId, Duration>,
}

// === impl BrokenLinks ===

impl BrokenLinks {
    /// Notes to which hubs there are links now.
    pub(crate) fn look(&mut self, now: Duration, up: BTreeSet<HubId>) {
        let broken = self.up.difference(&up).map(|hub| (hub.clone(), now));
        self.broken.extend(broken);
        self.broken.retain(|hub, at| !up.contains(hub) && now < *at + DOUBT);
        self.up = up;
    }

    /// The hubs that may be dead.
    pub(crate) fn doubtful(&self) -> impl Iterator<Item = &HubId> {
        self.broken.keys()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hub_is_in_doubt_from_the_break_of_its_link_until_there_is_one_again_or_its_record_is_new() {
        let mut links = BrokenLinks::default();
        let mut doubtful_at = |second, up: &[&str]| {
            let up = up.iter().map(|hub| hub.parse().expect("an id")).collect();
            links.look(Duration::from_secs(second), up);
            links.doubtful().map(ToString::to_string).collect::<Vec<_>>().join(" ")
        };

        assert_eq!(doubtful_at(1, &["a", "b"]), "");
        assert_eq!(doubtful_at(2, &[]), "a b");
        assert_eq!(doubtful_at(4, &["a"]), "b");
        assert_eq!(doubtful_at(7, &["a"]), "b");
        assert_eq!(doubtful_at(8, &["a"]), "", "its record would have ended");
        assert_eq!(doubtful_at(9, &[]), "a");
    }
}
