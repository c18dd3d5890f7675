//! Remembers what was last written to the pods of each Hub until the cache shows it, what people have ordered and since
//! when that is known, what its hubs were told recently, and whether its roll-out is paused.

use std::collections::HashMap;
use std::time::Duration;

use alkhub_crds::hub::PausedRollout;
use alkhub_protocol::kubernetes::DRAIN_LAPSE;
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
    /// By the Hub's uid: its pods whose hubs could not be told to keep their connections, each with when that was first
    /// tried.
    unheard: Mutex<HashMap<String, HashMap<String, Instant>>>,
    /// By the Hub's uid: its pods that somebody wants emptied, by their uids.
    asked: Mutex<HashMap<String, HashMap<String, Asked>>>,
    /// By the Hub's uid: when its pods were first looked at, and those of them that are to go.
    looked: Mutex<HashMap<String, (Instant, WatchedDrains)>>,
    /// By the Hub's uid: the order to rebalance that has been dealt with.
    ordered: Mutex<HashMap<String, Option<String>>>,
    /// By the Hub's uid: the order to rebalance that was passed on last.
    passed: Mutex<HashMap<String, Asked>>,
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

/// An order that somebody gave by an annotation: its value, and since when this term knows it or has passed it on.
#[derive(Debug)]
struct Asked {
    order: String,
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
        if let Some(unheard) = self.unheard.lock().get_mut(hub_uid) {
            unheard.remove(pod);
        }
        true
    }

    /// When the hubs of pods are to be told again; `None`: none was told lately.
    pub(crate) fn tells_in(&self, hub_uid: &str) -> Option<Duration> {
        let told = self.told.lock();
        let mut times = told.get(hub_uid)?.values();
        times.any(|at| at.elapsed() < DRAIN_LAPSE).then_some(AGAIN)
    }

    /// Whether the hub of a pod keeps its connections: it was just told to, or nobody has told it anything else for so
    /// long that it does by itself.
    pub(super) fn keeps_connections(&self, hub_uid: &str, pod: &str, is_told: bool) -> bool {
        let mut unheard = self.unheard.lock();
        let unheard = unheard.entry(hub_uid.to_owned()).or_default();
        // Those of pods that have gone meanwhile, or were not tried again.
        unheard.retain(|_, at| at.elapsed() < DRAIN_LAPSE * 2);
        let since = *unheard.entry(pod.to_owned()).or_insert_with(Instant::now);
        let keeps = is_told || since.elapsed() >= DRAIN_LAPSE;
        if keeps {
            unheard.remove(pod);
        }
        keeps
    }

    /// Notes what somebody wants of a Hub's pods, by their uids. What nobody wants any more is forgotten.
    pub(super) fn keep_asked<'a>(&self, hub_uid: &str, orders: impl Iterator<Item = (&'a str, &'a str)>) {
        let mut asked = self.asked.lock();
        let before = asked.remove(hub_uid).unwrap_or_default();
        let now = Instant::now();
        let orders = orders.map(|(pod, order)| {
            let same = before.get(pod).filter(|asked| asked.order == order);
            let at = same.map_or(now, |asked| asked.at);
            let order = order.to_owned();
            (pod.to_owned(), Asked { order, at })
        });
        asked.insert(hub_uid.to_owned(), orders.collect());
    }

    /// Since when it is known that somebody wants this of a pod.
    pub(super) fn asked_at(&self, hub_uid: &str, pod: &str, order: &str) -> Option<Instant> {
        let asked = self.asked.lock();
        let asked = asked.get(hub_uid)?.get(pod).filter(|asked| asked.order == order)?;
        Some(asked.at)
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

    /// Notes that an order to rebalance has just been passed on.
    pub(super) fn keep_passed(&self, hub_uid: &str, order: &str) {
        let (order, at) = (order.to_owned(), Instant::now());
        self.passed.lock().insert(hub_uid.to_owned(), Asked { order, at });
    }

    /// When this term has passed an order to rebalance on.
    pub(super) fn passed_at(&self, hub_uid: &str, order: &str) -> Option<Instant> {
        let passed = self.passed.lock();
        let passed = passed.get(hub_uid).filter(|passed| passed.order == order)?;
        Some(passed.at)
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
        self.unheard.lock().retain(|uid, _| exists(uid));
        self.asked.lock().retain(|uid, _| exists(uid));
        self.looked.lock().retain(|uid, _| exists(uid));
        self.ordered.lock().retain(|uid, _| exists(uid));
        self.passed.lock().retain(|uid, _| exists(uid));
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

    #[tokio::test(start_paused = true)]
    async fn a_hub_that_cannot_be_told_to_keep_its_connections_does_when_its_drain_has_lapsed() {
        let steps = Steps::default();
        let keeps = |is_told| steps.keeps_connections("hub", "a", is_told);

        assert!(keeps(true), "it was told");
        assert!(!keeps(false));
        tokio::time::advance(DRAIN_LAPSE - Duration::from_millis(1)).await;
        assert!(!keeps(false));
        tokio::time::advance(Duration::from_millis(1)).await;
        assert!(keeps(false));
        assert!(!keeps(false), "another drain, another time");
        tokio::time::advance(DRAIN_LAPSE).await;
        assert!(steps.is_to_tell("hub", "a"));
        assert!(!keeps(false), "it was told to drain again meanwhile");
    }

    #[tokio::test(start_paused = true)]
    async fn a_telling_is_repeated_until_it_has_lapsed() {
        let steps = Steps::default();
        assert_eq!(steps.tells_in("hub"), None);

        assert!(steps.is_to_tell("hub", "a"));

        assert_eq!((steps.tells_in("hub"), steps.tells_in("other")), (Some(AGAIN), None));
        tokio::time::advance(DRAIN_LAPSE).await;
        assert_eq!(steps.tells_in("hub"), None);
    }

    #[tokio::test(start_paused = true)]
    async fn an_order_is_known_from_when_its_value_was_first_seen() {
        let steps = Steps::default();
        let (began, second) = (Instant::now(), Duration::from_secs(1));
        let asked_at = |order| steps.asked_at("hub", "a", order).map(|at| at.duration_since(began));

        steps.keep_asked("hub", [("a", "one")].into_iter());
        tokio::time::advance(second).await;
        steps.keep_asked("hub", [("a", "one")].into_iter());
        assert_eq!(asked_at("one"), Some(Duration::ZERO));
        steps.keep_asked("hub", [("a", "two")].into_iter());

        assert_eq!((asked_at("one"), asked_at("two")), (None, Some(second)));
        steps.keep_asked("hub", std::iter::empty());
        assert_eq!(asked_at("two"), None);
        steps.keep_passed("hub", "now");
        assert_eq!(steps.passed_at("hub", "now"), Some(began + second));
        assert_eq!(steps.passed_at("hub", "then"), None);
    }
}
