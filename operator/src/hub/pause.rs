//! Whether a roll-out pauses by itself; pure.
//!
//! Invariants
//! - Only a roll-out that can be paused is judged: pods of the wanted revision serve next to older ones. And only the
//!   new pods are judged: what the older ones do wrong may be just what the roll-out fixes.
//! - A roll-out that goes back to the revision that all pods last had is never paused: it is the cure.
//! - Missing figures never cause a pause, and later figures never end one: a person does.

use alkhub_crds::Hub;
use alkhub_crds::hub::PausedRollout;
use alkhub_protocol::admin::LastMinute;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use kube::ResourceExt as _;

use crate::hub::fleet::{Fleet, PodStanding, Set};

/// On a Hub: the revision whose roll-out goes on no matter how it does.
pub(crate) const RESUME: &str = "alkhub.dev/resume-rollout";

/// Out of fewer than this, a share says nothing.
const LEAST: u64 = 100;

/// No more than one in this many may fail.
const ONE_OF: u64 = 100;

/// Why the roll-out of a revision is paused, newly or still; `None`: it goes on. `paused` is the last verdict, which
/// the cached status may lack; `minute` covers the pods of that revision.
pub(crate) fn judge(
    hub: &Hub,
    fleet: &Fleet,
    revision: &str,
    paused: Option<PausedRollout>,
    minute: Option<LastMinute>,
    now: Timestamp,
) -> Option<PausedRollout> {
    let is_on = hub.spec.rollout.as_ref().is_none_or(|rollout| rollout.pause_on_failure);
    let is_resumed = hub.annotations().get(RESUME).is_some_and(|resumed| resumed == revision);
    let status = hub.status.as_ref().and_then(|status| status.rollout.as_ref());
    let settled = status.and_then(|status| status.settled_revision.as_deref());
    let is_under_way = fleet.sets.iter().any(|set| set.revision != revision && set.count() > 0);
    if !is_on || is_resumed || settled == Some(revision) || !is_under_way {
        return None;
    }
    let known = [status.and_then(|status| status.paused.clone()), paused];
    let mut known = known.into_iter().flatten();
    known.find(|known| known.revision == revision).or_else(|| {
        let minute = minute.filter(|_| fleet.set(revision).is_some_and(serves))?;
        Some(PausedRollout {
            revision: revision.to_owned(),
            message: breach(&minute)?,
            since: Time(now),
        })
    })
}

fn serves(set: &Set) -> bool {
    set.here().any(|pod| pod.standing >= PodStanding::Fresh)
}

/// What went wrong in a minute.
fn breach(minute: &LastMinute) -> Option<String> {
    let is_much = |bad: u64, all: u64| all >= LEAST && bad > all / ONE_OF;
    if is_much(minute.calls_failed, minute.calls) {
        let (bad, all) = (minute.calls_failed, minute.calls);
        return Some(format!(
            "{bad} of {all} calls of a minute on its pods failed by the hubs, more than 1 %"
        ));
    }
    is_much(minute.returns_late, minute.returns).then(|| {
        let (bad, all) = (minute.returns_late, minute.returns);
        format!("of {all} peers that had lost their connection {bad} were not back within 5 s, more than 1 %")
    })
}

#[cfg(test)]
mod tests {
    use alkhub_crds::HubStatus;
    use alkhub_crds::hub::{RolloutSpec, RolloutStatus};

    use super::*;
    use crate::hub::fleet::testing::{pod, set};
    use crate::hub::fleet::{Drain, Pod};
    use crate::hub::testing::{given, hub};

    const NOW: Timestamp = Timestamp::UNIX_EPOCH;

    /// Two pods of `a`, and one of `b` that has just become ready.
    fn mixed() -> Fleet {
        let new = Pod {
            standing: PodStanding::Fresh,
            ..pod("b0")
        };
        Fleet {
            sets: vec![set("a", 2, vec![pod("a0"), pod("a1")]), set("b", 1, vec![new])],
        }
    }

    fn calls(calls: u64, calls_failed: u64) -> Option<LastMinute> {
        Some(LastMinute {
            calls,
            calls_failed,
            ..LastMinute::default()
        })
    }

    /// A Hub whose pods last had this revision, with what its status says about a pause.
    fn settled(revision: &str, paused: Option<PausedRollout>) -> Hub {
        let rollout = RolloutStatus {
            settled_revision: Some(revision.to_owned()),
            paused,
        };
        let status = HubStatus {
            rollout: Some(rollout),
            ..HubStatus::default()
        };
        Hub {
            status: Some(status),
            ..hub(given())
        }
    }

    fn is_paused(hub: &Hub, fleet: &Fleet, minute: Option<LastMinute>) -> bool {
        judge(hub, fleet, "b", None, minute, NOW).is_some()
    }

    #[test]
    fn more_than_one_in_a_hundred_of_a_hundred_pauses() {
        let hub = settled("a", None);
        let late = |returns, returns_late| {
            let minute = LastMinute {
                returns,
                returns_late,
                ..LastMinute::default()
            };
            is_paused(&hub, &mixed(), Some(minute))
        };
        let failed = |all, bad| is_paused(&hub, &mixed(), calls(all, bad));

        assert!(!failed(99, 99), "too few to say");
        assert!(!failed(100, 1) && failed(100, 2));
        assert!(!failed(1_000, 10) && failed(1_000, 11) && failed(u64::MAX, u64::MAX));
        assert!(!late(99, 99) && !late(200, 2) && late(200, 3));
        assert!(!is_paused(&hub, &mixed(), None), "nothing is known");
    }

    #[test]
    fn what_is_no_roll_out_or_the_way_back_is_not_paused() {
        let bad = calls(1_000, 500);
        let (mut alone, mut starting, mut over) = (mixed(), mixed(), mixed());
        alone.sets.truncate(1);
        starting.sets[1].pods[0].standing = PodStanding::Unready;
        over.sets[0].pods.clear();

        assert!(is_paused(&settled("a", None), &mixed(), bad) && is_paused(&hub(given()), &mixed(), bad));
        assert!(
            !is_paused(&settled("b", None), &mixed(), bad),
            "back to what ran before"
        );
        for fleet in [&alone, &starting, &over, &Fleet::default()] {
            assert!(!is_paused(&settled("a", None), fleet, bad), "{fleet:?}");
        }
    }

    #[test]
    fn a_pause_lasts_until_somebody_says_otherwise() {
        let since = Timestamp::from_second(7).expect("in range");
        let first = judge(&settled("a", None), &mixed(), "b", None, calls(200, 20), since).expect("paused");
        let mut hub = settled("a", Some(first.clone()));
        let mut marked = mixed();
        marked.sets[0].pods[0].drain = Some(Drain {
            is_over: true,
            is_lapsed: false,
        });

        assert!(first.message.contains("20 of 200 calls"), "{}", first.message);
        for minute in [calls(1_000, 0), None, calls(200, 100)] {
            assert_eq!(judge(&hub, &marked, "b", None, minute, NOW).as_ref(), Some(&first));
        }
        // The status is written only after the next look.
        let late = judge(&settled("a", None), &marked, "b", Some(first.clone()), None, NOW);
        assert_eq!(late.as_ref(), Some(&first));
        let mut away = mixed();
        away.sets[1].pods[0].standing = PodStanding::Unready;
        assert_eq!(
            judge(&hub, &away, "b", None, None, NOW).as_ref(),
            Some(&first),
            "its pod is away"
        );
        assert_eq!(judge(&hub, &mixed(), "c", None, None, NOW), None, "another revision");
        hub.metadata.annotations = Some([(RESUME.to_owned(), "b".to_owned())].into());
        assert_eq!(judge(&hub, &mixed(), "b", None, calls(200, 20), NOW), None);
        hub.metadata.annotations = Some([(RESUME.to_owned(), "x".to_owned())].into());
        assert_eq!(judge(&hub, &mixed(), "b", None, None, NOW), Some(first));
        hub.spec.rollout = Some(RolloutSpec {
            pause_on_failure: false,
        });
        assert_eq!(judge(&hub, &mixed(), "b", None, calls(200, 20), NOW), None);
    }
}
