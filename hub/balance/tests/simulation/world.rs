//! A simulated cluster: pods, each with the rule, a membership that is late and loses records, a load balancer that
//! chooses at random, and spokes that move, come back and retry. Its clock is a number.
//!
//! Each look decides by the membership that the previous look read, whose records are up to a second old. So a hub sees
//! the others one to two seconds late, and later still where updates get lost.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::Arc;
use std::time::Duration;

use alkhub_balance::{Balance, Decision, Member, Membership, Movable, Move, Own, Rule, Upgrade, Why};

/// Milliseconds since the start.
pub(crate) type Millis = u64;

/// A record of the membership expires when it has not been renewed for this long.
const TTL: Millis = 5_000;
/// How long a load balancer goes on choosing a pod that drains.
const ENDPOINTS: Millis = 1_000;
/// The pauses of a peer before it tries again after a loss: a random part of a time that doubles, between these.
const SHORTEST: Millis = 250;
const LONGEST: Millis = 15_000;
/// A drain that takes longer is ended by a kill.
const GRACE: Millis = 60_000;

/// What may happen, and to which of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Happening {
    /// A pod publishes its record.
    Publish(usize),
    /// A pod reads the membership and decides.
    Look(usize),
    /// A spoke comes to the load balancer. The second number is that of its connection, so that events of an older one
    /// are void.
    Arrive(usize, u32),
    /// The session of a spoke arrives at the pod that its previous one named.
    Moved(usize, u32, usize),
    /// The calls of a plain spoke that was let go are done: its connection is closed.
    Closed(usize, u32),
}

pub(crate) struct Spoke {
    pub(crate) migrates: bool,
    in_flight: u32,
    since: Millis,
    moved_at: Option<Millis>,
    /// Its pod, and its place there.
    home: Option<(usize, usize)>,
    last: Option<usize>,
    told: bool,
    /// Counts its connections.
    connection: u32,
    /// The longest pause before it tries again when a connection breaks or cannot be made.
    pause: Millis,
    pub(crate) moves: u32,
    last_move_for_balance: Option<Millis>,
    left: bool,
}

pub(crate) struct Pod {
    name: Arc<str>,
    pub(crate) alive: bool,
    crashed: Option<Millis>,
    pub(crate) draining: Option<Millis>,
    pub(crate) empty_after: Option<Millis>,
    pub(crate) revision: u64,
    pub(crate) weight: u32,
    spokes: Vec<usize>,
    told: usize,
    balance: Balance,
    membership: Membership,
    /// Moves away from it for balance, and sessions moved to it for balance, since the last count.
    pub(crate) shed: u32,
    pub(crate) received: u32,
    pub(crate) refused: u32,
    pub(crate) holds: [u32; 8],
}

/// What makes the membership bad.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Trouble {
    /// The share of all records and readings that get lost.
    pub(crate) loss: f64,
    /// Nobody can read or write the membership.
    pub(crate) frozen: bool,
    /// The load balancer keeps sending each peer to the same pod, as long as that is there.
    pub(crate) sticky: bool,
    /// Plain peers that are let go do not come back.
    pub(crate) lost: bool,
    /// There are no links from pod to pod: that a pod has crashed is known only when its record expires.
    pub(crate) unlinked: bool,
}

/// What was counted since the last [`World::begin_episode`].
#[derive(Clone, Debug, Default)]
pub(crate) struct Tally {
    /// Connections that were moved or let go.
    pub(crate) moves: u32,
    pub(crate) let_go: u32,
    /// Moves in each second.
    pub(crate) each_second: Vec<u32>,
    /// When a pod last had connections to move, even if none of them might move yet.
    pub(crate) last_order: Millis,
    pub(crate) began: Millis,
    pub(crate) refusals: u32,
    pub(crate) onto_older: u32,
    /// How long the spokes that had to come back were away.
    pub(crate) away: Vec<Millis>,
}

pub(crate) struct World {
    pub(crate) now: Millis,
    pub(crate) seed: u64,
    pub(crate) pods: Vec<Pod>,
    pub(crate) spokes: Vec<Spoke>,
    pub(crate) trouble: Trouble,
    pub(crate) tally: Tally,
    pub(crate) rebalance: Option<Duration>,
    pub(crate) wanted: Option<u64>,
    /// The connections of each pod in each second, if they are to be drawn.
    pub(crate) drawn: Option<Vec<(Millis, Vec<Option<usize>>)>>,
    /// The rule of the pods that join.
    pub(crate) rule: Rule,
    records: Vec<Option<(Millis, Member)>>,
    queue: BinaryHeap<Reverse<(Millis, u64, Happening)>>,
    sequence: u64,
    random: fastrand::Rng,
    away: usize,
    telling: usize,
}

// === impl Tally ===

impl Tally {
    /// The time in which this share of the spokes that had to come back was back, in milliseconds.
    pub(crate) fn back_within(&self, part: f64) -> Millis {
        let mut away = self.away.clone();
        away.sort_unstable();
        let place = (away.len() as f64 * part).ceil() as usize;
        away.get(place.saturating_sub(1)).copied().unwrap_or(0)
    }
}

// === impl World ===

impl World {
    pub(crate) fn new(seed: u64) -> Self {
        Self {
            now: 0,
            seed,
            pods: Vec::new(),
            spokes: Vec::new(),
            trouble: Trouble::default(),
            tally: Tally::default(),
            rebalance: None,
            wanted: None,
            drawn: None,
            rule: Rule::default(),
            records: Vec::new(),
            queue: BinaryHeap::new(),
            sequence: 0,
            random: fastrand::Rng::with_seed(seed),
            away: 0,
            telling: 0,
        }
    }

    /// A cluster of `pods` pods of one revision and weight, with `spokes` spokes, that has run for half a minute.
    pub(crate) fn running(seed: u64, pods: usize, spokes: usize, plain: f64) -> Self {
        let mut world = Self::new(seed);
        world.begin(pods, spokes, plain);
        world
    }

    /// Turns an empty world into such a cluster.
    pub(crate) fn begin(&mut self, pods: usize, spokes: usize, plain: f64) {
        for _ in 0..pods {
            self.join(1, 100);
        }
        self.run(2_000);
        self.connect(spokes, plain, 5_000);
        self.run(30_000);
    }

    pub(crate) fn chance(&mut self) -> f64 {
        self.random.f64()
    }

    pub(crate) fn below(&mut self, most: usize) -> usize {
        self.random.usize(..most)
    }

    /// Adds a pod, which is ready at once.
    pub(crate) fn join(&mut self, revision: u64, weight: u32) -> usize {
        let pod = self.pods.len();
        let name: Arc<str> = format!("pod-{pod}").into();
        let membership = Membership {
            own: Arc::clone(&name),
            members: Vec::new(),
            doubtful: Vec::new(),
            read_at: Duration::ZERO,
            wanted: None,
            rebalance: None,
        };
        self.pods.push(Pod {
            name,
            alive: true,
            crashed: None,
            draining: None,
            empty_after: None,
            revision,
            weight,
            spokes: Vec::new(),
            told: 0,
            balance: Balance::new(self.rule.clone(), self.seed ^ (pod as u64) << 32),
            membership,
            shed: 0,
            received: 0,
            refused: 0,
            holds: [0; 8],
        });
        self.records.push(None);
        let (publish, look) = (self.random.u64(..1_000), self.random.u64(..1_000));
        self.after(publish, Happening::Publish(pod));
        self.after(look, Happening::Look(pod));
        pod
    }

    /// Adds spokes, which come within this time.
    pub(crate) fn connect(&mut self, spokes: usize, plain: f64, within: Millis) {
        for _ in 0..spokes {
            let busy = self.random.f64() < 0.3;
            let in_flight = if busy { self.random.u32(1..6) } else { 0 };
            let migrates = self.random.f64() >= plain;
            self.spokes.push(Spoke {
                migrates,
                in_flight,
                since: 0,
                moved_at: None,
                home: None,
                last: None,
                told: false,
                connection: 0,
                pause: SHORTEST,
                moves: 0,
                last_move_for_balance: None,
                left: false,
            });
            self.away += 1;
            let wait = self.random.u64(..=within);
            self.after(wait, Happening::Arrive(self.spokes.len() - 1, 0));
        }
    }

    /// Lets a share of all spokes leave for good.
    pub(crate) fn leave(&mut self, part: f64) {
        for spoke in 0..self.spokes.len() {
            if self.random.f64() < part && !self.spokes[spoke].left {
                self.disconnect(spoke);
                self.spokes[spoke].left = true;
                self.away -= 1;
            }
        }
    }

    /// Lets one spoke leave and come back.
    pub(crate) fn reconnect(&mut self, spoke: usize) {
        if self.spokes[spoke].home.is_some() {
            self.disconnect(spoke);
            self.come_back(spoke);
        }
    }

    /// Makes a pod give all of its spokes away; it is gone once it has none.
    pub(crate) fn drain(&mut self, pod: usize) {
        self.pods[pod].draining = Some(self.now);
    }

    /// Kills a pod.
    pub(crate) fn kill(&mut self, pod: usize) {
        self.pods[pod].alive = false;
        for spoke in self.pods[pod].spokes.clone() {
            self.disconnect(spoke);
            self.come_back(spoke);
        }
    }

    /// Kills the process of a pod. The load balancer goes on choosing it for a moment, and its record goes on saying
    /// for some seconds what it had; its peers know at once, and come within this time.
    pub(crate) fn crash(&mut self, pod: usize, within: Millis) {
        (self.pods[pod].alive, self.pods[pod].crashed) = (false, Some(self.now));
        for spoke in self.pods[pod].spokes.clone() {
            self.disconnect(spoke);
            self.spokes[spoke].last_move_for_balance = None;
            self.spokes[spoke].since = self.now;
            let (connection, wait) = (self.spokes[spoke].connection, self.random.u64(..=within));
            self.spokes[spoke].pause = 2 * SHORTEST;
            self.after(wait, Happening::Arrive(spoke, connection));
        }
    }

    /// The pods that serve.
    pub(crate) fn serving(&self) -> Vec<usize> {
        let serves = |pod: &usize| self.pods[*pod].alive && self.pods[*pod].draining.is_none();
        (0..self.pods.len()).filter(serves).collect()
    }

    pub(crate) fn held(&self, pod: usize) -> usize {
        self.pods[pod].spokes.len()
    }

    pub(crate) fn count(&self, of: impl Fn(&Spoke) -> bool) -> usize {
        self.spokes.iter().filter(|spoke| of(spoke)).count()
    }

    pub(crate) fn connected(&self) -> usize {
        self.pods.iter().map(|pod| pod.spokes.len()).sum()
    }

    /// Connections by weight, over the pods that serve.
    pub(crate) fn mean(&self) -> f64 {
        let weight: u32 = self.serving().iter().map(|pod| self.pods[*pod].weight).sum();
        self.connected() as f64 / f64::from(weight)
    }

    /// The fullest pod in relation to the mean.
    pub(crate) fn ratio(&self) -> f64 {
        let mean = self.mean();
        let by_weight = |pod: &usize| self.held(*pod) as f64 / f64::from(self.pods[*pod].weight) / mean;
        self.serving().iter().map(by_weight).fold(0.0, f64::max)
    }

    /// The goal of a pod by the true figures.
    pub(crate) fn goal(&self, pod: usize) -> f64 {
        let goal = self.mean() * f64::from(self.pods[pod].weight) * self.rule.factor;
        goal.ceil() + f64::from(self.rule.slack)
    }

    /// By how much the levels would be raised for plain spokes by the true figures: one in eight of the other pods is
    /// below the raised level.
    pub(crate) fn raise(&self, of: usize) -> f64 {
        let serving = self.serving();
        let others = serving.iter().filter(|pod| **pod != of);
        let mut over: Vec<f64> = others.map(|pod| self.held(*pod) as f64 - self.goal(*pod)).collect();
        over.sort_by(f64::total_cmp);
        over[serving.len().div_ceil(8) - 1].max(0.0) + f64::from(self.rule.slack)
    }

    /// The fewest moves that bring every serving pod to its goal.
    pub(crate) fn least(&self) -> f64 {
        let over = |pod: &usize| (self.held(*pod) as f64 - self.goal(*pod)).max(0.0);
        self.serving().iter().map(over).sum()
    }

    /// Counts from here on.
    pub(crate) fn begin_episode(&mut self) {
        self.tally = Tally {
            began: self.now,
            last_order: self.now,
            ..Tally::default()
        };
        for pod in &mut self.pods {
            (pod.shed, pod.received, pod.refused, pod.holds) = (0, 0, 0, [0; 8]);
        }
    }

    /// Lets this much time pass.
    pub(crate) fn run(&mut self, time: Millis) {
        let until = self.now + time;
        while let Some(Reverse((at, _, happening))) = self.queue.peek().copied() {
            if at > until {
                break;
            }
            self.queue.pop();
            if self.drawn.is_some() && at / 1_000 > self.now / 1_000 {
                self.draw(at);
            }
            self.now = at;
            self.happen(happening);
        }
        self.now = until;
    }

    /// Lets time pass until there has been nothing to move for a minute and nobody is on the way.
    pub(crate) fn settle(&mut self, at_most: Millis) {
        let end = self.now + at_most;
        loop {
            self.run(1_000);
            let quiet = self.now >= self.tally.last_order + 60_000 && self.away == 0 && self.telling == 0;
            let draining = self.pods.iter().any(|pod| pod.alive && pod.draining.is_some());
            if quiet && !draining && !self.trouble.frozen {
                return;
            }
            assert!(
                self.now < end,
                "{}: still moving after {at_most} ms: {}",
                self.told(),
                self.shown()
            );
        }
    }

    /// What a failure prints first.
    pub(crate) fn told(&self) -> String {
        format!("seed {} at {} ms", self.seed, self.now)
    }

    pub(crate) fn shown(&self) -> String {
        let mut alive: Vec<usize> = (0..self.pods.len()).filter(|pod| self.pods[*pod].alive).collect();
        alive.sort_by_key(|pod| std::cmp::Reverse(self.held(*pod)));
        let pods: Vec<String> = alive
            .into_iter()
            .take(12)
            .map(|pod| {
                let drains = if self.pods[pod].draining.is_some() {
                    " drains"
                } else {
                    ""
                };
                let (held, goal) = (self.held(pod), self.goal(pod));
                format!("{pod}: {held} of {goal}{drains} {:?}", self.pods[pod].holds)
            })
            .collect();
        let (away, telling, moves) = (self.away, self.telling, self.tally.moves);
        format!("{moves} moves, {away} away, {telling} told; {}", pods.join(", "))
    }

    fn after(&mut self, wait: Millis, happening: Happening) {
        self.sequence += 1;
        self.queue.push(Reverse((self.now + wait, self.sequence, happening)));
    }

    fn happen(&mut self, happening: Happening) {
        match happening {
            Happening::Publish(pod) => self.publish(pod),
            Happening::Look(pod) => self.look(pod),
            Happening::Arrive(spoke, connection) => self.arrive(spoke, connection),
            Happening::Moved(spoke, connection, target) => self.moved(spoke, connection, target),
            Happening::Closed(spoke, connection) => {
                if self.spokes[spoke].connection == connection {
                    self.disconnect(spoke);
                    if !self.trouble.lost {
                        self.come_back(spoke);
                    }
                }
            }
        }
    }

    fn is_lost(&mut self) -> bool {
        self.trouble.frozen || self.random.f64() < self.trouble.loss
    }

    fn publish(&mut self, pod: usize) {
        if !self.pods[pod].alive {
            return;
        }
        if !self.is_lost() {
            let of = &self.pods[pod];
            let member = Member {
                pod: Arc::clone(&of.name),
                revision: of.revision,
                draining: of.draining.is_some(),
                connections: u32::try_from(of.spokes.len()).expect("fits"),
                weight: of.weight,
            };
            self.records[pod] = Some((self.now, member));
        }
        self.after(1_000, Happening::Publish(pod));
    }

    fn look(&mut self, pod: usize) {
        self.end_drain(pod);
        if !self.pods[pod].alive {
            return;
        }
        self.decide(pod);
        if !self.is_lost() {
            let fresh = |record: &&(Millis, Member)| self.now <= record.0 + TTL;
            let records = self.records.iter().flatten().filter(fresh);
            let members = records.map(|(_, member)| member.clone()).collect();
            let crashed = self.pods.iter().filter(|pod| pod.crashed.is_some());
            let doubtful = crashed.filter(|_| !self.trouble.unlinked);
            let doubtful = doubtful.map(|pod| Arc::clone(&pod.name)).collect();
            let membership = &mut self.pods[pod].membership;
            membership.members = members;
            membership.doubtful = doubtful;
            membership.read_at = Duration::from_millis(self.now);
            membership.rebalance = self.rebalance;
            membership.wanted = self.wanted;
        }
        self.after(1_000, Happening::Look(pod));
    }

    fn end_drain(&mut self, pod: usize) {
        let Some(since) = self.pods[pod].draining.filter(|_| self.pods[pod].alive) else {
            return;
        };
        if self.pods[pod].spokes.is_empty() {
            self.pods[pod].empty_after = Some(self.now - since);
            self.pods[pod].alive = false;
            self.records[pod] = None;
        } else if self.now >= since + GRACE {
            self.kill(pod);
        }
    }

    fn decide(&mut self, at: usize) {
        let now = Duration::from_millis(self.now);
        let pod = &mut self.pods[at];
        let own = Own {
            staying: u32::try_from(pod.spokes.len() - pod.told).expect("fits"),
            draining: pod.draining.is_some(),
        };
        let order = match pod.balance.decide(now, &pod.membership, own) {
            Decision::Hold(why) => {
                pod.holds[place(why)] += 1;
                return;
            }
            Decision::Move(order) => order,
        };
        self.tally.last_order = self.now;
        let spokes = &self.spokes;
        let staying = pod.spokes.iter().filter(|spoke| !spokes[**spoke].told);
        let movables = staying.map(|spoke| Movable {
            connection: *spoke,
            migrates: spokes[*spoke].migrates,
            in_flight: spokes[*spoke].in_flight,
            since: Duration::from_millis(spokes[*spoke].since),
            moved_at: spokes[*spoke].moved_at.map(Duration::from_millis),
            beside: None,
        });
        let moves = pod.balance.choose(now, &order, movables);
        assert!(moves.len() <= order.count(), "{}: more moves than ordered", self.told());
        assert!(!self.trouble.frozen || self.pods[at].membership.read_at + Duration::from_secs(3) >= now);
        if !order.is_drain() && !moves.is_empty() {
            self.assert_lighter(at);
        }
        for mv in moves {
            self.tell(at, &mv, order.is_drain());
        }
    }

    /// Asserts that some serving pod is truly lighter than the one that moves connections away.
    fn assert_lighter(&self, from: usize) {
        let by_weight = |held: usize, pod: usize| held as f64 / f64::from(self.pods[pod].weight);
        let own = by_weight(self.held(from) - self.pods[from].told, from);
        let others = self.serving().into_iter().filter(|pod| *pod != from);
        let lightest = others
            .map(|pod| by_weight(self.held(pod), pod))
            .fold(f64::MAX, f64::min);
        assert!(
            lightest < own,
            "{}: no pod is lighter than {from}: {}",
            self.told(),
            self.shown()
        );
    }

    fn tell(&mut self, from: usize, mv: &Move<usize>, drain: bool) {
        let spoke = match mv {
            Move::To { connection, .. } | Move::LetGo { connection } => *connection,
        };
        self.tally.moves += 1;
        let second = usize::try_from((self.now - self.tally.began) / 1_000).expect("fits");
        let seconds = self.tally.each_second.len().max(second + 1);
        self.tally.each_second.resize(seconds, 0);
        self.tally.each_second[second] += 1;
        let of = &mut self.spokes[spoke];
        of.told = true;
        of.moves += 1;
        if !drain {
            let again = of.last_move_for_balance.filter(|_| of.migrates);
            let last = of.last_move_for_balance.replace(self.now);
            let soon = again.is_some_and(|at| self.now < at + 600_000);
            assert!(!soon, "{}: spoke {spoke} moved at {last:?} and again", self.told());
            self.pods[from].shed += 1;
        }
        self.pods[from].told += 1;
        self.telling += 1;
        let (connection, busy) = (self.spokes[spoke].connection, self.spokes[spoke].in_flight > 0);
        match mv {
            Move::To { pod, .. } => {
                let target = self.pods.iter().position(|other| other.name == *pod).expect("a pod");
                if !drain {
                    self.pods[target].received += 1;
                }
                if self.pods[target].revision < self.pods[from].revision {
                    self.tally.onto_older += 1;
                }
                let wait = self.random.u64(50..800);
                self.after(wait, Happening::Moved(spoke, connection, target));
            }
            Move::LetGo { .. } => {
                self.tally.let_go += 1;
                let wait = if busy { self.random.u64(..5_000) } else { 0 };
                self.after(wait, Happening::Closed(spoke, connection));
            }
        }
    }

    fn moved(&mut self, spoke: usize, connection: u32, target: usize) {
        if self.spokes[spoke].connection != connection {
            return;
        }
        if !self.pods[target].alive || self.trouble.frozen {
            // Its old connection still serves it.
            let (from, _) = self.spokes[spoke].home.expect("is connected");
            self.spokes[spoke].told = false;
            self.pods[from].told -= 1;
            self.telling -= 1;
            return;
        }
        self.disconnect(spoke);
        self.seat(spoke, target);
        self.spokes[spoke].moved_at = Some(self.now);
    }

    fn seat(&mut self, spoke: usize, pod: usize) {
        self.away -= 1;
        self.spokes[spoke].home = Some((pod, self.pods[pod].spokes.len()));
        self.spokes[spoke].since = self.now;
        self.spokes[spoke].pause = SHORTEST;
        self.spokes[spoke].moved_at = None;
        self.pods[pod].spokes.push(spoke);
    }

    /// Takes a spoke off its pod, if it has one. Whatever was under way for its connection is void.
    fn disconnect(&mut self, spoke: usize) {
        let of = &mut self.spokes[spoke];
        of.connection += 1;
        let Some((pod, place)) = of.home.take() else {
            return;
        };
        let told = std::mem::take(&mut of.told);
        self.pods[pod].told -= usize::from(told);
        self.telling -= usize::from(told);
        self.away += 1;
        self.pods[pod].spokes.swap_remove(place);
        if let Some(other) = self.pods[pod].spokes.get(place) {
            self.spokes[*other].home = Some((pod, place));
        }
    }

    fn come_back(&mut self, spoke: usize) {
        let connection = self.spokes[spoke].connection;
        self.spokes[spoke].last_move_for_balance = None;
        self.spokes[spoke].since = self.now;
        let wait = self.random.u64(50..1_000);
        self.after(wait, Happening::Arrive(spoke, connection));
    }

    /// Makes a spoke try again that found no pod, or whose connection broke.
    fn try_again(&mut self, spoke: usize) {
        let (connection, pause) = (self.spokes[spoke].connection, self.spokes[spoke].pause);
        self.spokes[spoke].pause = (2 * pause).min(LONGEST);
        let wait = self.random.u64(..=pause);
        self.after(wait, Happening::Arrive(spoke, connection));
    }

    fn arrive(&mut self, spoke: usize, connection: u32) {
        if self.spokes[spoke].connection != connection {
            return;
        }
        let chosen = |pod: &usize| {
            let pod = &self.pods[*pod];
            let serves = pod.alive && pod.draining.is_none_or(|since| self.now < since + ENDPOINTS);
            serves || pod.crashed.is_some_and(|at| self.now < at + ENDPOINTS)
        };
        let pods: Vec<usize> = (0..self.pods.len()).filter(chosen).collect();
        if pods.is_empty() {
            self.after(1_000, Happening::Arrive(spoke, connection));
            return;
        }
        let last = self.spokes[spoke]
            .last
            .filter(|last| self.trouble.sticky && pods.contains(last));
        let pod = last.unwrap_or_else(|| pods[self.random.usize(..pods.len())]);
        self.spokes[spoke].last = Some(pod);
        if !self.pods[pod].alive {
            return self.try_again(spoke);
        }
        let now = Duration::from_millis(self.now);
        // Real hubs tell peers apart by a hash; any spread will do here.
        let source = (spoke as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        match self.pods[pod].balance.admit(now, source) {
            Upgrade::Accept => {
                let away = self.now - self.spokes[spoke].since;
                if connection > 0 {
                    self.tally.away.push(away);
                }
                self.seat(spoke, pod);
            }
            Upgrade::Refuse { retry_after } => {
                self.pods[pod].refused += 1;
                self.tally.refusals += 1;
                let wait = u64::try_from(retry_after.as_millis()).expect("fits") + self.random.u64(..500);
                self.after(wait, Happening::Arrive(spoke, connection));
            }
        }
    }

    fn draw(&mut self, at: Millis) {
        let held = self.pods.iter().map(|pod| pod.alive.then_some(pod.spokes.len()));
        let held = held.collect();
        if let Some(drawn) = &mut self.drawn {
            drawn.push((at / 1_000, held));
        }
    }
}

fn place(why: Why) -> usize {
    match why {
        Why::Stale => 0,
        Why::Alone => 1,
        Why::Watching => 2,
        Why::Even => 3,
        Why::Resting => 4,
        Why::RollOut => 5,
        Why::NobodyLighter => 6,
        Why::Pace => 7,
    }
}
