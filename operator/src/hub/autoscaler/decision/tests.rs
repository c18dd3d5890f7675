//! Realistic decisions, and what must hold of each one, on random walks of loads, gaps and leaders.

use alkhub_crds::hub::{ScalingBehaviour, ScalingRules};
use alkhub_protocol::admin::BalanceReport;

use super::*;

const PATIENCE: Duration = Duration::from_secs(30);

fn spec(min: i32, max: i32, windows: (i32, i32)) -> AutoscalingSpec {
    let rules = |seconds| {
        Some(ScalingRules {
            stabilization_window_seconds: Some(seconds),
        })
    };
    AutoscalingSpec {
        min,
        max,
        connections_per_pod: Some(100),
        in_flight_per_pod: Some(10),
        behaviour: Some(ScalingBehaviour {
            scale_up: rules(windows.0),
            scale_down: rules(windows.1),
        }),
    }
}

fn load(connections: u64, in_flight: u64) -> Sum {
    Sum {
        staying: 1,
        is_doubtful: false,
        in_flight,
        balance: BalanceReport {
            total: connections,
            mean: 0.0,
            max: 0,
            ratio: 1.0,
        },
    }
}

/// A Hub with an autoscaler, and its clock.
struct World {
    spec: AutoscalingSpec,
    replicas: i32,
    status: Option<AutoscalingStatus>,
    second: i64,
}

impl World {
    fn new(spec: AutoscalingSpec, replicas: i32) -> Self {
        Self {
            spec,
            replicas,
            status: None,
            second: 0,
        }
    }

    /// Looks after so many seconds; returns how many pods are asked for since.
    fn look(&mut self, seconds: i64, load: Option<Sum>) -> i32 {
        self.second += seconds;
        let decision = decide(&Situation {
            spec: &self.spec,
            replicas: self.replicas,
            load: load.as_ref(),
            before: self.status.as_ref(),
            now: Timestamp::from_second(self.second).expect("in range"),
            patience: PATIENCE,
        });
        // As the API server returns it to whoever leads by then.
        let status = serde_json::to_value(&decision.status).expect("plain data");
        self.status = Some(serde_json::from_value(status).expect("a status"));
        self.replicas = decision.to.unwrap_or(self.replicas);
        self.replicas
    }
}

#[test]
fn pods_are_added_at_once_for_whichever_load_needs_most_and_within_bounds() {
    let to = |connections, calls| World::new(spec(1, 8, (0, 300)), 2).look(10, Some(load(connections, calls)));

    assert_eq!(
        (to(201, 0), to(220, 0), to(221, 0)),
        (2, 2, 3),
        "a tenth changes nothing"
    );
    assert_eq!((to(0, 45), to(600, 45), to(100_000, 0)), (5, 6, 8));
    assert_eq!(to(u64::MAX, u64::MAX), 8);
}

#[test]
fn pods_are_taken_away_when_a_whole_window_needed_fewer_and_as_many_as_all_of_it_could_do_without() {
    let mut hub = World::new(spec(1, 8, (0, 60)), 6);
    for (seconds, connections, pods) in [
        (10, 100, 6),
        (10, 390, 6),
        (10, 200, 6),
        (10, 100, 6),
        (10, 100, 6),
        (10, 100, 6),
        // Four were needed at one point.
        (10, 100, 4),
        (10, 100, 4),
        (50, 600, 6),
    ] {
        assert_eq!(
            hub.look(seconds, Some(load(connections, 0))),
            pods,
            "{connections} at {}",
            hub.second
        );
    }
}

#[test]
fn a_need_that_goes_away_again_leaves_all_as_it_was() {
    let mut hub = World::new(spec(1, 8, (30, 30)), 4);
    for (connections, pods) in [
        (800, 4),
        (800, 4),
        (400, 4),
        (800, 4),
        (100, 4),
        (800, 4),
        (800, 4),
        (700, 4),
        (800, 7),
    ] {
        assert_eq!(hub.look(10, Some(load(connections, 0))), pods, "at {}", hub.second);
    }
}

#[test]
fn nothing_is_decided_without_figures_and_a_window_with_a_gap_begins_anew() {
    let mut hub = World::new(spec(1, 8, (0, 30)), 4);
    let idle = Some(load(0, 0));

    assert_eq!((hub.look(10, idle), hub.look(10, idle)), (4, 4));
    assert_eq!(
        (hub.look(10, None), hub.look(600, None)),
        (4, 4),
        "its pods may have much"
    );
    assert_eq!((hub.look(10, idle), hub.look(20, idle)), (4, 4));
    assert_eq!(hub.look(600, idle), 4, "nobody has looked for long");
    assert_eq!((hub.look(20, idle), hub.look(10, idle)), (4, 1));
}

#[test]
fn bounds_hold_at_once_and_a_stopped_hub_stays_stopped() {
    assert_eq!(World::new(spec(3, 8, (600, 600)), 2).look(0, None), 3);
    assert_eq!(World::new(spec(3, 8, (600, 600)), 9).look(0, None), 8);
    assert_eq!(World::new(spec(3, 8, (0, 0)), 0).look(0, Some(load(900, 0))), 0);
}

#[test]
fn a_number_that_somebody_else_has_set_is_where_the_next_window_begins() {
    let mut hub = World::new(spec(1, 8, (0, 30)), 6);
    hub.look(10, Some(load(200, 0)));
    hub.look(10, Some(load(200, 0)));

    hub.replicas = 2;

    assert_eq!(hub.look(10, Some(load(100, 0))), 2);
    assert_eq!(hub.look(20, Some(load(100, 0))), 2);
    assert_eq!(hub.look(10, Some(load(100, 0))), 1);
}

/// Random loads, gaps and pauses. Each decision is checked against all that was seen.
#[test]
fn whatever_happens_a_decision_is_what_a_whole_window_has_asked_for_and_a_steady_load_is_left_alone() {
    for seed in 0..2_000 {
        let mut rng = fastrand::Rng::with_seed(seed);
        let min = rng.i32(1..4);
        let (up, down) = (rng.i32(0..60), rng.i32(0..120));
        let spec = spec(min, min + rng.i32(0..8), (up, down));
        let mut hub = World::new(spec.clone(), rng.i32(min..=spec.max));
        // The need at each look since the last decision or gap.
        let mut seen: Vec<(i64, i32)> = Vec::new();
        for _ in 0..60 {
            let known = rng.u8(..12) > 0;
            let pause = if rng.u8(..15) == 0 { 100 } else { rng.i64(1..15) };
            let sum = load(rng.u64(..1_200), rng.u64(..60));
            let before = hub.replicas;
            if !known || pause > 30 {
                seen.clear();
            }
            if known {
                seen.push((hub.second + pause, needed(&spec, before, &sum)));
            }
            let after = hub.look(pause, known.then_some(sum));
            assert!((spec.min..=spec.max).contains(&after), "seed {seed}");
            if after == before {
                continue;
            }
            let window = i64::from(if after > before { up } else { down });
            let of_it: Vec<_> = seen
                .iter()
                .rev()
                .take_while(|(_, needed)| (*needed > before) == (after > before) && *needed != before)
                .collect();
            let first = of_it.last().expect("a need").0;
            assert!(
                hub.second - first >= window,
                "seed {seed}: {before} to {after} by {of_it:?}"
            );
            let needs = of_it.iter().map(|(_, needed)| *needed);
            let least = if after > before { needs.min() } else { needs.max() };
            assert_eq!(least, Some(after), "seed {seed}: {of_it:?}");
            seen.clear();
        }
        let steady = load(rng.u64(..1_200), rng.u64(..60));
        let end = (0..60).map(|_| hub.look(10, Some(steady))).last();
        for _ in 0..30 {
            assert_eq!(Some(hub.look(10, Some(steady))), end, "seed {seed}: it goes on and on");
        }
    }
}
