//! Objects as the API server has them, and the fleets that are made of them.

use serde_json::{Value, json};

use super::*;

fn at(text: &str) -> Timestamp {
    text.parse().expect("a time")
}

fn set(spec: &Value, status: &Value) -> Box<ReplicaSet> {
    serde_json::from_value(json!({
        "metadata": {"name": "demo-a", "uid": "set", "resourceVersion": "7", "generation": 2, "labels": {REVISION: "a"}},
        "spec": spec, "status": status,
    }))
    .expect("a ReplicaSet")
}

fn pod(meta: &Value, spec: &Value, status: &Value) -> Box<v1::Pod> {
    let owner =
        json!([{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "demo-a", "uid": "set", "controller": true}]);
    let mut whole = json!({
        "name": "demo-a-1", "uid": "pod", "resourceVersion": "3", "ownerReferences": owner,
        "labels": {SERVING.0: SERVING.1}, "creationTimestamp": "2026-01-01T00:00:00Z",
    });
    for (key, value) in meta.as_object().into_iter().flatten() {
        whole[key] = value.clone();
    }
    serde_json::from_value(json!({"metadata": whole, "spec": spec, "status": status})).expect("a Pod")
}

fn seen(pod: Box<v1::Pod>, now: &str) -> (Option<Pod>, Option<Duration>) {
    seen_with(pod, None, now)
}

fn seen_with(pod: Box<v1::Pod>, loads: Option<&PodLoads>, now: &str) -> (Option<Pod>, Option<Duration>) {
    seen_by(pod, loads, LONG, now)
}

/// A mark that this term has known for long, and whose hub it has told since then.
const LONG: WatchedDrain = WatchedDrain {
    known_for: Duration::from_secs(3600),
    counts_for: None,
    is_anew: false,
};

fn seen_by(
    pod: Box<v1::Pod>,
    loads: Option<&PodLoads>,
    watched: WatchedDrain,
    now: &str,
) -> (Option<Pod>, Option<Duration>) {
    let known = Known {
        loads: loads.cloned(),
        drains: HashMap::from([("pod".to_owned(), watched)]),
    };
    let set = set(
        &json!({"replicas": 1, "selector": {}}),
        &json!({"replicas": 1, "observedGeneration": 2}),
    );
    let mut seen = of(&[set], &[pod], &known, at(now));
    (seen.fleet.sets[0].pods.pop(), seen.changes_in)
}

fn ready(status: &str, since: &str) -> Value {
    json!({"phase": "Running", "conditions": [{"type": "Ready", "status": status, "lastTransitionTime": since, "message": "why"}]})
}

const PLACED: &str = "node-1";

#[test]
fn a_set_is_what_it_asks_for_and_what_its_controller_says() {
    let refused = json!([{"type": "ReplicaFailure", "status": "True", "message": "exceeded quota"}]);
    let late = set(
        &json!({"replicas": 3, "selector": {}}),
        &json!({"replicas": 2, "observedGeneration": 1, "conditions": refused}),
    );
    let theirs: [Box<v1::Pod>; 0] = [];

    let fleet = of(&[late], &theirs, &Known::default(), at("2026-01-01T00:00:00Z")).fleet;

    let set = &fleet.sets[0];
    assert_eq!((set.revision.as_str(), set.replicas, set.is_observed), ("a", 3, false));
    assert_eq!(set.failure.as_deref(), Some("exceeded quota"));
}

#[test]
fn how_far_a_pod_has_come_is_what_its_controller_ranks_it_by() {
    let placed = json!({"nodeName": PLACED, "containers": []});
    let standing = |spec: &Value, status: &Value| {
        let (pod, _) = seen(pod(&json!({}), spec, status), "2026-01-01T00:01:00Z");
        pod.expect("a pod").standing
    };

    assert_eq!(
        standing(&json!({"containers": []}), &json!({"phase": "Pending"})),
        PodStanding::Unassigned
    );
    assert_eq!(standing(&placed, &json!({"phase": "Pending"})), PodStanding::Pending);
    assert_eq!(standing(&placed, &json!({"phase": "Unknown"})), PodStanding::Unknown);
    assert_eq!(standing(&placed, &json!({"phase": "Running"})), PodStanding::Unready);
    assert_eq!(
        standing(&placed, &ready("False", "2026-01-01T00:00:00Z")),
        PodStanding::Unready
    );
    assert_eq!(
        standing(&placed, &ready("True", "2026-01-01T00:00:59Z")),
        PodStanding::Fresh
    );
    assert_eq!(
        standing(&placed, &ready("True", "2026-01-01T00:00:50Z")),
        PodStanding::Ready
    );
}

#[test]
fn a_pod_that_ended_or_is_another_sets_is_none() {
    let placed = json!({"nodeName": PLACED, "containers": []});
    let evicted = pod(&json!({}), &placed, &json!({"phase": "Failed"}));
    let foreign = pod(
        &json!({"ownerReferences": []}),
        &placed,
        &ready("True", "2026-01-01T00:00:00Z"),
    );

    assert_eq!(seen(evicted, "2026-01-01T00:01:00Z").0, None);
    assert_eq!(seen(foreign, "2026-01-01T00:01:00Z").0, None);
}

/// A pod that was marked at 00:01:00, with what a hub reported about it at some time.
fn marked(standing: &str, said: Option<(&str, &[ReportedPod])>, now: &str) -> (bool, Option<Duration>) {
    let meta = json!({"annotations": {DRAIN_SINCE: "2026-01-01T00:01:00Z"}, "labels": {}});
    let spec = json!({"nodeName": PLACED, "containers": []});
    let pod = pod(&meta, &spec, &ready(standing, "2026-01-01T00:00:00Z"));
    let loads = said.map(|(time, pods)| PodLoads::of(at(time), pods));
    let (pod, again) = seen_with(pod, loads.as_ref(), now);
    let pod = pod.expect("a pod");
    assert!(!pod.is_serving);
    (pod.drain.expect("a mark").is_over, again)
}

/// What a report says of the pod.
fn reported(connections: u64, in_flight: Option<u64>) -> ReportedPod {
    serde_json::from_value(json!({
        "hubId": "demo-a-1-0001", "pod": "demo-a-1", "connections": connections, "inFlight": in_flight,
    }))
    .expect("a pod")
}

#[test]
fn a_mark_counts_when_the_caches_must_have_it_and_says_when_to_look_again() {
    let nothing = [reported(0, Some(0))];
    let empty = ("2026-01-01T00:01:02Z", &nothing[..]);
    assert_eq!(
        marked("True", Some(empty), "2026-01-01T00:01:00.5Z"),
        (false, Some(Duration::from_millis(1500)))
    );
    assert_eq!(marked("True", Some(empty), "2026-01-01T00:01:02Z"), (true, None));
    assert_eq!(
        marked("True", Some(empty), "2026-01-01T00:00:30Z"),
        (false, Some(SETTLED)),
        "another machine's clock"
    );
}

#[test]
fn a_pod_that_is_to_go_is_waited_for_while_it_has_something_to_give_and_not_for_ever() {
    let at_ten = "2026-01-01T00:01:10Z";
    let is_over = |said: Option<(&str, &[ReportedPod])>| marked("True", said, at_ten).0;
    let with = |pods: &[ReportedPod]| is_over(Some(("2026-01-01T00:01:09Z", pods)));
    let nothing = reported(0, Some(0));

    assert!(!is_over(None), "nothing is known of it");
    assert!(
        !is_over(Some(("2026-01-01T00:01:01Z", std::slice::from_ref(&nothing)))),
        "it was said before"
    );
    assert!(!with(&[reported(5, Some(0))]) && !with(&[reported(0, Some(1))]));
    assert!(!with(&[reported(0, None)]), "its calls are not known");
    assert!(!with(&[]), "the report does not have it");
    assert!(
        !with(&[nothing.clone(), reported(0, None)]),
        "its container has started again"
    );
    let returning = ReportedPod {
        reconnecting: Some(3),
        ..nothing.clone()
    };
    assert!(!with(&[returning]), "their peers may come back");
    assert!(with(std::slice::from_ref(&nothing)) && with(&[nothing.clone(), nothing]));
    assert!(marked("False", None, at_ten).0, "it serves nobody");
    assert_eq!(marked("True", None, at_ten).1, Some(Duration::from_secs(20)));
    assert!(marked("True", None, "2026-01-01T00:01:30Z").0, "its time is over");
}

#[test]
fn a_pod_that_is_not_ready_and_has_something_is_waited_for() {
    let unready = |pods: &[ReportedPod], now| marked("False", Some(("2026-01-01T00:01:09Z", pods)), now).0;
    let at_ten = "2026-01-01T00:01:10Z";

    assert!(!unready(&[reported(5, Some(0))], at_ten) && !unready(&[reported(0, Some(1))], at_ten));
    assert!(unready(&[reported(0, Some(0))], at_ten) && unready(&[], at_ten));
    assert!(
        unready(&[reported(5, Some(0))], "2026-01-01T00:01:30Z"),
        "its time is over"
    );
}

/// How far the drain of a ready pod is that was marked at 00:01:00 and has 500 connections at 00:11:00.
fn watched(known_for: u64, counts_for: Option<u64>, is_anew: bool) -> Drain {
    let meta = json!({"annotations": {DRAIN_SINCE: "2026-01-01T00:01:00Z"}, "labels": {}});
    let spec = json!({"nodeName": PLACED, "containers": []});
    let full = PodLoads::of(at("2026-01-01T00:10:59Z"), &[reported(500, Some(0))]);
    let watched = WatchedDrain {
        known_for: Duration::from_secs(known_for),
        counts_for: counts_for.map(Duration::from_secs),
        is_anew,
    };
    let pod = pod(&meta, &spec, &ready("True", "2026-01-01T00:00:00Z"));
    let (pod, _) = seen_by(pod, Some(&full), watched, "2026-01-01T00:11:00Z");
    pod.and_then(|pod| pod.drain).expect("a mark")
}

#[test]
fn the_time_of_a_mark_counts_only_while_the_hub_is_told() {
    let lapsed = watched(5, Some(5), true);
    assert!(!lapsed.is_over && lapsed.is_lapsed, "nobody told it for ten minutes");

    let unknown = watched(5, Some(5), false);
    assert!(
        !unknown.is_over && !unknown.is_lapsed,
        "no report says yet whether it drains"
    );
    assert!(watched(30, Some(30), true).is_over, "it is told for long enough by now");
    assert!(watched(5, None, false).is_over, "the term before has told it");
}

#[test]
fn a_mark_settles_by_the_clock_of_who_leads_too() {
    assert!(
        !watched(1, None, false).is_over,
        "whoever dated it may be ten minutes behind"
    );
    assert!(watched(2, None, false).is_over);
}

#[test]
fn a_pod_whose_calls_may_take_longer_is_waited_for_as_long() {
    let seconds = |seconds: &str, now: &str| {
        let meta = json!({"annotations": {DRAIN_SINCE: "2026-01-01T00:01:00Z", DRAIN_SECONDS: seconds}});
        let spec = json!({"nodeName": PLACED, "containers": []});
        let pod = pod(&meta, &spec, &ready("True", "2026-01-01T00:00:00Z"));
        seen(pod, now).0.and_then(|pod| pod.drain).expect("a mark").is_over
    };

    assert!(!seconds("120", "2026-01-01T00:02:59Z") && seconds("120", "2026-01-01T00:03:00Z"));
    assert!(!seconds("soon", "2026-01-01T00:01:29Z") && seconds("soon", "2026-01-01T00:01:30Z"));
}

#[test]
fn a_pod_has_what_was_last_said_of_it() {
    let spec = json!({"nodeName": PLACED, "containers": []});
    let pod = pod(&json!({}), &spec, &ready("True", "2026-01-01T00:00:00Z"));
    let load = |said: &[ReportedPod]| {
        let loads = PodLoads::of(at("2026-01-01T00:00:00Z"), said);
        let (pod, _) = seen_with(pod.clone(), Some(&loads), "2026-01-01T00:01:00Z");
        pod.expect("a pod").load
    };
    let sum = |in_flight, connections, is_twofold| {
        Some(PodLoad {
            in_flight,
            connections,
            is_twofold,
            ..PodLoad::default()
        })
    };

    assert_eq!(load(&[reported(5, Some(1))]), sum(1, 5, false));
    assert_eq!(load(&[reported(5, Some(1)), reported(2, Some(3))]), sum(4, 7, true));
    assert_eq!(load(&[reported(5, None)]), None);
    assert_eq!(load(&[]), None);
}

#[test]
fn a_pod_is_lost_when_its_time_to_drain_is_long_over() {
    let leaving = |now: &str| {
        let meta = json!({"deletionTimestamp": "2026-01-01T00:01:00Z"});
        let spec = json!({"nodeName": PLACED, "containers": []});
        let (pod, again) = seen(pod(&meta, &spec, &ready("True", "2026-01-01T00:00:00Z")), now);
        (pod.expect("a pod").presence, again)
    };

    assert_eq!(
        leaving("2026-01-01T00:01:10Z"),
        (PodPresence::Leaving, Some(Duration::from_secs(20)))
    );
    assert_eq!(leaving("2026-01-01T00:01:30Z"), (PodPresence::Lost, None));
}

#[test]
fn a_pod_that_is_not_ready_for_long_is_stuck_with_its_own_words() {
    let spec = json!({"nodeName": PLACED, "containers": []});
    let stuck = |now: &str| {
        seen(pod(&json!({}), &spec, &ready("False", "2026-01-01T00:01:00Z")), now)
            .0
            .expect("a pod")
            .stuck
    };

    assert_eq!(stuck("2026-01-01T00:05:59Z"), None);
    assert_eq!(
        stuck("2026-01-01T00:06:00Z").as_deref(),
        Some("pod demo-a-1 has not become ready for 5 minutes: why")
    );
    let well = pod(&json!({}), &spec, &ready("True", "2026-01-01T00:01:00Z"));
    assert_eq!(seen(well, "2026-01-01T01:00:00Z").0.expect("a pod").stuck, None);
}
