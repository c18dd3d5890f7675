//! Claims that ran out of time before a hub had answered them.
//!
//! A claim may take a long time on its way: Redis stood still, or the hub that is asked did. That hub counts from when
//! it hears of the claim, and may give the session to a hub whose peer was told to try again long ago. If nobody knew
//! the claim any more, the session would be lost with all its calls.
//!
//! Invariants
//! - A claim is kept until every hub that it waited for has answered it or is lost to this one, or for [`KEPT`].
//! - At most [`MOST`] are kept: beyond that the oldest gives way, as if it had been kept for that long.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use alkhub_protocol::HubId;
use tokio::time::Instant;

/// Longer than a claim can be on its way, even if Redis stands still for minutes: as long as hubs remember each other.
/// Usually the hub answers, or is lost, long before.
const KEPT: Duration = Duration::from_secs(600);

/// Claims that are kept at most.
const MOST: usize = 10_000;

/// Such claims, by their numbers, each with what is needed to take its session.
#[derive(Debug)]
pub(crate) struct UnansweredClaims<T> {
    claims: BTreeMap<u64, Unanswered<T>>,
    /// The claims' numbers for each session.
    sessions: HashMap<Arc<str>, Vec<u64>>,
}

#[derive(Debug)]
struct Unanswered<T> {
    digest: Arc<str>,
    waits_for: HashSet<HubId>,
    needed: T,
    until: Instant,
}

// === impl UnansweredClaims ===

impl<T> UnansweredClaims<T> {
    /// Keeps a claim for the session with this digest.
    pub(crate) fn add(&mut self, number: u64, digest: &Arc<str>, waits_for: HashSet<HubId>, needed: T) {
        if self.claims.len() >= MOST
            && let Some(oldest) = self.claims.first_key_value().map(|(number, _)| *number)
        {
            self.remove(oldest);
        }
        let claim = Unanswered {
            digest: digest.clone(),
            waits_for,
            needed,
            until: Instant::now() + KEPT,
        };
        self.sessions.entry(digest.clone()).or_default().push(number);
        self.claims.insert(number, claim);
    }

    /// Whether a living hub may still give the session with this digest.
    pub(crate) fn has(&self, digest: &str, lives: impl Fn(&HubId) -> bool) -> bool {
        let numbers = self.sessions.get(digest).into_iter().flatten();
        let mut claims = numbers.filter_map(|number| self.claims.get(number));
        claims.any(|claim| claim.waits_for.iter().any(&lives))
    }

    /// A hub gives the session: returns its digest and what is needed to take it, if the claim waited for that hub.
    pub(crate) fn take(&mut self, number: u64, hub: &HubId) -> Option<(Arc<str>, T)> {
        let waits = self.claims.get(&number)?.waits_for.contains(hub);
        if waits { self.remove(number) } else { None }
    }

    /// A hub does not give the session.
    pub(crate) fn answered(&mut self, number: u64, hub: &HubId) {
        let Some(claim) = self.claims.get_mut(&number) else {
            return;
        };
        claim.waits_for.remove(hub);
        if claim.waits_for.is_empty() {
            self.remove(number);
        }
    }

    /// A hub is lost to this one: it will no longer answer what it has not answered yet.
    pub(crate) fn lost(&mut self, hub: &HubId) {
        let waits = self.claims.iter().filter(|(_, claim)| claim.waits_for.contains(hub));
        let waits: Vec<u64> = waits.map(|(number, _)| *number).collect();
        for number in waits {
            self.answered(number, hub);
        }
    }

    /// Drops those that were kept for long enough.
    pub(crate) fn expire(&mut self) {
        let now = Instant::now();
        while let Some((&number, oldest)) = self.claims.first_key_value()
            && oldest.until <= now
        {
            self.remove(number);
        }
    }

    /// When the first of them will have been kept for long enough.
    pub(crate) fn next_expiry(&self) -> Option<Instant> {
        self.claims.first_key_value().map(|(_, oldest)| oldest.until)
    }

    fn remove(&mut self, number: u64) -> Option<(Arc<str>, T)> {
        let Unanswered { digest, needed, .. } = self.claims.remove(&number)?;
        if let Some(numbers) = self.sessions.get_mut(&digest) {
            numbers.retain(|other| *other != number);
            if numbers.is_empty() {
                self.sessions.remove(&digest);
            }
        }
        Some((digest, needed))
    }
}

impl<T> Default for UnansweredClaims<T> {
    fn default() -> Self {
        Self {
            claims: BTreeMap::new(),
            sessions: HashMap::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hub(name: &str) -> HubId {
        name.parse().expect("an id")
    }

    fn add(claims: &mut UnansweredClaims<u64>, number: u64, digest: &str, hubs: &[&str]) {
        let waits_for = hubs.iter().map(|name| hub(name)).collect();
        claims.add(number, &digest.into(), waits_for, number);
    }

    #[test]
    fn a_claim_is_kept_until_each_hub_that_it_waits_for_has_answered_or_is_lost() {
        let mut claims = UnansweredClaims::default();
        add(&mut claims, 7, "one", &["a", "b"]);
        add(&mut claims, 8, "one", &["b"]);
        add(&mut claims, 9, "two", &["a"]);

        assert_eq!(claims.take(7, &hub("c")), None, "it was not asked");
        claims.answered(7, &hub("a"));
        assert_eq!(claims.take(7, &hub("a")), None, "it has said that it does not have it");
        assert_eq!(claims.take(7, &hub("b")), Some(("one".into(), 7)));
        assert!(claims.has("one", |_| true), "there is the other claim for it");
        assert!(
            !claims.has("one", |lives| *lives == hub("a")),
            "that waits for a hub which is gone"
        );

        claims.lost(&hub("b"));

        assert!(!claims.has("one", |_| true) && claims.has("two", |_| true));
        assert_eq!(claims.take(8, &hub("b")), None);
        assert_eq!(claims.take(9, &hub("a")), Some(("two".into(), 9)));
        assert!(claims.next_expiry().is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn claims_are_kept_for_a_while_and_so_many_of_them() {
        let mut claims = UnansweredClaims::default();
        (0..=MOST as u64).for_each(|number| add(&mut claims, number, &number.to_string(), &["a"]));
        let has = |claims: &UnansweredClaims<u64>, digest| claims.has(digest, |_| true);
        assert!(!has(&claims, "0") && has(&claims, "1"), "the oldest gives way");
        tokio::time::advance(KEPT / 2).await;
        add(&mut claims, 20_000, "late", &["a"]);

        tokio::time::advance(KEPT / 2).await;
        claims.expire();

        assert!(!has(&claims, "2") && has(&claims, "late"));
        assert_eq!(claims.next_expiry(), Some(Instant::now() + KEPT / 2));
    }
}
