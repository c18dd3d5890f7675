//! Random walks with an operator that is killed and late, controllers of ReplicaSets whose caches lag, kubelets that
//! take their time, and people who change their minds. Seeded; a failure names its seed.

use super::tests::check;
use super::*;

/// A pod may go this many ticks after it was marked; caches of controllers lag by one tick at most.
const SETTLE: u32 = 2;

/// A walk that is left alone reaches its goal within this many ticks.
const PATIENCE: u32 = 400;

const REVISIONS: [&str; 3] = ["a", "b", "c"];

/// Its pods never become ready.
const BAD: &str = "b";

#[derive(Clone, Debug)]
struct SimPod {
    id: u32,
    set: usize,
    standing: PodStanding,
    /// When it last became ready.
    ready_at: u32,
    marked: Option<u32>,
    leaving: bool,
    version: u32,
    /// It became unready after it was ready: its controller may have seen that.
    has_failed: bool,
    /// The goal was 0 when its ReplicaSet was asked for fewer.
    is_stopped: bool,
}

#[derive(Clone, Debug, Default)]
struct SimSet {
    replicas: i32,
    version: u32,
    is_observed: bool,
    /// The number of ready pods that was wanted when it was last asked for fewer.
    floor: i32,
}

struct World {
    rng: fastrand::Rng,
    seed: u64,
    now: u32,
    next: u32,
    sets: Vec<SimSet>,
    pods: Vec<SimPod>,
    /// The pods as they were one tick ago.
    before: Vec<SimPod>,
    goal: Goal,
    /// Whether pods fail and are evicted.
    is_rough: bool,
    settle: u32,
}

// === impl World ===

impl World {
    fn new(seed: u64, settle: u32) -> Self {
        let mut rng = fastrand::Rng::with_seed(seed);
        let is_rough = rng.bool();
        Self {
            rng,
            seed,
            now: 0,
            next: 0,
            sets: vec![SimSet::default(); REVISIONS.len()],
            pods: Vec::new(),
            before: Vec::new(),
            goal: Goal {
                revision: REVISIONS[0].to_owned(),
                replicas: 3,
                is_paused: false,
                held: None,
            },
            is_rough,
            settle,
        }
    }

    /// What the operator reads.
    fn fleet(&self) -> Fleet {
        let pod = |pod: &SimPod| Pod {
            name: format!("p{:04}", pod.id),
            uid: format!("u{}", pod.id),
            resource_version: pod.version.to_string(),
            presence: if pod.leaving {
                PodPresence::Leaving
            } else {
                PodPresence::Here
            },
            standing: match pod.standing {
                PodStanding::Ready if self.now < pod.ready_at + self.settle => PodStanding::Fresh,
                standing => standing,
            },
            is_serving: pod.marked.is_none(),
            drain: pod.marked.map(|at| Drain {
                is_over: self.now >= at + self.settle,
                is_lapsed: false,
            }),
            is_emptied: pod.id.is_multiple_of(4),
            load: (!pod.id.is_multiple_of(7)).then(|| PodLoad {
                in_flight: u64::from(pod.id % 3),
                connections: u64::from(pod.id % 5),
                ..PodLoad::default()
            }),
            stuck: None,
        };
        let set = |(index, set): (usize, &SimSet)| Set {
            name: REVISIONS[index].to_owned(),
            uid: REVISIONS[index].to_owned(),
            resource_version: set.version.to_string(),
            revision: REVISIONS[index].to_owned(),
            replicas: set.replicas,
            is_observed: set.is_observed,
            failure: None,
            pods: self.pods.iter().filter(|pod| pod.set == index).map(pod).collect(),
        };
        Fleet {
            sets: self.sets.iter().enumerate().map(set).collect(),
        }
    }

    /// Reads, decides, and writes a while later, unless it was killed in between.
    fn operator(&mut self) {
        let (fleet, goal) = (self.fleet(), self.goal.clone());
        check(&fleet, &goal);
        let next = step(&fleet, &goal);
        if self.rng.u8(..10) == 0 {
            return;
        }
        if self.rng.u8(..4) == 0 {
            self.others();
        }
        match next {
            Step::Hold => {}
            Step::Surge(scale) => self.scale(&scale, &goal),
            Step::Shrink(scale) => self.scale(&scale, &goal),
            Step::Drain(pod) | Step::Renew(pod) => self.mark(&pod, Some(self.now)),
            Step::Cancel(pod) => self.mark(&pod, None),
        }
    }

    fn mark(&mut self, seen: &Pod, mark: Option<u32>) {
        let pod = self.pods.iter_mut().find(|pod| format!("u{}", pod.id) == seen.uid);
        if let Some(pod) = pod.filter(|pod| pod.version.to_string() == seen.resource_version) {
            pod.marked = mark;
            pod.version += 1;
        }
    }

    fn scale(&mut self, scale: &Scale, goal: &Goal) {
        let index = REVISIONS.iter().position(|name| *name == scale.set).expect("a set");
        let set = &mut self.sets[index];
        if set.version.to_string() != scale.resource_version {
            return;
        }
        if scale.to < set.replicas {
            set.floor = goal.replicas;
            let pods = self
                .pods
                .iter_mut()
                .filter(|pod| pod.set == index && goal.replicas == 0);
            pods.for_each(|pod| pod.is_stopped = true);
        }
        set.replicas = scale.to;
        set.is_observed = false;
        set.version += 1;
    }

    /// The controller of ReplicaSets; its caches of the two kinds may each lag.
    fn controller(&mut self) {
        for index in 0..self.sets.len() {
            let ids = |pods: &[SimPod]| -> Vec<(u32, bool)> {
                pods.iter()
                    .filter(|pod| pod.set == index)
                    .map(|pod| (pod.id, pod.leaving))
                    .collect()
            };
            // It waits until it sees its own changes.
            let is_late = ids(&self.before) == ids(&self.pods) && self.rng.bool();
            let cache = if is_late { &self.before } else { &self.pods };
            let mut here: Vec<_> = cache
                .iter()
                .filter(|pod| pod.set == index && !pod.leaving)
                .cloned()
                .collect();
            self.rng.shuffle(&mut here);
            here.sort_by_key(|pod| (pod.standing, pod.marked.is_none()));
            let replicas = usize::try_from(self.sets[index].replicas).expect("not negative");
            for pod in here.iter().take(here.len().saturating_sub(replicas)) {
                self.delete(pod);
            }
            for _ in here.len()..replicas {
                self.pods.push(SimPod {
                    id: self.next,
                    set: index,
                    standing: PodStanding::Unassigned,
                    ready_at: 0,
                    marked: None,
                    leaving: false,
                    version: 0,
                    has_failed: false,
                    is_stopped: false,
                });
                self.next += 1;
            }
            self.sets[index].is_observed = true;
        }
    }

    fn delete(&mut self, seen: &SimPod) {
        let ready = |pods: &[SimPod]| {
            let ready = pods
                .iter()
                .filter(|pod| !pod.leaving && pod.standing == PodStanding::Ready);
            i32::try_from(ready.count()).expect("few")
        };
        let (seed, now) = (self.seed, self.now);
        let pod = self
            .pods
            .iter_mut()
            .find(|pod| pod.id == seen.id)
            .expect("it is in the cache");
        pod.leaving = true;
        let pod = pod.clone();
        // Of two unready pods, the other one may go while this one has just become ready.
        let is_counted_on = pod.standing == PodStanding::Ready && now >= pod.ready_at + self.settle;
        if !is_counted_on || pod.has_failed || pod.is_stopped {
            return;
        }
        assert!(
            pod.marked.is_some(),
            "seed {seed}, tick {now}: {pod:?} went, and nobody had chosen it"
        );
        let floor = self.sets[pod.set].floor;
        assert!(
            self.is_rough || ready(&self.pods) >= floor,
            "seed {seed}, tick {now}: fewer than {floor} are ready without {pod:?}: {:#?}",
            self.pods
        );
    }

    fn kubelets(&mut self) {
        let (rng, is_rough, now) = (&mut self.rng, self.is_rough, self.now);
        self.pods.retain(|pod| !pod.leaving || rng.u8(..3) > 0);
        for pod in &mut self.pods {
            let before = pod.standing;
            pod.standing = match before {
                PodStanding::Unassigned if rng.bool() => PodStanding::Pending,
                PodStanding::Pending if rng.bool() => PodStanding::Unready,
                PodStanding::Unready if rng.bool() && REVISIONS[pod.set] != BAD => PodStanding::Ready,
                PodStanding::Ready if is_rough && rng.u8(..30) == 0 => {
                    pod.has_failed = true;
                    PodStanding::Unready
                }
                other => other,
            };
            if before != pod.standing {
                (pod.version, pod.ready_at) = (pod.version + 1, now);
            }
            if is_rough && rng.u8(..60) == 0 {
                pod.leaving = true;
            }
        }
    }

    fn others(&mut self) {
        self.controller();
        self.kubelets();
    }

    fn tick(&mut self) {
        let before = self.pods.clone();
        if self.rng.u8(..4) > 0 {
            self.operator();
        }
        self.others();
        self.before = before;
        self.now += 1;
    }

    fn is_there(&self) -> bool {
        let serves = |pod: &SimPod| pod.standing == PodStanding::Ready && pod.marked.is_none() && !pod.leaving;
        let of = |pod: &SimPod| REVISIONS[pod.set] == self.goal.revision;
        let asks = |(index, set): (usize, &SimSet)| {
            let is_newest = REVISIONS[index] == self.goal.revision;
            set.replicas == if is_newest { self.goal.replicas } else { 0 }
        };
        i32::try_from(self.pods.len()) == Ok(self.goal.replicas)
            && self.sets.iter().enumerate().all(asks)
            && self.pods.iter().all(|pod| serves(pod) && of(pod))
    }

    /// People change their minds for a while; then nobody does, and everything comes to rest.
    fn walk(&mut self) {
        for _ in 0..150 {
            if self.rng.u8(..12) == 0 {
                self.goal.replicas = self.rng.i32(0..=5);
            }
            if self.rng.u8(..25) == 0 {
                self.goal.revision = REVISIONS[self.rng.usize(..REVISIONS.len())].to_owned();
            }
            if self.rng.u8(..20) == 0 {
                self.goal.is_paused = self.rng.bool();
            }
            if self.rng.u8(..20) == 0 {
                let held = [None, Some(HeldPods::Unasked), Some(HeldPods::NoRedis)];
                self.goal.held = held[self.rng.usize(..held.len())];
            }
            self.tick();
        }
        (self.is_rough, self.goal.is_paused, self.goal.held) = (false, false, None);
        if self.goal.revision == BAD {
            self.goal.revision = REVISIONS[0].to_owned();
        }
        let begun = self.now;
        while !self.is_there() {
            assert!(
                self.now - begun < PATIENCE,
                "seed {}: {:?} {:#?}",
                self.seed,
                self.goal,
                self.fleet()
            );
            self.tick();
        }
        for _ in 0..20 {
            assert_eq!(step(&self.fleet(), &self.goal), Step::Hold, "seed {}", self.seed);
            self.tick();
        }
    }
}

#[test]
fn whatever_is_killed_or_late_only_chosen_pods_go_and_the_goal_is_reached() {
    for seed in 0..500 {
        World::new(seed, SETTLE).walk();
    }
}

#[test]
fn a_pod_that_goes_before_its_mark_is_seen_would_be_found() {
    let hasty = || (0..500).for_each(|seed| World::new(seed, 0).walk());

    assert!(
        std::panic::catch_unwind(hasty).is_err(),
        "the model sees no race at all"
    );
}
