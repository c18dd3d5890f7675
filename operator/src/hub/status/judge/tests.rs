//! Each state of a Hub and what its conditions say.

use std::sync::Arc;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use tokio::time::Instant;

use super::*;
use crate::admin::ReportedHub;
use crate::context::Poll;
use crate::hub::answers::AnsweredOrders;
use crate::hub::figures::Figures;
use crate::hub::fleet::Fleet;

fn pods(wanted: i32, current: i32, ready: i32, all: i32) -> Pods {
    Pods {
        wanted,
        current,
        ready,
        all,
        observed: true,
        ..Pods::default()
    }
}

fn sight(pods: Option<&Pods>, seen: Result<Seen, String>) -> Sight {
    let poll = Poll {
        at: Instant::now(),
        asked: true,
        key: None,
        denied: false,
        seen,
    };
    Sight {
        pods: pods.cloned(),
        poll: Arc::new(poll),
        figures: Figures::of(&Fleet::default()),
        answers: AnsweredOrders::default(),
        problem: None,
    }
}

fn of<'a>(verdicts: &'a [Verdict], kind: &str) -> &'a Verdict {
    verdicts.iter().find(|verdict| verdict.kind == kind).expect("there")
}

fn seen(redis: PartState, postgres: PartState) -> Result<Seen, String> {
    let report = ReportedHub {
        redis,
        postgres,
        ..ReportedHub::healthy()
    };
    Ok(Seen {
        report,
        spokes: Ok(std::sync::Arc::default()),
        listed_at: tokio::time::Instant::now(),
    })
}

fn all(verdicts: &[Verdict]) -> String {
    let mut lines: Vec<_> = verdicts
        .iter()
        .map(|v| format!("{}={}/{}", v.kind, v.status.as_str(), v.reason))
        .collect();
    lines.sort();
    lines.join(" ")
}

#[test]
fn each_state_of_the_pods_has_its_conditions() {
    let accepted = "Accepted=True/Valid";
    let rest = "Paused=False/Active PrefixConflict=False/Unique";
    for (pods, degraded, others) in [
        (
            pods(2, 2, 2, 2),
            "False/Healthy",
            "Progressing=False/Stable Ready=True/Serving",
        ),
        (
            pods(2, 1, 1, 1),
            "False/Healthy",
            "Progressing=True/RollingOut Ready=False/WaitingForPods",
        ),
        (
            pods(2, 1, 2, 3),
            "False/Healthy",
            "Progressing=True/RollingOut Ready=True/Serving",
        ),
        (
            pods(0, 0, 0, 0),
            "False/Stopped",
            "Progressing=False/Stable Ready=False/Stopped",
        ),
    ] {
        let verdicts = applied(&pods, None, &sight(None, seen(PartState::Up, PartState::Up)));
        assert_eq!(
            all(&verdicts),
            format!("{accepted} Degraded={degraded} {rest} {others}")
        );
    }
}

#[test]
fn a_hub_that_grows_stays_ready_and_one_that_lost_a_pod_does_not() {
    let was_ready = |held: i32, pods: Pods| Pods {
        held: Some(held),
        ..pods
    };

    assert!(was_ready(2, pods(5, 5, 2, 5)).is_enough() && was_ready(2, pods(5, 5, 3, 5)).is_enough());
    assert!(!was_ready(3, pods(3, 3, 2, 3)).is_enough());
    assert!(!pods(3, 3, 2, 3).is_enough(), "a new Hub is ready when all are");
    assert!(!was_ready(0, pods(2, 0, 0, 0)).is_enough(), "nobody serves");
}

#[test]
fn a_stuck_roll_out_is_not_ready_though_older_pods_serve() {
    let stuck = Pods {
        stuck: Some("progress deadline exceeded".to_owned()),
        ..pods(2, 1, 2, 3)
    };

    let verdicts = applied(&stuck, None, &sight(None, seen(PartState::Up, PartState::Up)));

    let ready = of(&verdicts, READY);
    assert_eq!((ready.status, ready.reason), (ConditionStatus::False, "Stuck"));
    assert!(ready.message.contains("deadline"), "{}", ready.message);
}

#[test]
fn a_change_of_the_spec_leaves_a_hub_ready_and_counts_no_old_pod_as_new() {
    let written = Pods {
        observed: false,
        ..pods(2, 2, 2, 2)
    };

    let verdicts = applied(&written, None, &sight(None, seen(PartState::Up, PartState::Up)));

    let ready = of(&verdicts, READY);
    assert_eq!((ready.status, ready.reason), (ConditionStatus::True, "Serving"));
    assert_eq!(of(&verdicts, PROGRESSING).reason, "RollingOut");
    assert_eq!(
        of(&verdicts, PROGRESSING).message,
        "a change was written; 2 of 2 pods are ready"
    );
}

#[test]
fn a_refused_or_failing_hub_shows_what_its_pods_do() {
    let error = SpecError {
        kind: ACCEPTED,
        reason: "InvalidSetting",
        message: "why".to_owned(),
    };
    let running = pods(2, 2, 2, 2);

    let refused = all(&refused(
        &error,
        Some(3),
        &sight(Some(&running), seen(PartState::Up, PartState::Up)),
    ));
    let failed = all(&failed(
        "why",
        true,
        &sight(Some(&running), seen(PartState::Up, PartState::Up)),
    ));

    assert!(
        refused.contains("Degraded=False/Healthy") && refused.contains("Ready=True/Serving"),
        "{refused}"
    );
    assert!(
        failed.contains("Degraded=True/ApplyFailed") && failed.contains("Ready=True/Serving"),
        "{failed}"
    );
}

#[test]
fn a_refused_hub_says_which_changes_wait_and_why() {
    let error = SpecError {
        kind: ACCEPTED,
        reason: "InvalidSetting",
        message: "spec.config: unknown setting `no-such`".to_owned(),
    };
    // Two pods run, and a third was asked for after the spec was refused.
    let running = sight(Some(&pods(3, 2, 2, 2)), seen(PartState::Up, PartState::Up));

    let waiting = refused(&error, Some(3), &running);
    let new = refused(&error, None, &sight(None, Err("not asked".to_owned())));

    for kind in [PROGRESSING, READY] {
        let message = &of(&waiting, kind).message;
        assert!(
            message.contains("changes since generation 3 are not applied"),
            "{message}"
        );
    }
    assert!(of(&waiting, PROGRESSING).message.contains("`no-such`"));
    assert!(of(&waiting, READY).message.starts_with("2 of 3 pods are ready; "));
    assert!(of(&new, PROGRESSING).message.starts_with("nothing is changed"));
    assert_eq!(of(&new, READY).message, error.message);
}

#[test]
fn a_spec_that_was_not_judged_is_neither_accepted_nor_refused() {
    let failed = failed(
        "could not get Secret `redis`",
        false,
        &sight(None, Err("not asked".to_owned())),
    );
    let paused = paused(&pods(2, 2, 2, 2), &sight(None, seen(PartState::Up, PartState::Up)));

    for verdicts in [failed, paused] {
        for kind in [ACCEPTED, PREFIX_CONFLICT] {
            let verdict = of(&verdicts, kind);
            assert_eq!(
                (verdict.status, verdict.reason),
                (ConditionStatus::Unknown, "NotChecked"),
                "{kind}"
            );
        }
    }
}

#[test]
fn what_the_pods_say_is_repeated_and_a_prefix_that_redis_knows_as_taken_is_a_conflict() {
    let problem = |prefix: Option<&str>| Sight {
        problem: Some(PodProblem {
            message: "pod demo-1 is not ready: Postgres: permission denied".to_owned(),
            prefix: prefix.map(str::to_owned),
        }),
        ..sight(None, Err("no pod is ready".to_owned()))
    };

    let denied = applied(&pods(1, 1, 0, 1), None, &problem(None));
    let taken = applied(&pods(1, 1, 0, 1), None, &problem(Some("Hub u has it")));
    let unapplied = failed("why", true, &problem(Some("Hub u has it")));

    assert_eq!(of(&denied, DEGRADED).reason, "PodsFailing");
    assert!(of(&denied, DEGRADED).message.contains("permission denied"));
    assert_eq!(of(&denied, PREFIX_CONFLICT).reason, "Unique");
    assert_eq!(of(&taken, PREFIX_CONFLICT).reason, "PrefixInUse");
    assert_eq!(of(&taken, PREFIX_CONFLICT).message, "Hub u has it");
    assert_eq!(
        of(&unapplied, PREFIX_CONFLICT).reason,
        "PrefixInUse",
        "a failure mends no conflict"
    );
}

#[test]
fn a_hub_that_does_not_answer_is_neither_well_nor_degraded() {
    let running = pods(2, 2, 2, 2);

    let verdict = degraded(&running, &sight(None, Err("no answer".to_owned())));

    assert_eq!(
        (verdict.status, verdict.reason),
        (ConditionStatus::Unknown, "HubUnreachable")
    );
    assert_eq!(
        degraded(&running, &sight(None, seen(PartState::Down, PartState::Up))).reason,
        "RedisDown"
    );
}

#[test]
fn a_refusal_names_itself_in_the_conditions_that_people_look_at() {
    let error = SpecError {
        kind: PREFIX_CONFLICT,
        reason: "PrefixInUse",
        message: "why".to_owned(),
    };

    let verdicts = refused(&error, None, &sight(None, Err("not asked".to_owned())));

    assert_eq!(of(&verdicts, PREFIX_CONFLICT).status, ConditionStatus::True);
    let ready = of(&verdicts, READY);
    assert_eq!((ready.status, &*ready.message), (ConditionStatus::False, "why"));
}

#[test]
fn a_paused_roll_out_says_why_and_how_to_go_on() {
    let paused = PausedRollout {
        revision: "0b".to_owned(),
        message: "20 of 200 calls failed".to_owned(),
        since: Time(Timestamp::UNIX_EPOCH),
    };
    let pods = pods(2, 1, 3, 3);
    let sight = sight(Some(&pods), seen(PartState::Up, PartState::Up));

    let verdicts = applied(&pods, Some(&paused), &sight);

    let progressing = of(&verdicts, PROGRESSING);
    assert_eq!(
        (progressing.status, progressing.reason),
        (ConditionStatus::False, "RolloutPaused")
    );
    for words in ["20 of 200 calls failed", "alkhub.dev/resume-rollout=0b"] {
        assert!(progressing.message.contains(words), "{}", progressing.message);
    }
    assert_eq!(
        of(&verdicts, READY).status,
        ConditionStatus::True,
        "the older pods serve"
    );
}
