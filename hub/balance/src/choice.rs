//! Which connections go, and where to: the ones that a move harms least, to the pods that lack most.

use std::collections::BinaryHeap;
use std::sync::Arc;
use std::time::Duration;

/// How often a pod is drawn for a connection that must avoid one pod, before the first other pod is taken.
const DRAWS: usize = 4;

/// One of the hub's own connections, as a candidate for going.
#[derive(Clone, Copy, Debug)]
pub struct Movable<'a, C> {
    /// Its id.
    pub connection: C,
    /// Whether its peer can move its session to a pod that it is told. A plain peer cannot: it is let go, and comes
    /// back wherever its load balancer sends it.
    pub migrates: bool,
    /// How many calls it runs or waits for.
    pub in_flight: u32,
    /// When it was made.
    pub since: Duration,
    /// When its session was moved here at a pod's request, if it was.
    pub moved_at: Option<Duration>,
    /// The pod that has the other session of the same instance: the two should not end up together.
    pub beside: Option<&'a str>,
}

/// What is to be done with one connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Move<C> {
    /// Its session moves to another pod; the calls that it runs continue.
    To {
        /// The connection.
        connection: C,
        /// The `hubId` of the pod.
        pod: Arc<str>,
    },
    /// It gets no new calls, and is closed once those that it runs are done.
    LetGo {
        /// The connection.
        connection: C,
    },
}

/// How many connections have to go now, and where to.
#[derive(Clone, Debug)]
pub struct Order {
    /// How many go in total.
    pub(crate) count: usize,
    /// How many of those may be plain peers.
    pub(crate) plain: usize,
    /// Whether the pod gives everything away.
    pub(crate) drain: bool,
    pub(crate) targets: Targets,
}

/// Where connections go: each pod with its chance, as cumulative sums.
#[derive(Clone, Debug, Default)]
pub(crate) struct Targets {
    pods: Vec<Arc<str>>,
    until: Vec<f64>,
}

/// The sort key for what goes first: the least harmed. The last part makes the order total.
type Harm = (u32, Duration, usize);

/// Collects the least harmed of the items that it is shown, at most `most` of them.
struct Least<T> {
    most: usize,
    heap: BinaryHeap<Ranked<T>>,
}

struct Ranked<T>(Harm, T);

// === impl Order ===

impl Order {
    /// How many connections go now.
    pub fn count(&self) -> usize {
        self.count
    }

    /// Whether this is a drain rather than balance.
    pub fn is_drain(&self) -> bool {
        self.drain
    }

    /// Picks the connections, in one walk over all of them.
    pub(crate) fn choose<'a, C: Copy>(
        &self,
        now: Duration,
        stay: Duration,
        movables: impl Iterator<Item = Movable<'a, C>>,
        random: &mut fastrand::Rng,
    ) -> Vec<Move<C>> {
        let (mut migrating, mut plain) = (Least::new(self.count), Least::new(self.plain.min(self.count)));
        for (place, movable) in movables.enumerate() {
            let stays = movable.moved_at.is_some_and(|at| now < at + stay);
            if stays && !self.drain {
                continue;
            }
            // It would take the place of a connection that can go.
            let has_nowhere = movable.migrates && self.targets.is_only(movable.beside);
            if has_nowhere && !self.drain {
                continue;
            }
            let harm = (movable.in_flight, movable.since, place);
            if movable.migrates {
                migrating.show(harm, (movable.connection, movable.beside));
            } else {
                plain.show(harm, movable.connection);
            }
        }
        let mut moves = Vec::with_capacity(self.count);
        for (connection, beside) in migrating.into_sorted() {
            if let Some(pod) = self.targets.draw(beside, self.drain, random) {
                moves.push(Move::To { connection, pod });
            }
        }
        let left = self.count - moves.len();
        let plain = plain.into_sorted().take(left);
        moves.extend(plain.map(|connection| Move::LetGo { connection }));
        moves
    }
}

// === impl Targets ===

impl Targets {
    /// Targets from pods with their shares in relation to each other; pods with a share of nothing are left out.
    pub(crate) fn new<'a>(pods: impl Iterator<Item = (&'a Arc<str>, f64)>) -> Self {
        let (mut targets, mut sum) = (Self::default(), 0.0);
        for (pod, part) in pods.filter(|(_, part)| *part > 0.0) {
            sum += part;
            targets.pods.push(Arc::clone(pod));
            targets.until.push(sum);
        }
        targets
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.pods.is_empty()
    }

    /// Whether this pod is the only one.
    fn is_only(&self, pod: Option<&str>) -> bool {
        matches!(&*self.pods, [only] if pod == Some(&**only))
    }

    /// Draws a pod at random, but not `beside`, unless `any` pod will do and that is the only one.
    pub(crate) fn draw(&self, beside: Option<&str>, any: bool, random: &mut fastrand::Rng) -> Option<Arc<str>> {
        let sum = *self.until.last()?;
        let other = |pod: &&Arc<str>| beside != Some(&***pod);
        let drawn = (0..DRAWS).find_map(|_| {
            let at = random.f64() * sum;
            let place = self.until.partition_point(|until| *until <= at);
            self.pods.get(place).filter(other)
        });
        let found = drawn.or_else(|| self.pods.iter().find(other));
        found.or_else(|| self.pods.first().filter(|_| any)).cloned()
    }
}

// === impl Least ===

impl<T> Least<T> {
    fn new(most: usize) -> Self {
        let heap = BinaryHeap::with_capacity(most);
        Self { most, heap }
    }

    fn show(&mut self, harm: Harm, item: T) {
        if self.heap.len() < self.most {
            self.heap.push(Ranked(harm, item));
        } else if let Some(mut worst) = self.heap.peek_mut()
            && harm < worst.0
        {
            *worst = Ranked(harm, item);
        }
    }

    fn into_sorted(self) -> impl Iterator<Item = T> {
        self.heap.into_sorted_vec().into_iter().map(|ranked| ranked.1)
    }
}

// === impl Ranked ===

impl<T> PartialEq for Ranked<T> {
    fn eq(&self, other: &Self) -> bool {
        self.0 == other.0
    }
}

impl<T> Eq for Ranked<T> {}

impl<T> PartialOrd for Ranked<T> {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl<T> Ord for Ranked<T> {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.0.cmp(&other.0)
    }
}
