//! The process of a pod is killed, and comes back empty two seconds later: what its peers find in the meantime, and
//! what moves afterwards.

use std::time::Duration;

use crate::world::{Millis, World};

/// What happened to a cluster before one of its pods was lost.
#[derive(Clone, Copy, Debug)]
enum Past {
    /// Nothing.
    Even,
    /// It had half as many pods: half of them are at their goals, and refuse everybody who comes.
    Doubled,
}

/// A cluster whose fullest pod is killed.
#[derive(Clone, Copy, Debug)]
struct Case {
    seed: u64,
    pods: usize,
    spokes: usize,
    plain: f64,
    past: Past,
    within: Millis,
}

/// How the hubs learn of a lost pod, and whether they open their doors to its peers.
#[derive(Clone, Copy, Debug)]
struct Hubs {
    linked: bool,
    open: bool,
}

const HUBS: Hubs = Hubs {
    linked: true,
    open: true,
};

const CASES: [Case; 12] = [
    case(1, 4, 10_000, 1.0, Past::Doubled, AT_ONCE),
    case(2, 4, 10_000, 0.5, Past::Doubled, AT_ONCE),
    case(3, 4, 10_000, 1.0, Past::Even, AT_ONCE),
    case(4, 2, 4_000, 1.0, Past::Even, AT_ONCE),
    case(5, 2, 4_000, 1.0, Past::Doubled, AT_ONCE),
    case(6, 10, 10_000, 1.0, Past::Doubled, AT_ONCE),
    case(7, 40, 10_000, 1.0, Past::Doubled, AT_ONCE),
    case(8, 4, 10_000, 1.0, Past::Doubled, BUSY),
    case(9, 4, 10_000, 1.0, Past::Even, BUSY),
    case(10, 4, 4_500, 0.3, Past::Doubled, BUSY),
    case(11, 2, 4_000, 1.0, Past::Doubled, BUSY),
    case(12, 10, 10_000, 1.0, Past::Doubled, BUSY),
];

/// How quickly peers come: those that try again by themselves, and those of machines that have too much to do at once.
const AT_ONCE: Millis = 250;
const BUSY: Millis = 3_000;

const fn case(seed: u64, pods: usize, spokes: usize, plain: f64, past: Past, within: Millis) -> Case {
    Case {
        seed,
        pods,
        spokes,
        plain,
        past,
        within,
    }
}

/// A cluster right after the peers of its fullest pod have come back.
struct Killed {
    world: World,
    /// How long it took until 99 % of them were back.
    most: Millis,
    told: String,
}

fn killed(case: Case, hubs: Hubs) -> Killed {
    let mut world = World::new(case.seed);
    if !hubs.open {
        world.rule.lost = Duration::ZERO;
    }
    world.trouble.unlinked = !hubs.linked;
    match case.past {
        Past::Even => world.begin(case.pods, case.spokes, case.plain),
        Past::Doubled => {
            world.begin(case.pods / 2, case.spokes, case.plain);
            (0..case.pods / 2).for_each(|_| {
                world.join(1, 100);
            });
            world.settle(1_200_000);
            // From then on, peers that were let go may be let go again.
            world.run(700_000);
        }
    }
    world.begin_episode();
    let fullest = world.serving().into_iter().max_by_key(|pod| world.held(*pod));
    let fullest = fullest.expect("a pod");
    let lost = world.held(fullest);

    world.crash(fullest, case.within);
    world.run(2_000);
    world.join(1, 100);
    while world.tally.away.len() < lost {
        world.run(100);
        assert!(world.now < world.tally.began + 120_000, "{}", world.shown());
    }
    let most = world.tally.back_within(0.99);
    let told = format!(
        "{case:?}, {hubs:?}: of {lost} half are back after {} ms, 99 % after {most}, all after {}; {} refusals",
        world.tally.back_within(0.5),
        world.tally.back_within(1.0),
        world.tally.refusals,
    );
    Killed { world, most, told }
}

#[test]
fn the_peers_of_a_killed_pod_are_back_within_seconds_and_then_balance_comes_about_once() {
    for case in CASES {
        let Killed { mut world, most, told } = killed(case, HUBS);
        assert!(most <= 5_000, "{told}");
        world.begin_episode();
        let least = world.least();

        world.settle(1_200_000);

        let shed = world.pods.iter().filter(|pod| pod.shed > 0).count() as f64;
        let moves = f64::from(world.tally.moves);
        println!(
            "{told}: {moves} moves, {least} are the least; ratio {:.3}",
            world.ratio()
        );
        assert!(moves <= 1.06 * least + 2.0 * shed, "{told}: {moves} moves of {least}");
        assert!(world.ratio() <= 1.15, "{told}: {}", world.shown());
        let turned = world.pods.iter().find(|pod| pod.shed > 0 && pod.received > 0);
        assert!(turned.is_none(), "{told}: a pod gave away and received");
        world.begin_episode();
        world.run(900_000);
        assert_eq!(world.tally.moves, 0, "{told}: it moves on");
    }
}

/// Why doors open at all: the figures may come late, or the peers may, and full pods have been refusing them for long.
#[test]
fn where_doors_do_not_open_peers_of_a_killed_pod_are_away_for_longer() {
    let slowest = |hubs: Hubs| {
        let killed = CASES.iter().map(|case| killed(*case, hubs));
        let told = killed.inspect(|killed| println!("{}", killed.told));
        told.map(|killed| killed.most).max()
    };

    let with_both = slowest(HUBS);
    slowest(Hubs { linked: false, ..HUBS });
    let neither = slowest(Hubs {
        linked: false,
        open: false,
    });

    assert!(with_both < neither, "{with_both:?}, {neither:?}");
}
