//! What was last written to the pods of each Hub, until the cache shows it, what its hubs were told of late, and whether
//! its roll-out is paused.

use std::collections::HashMap;
use std::time::Duration;

use alkhub_crds::hub::PausedRollout;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use parking_lot::Mutex;
use tokio::time::Instant;

/// A hub is told again after this long.
const AGAIN: Duration = Duration::from_secs(5);

/// The last step of each Hub's pods, by the Hub's uid.
#[derive(Debug, Default)]
pub(crate) struct Steps {
    written: Mutex<HashMap<String, Written>>,
    /// By the Hub's uid: its pods that were told of late, each with the time.
    told: Mutex<HashMap<String, HashMap<String, Instant>>>,
    /// By the Hub's uid: the order to rebalance that was passed on last.
    ordered: Mutex<HashMap<String, String>>,
    /// By the Hub's uid: the roll-out that is paused, until its status says so.
    paused: Mutex<HashMap<String, PausedRollout>>,
}

/// An object that was written, with its version since.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Written {
    pub(super) kind: WrittenKind,
    pub(super) name: String,
    version: Option<u64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum WrittenKind {
    Set,
    Pod,
}

// === impl Steps ===

impl Steps {
    /// An object was written; these are its metadata since.
    pub(super) fn keep(&self, hub_uid: &str, kind: WrittenKind, meta: &ObjectMeta) {
        let written = Written {
            kind,
            name: meta.name.clone().unwrap_or_default(),
            version: version(meta),
        };
        self.written.lock().insert(hub_uid.to_owned(), written);
    }

    /// The last write to a Hub's pods.
    pub(super) fn last(&self, hub_uid: &str) -> Option<Written> {
        self.written.lock().get(hub_uid).cloned()
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

    /// Whether an order to rebalance was passed on to a Hub, and is the last one that was.
    pub(super) fn is_ordered(&self, hub_uid: &str, order: &str) -> bool {
        self.ordered.lock().get(hub_uid).is_some_and(|last| last == order)
    }

    /// An order to rebalance was passed on.
    pub(super) fn keep_order(&self, hub_uid: &str, order: &str) {
        self.ordered.lock().insert(hub_uid.to_owned(), order.to_owned());
    }

    /// The pause of a Hub's roll-out, as it was judged last.
    pub(super) fn pause(&self, hub_uid: &str) -> Option<PausedRollout> {
        self.paused.lock().get(hub_uid).cloned()
    }

    /// The roll-out of a Hub is paused, or it goes on.
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
        self.ordered.lock().retain(|uid, _| exists(uid));
        self.paused.lock().retain(|uid, _| exists(uid));
    }
}

// === impl Written ===

impl Written {
    /// Whether a cache still has the object as it was before; `cached`: as it has it. One that is gone is not waited for.
    pub(super) fn is_unseen(&self, cached: Option<&ObjectMeta>) -> bool {
        let cached = cached.and_then(version);
        cached.is_some_and(|cached| self.version.is_some_and(|written| cached < written))
    }
}

/// Versions of objects grow. One that is no number is nothing to wait for.
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
