//! Whether clients should come to this hub, and what is away.
//!
//! Invariants
//! - A hub becomes ready once: when Postgres is prepared, the link to Redis has been up, the prefix is its own, and the
//!   main port listens. The port listens as soon as the rest holds and the other hubs' directory entries are loaded
//!   (which is waited for some seconds at most).
//! - After that, a dependency that is away makes the hub degraded, not unready: calls on this hub go on, and taking
//!   every pod out of service at once would help nobody.
//! - A hub whose prefix another Hub has is `failed`, but its process goes on: it becomes ready when the prefix is its
//!   own.
//! - A hub that drains is never ready again, nor is one that has lost a loop.

use std::sync::Arc;

use alkhub_protocol::admin::{PartState, ReadyCheck, ReadyStatus, Readyz};
use alkhub_store::LinkState;
use prometheus::IntGauge;
use tokio::sync::watch;

/// The state of one hub.
#[derive(Clone, Debug)]
pub(crate) struct Readiness {
    state: Arc<watch::Sender<State>>,
    postgres: watch::Receiver<LinkState>,
    /// `None`: there is no Redis.
    redis: Option<watch::Receiver<LinkState>>,
    gauge: IntGauge,
}

#[derive(Clone, Debug, Default)]
struct State {
    prepared: bool,
    redis_seen: bool,
    prefix: Prefix,
    listening: bool,
    draining: bool,
    fatal: Option<String>,
    /// A loop that is lost, and how.
    lost: Option<String>,
}

/// Whose the channel prefix is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) enum Prefix {
    /// Not known yet.
    #[default]
    Unknown,
    /// This Hub's, or nobody asked for it.
    Ours,
    /// Another Hub's, by its uid.
    Taken(String),
}

// === impl Readiness ===

impl Readiness {
    /// For a hub that has just begun; `gauge` is 1 while it is ready.
    pub(crate) fn new(
        postgres: watch::Receiver<LinkState>,
        redis: Option<watch::Receiver<LinkState>>,
        gauge: IntGauge,
    ) -> Self {
        Self {
            state: Arc::new(watch::Sender::new(State::default())),
            postgres,
            redis,
            gauge,
        }
    }

    /// Notes that Postgres has its schema and the first key is in it.
    pub(crate) fn prepared(&self) {
        self.change(|state| state.prepared = true);
    }

    /// Notes that the link to Redis has been up.
    pub(crate) fn redis_seen(&self) {
        self.change(|state| state.redis_seen = true);
    }

    /// Notes whose the prefix is.
    pub(crate) fn prefix(&self, prefix: Prefix) {
        self.change(|state| state.prefix = prefix);
    }

    /// Notes that the main port listens.
    pub(crate) fn listening(&self) {
        self.change(|state| state.listening = true);
    }

    /// Notes that the hub is going away.
    pub(crate) fn draining(&self) {
        self.change(|state| state.draining = true);
    }

    /// Whether the hub is going away.
    pub(crate) fn is_draining(&self) -> bool {
        self.state.borrow().draining
    }

    /// Whether the hub has become ready and has not failed since. Connected peers are served, even while it drains.
    pub(crate) fn is_serving(&self) -> bool {
        self.state.borrow().is_serving()
    }

    /// Notes that the hub cannot go on until a person acts.
    pub(crate) fn failed(&self, reason: String) {
        self.change(|state| state.fatal = Some(reason));
    }

    /// Resolves when clients can be answered.
    pub(crate) async fn answerable(&self) {
        self.wait_for(State::is_answerable).await;
    }

    /// Notes that a loop of the hub is lost: the process cannot go on.
    pub(crate) fn lost(&self, reason: String) {
        self.change(|state| {
            state.lost.get_or_insert(reason);
        });
    }

    /// Resolves when the hub is ready for the first time.
    pub(crate) async fn ready(&self) {
        self.wait_for(State::is_ready).await;
    }

    async fn wait_for(&self, holds: fn(&State) -> bool) {
        let mut state = self.state.subscribe();
        // An error means that the hub is gone, and with it whoever waits here.
        if state.wait_for(holds).await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// Resolves when the hub cannot go on, with the reason.
    pub(crate) async fn fatal(&self) -> String {
        let mut state = self.state.subscribe();
        match state.wait_for(|state| state.cannot_go_on().is_some()).await {
            Ok(state) => state.cannot_go_on().cloned().unwrap_or_default(),
            Err(_) => std::future::pending().await,
        }
    }

    /// What is not good now, by name, and why. The prefix is reserved in Redis, so it is unknown while Redis is away.
    pub(crate) fn away(&self) -> Vec<(&'static str, String)> {
        let report = self.report();
        let prefix = report.prefix.reason.filter(|_| report.redis.reason.is_none());
        [
            ("Postgres", report.postgres.reason),
            ("Redis", report.redis.reason),
            ("the channel prefix", prefix),
        ]
        .into_iter()
        .filter_map(|(name, reason)| Some((name, reason?)))
        .collect()
    }

    /// The answer of `/readyz`.
    pub(crate) fn report(&self) -> Readyz {
        let state = self.state.borrow().clone();
        let postgres = link(&self.postgres.borrow());
        let redis = match &self.redis {
            Some(redis) => link(&redis.borrow()),
            None => ReadyCheck::good(PartState::None),
        };
        let prefix = match &state.prefix {
            Prefix::Ours => ReadyCheck::good(PartState::Ours),
            Prefix::Unknown => ReadyCheck::bad(
                PartState::Unclaimed,
                "the reservation has not been answered yet".to_owned(),
            ),
            Prefix::Taken(uid) => ReadyCheck::bad(
                PartState::Taken,
                format!("Hub {uid} has this channel prefix in this Redis: set another `events.prefix`"),
            ),
        };
        let away = postgres.reason.is_some() || redis.reason.is_some();
        Readyz {
            status: state.status(away),
            postgres: match state.fatal {
                Some(reason) => ReadyCheck::bad(PartState::Failed, reason),
                None => postgres,
            },
            redis,
            prefix,
            loops: match state.lost {
                Some(reason) => ReadyCheck::bad(PartState::Lost, reason),
                None => ReadyCheck::good(PartState::Running),
            },
        }
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        self.state.send_modify(change);
        self.gauge.set(i64::from(self.state.borrow().is_ready()));
    }
}

// === impl State ===

impl State {
    fn is_answerable(&self) -> bool {
        self.prepared && self.redis_seen && self.prefix == Prefix::Ours && self.fatal.is_none()
    }

    fn is_serving(&self) -> bool {
        self.is_answerable() && self.listening && self.cannot_go_on().is_none()
    }

    fn is_ready(&self) -> bool {
        self.is_serving() && !self.draining
    }

    fn cannot_go_on(&self) -> Option<&String> {
        self.fatal.as_ref().or(self.lost.as_ref())
    }

    fn status(&self, away: bool) -> ReadyStatus {
        if self.draining {
            ReadyStatus::Draining
        } else if self.cannot_go_on().is_some() || matches!(self.prefix, Prefix::Taken(_)) {
            ReadyStatus::Failed
        } else if !self.is_ready() {
            ReadyStatus::Starting
        } else if away {
            ReadyStatus::Degraded
        } else {
            ReadyStatus::Ok
        }
    }
}

fn link(state: &LinkState) -> ReadyCheck {
    match state {
        LinkState::Up => ReadyCheck::good(PartState::Up),
        LinkState::Down(reason) => ReadyCheck::bad(PartState::Down, reason.clone()),
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;

    use super::*;

    #[test]
    fn a_hub_whose_prefix_is_taken_has_failed_until_it_is_its_own_again() {
        let postgres = watch::Sender::new(LinkState::Up);
        let gauge = IntGauge::new("ready", "help").expect("a name");
        let readiness = Readiness::new(postgres.subscribe(), None, gauge.clone());
        let seen = || (readiness.report().status, readiness.report().prefix.state, gauge.get());
        readiness.prepared();
        readiness.redis_seen();

        readiness.prefix(Prefix::Taken("uid-2".to_owned()));
        assert_eq!(seen(), (ReadyStatus::Failed, PartState::Taken, 0));
        readiness.prefix(Prefix::Ours);
        assert_eq!(seen(), (ReadyStatus::Starting, PartState::Ours, 0));
        readiness.listening();
        assert_eq!(seen(), (ReadyStatus::Ok, PartState::Ours, 1));
        readiness.prefix(Prefix::Taken("uid-2".to_owned()));
        assert_eq!(seen(), (ReadyStatus::Failed, PartState::Taken, 0));
        assert!(readiness.fatal().now_or_never().is_none(), "the process goes on");
        readiness.prefix(Prefix::Ours);
        assert_eq!(seen(), (ReadyStatus::Ok, PartState::Ours, 1));
    }

    #[test]
    fn a_hub_is_ready_once_and_then_degraded_rather_than_unready() {
        let postgres = watch::Sender::new(LinkState::Down("refused".to_owned()));
        let redis = watch::Sender::new(LinkState::Down("refused".to_owned()));
        let gauge = IntGauge::new("ready", "help").expect("a name");
        let readiness = Readiness::new(postgres.subscribe(), Some(redis.subscribe()), gauge.clone());
        let status = || readiness.report().status;
        assert_eq!(status(), ReadyStatus::Starting);

        postgres.send_replace(LinkState::Up);
        redis.send_replace(LinkState::Up);
        readiness.prepared();
        readiness.redis_seen();
        assert_eq!(status(), ReadyStatus::Starting);
        readiness.prefix(Prefix::Ours);
        assert_eq!(status(), ReadyStatus::Starting);
        readiness.listening();
        assert_eq!((status(), gauge.get()), (ReadyStatus::Ok, 1));

        redis.send_replace(LinkState::Down("reset".to_owned()));
        assert_eq!(status(), ReadyStatus::Degraded);
        assert_eq!(readiness.report().redis.reason.as_deref(), Some("reset"));

        readiness.draining();
        assert_eq!((status(), gauge.get()), (ReadyStatus::Draining, 0));
    }
}
