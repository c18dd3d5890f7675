//! Realistic steps of fleets, and every small fleet that there can be.

use super::*;

/// `r` ready, `f` ready since a moment ago, `u` not ready, `p` pending; `R`, `U`: marked, and its drain is over; `M`:
/// ready, marked, and still draining; `L`: the same, and its hub has been told nothing for long; `l`: leaving.
fn set(revision: &str, replicas: i32, pods: &str) -> Set {
    let pods = pods
        .chars()
        .enumerate()
        .map(|(index, kind)| pod(&format!("{revision}{index}"), kind));
    testing::set(revision, replicas, pods.collect())
}

fn pod(name: &str, kind: char) -> Pod {
    let drain = match kind {
        'R' | 'U' => Some(Drain {
            is_over: true,
            is_lapsed: false,
        }),
        'M' | 'L' => Some(Drain {
            is_over: false,
            is_lapsed: kind == 'L',
        }),
        _ => None,
    };
    Pod {
        presence: if kind == 'l' {
            PodPresence::Leaving
        } else {
            PodPresence::Here
        },
        standing: match kind {
            'u' | 'U' => PodStanding::Unready,
            'p' => PodStanding::Pending,
            'n' => PodStanding::Unknown,
            'f' => PodStanding::Fresh,
            _ => PodStanding::Ready,
        },
        is_serving: drain.is_none(),
        drain,
        ..testing::pod(name)
    }
}

fn fleet(sets: &[(&str, i32, &str)]) -> Fleet {
    Fleet {
        sets: sets
            .iter()
            .map(|(revision, replicas, pods)| set(revision, *replicas, pods))
            .collect(),
    }
}

fn goal(revision: &str, replicas: i32) -> Goal {
    Goal {
        revision: revision.to_owned(),
        replicas,
        is_paused: false,
        held: None,
    }
}

/// A step in a few words.
fn said(step: Step) -> String {
    match step {
        Step::Hold => "hold".to_owned(),
        Step::Surge(scale) => format!("surge {} to {}", scale.set, scale.to),
        Step::Drain(pod) => format!("drain {}", pod.name),
        Step::Renew(pod) => format!("renew {}", pod.name),
        Step::Cancel(pod) => format!("cancel {}", pod.name),
        Step::Shrink(scale) => format!("shrink {} to {}", scale.set, scale.to),
    }
}

fn next(sets: &[(&str, i32, &str)], to: (&str, i32)) -> String {
    next_held(sets, to, None)
}

/// The next step while some pods are held.
fn next_held(sets: &[(&str, i32, &str)], to: (&str, i32), held: Option<HeldPods>) -> String {
    let goal = Goal {
        held,
        ..goal(to.0, to.1)
    };
    said(step(&fleet(sets), &goal))
}

#[test]
fn a_new_hub_gets_all_its_pods_at_once_and_is_then_left_alone() {
    assert_eq!(next(&[("a", 0, "")], ("a", 3)), "surge demo-a to 3");
    assert_eq!(next(&[("a", 3, "rup")], ("a", 3)), "hold");
    assert_eq!(next(&[("a", 3, "rrr")], ("a", 3)), "hold");
    assert_eq!(next(&[], ("a", 3)), "hold", "its ReplicaSet is not there yet");
}

#[test]
fn a_roll_out_adds_one_pod_and_takes_an_old_one_when_it_is_ready() {
    let walk = [
        (vec![("a", 2, "rr"), ("b", 0, "")], "surge demo-b to 1"),
        (vec![("a", 2, "rr"), ("b", 1, "")], "hold"),
        (vec![("a", 2, "rr"), ("b", 1, "u")], "hold"),
        (vec![("a", 2, "rr"), ("b", 1, "r")], "drain a1"),
        (vec![("a", 2, "rM"), ("b", 1, "r")], "hold"),
        (vec![("a", 2, "rR"), ("b", 1, "r")], "shrink demo-a to 1"),
        (vec![("a", 1, "rR"), ("b", 1, "r")], "surge demo-b to 2"),
        (vec![("a", 1, "rl"), ("b", 2, "r")], "hold"),
        (vec![("a", 1, "rl"), ("b", 2, "rr")], "hold"),
        (vec![("a", 1, "r"), ("b", 2, "rr")], "drain a0"),
        (vec![("a", 1, "R"), ("b", 2, "rr")], "shrink demo-a to 0"),
        (vec![("a", 0, "l"), ("b", 2, "rr")], "hold"),
    ];

    for (sets, expected) in walk {
        assert_eq!(next(&sets, ("b", 2)), expected, "{sets:?}");
    }
}

#[test]
fn a_revision_that_never_becomes_ready_costs_one_pod_and_is_left_at_once() {
    let stuck = [("a", 2, "rr"), ("b", 1, "u")];

    assert_eq!(next(&stuck, ("b", 2)), "hold");
    assert_eq!(next(&stuck, ("a", 2)), "drain b0");
    assert_eq!(next(&[("a", 2, "rr"), ("b", 1, "U")], ("a", 2)), "shrink demo-b to 0");
    assert_eq!(next(&[("a", 2, "rr"), ("b", 0, "")], ("a", 2)), "hold");
    let other = [("a", 2, "rr"), ("b", 1, "u"), ("c", 0, "")];
    assert_eq!(
        next(&other, ("c", 2)),
        "drain b0",
        "and it stands in no third one's way"
    );
}

#[test]
fn an_old_pod_that_was_lost_in_a_stuck_roll_out_comes_back() {
    assert_eq!(next(&[("a", 2, "r"), ("b", 1, "u")], ("b", 2)), "hold");
    assert_eq!(next(&[("a", 2, "rp"), ("b", 1, "u")], ("b", 2)), "hold");
    assert_eq!(
        next(&[("a", 2, "r"), ("b", 1, "r")], ("b", 2)),
        "shrink demo-a to 1",
        "where the new one works it is not waited for"
    );
}

#[test]
fn pods_that_no_quota_lets_in_are_asked_for_no_longer_when_nobody_wants_them() {
    assert_eq!(next(&[("a", 2, "rr"), ("b", 1, "")], ("a", 2)), "shrink demo-b to 0");
    assert_eq!(next(&[("a", 5, "rr")], ("a", 2)), "shrink demo-a to 2");
    assert_eq!(next(&[("a", 5, "rrrr")], ("a", 2)), "shrink demo-a to 4");
    let mut unseen = fleet(&[("a", 5, "rr")]);
    unseen.sets[0].is_observed = false;
    assert_eq!(
        step(&unseen, &goal("a", 2)),
        Step::Hold,
        "its controller may be making them"
    );
}

#[test]
fn more_pods_asked_for_during_a_drain_take_the_mark_back() {
    assert_eq!(next(&[("a", 5, "rrrrM")], ("a", 4)), "hold");
    assert_eq!(next(&[("a", 5, "rrrrM")], ("a", 5)), "cancel a4");
    assert_eq!(next(&[("a", 5, "rrrrR")], ("a", 6)), "cancel a4");
    assert_eq!(
        next(&[("a", 4, "rrrrR")], ("a", 5)),
        "surge demo-a to 5",
        "it was asked for one less already"
    );
    assert_eq!(
        next(&[("a", 2, "rR"), ("b", 1, "r")], ("a", 2)),
        "cancel a1",
        "and so does a way back"
    );
}

#[test]
fn a_mark_is_taken_back_when_the_others_are_no_longer_enough() {
    assert_eq!(next(&[("a", 2, "rR"), ("b", 1, "u")], ("b", 2)), "cancel a1");
    assert_eq!(
        next(&[("a", 3, "ruR"), ("b", 2, "rr")], ("b", 2)),
        "cancel a2",
        "the controller would take the one that is not ready"
    );
    assert_eq!(
        next(&[("a", 4, "rrRR")], ("a", 3)),
        "cancel a2",
        "one of two is too many"
    );
}

#[test]
fn a_pod_that_somebody_hid_from_autoscalers_is_counted_again() {
    let mut fleet = fleet(&[("a", 2, "rr")]);
    fleet.sets[0].pods[1].is_serving = false;

    assert_eq!(said(step(&fleet, &goal("a", 2))), "cancel a1");
}

#[test]
fn a_paused_roll_out_keeps_the_pods_that_there_are_and_replaces_those_that_are_missing() {
    let next = |sets: &[(&str, i32, &str)], replicas: i32| {
        let goal = Goal {
            is_paused: true,
            ..goal("b", replicas)
        };
        said(step(&fleet(sets), &goal))
    };

    assert_eq!(next(&[("a", 2, "rr"), ("b", 1, "r")], 2), "hold");
    assert_eq!(next(&[("a", 2, "rM"), ("b", 1, "r")], 2), "cancel a1");
    assert_eq!(
        next(&[("a", 2, "rR"), ("b", 1, "r")], 2),
        "cancel a1",
        "it has had its time"
    );
    assert_eq!(next(&[("a", 1, "rR"), ("b", 1, "r")], 2), "hold", "it is being deleted");
    assert_eq!(next(&[("a", 1, "r"), ("b", 1, "r")], 4), "surge demo-b to 3");
    assert_eq!(next(&[("a", 3, "rrr"), ("b", 1, "r")], 1), "hold", "fewer are wanted");
    assert_eq!(next(&[("a", 2, "rr"), ("b", 1, "r")], 0), "shrink demo-a to 0");
}

#[test]
fn victims_are_first_not_ready_then_old_then_those_with_the_least_to_do() {
    let with = |load: &[(&str, u64, u64)]| {
        let mut fleet = fleet(&[("a", 2, "rr"), ("b", 3, "rrr")]);
        for pod in fleet.sets.iter_mut().flat_map(|set| &mut set.pods) {
            let known = load.iter().find(|(name, ..)| *name == pod.name);
            pod.load = known.map(|&(_, in_flight, connections)| PodLoad {
                in_flight,
                connections,
                ..PodLoad::default()
            });
        }
        said(step(&fleet, &goal("b", 3)))
    };

    assert_eq!(
        with(&[("a0", 4, 9), ("a1", 5, 0)]),
        "drain a0",
        "though a newer one has nothing to do"
    );
    assert_eq!(with(&[("a0", 4, 9), ("a1", 4, 8)]), "drain a1");
    assert_eq!(with(&[("a0", 4, 9)]), "drain a0", "what the other one has is not known");
    assert_eq!(next(&[("b", 4, "rrru")], ("b", 3)), "drain b3");
    assert_eq!(
        next(&[("b", 4, "ruup")], ("b", 3)),
        "drain b3",
        "a pod that does not run yet before one that does"
    );
    assert_eq!(
        next(&[("b", 4, "runu")], ("b", 3)),
        "drain b2",
        "one of whose node nothing is known before those"
    );
}

#[test]
fn ready_pods_go_one_after_the_other_and_others_need_not_wait() {
    assert_eq!(next(&[("a", 4, "rrrrl")], ("a", 2)), "hold");
    assert_eq!(next(&[("a", 4, "rrrul")], ("a", 2)), "drain a3");
    let mut lost = fleet(&[("a", 4, "rrrrl")]);
    lost.sets[0].pods[4].presence = PodPresence::Lost;
    assert_eq!(
        said(step(&lost, &goal("a", 2))),
        "drain a3",
        "a pod on a lost node may be leaving for ever"
    );
}

#[test]
fn a_pod_that_has_just_become_ready_is_neither_counted_on_nor_taken() {
    assert_eq!(next(&[("a", 2, "rr"), ("b", 1, "f")], ("b", 2)), "hold");
    assert_eq!(
        next(&[("a", 4, "rrrf")], ("a", 3)),
        "hold",
        "its ReplicaSet's controller may not know it yet"
    );
    assert_eq!(next(&[("a", 4, "rrfR")], ("a", 3)), "cancel a3");
}

#[test]
fn a_mark_whose_hub_was_told_nothing_for_long_is_made_anew() {
    assert_eq!(next(&[("a", 5, "rrrrL")], ("a", 4)), "renew a4");
    assert_eq!(
        next(&[("a", 5, "rrrrL")], ("a", 5)),
        "cancel a4",
        "it is not to go any more"
    );
    assert_eq!(next(&[("a", 4, "rrrrL")], ("a", 4)), "hold", "it is being deleted");
}

#[test]
fn before_the_first_report_no_ready_pod_is_chosen() {
    let next = |sets: &[(&str, i32, &str)], to| next_held(sets, to, Some(HeldPods::Unasked));

    assert_eq!(next(&[("a", 3, "rrr")], ("a", 2)), "hold");
    assert_eq!(next(&[("a", 2, "rr"), ("b", 1, "r")], ("b", 2)), "hold");
    assert_eq!(
        next(&[("a", 4, "rrru")], ("a", 2)),
        "drain a3",
        "who has nothing is known"
    );
    assert_eq!(
        next(&[("a", 3, "rrR")], ("a", 2)),
        "shrink demo-a to 2",
        "it was chosen before"
    );
    assert_eq!(next(&[("a", 3, "rrr")], ("a", 0)), "shrink demo-a to 0");
}

#[test]
fn without_redis_pods_of_the_newest_revision_stay_and_older_ones_go() {
    let next = |sets: &[(&str, i32, &str)], to| next_held(sets, to, Some(HeldPods::NoRedis));

    assert_eq!(next(&[("a", 3, "rrr")], ("a", 2)), "hold");
    assert_eq!(next(&[("a", 3, "rrR")], ("a", 2)), "hold", "it has had its time");
    assert_eq!(next(&[("a", 3, "rrR")], ("a", 3)), "cancel a2");
    assert_eq!(next(&[("a", 2, "rr"), ("b", 1, "r")], ("b", 2)), "drain a1");
    assert_eq!(next(&[("a", 2, "rR"), ("b", 1, "r")], ("b", 2)), "shrink demo-a to 1");
    assert_eq!(next(&[("a", 4, "rrru")], ("a", 3)), "drain a3");
    assert_eq!(next(&[("a", 3, "rrr")], ("a", 0)), "shrink demo-a to 0");
}

#[test]
fn a_stopped_hub_loses_all_its_pods_together() {
    assert_eq!(next(&[("a", 3, "rrr"), ("b", 1, "u")], ("a", 0)), "shrink demo-a to 0");
    assert_eq!(next(&[("a", 0, "rrr"), ("b", 1, "u")], ("a", 0)), "shrink demo-b to 0");
    assert_eq!(next(&[("a", 0, "rrr"), ("b", 0, "u")], ("a", 0)), "hold");
}

/// The pods that the controller of a ReplicaSet removes when it asks for `to`, in the order that its documentation
/// gives.
fn taken(set: &Set, to: i32) -> Vec<&Pod> {
    let mut here: Vec<_> = set.here().collect();
    here.sort_by_key(|pod| (pod.standing, pod.drain.is_none()));
    let count = usize::try_from(set.count() - to).unwrap_or_default();
    here.into_iter().take(count).collect()
}

/// What must hold of each step, whatever the fleet.
pub(super) fn check(fleet: &Fleet, goal: &Goal) {
    let next = step(fleet, goal);
    let told = || format!("{next:?} of {goal:?} {fleet:#?}");
    let counted = fleet.pods().filter(|pod| pod.is_counted_on()).count();
    let asked: i32 = fleet.sets.iter().map(|set| set.replicas).sum();
    if goal.is_paused && goal.replicas > 0 {
        let keeps = matches!(next, Step::Hold | Step::Cancel(_) | Step::Surge(_));
        assert!(
            keeps && (asked < goal.replicas || !matches!(next, Step::Surge(_))),
            "{}",
            told()
        );
    }
    match &next {
        Step::Hold => {}
        Step::Surge(scale) => {
            let set = fleet
                .sets
                .iter()
                .find(|set| set.name == scale.set)
                .expect("one of the fleet's");
            let after = asked - set.replicas + scale.to;
            assert!(set.revision == goal.revision && scale.to > set.replicas, "{}", told());
            assert!(scale.to <= goal.replicas && after <= goal.replicas + 1, "{}", told());
        }
        Step::Drain(pod) => {
            let marked = fleet
                .pods()
                .any(|pod| pod.presence == PodPresence::Here && pod.drain.is_some());
            assert!(
                !marked && pod.drain.is_none() && pod.presence == PodPresence::Here,
                "{}",
                told()
            );
            if pod.standing == PodStanding::Ready {
                assert_ne!(goal.held, Some(HeldPods::Unasked), "{}", told());
                assert!(i32::try_from(counted - 1).expect("few") >= goal.replicas, "{}", told());
                assert!(
                    fleet.pods().all(|pod| pod.presence != PodPresence::Leaving),
                    "{}",
                    told()
                );
                assert!(fleet.sets.iter().all(|set| set.count() <= set.replicas), "{}", told());
            }
        }
        Step::Renew(pod) => assert!(pod.drain.is_some_and(|drain| drain.is_lapsed), "{}", told()),
        Step::Cancel(pod) => assert!(pod.drain.is_some() && pod.presence == PodPresence::Here, "{}", told()),
        Step::Shrink(scale) => {
            let set = fleet
                .sets
                .iter()
                .find(|set| set.name == scale.set)
                .expect("one of the fleet's");
            assert!(scale.to < set.replicas && scale.to >= 0, "{}", told());
            if goal.replicas == 0 {
                return;
            }
            assert!(set.is_observed, "{}", told());
            let least = if set.revision == goal.revision {
                goal.replicas
            } else {
                0
            };
            assert!(scale.to >= least, "{}", told());
            let taken = taken(set, scale.to);
            assert!(taken.iter().all(|pod| !goal.keeps(set, pod)), "{}", told());
            assert!(
                taken.len() <= 1 && taken.iter().all(|pod| pod.drain.is_some_and(|d| d.is_over)),
                "{}",
                told()
            );
            if taken.iter().any(|pod| pod.standing == PodStanding::Ready) {
                assert!(i32::try_from(counted).expect("few") >= goal.replicas, "{}", told());
            }
        }
    }
}

/// Every selection of up to `most` of these kinds of pods, in any order.
fn selections(kinds: &str, most: usize) -> Vec<String> {
    let mut all = vec![String::new()];
    let mut last = all.clone();
    for _ in 0..most {
        let longer = last.iter().flat_map(|pods| {
            let from = pods
                .chars()
                .last()
                .and_then(|kind| kinds.find(kind))
                .unwrap_or_default();
            kinds[from..].chars().map(move |kind| format!("{pods}{kind}"))
        });
        last = longer.collect();
        all.extend(last.iter().cloned());
    }
    all
}

#[test]
fn no_step_of_any_small_fleet_breaks_a_promise() {
    let mut sets = Vec::new();
    for pods in selections("pufrUMLRl", 3) {
        let here = i32::try_from(pods.chars().filter(|kind| *kind != 'l').count()).expect("few");
        sets.extend((0.max(here - 1)..=here + 1).map(|replicas| (replicas, pods.clone())));
    }
    let mut steps = 0_u32;
    for (old, old_pods) in &sets {
        for (new, new_pods) in sets.iter().filter(|(_, pods)| pods.len() <= 2) {
            let fleet = fleet(&[("a", *old, old_pods), ("b", *new, new_pods)]);
            for replicas in 0..=3 {
                let goal = goal("b", replicas);
                check(&fleet, &goal);
                for held in [HeldPods::Unasked, HeldPods::NoRedis] {
                    let held = Some(held);
                    check(&fleet, &Goal { held, ..goal.clone() });
                }
                check(
                    &fleet,
                    &Goal {
                        is_paused: true,
                        ..goal
                    },
                );
                steps += 1;
            }
        }
    }
    assert!(steps > 100_000, "{steps}");
}

#[test]
fn a_pod_that_somebody_emptied_stays_and_is_the_first_to_go_when_one_goes() {
    let mut fleet = fleet(&[("a", 3, "rrr")]);
    fleet.sets[0].pods[1].is_emptied = true;

    assert_eq!(said(step(&fleet, &goal("a", 3))), "hold");
    assert_eq!(said(step(&fleet, &goal("a", 2))), "drain a1");
    fleet.sets[0].pods[1].is_emptied = false;
    assert_eq!(said(step(&fleet, &goal("a", 2))), "drain a2");
}
