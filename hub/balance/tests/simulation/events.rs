//! One event at a time, with the figures that the project promises for it.

use crate::world::World;

/// Ten thousand spokes on two pods; two more pods join.
fn two_become_four(seed: u64, plain: f64) -> (World, f64, u64) {
    let mut world = World::running(seed, 2, 10_000, plain);
    world.join(1, 100);
    world.join(1, 100);
    world.begin_episode();
    let least_for_the_aim = (0..2)
        .map(|pod| (world.held(pod) as f64 - 1.15 * 2_500.0).max(0.0))
        .sum();
    while world.ratio() > 1.15 {
        world.run(1_000);
        assert!(
            world.now < world.tally.began + 300_000,
            "{}: {}",
            world.told(),
            world.shown()
        );
    }
    let balanced = world.now - world.tally.began;
    world.settle(600_000);
    (world, least_for_the_aim, balanced)
}

#[test]
fn two_pods_become_four_within_two_minutes_and_with_hardly_a_move_too_many() {
    for (seed, plain) in [(1, 0.0), (2, 0.5), (3, 1.0), (4, 0.0), (5, 0.5), (6, 1.0)] {
        let (world, least, balanced) = two_become_four(seed, plain);

        let (moves, told) = (f64::from(world.tally.moves), world.told());
        println!(
            "{told}, {plain} plain: 1.15 after {balanced} ms; {moves} moves, {} let go, {:.3} of the least for 1.15; \
             ratio {:.3}; {} refusals, away {} ms, 99 % {}, at most {}",
            world.tally.let_go,
            moves / least,
            world.ratio(),
            world.tally.refusals,
            world.tally.back_within(0.5),
            world.tally.back_within(0.99),
            world.tally.back_within(1.0),
        );
        assert!(balanced <= 120_000, "{told}: balanced after {balanced} ms");
        assert!(moves <= 1.06 * least, "{told}: {moves} moves, {least} are the least");
        assert!(world.ratio() <= 1.15, "{told}: {}", world.shown());
    }
}

#[test]
fn plain_peers_are_let_go_only_where_too_few_can_move() {
    let (half, ..) = two_become_four(7, 0.5);
    let (most, ..) = two_become_four(8, 0.8);

    assert_eq!(half.tally.let_go, 0, "{}", half.shown());
    assert!(most.tally.let_go > 1_000, "{}", most.shown());
    assert_eq!(
        most.count(|spoke| spoke.migrates),
        most.count(|spoke| spoke.migrates && spoke.moves > 0)
    );
}

#[test]
fn a_pod_that_is_scaled_away_is_empty_within_a_minute() {
    for (seed, plain) in [(1, 0.0), (2, 0.5), (3, 1.0)] {
        let mut world = World::running(seed, 4, 10_000, plain);
        world.begin_episode();
        let held = world.held(1);

        world.drain(1);
        world.settle(200_000);

        let empty = world.pods[1].empty_after;
        println!(
            "{}: {held} connections gone after {empty:?} ms; ratio {:.3}",
            world.told(),
            world.ratio()
        );
        assert!(
            empty.is_some_and(|empty| empty <= 60_000),
            "{}: {empty:?}",
            world.told()
        );
        assert!(world.ratio() <= 1.15, "{}", world.shown());
        assert_eq!(world.tally.moves as usize, held, "{}: each moved once", world.told());
    }
}

#[test]
fn pods_that_drain_together_stay_within_the_budget() {
    let mut world = World::running(1, 10, 20_000, 0.2);
    world.begin_episode();

    (0..5).for_each(|pod| world.drain(pod));
    world.settle(300_000);

    let widest = world
        .tally
        .each_second
        .windows(5)
        .map(|five| five.iter().sum::<u32>())
        .max();
    assert!(widest.is_some_and(|most| most <= 1_100), "{widest:?} in five seconds");
    assert!(world.ratio() <= 1.15, "{}", world.shown());
}

/// Replaces each pod by one of the next revision, as the operator does: one more, then one less.
fn roll_out(world: &mut World, revision: u64) {
    for old in world.serving() {
        world.join(revision, 100);
        world.run(5_000);
        world.drain(old);
        while world.pods[old].alive {
            world.run(1_000);
        }
    }
}

#[test]
fn a_roll_out_moves_each_connection_once() {
    for (seed, pods, plain) in [
        (1, 4, 0.0),
        (2, 4, 0.5),
        (3, 4, 1.0),
        (4, 10, 0.0),
        (5, 10, 1.0),
        (6, 2, 0.5),
    ] {
        let mut world = World::running(seed, pods, 2_500 * pods.min(4), plain);
        world.begin_episode();
        let began = world.now;

        roll_out(&mut world, 2);
        let took = world.now - began;
        world.settle(300_000);

        let again = |migrates: bool| {
            let moves = world.spokes.iter().filter(|spoke| spoke.migrates == migrates);
            let again: u32 = moves.map(|spoke| spoke.moves.abs_diff(1)).sum();
            again as usize
        };
        println!(
            "{}, {pods} pods, {plain} plain: {} moves beside one each, {took} ms, ratio {:.3}, away {} ms, 99 % {}",
            world.told(),
            again(true) + again(false),
            world.ratio(),
            world.tally.back_within(0.5),
            world.tally.back_within(0.99),
        );
        assert_eq!(again(true), 0, "{}: who can move moves once", world.told());
        // The last peers that land on a new pod put it above its goal. And while only one pod in ten is new, it is
        // found too seldom: the plain peers of the first drain land anywhere.
        let some = world.spokes.len() / if pods > 8 { 8 } else { 20 };
        assert!(again(false) <= some, "{}: {} moved again", world.told(), again(false));
        assert!(pods > 4 || took <= 300_000, "{}: {took} ms", world.told());
        assert!(world.ratio() <= 1.15, "{}", world.shown());
        assert_eq!(world.tally.onto_older, 0, "{}", world.told());
    }
}

#[test]
fn a_roll_back_moves_connections_to_the_revision_that_is_wanted() {
    let mut world = World::running(1, 4, 4_000, 0.0);
    let new = world.join(2, 100);
    world.wanted = Some(2);
    world.run(5_000);
    world.drain(0);
    world.run(15_000);
    assert!(world.held(new) > 100, "{}", world.shown());
    world.pods[0].draining = None;
    world.wanted = Some(1);
    world.run(3_000);

    world.begin_episode();
    world.drain(new);
    world.settle(200_000);

    assert!(world.pods[new].empty_after.is_some(), "{}", world.shown());
    assert!(world.ratio() <= 1.15, "{}", world.shown());
}

#[test]
fn a_roll_out_that_stands_still_does_not_keep_new_pods_empty() {
    let mut world = World::running(1, 3, 6_000, 0.0);
    let new = world.join(2, 100);
    world.begin_episode();

    world.run(290_000);
    assert_eq!(world.tally.moves, 0, "a roll-out runs");
    world.run(400_000);

    assert!(world.held(new) > 500, "{}", world.shown());
    assert!(world.ratio() <= 1.15, "{}", world.shown());
}

#[test]
fn a_killed_pod_leaves_balance_behind() {
    for (seed, plain) in [(1, 0.0), (2, 1.0)] {
        let mut world = World::running(seed, 4, 10_000, plain);
        world.begin_episode();

        world.kill(3);
        world.run(10_000);
        let (connected, refusals) = (world.connected(), world.tally.refusals);
        world.join(1, 100);
        world.settle(300_000);

        assert_eq!((connected, refusals), (10_000, 0), "{}", world.told());
        assert!(world.ratio() <= 1.15, "{}", world.shown());
    }
}

#[test]
fn five_spokes_on_three_pods_stay_where_they_are_for_an_hour() {
    for seed in 0..20 {
        let mut world = World::running(seed, 3, 5, 0.5);
        world.trouble.loss = 0.1;
        world.begin_episode();

        for minute in 0..60 {
            world.reconnect(minute % 5);
            world.run(60_000);
        }

        let told = world.told();
        assert_eq!(
            (world.tally.moves, world.tally.refusals),
            (0, 0),
            "{told}: {}",
            world.shown()
        );
    }
}

#[test]
fn an_hour_of_comings_and_goings_moves_next_to_nobody() {
    for (seed, pods, spokes) in [(1, 3, 60), (2, 4, 400), (3, 10, 2_000)] {
        let mut world = World::running(seed, pods, spokes, 0.5);
        world.trouble.loss = 0.05;
        world.begin_episode();

        for second in 0..3_600 {
            world.reconnect(second * 7 % spokes);
            world.run(1_000);
        }

        let (told, moves) = (world.told(), world.tally.moves);
        println!(
            "{told}, {pods} pods, {spokes} spokes: {moves} moves, {} refusals",
            world.tally.refusals
        );
        assert!(moves <= 36, "{told}: {moves} moves beside 3,600 reconnects");
    }
}

#[test]
fn while_redis_is_away_nothing_moves_and_everybody_is_welcome() {
    let mut world = World::running(1, 2, 4_000, 0.5);
    world.join(1, 100);
    world.trouble.frozen = true;
    world.run(5_000);
    world.begin_episode();

    world.connect(500, 0.5, 10_000);
    world.run(60_000);
    assert_eq!((world.tally.moves, world.tally.refusals), (0, 0), "{}", world.shown());
    assert_eq!(world.connected(), 4_500);

    world.trouble.frozen = false;
    world.run(9_000);
    assert_eq!(world.tally.moves, 0, "the hubs watch for a while first");
    world.begin_episode();
    world.settle(300_000);
    assert!(world.tally.moves > 0 && world.ratio() <= 1.15, "{}", world.shown());
}

#[test]
fn a_crowd_that_comes_at_once_is_welcome_everywhere() {
    for (seed, pods) in [(1, 2), (2, 5), (3, 20)] {
        let mut world = World::running(seed, pods, 10, 0.5);
        world.begin_episode();

        world.connect(10_000, 0.5, 10_000);
        world.run(30_000);
        world.settle(300_000);

        let told = world.told();
        assert_eq!(
            (world.tally.refusals, world.tally.moves),
            (0, 0),
            "{told}: {}",
            world.shown()
        );
    }
}

#[test]
fn an_order_to_rebalance_leaves_no_slack_and_moves_what_is_above_the_factor() {
    let mut world = World::running(1, 4, 40, 0.0);
    world.kill(3);
    world.run(10_000);
    world.join(1, 100);
    world.begin_episode();
    world.run(60_000);
    assert_eq!(world.tally.moves, 0, "the slack covers it: {}", world.shown());

    world.rebalance = Some(std::time::Duration::from_millis(world.now));
    world.begin_episode();
    world.settle(300_000);

    let most = world.serving().iter().map(|pod| world.held(*pod)).max();
    assert!(world.tally.moves > 0 && most <= Some(11), "{}", world.shown());
    world.begin_episode();
    world.run(700_000);
    assert_eq!(world.tally.moves, 0, "nothing moves back when the order has lapsed");
}

#[test]
fn a_load_balancer_that_is_sticky_harms_few_and_locks_nobody_out() {
    let mut world = World::running(1, 2, 4_000, 1.0);
    world.trouble.sticky = true;
    world.join(1, 100);
    world.begin_episode();

    world.run(600_000);

    println!(
        "{}: {} moves, {} refusals",
        world.told(),
        world.tally.moves,
        world.tally.refusals
    );
    assert_eq!(world.connected(), 4_000, "{}", world.shown());
    assert!(world.tally.moves < 700, "{}", world.shown());
    let longest = world.tally.back_within(1.0);
    assert!(longest < 60_000, "{longest} ms");
}

#[test]
fn where_peers_do_not_come_back_few_are_let_go() {
    let mut world = World::running(1, 2, 4_000, 1.0);
    world.join(1, 100);
    world.trouble.lost = true;
    world.begin_episode();

    world.run(500_000);

    assert!(world.connected() > 3_700, "{}", world.shown());
}
