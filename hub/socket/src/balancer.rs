//! Which WebSockets this hub keeps: asked before each upgrade, and checked once a second (`hub/balance`).
//!
//! Invariants
//! - A peer that is let go gets no new call that anybody else can take, and is closed (1001) once none of its calls,
//!   and none of those that it runs, is under way. If that does not happen within a minute, it stays, and may be chosen
//!   again. All of them stay when the hub is not to give its connections away any more.
//! - A peer with a session that outlives its connection is not let go: the close would end the session.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};
use std::time::Duration;

use alkhub_balance::{Balance, Decision, Membership, Movable, Move, Order, Own, Rule, Upgrade};
use alkhub_edge::ApiError;
use alkhub_edge::open::{Closeable, Leaver};
use alkhub_protocol::{CallError, Code, HubId};
use parking_lot::Mutex;
use prometheus::Registry;
use tokio::time::Instant;

use crate::metrics::BalanceMetrics;

/// The WebSockets of a hub, as the balancer sees them.
pub(crate) struct OpenSockets<'a> {
    pub(crate) count: usize,
    /// All of them; called only when some are to be told something.
    pub(crate) all: &'a dyn Fn() -> Vec<Arc<dyn Closeable>>,
}

/// Which reasons a hub has to let peers go.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Stance {
    /// Some are better off elsewhere.
    pub(crate) balances: bool,
    /// All are to go.
    pub(crate) draining: bool,
}

/// The state by which the sockets of one hub are balanced.
#[derive(Debug)]
pub(crate) struct Balancer {
    began: Instant,
    balance: Mutex<Balance>,
    /// Sockets whose peers were told to go.
    pub(crate) leaving: Arc<AtomicUsize>,
    /// Where each hub is reached by peers in the cluster.
    urls: Mutex<HashMap<Arc<str>, String>>,
    /// How many hubs take connections, by the last look that knew.
    hubs: AtomicU32,
    /// Whether all peers were to go at the last look.
    draining: AtomicBool,
    /// All hubs, as the last look had them.
    membership: Mutex<Option<Arc<Membership>>>,
    metrics: BalanceMetrics,
}

// === impl Balancer ===

impl Balancer {
    /// The balancer of a hub that has seen nothing yet.
    ///
    /// # Errors
    /// The registry has the metrics already.
    pub(crate) fn new(registry: &Registry) -> Result<Self, prometheus::Error> {
        Ok(Self {
            began: Instant::now(),
            balance: Mutex::new(Balance::new(Rule::default(), rand::random())),
            leaving: Arc::default(),
            urls: Mutex::default(),
            hubs: AtomicU32::new(1),
            draining: AtomicBool::new(false),
            membership: Mutex::default(),
            metrics: BalanceMetrics::new(registry)?,
        })
    }

    /// The time on the clock of [`Membership::read_at`].
    pub(crate) fn now(&self) -> Duration {
        self.began.elapsed()
    }

    /// How many hubs take connections; 1 if there is no other, or none is known.
    pub(crate) fn hubs(&self) -> u32 {
        self.hubs.load(Ordering::Acquire)
    }

    /// Notes where each hub is reached by peers in the cluster, by its id.
    pub(crate) fn hubs_are_at(&self, urls: HashMap<Arc<str>, String>) {
        *self.urls.lock() = urls;
    }

    /// Counts the hubs that take connections, and tells all sockets if the number has changed.
    fn count_hubs(&self, open: &OpenSockets<'_>, membership: &Membership) {
        let serving = membership.members.iter().filter(|member| !member.draining);
        let hubs = u32::try_from(serving.count()).unwrap_or(u32::MAX).max(1);
        if self.is_fresh(membership) && self.hubs.swap(hubs, Ordering::AcqRel) != hubs {
            (open.all)().iter().for_each(|socket| socket.hubs_changed());
        }
    }

    /// Lets the peers that were let go stay if the hub drains no more.
    fn take_back(&self, open: &OpenSockets<'_>, draining: bool) {
        if self.draining.swap(draining, Ordering::AcqRel) && !draining {
            (open.all)().iter().for_each(|socket| socket.let_stay());
        }
    }

    fn is_fresh(&self, membership: &Membership) -> bool {
        self.now() <= membership.read_at + Rule::default().fresh
    }

    /// Looks at what all hubs hold, and lets peers of what is `open` go if its stance gives a reason. `beside` returns
    /// the hub on which the other session of the same program is.
    pub(crate) fn look(
        &self,
        open: &OpenSockets<'_>,
        membership: &Membership,
        stance: Stance,
        beside: impl Fn(&str) -> Option<HubId>,
    ) {
        self.count_hubs(open, membership);
        self.take_back(open, stance.draining);
        *self.membership.lock() = Some(Arc::new(membership.clone()));
        if !stance.balances && !stance.draining {
            self.balance.lock().pause(self.now());
            return self.show(membership, None);
        }
        let staying = open.count.saturating_sub(self.leaving.load(Ordering::Acquire));
        let own = Own {
            staying: u32::try_from(staying).unwrap_or(u32::MAX),
            draining: stance.draining,
        };
        let (decision, goal) = {
            let mut balance = self.balance.lock();
            (balance.decide(self.now(), membership, own), balance.goal())
        };
        self.show(membership, goal);
        if let Decision::Move(order) = decision {
            self.carry_out(open, &order, beside);
        }
    }

    fn carry_out(&self, open: &OpenSockets<'_>, order: &Order, beside: impl Fn(&str) -> Option<HubId>) {
        let sockets = (open.all)();
        let leavers = sockets.iter().enumerate();
        let leavers = leavers.filter_map(|(place, socket)| {
            let leaver = socket.leaver()?;
            let beside = beside(&leaver.session).filter(|_| leaver.migrates);
            Some((place, leaver, beside))
        });
        let leavers: Vec<_> = leavers.collect();
        let movables = leavers.iter().map(|(place, leaver, beside)| {
            let beside = beside.as_ref().map(HubId::as_str);
            self.movable(*place, leaver, beside)
        });
        let moves = self.balance.lock().choose(self.now(), order, movables);
        let counter = self.metrics.moves(order.is_drain());
        for chosen in moves {
            match chosen {
                Move::LetGo { connection } => sockets[connection].let_go(),
                // A peer that cannot dial a pod finds one through its load balancer; pods with too many connections
                // refuse it.
                Move::To { connection, pod } => {
                    let target = self.url(&pod);
                    if !sockets[connection].ask_to_move(target.as_deref()) {
                        continue;
                    }
                }
            }
            counter.inc();
        }
    }

    /// Where a peer is to go because this hub is ending: the URL of a hub that the rule chooses, other than the one
    /// with its other session; `None` if that is not known.
    pub(crate) fn refuge(&self, beside: Option<&HubId>) -> Option<String> {
        let membership = self.membership.lock().clone()?;
        let beside = beside.map(HubId::as_str);
        let pod = self.balance.lock().refuge(self.now(), &membership, beside)?;
        self.url(&pod)
    }

    fn url(&self, pod: &str) -> Option<String> {
        self.urls.lock().get(pod).cloned()
    }

    /// A candidate for the rule.
    fn movable<'a>(&self, place: usize, leaver: &Leaver, beside: Option<&'a str>) -> Movable<'a, usize> {
        Movable {
            connection: place,
            migrates: leaver.migrates,
            in_flight: leaver.in_flight,
            since: leaver.since,
            moved_at: leaver.moved.map(|at| at.saturating_duration_since(self.began)),
            beside,
        }
    }

    /// Shows the result of a look in metrics.
    fn show(&self, membership: &Membership, goal: Option<u32>) {
        let members = if self.is_fresh(membership) {
            membership.members.len()
        } else {
            0
        };
        self.metrics.members.set(i64::try_from(members).unwrap_or(i64::MAX));
        self.metrics.goal.set(goal.map_or(0, i64::from));
    }

    /// Decides whether to take a peer of which only `source` is known.
    ///
    /// # Errors
    /// Another hub should have it.
    pub(crate) fn admit(&self, source: u64) -> Result<(), ApiError> {
        let Upgrade::Refuse { retry_after } = self.balance.lock().admit(self.now(), source) else {
            return Ok(());
        };
        self.metrics.refused.inc();
        let message = "this hub has its part of the connections: connect again, to another one";
        let wait_ms = u64::try_from(retry_after.as_millis()).unwrap_or(u64::MAX);
        let error = CallError::new(Code::Unavailable, message);
        Err(error.retryable().retry_after_ms(wait_ms).into())
    }
}

#[cfg(test)]
mod tests;
