//! Remembers what was last written to the pods of each Hub until the cache shows it, what its hubs were told recently,
//! and whether its roll-out is paused.

use std::collections::HashMap;
use std::time::Duration;

use alkhub_crds::hub::PausedRollout;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use parking_lot::Mutex;
use tokio::time::Instant;

use crate::hub::fleet::watched::{WatchedDrain, WatchedDrains};

/// A hub is told again after this long.
const AGAIN: Duration = Duration::from_secs(5);

/// A cache that has not shown a write for this long never will: a restored etcd may count versions from a lower number.
const LOST: Duration = Duration::from_secs(30);

/// The last step of each Hub's pods, by the Hub's uid.
#[derive(Debug, Default)]
pub(crate) struct Steps {
    written: Mutex<HashMap<String, Written>>,
    /// By the Hub's uid: its pods that were told recently, each with the time.
    told: Mutex<HashMap<String, HashMap<String, Instant>>>,
    /// By the Hub's uid: when its pods were first looked at, and those of them that are to go.
    looked: Mutex<HashMap<String, (Instant, WatchedDrains)>>,
    /// By the Hub's uid: the order to rebalance that has been dealt with.
    ordered: Mutex<HashMap<String, Option<String>>>,
    /// By the Hub's uid: the roll-out that is paused, until its status says so.
    paused: Mutex<HashMap<String, PausedRollout>>,
}

/// An object that was written, with its new version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Written {
    pub(super) kind: WrittenKind,
    pub(super) name: String,
    version: Option<u64>,
    at: Instant,
}

/// What is to be done about an order to rebalance.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Order {
    /// It is to be passed on: it came in this term, or its time is recent enough to count.
    New,
    /// It is from before this term, and its time is not recent: the previous leader has passed it on.
    Old,
    /// It has been dealt with, or there is none.
    Done,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum WrittenKind {
    Set,
    Pod,
}

// === impl Steps ===

impl Steps {
    /// Remembers a write; `meta` is the object's metadata after it.
    pub(super) fn keep(&self, hub_uid: &str, kind: WrittenKind, meta: &ObjectMeta) {
        let written = Written {
            kind,
            name: meta.name.clone().unwrap_or_default(),
            version: version(meta),
            at: Instant::now(),
        };
        self.written.lock().insert(hub_uid.to_owned(), written);
    }

    /// The last write to a Hub's pods, unless it was long ago.
    pub(super) fn last(&self, hub_uid: &str) -> Option<Written> {
        let last = self.written.lock().get(hub_uid).cloned();
        last.filter(|written| written.at.elapsed() < LOST)
    }

    /// Looks after the pods of a Hub that are to go: each by its uid, with whether its hub is known to drain.
    pub(super) fn look_after(&self, hub_uid: &str, pods: impl Iterator<Item = (String, Option<bool>)>) {
        let mut looked = self.looked.lock();
        let (_, drains) = looked
            .entry(hub_uid.to_owned())
            .or_insert_with(|| (Instant::now(), WatchedDrains::default()));
        drains.look_after(pods);
    }

    /// The pods of a Hub that are looked after, by uid.
    pub(super) fn drains(&self, hub_uid: &str) -> HashMap<String, WatchedDrain> {
        let looked = self.looked.lock();
        looked.get(hub_uid).map(|(_, drains)| drains.now()).unwrap_or_default()
    }

    /// How long a Hub's pods have been looked at.
    pub(super) fn age(&self, hub_uid: &str) -> Duration {
        let looked = self.looked.lock();
        looked.get(hub_uid).map(|(at, _)| at.elapsed()).unwrap_or_default()
    }

    /// Whether the hub of a pod is to be told now, for the first time or again. Asking counts as telling.
    pub(super) fn is_to_tell(&self, hub_uid: &str, pod: &str) -> bool {
        let mut told = self.told.lock();
        let told = told.entry(hub_uid.to_owned()).or_default();
        told.retain(|_, at| at.elapsed() < AGAIN);
        if told.contains_key(pod) {
            return false;
        }
        told.insert(pod.to_owned(), Instant::now());
        true
    }

    /// What is to be done about an order to rebalance.
    pub(super) fn order(&self, hub_uid: &str, order: Option<&str>, is_recent: bool) -> Order {
        match (self.ordered.lock().get(hub_uid), order) {
            (_, None) => Order::Done,
            (Some(known), Some(order)) if known.as_deref() == Some(order) => Order::Done,
            (Some(_), Some(_)) => Order::New,
            (None, Some(_)) if is_recent => Order::New,
            (None, Some(_)) => Order::Old,
        }
    }

    /// Notes that an order to rebalance has been dealt with.
    pub(super) fn keep_order(&self, hub_uid: &str, order: Option<&str>) {
        self.ordered.lock().insert(hub_uid.to_owned(), order.map(str::to_owned));
    }

    /// Notes that a Hub has no order, unless an earlier one is known.
    pub(super) fn keep_no_order(&self, hub_uid: &str) {
        self.ordered.lock().entry(hub_uid.to_owned()).or_insert(None);
    }

    /// The pause of a Hub's roll-out, as it was last judged.
    pub(super) fn pause(&self, hub_uid: &str) -> Option<PausedRollout> {
        self.paused.lock().get(hub_uid).cloned()
    }

    /// Notes that the roll-out of a Hub is paused, or goes on.
    pub(super) fn keep_pause(&self, hub_uid: &str, pause: Option<PausedRollout>) {
        let mut paused = self.paused.lock();
        match pause {
            Some(pause) => drop(paused.insert(hub_uid.to_owned(), pause)),
            None => drop(paused.remove(hub_uid)),
        }
    }

    /// Forgets Hubs that are gone.
    pub(crate) fn retain(&self, exists: impl Fn(&str) -> bool) {
        self.written.lock().retain(|uid, _| exists(uid));
        self.told.lock().retain(|uid, _| exists(uid));
        self.looked.lock().retain(|uid, _| exists(uid));
        self.ordered.lock().retain(|uid, _| exists(uid));
        self.paused.lock().retain(|uid, _| exists(uid));
    }
}

// === impl Written ===

impl Written {
    /// Whether a cache still has the object as it was before the write; `cached` is its copy. An object that is gone is
    /// not waited for.
    pub(super) fn is_unseen(&self, cached: Option<&ObjectMeta>) -> bool {
        let cached = cached.and_then(version);
        cached.is_some_and(|cached| self.version.is_some_and(|written| cached < written))
    }
}

/// Versions of objects grow. One that is not a number is not waited for.
fn version(meta: &ObjectMeta) -> Option<u64> {
    meta.resource_version.as_deref()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn meta(version: &str) -> ObjectMeta {
        ObjectMeta {
            name: Some("demo-a".to_owned()),
            resource_version: Some(version.to_owned()),
            ..ObjectMeta::default()
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_write_that_no_cache_shows_for_long_is_forgotten() {
        let steps = Steps::default();
        steps.keep("hub", WrittenKind::Set, &meta("100"));

        tokio::time::advance(LOST - Duration::from_millis(1)).await;
        let is_waited_for = steps.last("hub").is_some();
        tokio::time::advance(Duration::from_millis(1)).await;

        assert!(is_waited_for);
        assert_eq!(steps.last("hub"), None, "an etcd that was restored counts from before");
    }

    #[test]
    fn an_order_that_came_in_this_term_counts_whatever_time_it_gives() {
        let steps = Steps::default();
        let order = |order, is_recent| steps.order("hub", order, is_recent);

        assert_eq!(order(Some("a"), false), Order::Old, "it was there before");
        assert_eq!(order(Some("a"), true), Order::New);
        steps.keep_no_order("hub");
        assert_eq!(order(None, false), Order::Done);
        assert_eq!(
            order(Some("a"), false),
            Order::New,
            "of a clock that is ahead or behind"
        );
        steps.keep_order("hub", Some("a"));
        assert_eq!(order(Some("a"), true), Order::Done);
        assert_eq!(order(Some("b"), false), Order::New);
    }

    #[test]
    fn a_write_is_waited_for_until_the_cache_has_it_or_what_came_after() {
        let steps = Steps::default();
        assert_eq!(steps.last("hub"), None);

        steps.keep("hub", WrittenKind::Set, &meta("100"));

        let last = steps.last("hub").expect("kept");
        assert!(last.is_unseen(Some(&meta("99"))));
        assert!(!last.is_unseen(Some(&meta("100"))) && !last.is_unseen(Some(&meta("101"))));
        assert!(!last.is_unseen(None), "it is gone");
        assert!(!last.is_unseen(Some(&meta("x"))), "no number");
        steps.retain(|_| false);
        assert_eq!(steps.last("hub"), None);
    }

    #[tokio::test(start_paused = true)]
    async fn a_hub_is_told_at_once_and_then_now_and_again() {
        let steps = Steps::default();

        assert!(steps.is_to_tell("hub", "a") && !steps.is_to_tell("hub", "a"));
        assert!(steps.is_to_tell("hub", "b"), "another pod");
        assert!(!steps.is_to_tell("hub", "a"), "the first one was told just now");
        tokio::time::advance(AGAIN).await;
        assert!(steps.is_to_tell("hub", "b"));
    }
}
