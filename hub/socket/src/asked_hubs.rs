//! The hubs that are asked for one session, and what is known of each.
//!
//! Invariants
//! - A hub that lives and has not said that it does not have the session leaves a doubt ([`AskedHubs::unsure`]): nobody
//!   may take the session for ended.
//! - A hub for which nobody listens is asked again after [`AGAIN`]: if only its link was lost for a moment, it listens
//!   then. One for which still nobody listens is dead, or cut off in every way; it leaves no doubt.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use alkhub_protocol::{CallError, HubId};
use tokio::time::Instant;

use crate::resumable;

/// A hub that has lost its link to Redis tries again at once, and is back well within this. A peer whose hub was killed
/// waits for it in vain.
const AGAIN: Duration = Duration::from_secs(1);

/// The hubs that are asked for one session.
#[derive(Debug, Default)]
pub(crate) struct AskedHubs {
    waits_for: HashSet<HubId>,
    /// The error for the peer if no hub gives the session but one may have it.
    unsure: Option<CallError>,
    /// Hubs that were asked again because messages to them were lost.
    repeated: HashSet<HubId>,
    /// Hubs for which nobody listened, and when they are to be asked again; `None` once they were.
    unheard: HashMap<HubId, Option<Instant>>,
}

// === impl AskedHubs ===

impl AskedHubs {
    /// Hubs that have not answered yet.
    pub(crate) fn new(hubs: &[HubId]) -> Self {
        Self {
            waits_for: hubs.iter().cloned().collect(),
            ..Self::default()
        }
    }

    /// Whether the answer of a hub is awaited.
    pub(crate) fn wait_for(&self, hub: &HubId) -> bool {
        self.waits_for.contains(hub)
    }

    /// Whether no answer is awaited any more.
    pub(crate) fn are_done(&self) -> bool {
        self.waits_for.is_empty()
    }

    /// A hub does not have the session.
    pub(crate) fn answered(&mut self, hub: &HubId) {
        self.waits_for.remove(hub);
    }

    /// A hub is not waited for any more, and may have the session.
    pub(crate) fn may_have(&mut self, hub: &HubId, error: CallError) {
        if self.waits_for.remove(hub) {
            self.unsure = Some(error);
        }
    }

    /// Messages between this hub and that one were lost. Returns whether it is to be asked again now, which happens
    /// once and only if it lives; otherwise it is not waited for any more.
    pub(crate) fn lost(&mut self, hub: &HubId, lives: bool) -> bool {
        if !self.wait_for(hub) {
            return false;
        }
        if !lives {
            self.answered(hub);
            return false;
        }
        let asks = self.repeated.insert(hub.clone());
        if !asks {
            self.may_have(hub, resumable::unsure());
        }
        asks
    }

    /// Nobody listens for a hub. Returns whether it will be asked again for that reason, which happens once.
    pub(crate) fn asks_later(&mut self, hub: &HubId) -> bool {
        if !self.wait_for(hub) {
            return false;
        }
        let first = || Some(Instant::now() + AGAIN);
        self.unheard.entry(hub.clone()).or_insert_with(first).is_some()
    }

    /// The hubs that are to be asked again by now, each of them once.
    pub(crate) fn take_due(&mut self, now: Instant) -> Vec<HubId> {
        let mut due = Vec::new();
        for (hub, at) in &mut self.unheard {
            if at.take_if(|at| *at <= now).is_some() && self.waits_for.contains(hub) {
                due.push(hub.clone());
            }
        }
        due
    }

    /// The first moment at which a hub is to be asked again, or `until` if that comes before.
    pub(crate) fn due_by(&self, until: Instant) -> Instant {
        self.unheard.values().flatten().copied().fold(until, std::cmp::min)
    }

    /// The time for answers is over. Returns the hubs that have not answered; each of them may have the session.
    pub(crate) fn give_up(&mut self) -> HashSet<HubId> {
        if !self.are_done() {
            self.unsure.get_or_insert_with(resumable::unsure);
        }
        std::mem::take(&mut self.waits_for)
    }

    /// The error for the peer if a hub that has not given the session may have it.
    pub(crate) fn unsure(&self) -> Option<CallError> {
        self.unsure.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hubs() -> (AskedHubs, HubId, HubId) {
        let [a, b] = ["a", "b"].map(|name| name.parse::<HubId>().expect("an id"));
        (AskedHubs::new(&[a.clone(), b.clone()]), a, b)
    }

    #[test]
    fn a_hub_that_could_not_be_asked_leaves_a_doubt_that_no_other_hub_takes_away() {
        let (mut hubs, a, b) = hubs();

        hubs.may_have(&a, resumable::unsure());
        hubs.answered(&b);

        assert!(hubs.are_done() && hubs.give_up().is_empty());
        assert!(hubs.unsure().is_some_and(|error| error.retryable));
    }

    #[tokio::test(start_paused = true)]
    async fn a_hub_for_which_nobody_listens_is_asked_once_more_and_is_dead_if_nobody_does_then() {
        let (mut hubs, a, b) = hubs();
        let until = Instant::now() + 3 * AGAIN;
        hubs.answered(&b);

        assert!(hubs.asks_later(&a) && hubs.asks_later(&a), "it is still to be asked");
        assert_eq!(hubs.due_by(until), Instant::now() + AGAIN);
        assert!(hubs.take_due(Instant::now()).is_empty(), "not yet");
        tokio::time::advance(AGAIN).await;
        assert_eq!(hubs.take_due(Instant::now()), std::slice::from_ref(&a));

        assert!(hubs.take_due(Instant::now()).is_empty() && hubs.due_by(until) == until);
        assert!(!hubs.are_done() && !hubs.asks_later(&a), "once");
        hubs.answered(&a);
        assert!(hubs.are_done() && hubs.unsure().is_none());
    }

    #[test]
    fn a_hub_that_lives_is_asked_again_once_when_messages_are_lost_and_leaves_a_doubt_then() {
        let (mut hubs, lives, dead) = hubs();

        assert!(hubs.lost(&lives, true));
        assert!(!hubs.lost(&dead, false) && hubs.unsure().is_none());
        assert!(!hubs.lost(&lives, true));

        assert!(hubs.are_done() && hubs.unsure().is_some());
    }
}
