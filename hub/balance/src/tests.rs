//! Tests of each part by itself. For what they do together over time see `tests/simulation`.

use std::time::Duration;

use super::*;

/// Pods of one revision and weight, named by their positions; the first is the hub's own.
fn members(connections: &[u32]) -> Vec<Member> {
    let member = |(pod, connections): (usize, &u32)| Member {
        pod: pod.to_string().into(),
        revision: 1,
        draining: false,
        connections: *connections,
        weight: 100,
    };
    connections.iter().enumerate().map(member).collect()
}

fn membership(members: Vec<Member>, now: Duration) -> Membership {
    Membership {
        own: "0".into(),
        members,
        doubtful: Vec::new(),
        read_at: now,
        wanted: None,
        rebalance: None,
    }
}

/// A hub that looks at these pods once a second, from its first second to its last.
struct Hub {
    balance: Balance,
    now: Duration,
    own: Own,
    members: Vec<Member>,
    doubtful: Vec<std::sync::Arc<str>>,
}

impl Hub {
    fn new(members: Vec<Member>) -> Self {
        Self {
            balance: Balance::new(Rule::default(), 7),
            now: Duration::from_secs(100),
            own: Own {
                staying: members[0].connections,
                draining: members[0].draining,
            },
            members,
            doubtful: Vec::new(),
        }
    }

    /// Lets one second pass.
    fn look(&mut self) -> Decision {
        self.now += Duration::from_secs(1);
        let mut membership = membership(self.members.clone(), self.now);
        membership.doubtful.clone_from(&self.doubtful);
        self.balance.decide(self.now, &membership, self.own)
    }

    /// Why the hub holds after `seconds` seconds; `None` if something moves.
    fn why(&mut self, seconds: usize) -> Option<Why> {
        let last = (0..seconds).map(|_| self.look()).last();
        match last.expect("a second at least") {
            Decision::Hold(why) => Some(why),
            Decision::Move(_) => None,
        }
    }

    /// The first order that comes.
    fn order(&mut self) -> Order {
        let orders = (0..60).find_map(|_| match self.look() {
            Decision::Hold(_) => None,
            Decision::Move(order) => Some(order),
        });
        orders.expect("an order within a minute")
    }

    fn upgrade(&mut self, source: u64) -> Upgrade {
        self.balance.admit(self.now, source)
    }

    fn is_open(&mut self) -> bool {
        self.upgrade(1) == Upgrade::Accept
    }
}

fn movable(connection: u32) -> Movable<'static, u32> {
    Movable {
        connection,
        migrates: true,
        in_flight: 0,
        since: Duration::from_secs(10),
        moved_at: None,
        beside: None,
    }
}

fn chosen(moves: &[Move<u32>]) -> Vec<u32> {
    let of = |mv: &Move<u32>| match mv {
        Move::To { connection, .. } | Move::LetGo { connection } => *connection,
    };
    moves.iter().map(of).collect()
}

fn targets(moves: &[Move<u32>]) -> Vec<&str> {
    let told = moves.iter().filter_map(|mv| match mv {
        Move::To { pod, .. } => Some(&**pod),
        Move::LetGo { .. } => None,
    });
    told.collect()
}

#[test]
fn a_hub_watches_before_it_moves_anything() {
    let mut hub = Hub::new(members(&[1_000, 0]));

    assert_eq!(hub.why(10), Some(Why::Watching));
    assert_eq!(hub.why(1), None);
}

#[test]
fn what_lasts_shorter_than_the_settling_time_moves_nothing() {
    let mut hub = Hub::new(members(&[100, 100]));
    assert_eq!(hub.why(30), Some(Why::Even));

    (hub.own.staying, hub.members[0].connections) = (300, 300);
    assert_eq!(hub.why(9), Some(Why::Even));
    (hub.own.staying, hub.members[0].connections) = (100, 100);
    assert_eq!(hub.why(1), Some(Why::Even));
    (hub.own.staying, hub.members[0].connections) = (300, 300);
    assert_eq!(hub.why(9), Some(Why::Even));
}

#[test]
fn a_membership_that_is_stale_or_lacks_the_hub_moves_nothing_and_refuses_nobody() {
    let mut hub = Hub::new(members(&[1_000, 0]));
    hub.order();
    assert!(!hub.is_open());
    let old = membership(hub.members.clone(), hub.now);

    let held: Vec<bool> = (1..=8)
        .map(|second| {
            let decision = hub.balance.decide(hub.now + Duration::from_secs(second), &old, hub.own);
            matches!(decision, Decision::Hold(Why::Stale))
        })
        .collect();
    assert_eq!(held, [false, false, false, true, true, true, true, true]);
    hub.now += Duration::from_secs(8);
    assert!(hub.is_open());

    assert_eq!(hub.why(10), Some(Why::Watching), "it begins anew");
    hub.members.remove(0);
    assert_eq!(hub.why(1), Some(Why::Stale));
}

#[test]
fn a_hub_that_slept_believes_nothing() {
    let mut hub = Hub::new(members(&[1_000, 0]));
    hub.order();

    hub.now += Duration::from_secs(20);

    assert_eq!(hub.why(1), Some(Why::Stale));
    assert_eq!(hub.why(1), Some(Why::Watching));
}

#[test]
fn a_hub_that_is_alone_keeps_what_it_has() {
    let mut hub = Hub::new(members(&[1_000]));
    assert_eq!(hub.why(30), Some(Why::Alone));
    hub.own.draining = true;
    assert_eq!(hub.why(1), Some(Why::Alone));
    assert!(hub.is_open());

    let mut among_leaving = Hub::new(members(&[1_000, 0]));
    among_leaving.members[1].draining = true;
    assert_eq!(among_leaving.why(30), Some(Why::Alone));
    among_leaving.members[1].draining = false;
    assert_eq!(among_leaving.why(10), Some(Why::Watching), "it begins anew");
}

#[test]
fn the_pace_is_the_excess_over_the_spread_within_bounds() {
    for (own, seconds, moves) in [(1_000, 10, 10 * 22), (10_000, 10, 500), (30, 10, 9)] {
        let mut hub = Hub::new(members(&[own, 0]));
        hub.why(11);
        let moved: usize = (0..seconds)
            .map(|_| match hub.look() {
                Decision::Move(order) => order.count(),
                Decision::Hold(_) => 0,
            })
            .sum();
        assert!(
            moved.abs_diff(moves) <= 10,
            "{own}: {moved} in {seconds} s, not {moves}"
        );
    }
}

#[test]
fn all_pods_together_stay_within_the_budget() {
    let mut crowd = vec![10_000; 20];
    crowd.extend([0; 20]);
    let mut hub = Hub::new(members(&crowd));
    hub.why(11);

    let moved: usize = (0..20)
        .map(|_| match hub.look() {
            Decision::Move(order) => order.count(),
            Decision::Hold(_) => 0,
        })
        .sum();

    // Twenty pods share 200 moves a second: ten each.
    assert!((199..=201).contains(&moved), "{moved}");
}

#[test]
fn those_that_are_harmed_least_go_first() {
    let mut hub = Hub::new(members(&[400, 0]));
    hub.why(11);
    let order = hub.order();
    let all = [
        Movable {
            migrates: false,
            ..movable(1)
        },
        Movable {
            in_flight: 2,
            ..movable(2)
        },
        Movable {
            since: Duration::from_secs(20),
            ..movable(3)
        },
        movable(4),
        Movable {
            in_flight: 1,
            migrates: false,
            ..movable(5)
        },
    ];
    assert!(order.count() >= all.len(), "{order:?}");

    let moves = hub.balance.choose(hub.now, &order, all.into_iter());

    assert_eq!(chosen(&moves), [4, 3, 2, 1, 5]);
    assert_eq!(targets(&moves), ["1", "1", "1"]);
    let many = (0..400).map(|n| Movable {
        since: Duration::from_secs(400 - u64::from(n)),
        ..movable(n)
    });
    let moves = hub.balance.choose(hub.now, &order, many);
    let oldest: Vec<u32> = (0..400).rev().take(order.count()).collect();
    assert_eq!(chosen(&moves), oldest);
}

#[test]
fn who_was_moved_stays_for_a_while_unless_the_pod_drains() {
    let mut hub = Hub::new(members(&[400, 0]));
    hub.why(11);
    let order = hub.order();
    let moved = |ago| Movable {
        moved_at: Some(hub.now - Duration::from_secs(ago)),
        ..movable(1)
    };
    let (lately, long_ago) = (moved(90), moved(100));
    let stay = Duration::from_secs(95);
    hub.balance = Balance::new(
        Rule {
            stay,
            ..Rule::default()
        },
        7,
    );

    assert!(hub.balance.choose(hub.now, &order, [lately].into_iter()).is_empty());
    assert_eq!(
        chosen(&hub.balance.choose(hub.now, &order, [long_ago].into_iter())),
        [1]
    );
    hub.own.draining = true;
    let drain = hub.order();
    assert!(drain.is_drain());
    assert_eq!(chosen(&hub.balance.choose(hub.now, &drain, [lately].into_iter())), [1]);
}

#[test]
fn two_sessions_of_an_instance_do_not_meet() {
    let mut hub = Hub::new(members(&[600, 0, 0]));
    hub.why(11);
    let order = hub.order();
    let beside = |pod| {
        (0..20).map(move |n| Movable {
            beside: Some(pod),
            ..movable(n)
        })
    };

    let moves = hub.balance.choose(hub.now, &order, beside("1"));
    assert!(!moves.is_empty());
    assert!(targets(&moves).iter().all(|pod| *pod == "2"), "{moves:?}");

    let mut pair = Hub::new(members(&[600, 0]));
    pair.why(11);
    let order = pair.order();
    assert!(pair.balance.choose(pair.now, &order, beside("1")).is_empty());
    let busier = Movable {
        in_flight: 1,
        ..movable(99)
    };
    let both = beside("1").chain([busier]);
    assert_eq!(chosen(&pair.balance.choose(pair.now, &order, both)), [99]);
    pair.own.draining = true;
    let order = pair.order();
    assert!(
        !pair.balance.choose(pair.now, &order, beside("1")).is_empty(),
        "a drain comes first"
    );
}

#[test]
fn what_moves_is_spread_over_the_pods_that_lack_most() {
    let mut hub = Hub::new(members(&[4_000, 900, 0, 1_800]));
    hub.why(11);
    let order = hub.order();

    let mut counts = [0; 4];
    for _ in 0..20 {
        for pod in targets(&hub.balance.choose(hub.now, &order, (0..400).map(movable))) {
            counts[pod.parse::<usize>().expect("a number")] += 1;
        }
    }

    // The mean is 1,675: they lack 775, 1,675 and nothing.
    assert_eq!((counts[0], counts[3]), (0, 0), "{counts:?}");
    assert!(counts[2] > counts[1] && counts[1] > counts[2] / 3, "{counts:?}");
}

#[test]
fn a_drain_gives_all_away_in_half_a_minute_and_only_to_pods_of_the_newest_revision() {
    let mut pods = members(&[600, 600, 600, 0]);
    pods[3].revision = 2;
    let mut hub = Hub::new(pods);
    assert_eq!(hub.why(20), Some(Why::RollOut));
    hub.own.draining = true;

    let (mut seconds, mut to) = (0, Vec::new());
    while hub.own.staying > 0 {
        seconds += 1;
        if let Decision::Move(order) = hub.look() {
            let moves = hub.balance.choose(hub.now, &order, (0..hub.own.staying).map(movable));
            hub.own.staying -= u32::try_from(moves.len()).expect("fits");
            to.extend(targets(&moves).into_iter().map(str::to_owned));
        }
        assert!(seconds <= 40, "{} are left", hub.own.staying);
    }

    assert!(seconds >= 20, "gone in {seconds} s");
    assert!(to.iter().all(|pod| pod == "3"), "{to:?}");
}

#[test]
fn a_new_revision_without_room_does_not_get_all_of_a_drain() {
    // The pods that serve have 100 and 1,000 connections, and the mean is 1,050.
    let mut pods = members(&[1_000, 100, 1_000]);
    pods[2].revision = 2;
    let mut hub = Hub::new(pods);
    hub.own.draining = true;

    let order = hub.order();
    let moves = hub.balance.choose(hub.now, &order, (0..100).map(movable));

    assert!(targets(&moves).iter().all(|pod| *pod == "2"), "{moves:?}");
    // Above its goal, but not crowded: the mean is 1,225 now.
    hub.members[2].connections = 1_350;
    let order = hub.order();
    let moves = hub.balance.choose(hub.now, &order, (0..100).map(movable));
    assert!(targets(&moves).iter().all(|pod| *pod == "2"), "{moves:?}");
    hub.members[2].connections = 2_500;
    let order = hub.order();
    let moves = hub.balance.choose(hub.now, &order, (0..100).map(movable));
    assert!(targets(&moves).iter().all(|pod| *pod == "1"), "{moves:?}");
}

#[test]
fn a_pod_that_goes_refuses_and_tells_when_to_come_back() {
    let mut hub = Hub::new(members(&[100, 100]));
    hub.why(1);
    assert!(hub.is_open());
    hub.own.draining = true;
    hub.why(1);

    let mut waits: Vec<u64> = (0..100)
        .map(|source| match hub.upgrade(source) {
            Upgrade::Accept => panic!("it took one"),
            Upgrade::Refuse { retry_after } => retry_after.as_secs(),
        })
        .collect();

    waits.sort_unstable();
    waits.dedup();
    assert_eq!(waits, [1, 2]);
}

#[test]
fn a_pod_that_drains_gives_away_a_few_connections_without_waiting() {
    for few in [1, 8] {
        let mut hub = Hub::new(members(&[few, 100]));
        hub.why(20);
        hub.own.draining = true;

        assert_eq!(hub.why(1), None, "{few}");
    }
    let mut hub = Hub::new(members(&[9, 100]));
    hub.why(20);
    hub.own.draining = true;
    assert_eq!(hub.why(1), Some(Why::Watching));
}

#[test]
fn each_drain_waits_until_the_pods_know_of_each_other() {
    let mut hub = Hub::new(members(&[100, 100]));
    let drains = |hub: &mut Hub| {
        hub.own.draining = true;
        let watched = (1..=60).find(|_| hub.why(1) != Some(Why::Watching));
        hub.own.draining = false;
        watched.expect("it begins within a minute")
    };
    let first = drains(&mut hub);
    assert!(first > 1);

    hub.balance.pause(hub.now + Duration::from_secs(1));
    hub.now += Duration::from_secs(1);
    assert!(hub.is_open());
    assert_eq!(drains(&mut hub), first, "after a pause");

    hub.members[1].draining = true;
    assert_eq!(hub.why(1), Some(Why::Alone));
    hub.members[1].draining = false;
    assert_eq!(drains(&mut hub), first, "after it was alone");
}

#[test]
fn a_peer_that_comes_back_often_enough_is_taken() {
    let mut hub = Hub::new(members(&[1_000, 0]));
    hub.why(11);

    let taken: Vec<usize> = (1..=22).filter(|_| hub.upgrade(5) == Upgrade::Accept).collect();

    assert_eq!(taken, [11, 22], "and then its row begins anew");
    assert_ne!(hub.upgrade(6), Upgrade::Accept);
}

#[test]
fn where_refused_peers_come_back_the_door_stays_open_and_no_plain_peer_is_let_go() {
    let mut hub = Hub::new(members(&[1_000, 0]));
    hub.why(11);
    for source in 0..4 {
        (0..11).for_each(|_| {
            hub.upgrade(source);
        });
    }

    assert_eq!(hub.upgrade(77), Upgrade::Accept);
    let order = hub.order();
    let plain = |n| Movable {
        migrates: false,
        ..movable(n)
    };
    assert!(hub.balance.choose(hub.now, &order, (0..100).map(plain)).is_empty());
    assert!(!hub.balance.choose(hub.now, &order, (0..100).map(movable)).is_empty());

    hub.now += Duration::from_secs(601);
    hub.why(12);
    assert_ne!(hub.upgrade(78), Upgrade::Accept);
}

#[test]
fn everybody_is_welcome_while_peers_of_a_lost_pod_are_missing_and_no_plain_peer_is_let_go() {
    let plain = |n| Movable {
        migrates: false,
        ..movable(n)
    };
    for is_in_doubt in [false, true] {
        let mut hub = Hub::new(members(&[400, 100, 100]));
        hub.why(5);
        assert!(!hub.is_open());

        if is_in_doubt {
            hub.doubtful = vec!["1".into()];
        } else {
            hub.members.remove(1);
        }
        hub.why(1);
        assert!(hub.is_open());
        let order = hub.order();
        assert!(hub.balance.choose(hub.now, &order, (0..100).map(plain)).is_empty());
        assert!(!hub.balance.choose(hub.now, &order, (0..100).map(movable)).is_empty());
        hub.why(30);
        assert!(hub.is_open(), "a hundred are missing");
        hub.members.last_mut().expect("the third").connections = 200;
        hub.why(3);
        assert!(!hub.is_open(), "they are back");
        hub.members.last_mut().expect("the third").connections = 100;
        hub.why(30);

        assert!(!hub.is_open(), "who is not back within a minute is not awaited");
    }
}

#[test]
fn the_last_peers_of_a_lost_pod_are_welcome_when_all_pods_have_nearly_as_many_as_before() {
    let mut hub = Hub::new(members(&[400, 100, 100]));
    hub.why(5);
    hub.members.remove(1);
    hub.members[1].connections = 199;

    hub.why(9);
    assert!(hub.is_open());
    hub.why(3);

    assert!(!hub.is_open());
}

#[test]
fn a_pod_that_drained_or_had_next_to_nothing_is_no_loss() {
    for (connections, draining) in [(100, true), (8, false)] {
        let mut hub = Hub::new(members(&[400, 100, connections]));
        hub.members[2].draining = draining;
        hub.why(5);

        hub.members.pop();
        hub.why(1);

        assert!(!hub.is_open(), "{connections}");
    }
}

#[test]
fn a_pod_that_goes_refuses_whoever_has_lost_another_one() {
    let mut hub = Hub::new(members(&[400, 100, 100]));
    hub.own.draining = true;
    hub.why(5);

    hub.members.pop();
    hub.why(1);

    assert!(!hub.is_open());
}

#[test]
fn nothing_is_lost_where_redis_was_away() {
    let mut hub = Hub::new(members(&[400, 100, 100]));
    hub.why(5);

    hub.now += Duration::from_secs(20);
    hub.members.pop();
    assert_eq!(hub.why(1), Some(Why::Stale));
    hub.why(5);

    assert!(!hub.is_open());
}

#[test]
fn a_hub_that_ends_sends_each_peer_to_a_pod_of_the_newest_revision_with_room() {
    let mut pods = members(&[400, 100, 300, 0, 0]);
    pods[1].revision = 2;
    pods[2].revision = 2;
    pods[3].draining = true;
    pods[4].weight = 0;
    let now = Duration::from_secs(100);
    let membership = membership(pods, now);
    let mut balance = Balance::new(Rule::default(), 7);
    let mut drawn = |after, beside| {
        let at = now + Duration::from_secs(after);
        let pods = (0..200).filter_map(|_| balance.refuge(at, &membership, beside));
        let pods: std::collections::BTreeSet<String> = pods.map(|pod| pod.to_string()).collect();
        Vec::from_iter(pods)
    };

    // Two pods take connections, and each has less than its part of 800.
    assert_eq!(drawn(1, None), ["1", "2"]);
    assert_eq!(drawn(1, Some("1")), ["2"]);
    assert!(drawn(4, None).is_empty(), "nobody knows what they hold");
}

#[test]
fn in_a_roll_out_new_connections_get_to_new_pods_as_long_as_these_have_room() {
    let mut pods = members(&[100, 100, 100, 0]);
    pods[3].revision = 2;
    let mut hub = Hub::new(pods);
    hub.why(5);
    assert!(!hub.is_open());

    hub.members[3].connections = 400;
    hub.why(5);
    assert!(hub.is_open());

    let mut many = members(&[100; 20]);
    many[19] = Member {
        revision: 2,
        connections: 0,
        ..many[19].clone()
    };
    let mut hub = Hub::new(many);
    hub.why(5);
    assert!(hub.is_open(), "one of twenty is found too seldom");
}

#[test]
fn nobody_is_refused_where_no_lighter_pod_would_take_them() {
    let mut random = fastrand::Rng::with_seed(3);
    let mut refused = 0;
    for case in 0..2_000 {
        let pods = random.usize(1..40);
        let most = random.u32(1..2_000);
        let mut all = members(&(0..pods).map(|_| random.u32(0..most)).collect::<Vec<_>>());
        for member in &mut all {
            member.draining = random.f64() < 0.1;
            member.revision = u64::from(random.f64() < 0.1);
        }
        let mut hub = Hub::new(all);
        hub.why(12);
        if hub.is_open() || hub.own.draining {
            continue;
        }
        refused += 1;
        let (own, serving) = (&hub.members[0], hub.members.iter().filter(|member| !member.draining));
        let takes = |other: &&Member| other.connections < own.connections || other.revision > own.revision;
        let taking = serving.clone().filter(takes).count();
        assert!(taking >= serving.count().div_ceil(8), "case {case}: {:?}", hub.members);
    }
    assert!(refused > 100, "only {refused} were refused");
}

#[test]
fn an_order_to_rebalance_takes_the_slack_away_for_ten_minutes() {
    let mut hub = Hub::new(members(&[14, 7, 7]));
    assert_eq!(hub.why(30), Some(Why::Even));

    let ordered = hub.now;
    let mut moved = Vec::new();
    for second in 0..700 {
        hub.now += Duration::from_secs(1);
        let mut membership = membership(hub.members.clone(), hub.now);
        membership.rebalance = Some(ordered);
        if let Decision::Move(order) = hub.balance.decide(hub.now, &membership, hub.own) {
            moved.push((second, order.count()));
        }
    }

    // No connection goes, so the order is repeated again and again: the goal is 11.
    assert!(
        moved.iter().all(|(second, count)| *second < 600 && *count <= 3),
        "{moved:?}"
    );
    assert!(moved.len() > 500, "{moved:?}");
}

#[test]
fn a_pod_rests_after_its_excess_is_gone() {
    let mut hub = Hub::new(members(&[1_000, 0]));
    hub.order();
    (hub.own.staying, hub.members[0].connections, hub.members[1].connections) = (500, 500, 500);
    assert_eq!(hub.why(1), Some(Why::Even));

    (hub.own.staying, hub.members[0].connections) = (1_000, 1_000);

    assert_eq!(hub.why(15), Some(Why::Resting));
    assert_eq!(hub.why(10), None);
}

#[test]
fn pods_have_their_share_by_weight() {
    let mut pods = members(&[1_000, 500]);
    pods[0].weight = 200;
    let mut hub = Hub::new(pods);
    assert_eq!(hub.why(30), Some(Why::Even));

    hub.members[0].weight = 0;
    let order = hub.order();
    assert!(order.count() > 0);
}
