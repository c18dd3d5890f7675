//! Random clusters and random events: what must hold after each event, whatever came before.

use crate::world::{Millis, World};

/// What happens to a cluster.
#[derive(Clone, Copy, Debug)]
enum Event {
    Grow,
    Shrink,
    Kill,
    Crowd,
    Exodus,
    Freeze,
    RollOut,
}

const EVENTS: [Event; 7] = [
    Event::Grow,
    Event::Shrink,
    Event::Kill,
    Event::Crowd,
    Event::Exodus,
    Event::Freeze,
    Event::RollOut,
];

/// A number from `least` to `most`, with every order of magnitude equally likely.
fn scaled(world: &mut World, least: f64, most: f64) -> usize {
    (least * (most / least).powf(world.chance())).round() as usize
}

/// How large clusters get.
#[derive(Clone, Copy)]
struct Size {
    pods: f64,
    spokes: f64,
}

/// Plays a cluster of any size through one to three events.
fn play(seed: u64, size: Size) -> u32 {
    let mut world = World::new(seed);
    let (pods, spokes) = (scaled(&mut world, 2.0, size.pods), scaled(&mut world, 5.0, size.spokes));
    let uneven = world.chance() < 0.3;
    for _ in 0..pods {
        let weight = if uneven { [50, 100, 200][world.below(3)] } else { 100 };
        world.join(1, weight);
    }
    let mixed = world.chance();
    let plain = [0.0, 0.0, 0.5, 1.0, mixed][world.below(5)];
    world.trouble.loss = [0.0, 0.05, 0.2][world.below(3)];
    world.run(3_000);
    world.begin_episode();
    world.connect(spokes, plain, 10_000);
    // The load balancer does not know the weights, so the beginning is an episode too.
    settle(&mut world, plain, "the beginning");
    let mut moves = world.tally.moves;
    for _ in 0..=world.below(3) {
        let event = EVENTS[world.below(EVENTS.len())];
        let drains = begin(&mut world, event, plain);
        // A crowd moves the mean while it arrives, and where it lands is random.
        let least = if matches!(event, Event::Crowd) {
            f64::INFINITY
        } else {
            world.least()
        };
        settle(&mut world, plain, &format!("{event:?}"));
        if !drains {
            assert_few_moves(&world, least, event);
        }
        moves += world.tally.moves;
    }
    moves
}

/// Starts an event; returns whether it involves drains.
fn begin(world: &mut World, event: Event, plain: f64) -> bool {
    world.begin_episode();
    let serving = world.serving();
    let some = 1 + world.below(serving.len().div_ceil(2));
    match event {
        Event::Grow => (0..some.min(100)).for_each(|_| {
            let revision = world.pods[serving[0]].revision;
            world.join(revision, 100);
        }),
        Event::Shrink if serving.len() > 2 => {
            serving[..some.min(serving.len() - 2)]
                .iter()
                .for_each(|pod| world.drain(*pod));
            return true;
        }
        Event::Kill if serving.len() > 2 => {
            serving[..some.min(serving.len() - 2)]
                .iter()
                .for_each(|pod| world.kill(*pod));
            world.run(10_000);
            world.begin_episode();
        }
        Event::Shrink | Event::Kill => {}
        Event::Crowd => {
            let crowd = 1 + world.spokes.len() / 3;
            world.connect(crowd, plain, 5_000);
        }
        Event::Exodus => world.leave(0.4),
        Event::Freeze => {
            world.trouble.frozen = true;
            let revision = world.pods[serving[0]].revision;
            world.join(revision, 100);
            world.run(4_000);
            let before = world.tally.moves;
            world.run(30_000);
            assert_eq!(
                world.tally.moves,
                before,
                "{}: moved while Redis was away",
                world.told()
            );
            world.trouble.frozen = false;
            world.begin_episode();
        }
        Event::RollOut => {
            let revision = 1 + world.pods[serving[0]].revision;
            for old in serving.into_iter().take(6) {
                world.join(revision, world.pods[old].weight);
                world.run(3_000);
                world.drain(old);
                while world.pods[old].alive {
                    world.run(1_000);
                }
            }
            return true;
        }
    }
    false
}

/// Waits until nothing moves, and checks what is left.
fn settle(world: &mut World, plain: f64, event: &str) {
    // A roll-out that stands still pauses for five minutes, a moved session stays for ten, and the budget is 200 a
    // second.
    let moving = (world.connected() + 1_000) as Millis * 1_000 / 150;
    world.settle(300_000 + 600_000 + 200_000 + moving);

    let mixed = world
        .serving()
        .iter()
        .any(|pod| world.pods[*pod].revision != world.pods[world.serving()[0]].revision);
    if mixed {
        return;
    }
    for pod in world.serving() {
        let raise = if plain > 0.0 { world.raise(pod) } else { 0.0 };
        let most = world.goal(pod) + raise + 1.0;
        let held = world.held(pod) as f64;
        assert!(
            held <= most,
            "{} after {event}: {pod} has {held}, not {most}: {}",
            world.told(),
            world.shown()
        );
    }
}

/// Asserts that the moves of an episode without drains were hardly more than necessary, and all in one direction.
fn assert_few_moves(world: &World, least: f64, event: Event) {
    let mut shedding = 0;
    for (at, pod) in world.pods.iter().enumerate() {
        let turned = pod.shed > 0 && pod.received > 0;
        assert!(
            !turned,
            "{} after {event:?}: {at} gave away and received: {}",
            world.told(),
            world.shown()
        );
        shedding += u32::from(pod.shed > 0);
    }
    // A hub that has read nothing for three seconds opens its door, and plain peers come in again.
    let factor = if world.trouble.loss > 0.1 { 1.5 } else { 1.06 };
    let most = factor * least + f64::from(2 * shedding);
    let moves = f64::from(world.tally.moves);
    assert!(
        moves <= most,
        "{} after {event:?}: {moves} moves, {least} are the least: {}",
        world.told(),
        world.shown()
    );
}

#[test]
fn random_clusters_come_to_rest_in_balance() {
    let seeds = 0..60;
    let mut moves = 0;
    for seed in seeds.clone() {
        moves += play(
            seed,
            Size {
                pods: 24.0,
                spokes: 3_000.0,
            },
        );
    }
    println!("seeds {seeds:?}: {moves} moves");
    assert!(moves > 5_000, "only {moves} moves: do the events do anything?");
}

#[test]
#[ignore = "`make simulation` plays it, with --release"]
fn many_large_random_clusters_come_to_rest_in_balance() {
    let seeds = 1_000..1_500;
    let (mut all, mut most) = (0_u64, (0, 0));
    for seed in seeds.clone() {
        let size = Size {
            pods: 100.0,
            spokes: 50_000.0,
        };
        let moves = play(seed, size);
        println!("seed {seed}: {moves} moves");
        all += u64::from(moves);
        most = most.max((moves, seed));
    }
    println!("seeds {seeds:?}: {all} moves, {} of them with seed {}", most.0, most.1);
}

#[test]
#[ignore = "`make simulation` plays it, with --release"]
fn a_million_spokes_on_fifty_pods_spread_to_a_hundred() {
    let mut world = World::running(1, 50, 1_000_000, 0.3);
    (0..50).for_each(|_| {
        world.join(1, 100);
    });
    world.begin_episode();
    let least = world.least();

    let began = world.now;
    world.settle(2 * 3_600_000);

    let moves = f64::from(world.tally.moves);
    println!(
        "a million spokes: {moves} moves, {:.4} of the least; ratio {:.3}; at rest after {} s",
        moves / least,
        world.ratio(),
        (world.now - began) / 1_000
    );
    assert!(moves <= 1.06 * least && world.ratio() <= 1.15, "{}", world.shown());
}
