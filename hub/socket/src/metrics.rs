//! Every metric of this crate.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use alkhub_protocol::admin::RETURN_LIMIT;
use prometheus::{IntCounter, IntCounterVec, IntGauge, Opts, Registry};

const MESSAGES: &str = "alkhub_websocket_messages_total";
const MESSAGES_HELP: &str = "WebSocket messages received (`in`) and queued to be written (`out`).";

const SESSIONS: &str = "alkhub_sessions_total";
const SESSIONS_HELP: &str = "What happened to sessions that their peers can come back to: `detached` (the connection was lost), `resumed` (the peer came back), `refused` (it came back and could not go on), `expired` (it did not come in time, or its session ended meanwhile), `left` (another hub goes on with it), `arrived` (it has come from another hub), `asked` (its peer was asked to move), `late` (its peer was not back within 5 s of a lost connection).";

const MEMBERS: &str = "alkhub_balance_members";
const MEMBERS_HELP: &str =
    "Hubs that this one knows the figures of, itself included; 0 while Redis is away, and then nothing moves.";

const GOAL: &str = "alkhub_balance_goal_connections";
const GOAL_HELP: &str = "The most WebSockets that this hub keeps: it gives away what it has above that. 0 while it does not know the other hubs, or has none beside it.";

const MOVES: &str = "alkhub_balance_moves_total";
const MOVES_HELP: &str = "WebSockets whose peers were told to go to other hubs, by reason: `balance`, or `drain`.";

const REFUSED: &str = "alkhub_balance_refused_total";
const REFUSED_HELP: &str = "WebSockets that were refused (503 with `Retry-After`), because other hubs have fewer.";

/// Handles to the metrics of messages.
#[derive(Debug)]
pub(crate) struct Messages {
    pub(crate) received: IntCounter,
    pub(crate) sent: IntCounter,
}

// === impl Messages ===

impl Messages {
    /// Makes the counters and puts them into the registry.
    ///
    /// # Errors
    /// The registry has the name already.
    pub(crate) fn new(registry: &Registry) -> Result<Self, prometheus::Error> {
        let messages = IntCounterVec::new(Opts::new(MESSAGES, MESSAGES_HELP), &["direction"])?;
        registry.register(Box::new(messages.clone()))?;
        Ok(Self {
            received: messages.with_label_values(&["in"]),
            sent: messages.with_label_values(&["out"]),
        })
    }
}

/// Handles to the metrics of sessions that outlive their connections.
#[derive(Clone, Debug)]
pub(crate) struct SessionCounters {
    pub(crate) detached: IntCounter,
    pub(crate) resumed: IntCounter,
    pub(crate) refused: IntCounter,
    pub(crate) expired: IntCounter,
    pub(crate) left: IntCounter,
    pub(crate) arrived: IntCounter,
    pub(crate) asked: IntCounter,
    late: IntCounter,
    returned: Arc<AtomicU64>,
}

// === impl SessionCounters ===

impl SessionCounters {
    /// Makes the counters and puts them into the registry.
    ///
    /// # Errors
    /// The registry has the name already.
    pub(crate) fn new(registry: &Registry) -> Result<Self, prometheus::Error> {
        let sessions = IntCounterVec::new(Opts::new(SESSIONS, SESSIONS_HELP), &["event"])?;
        registry.register(Box::new(sessions.clone()))?;
        Ok(Self {
            detached: sessions.with_label_values(&["detached"]),
            resumed: sessions.with_label_values(&["resumed"]),
            refused: sessions.with_label_values(&["refused"]),
            expired: sessions.with_label_values(&["expired"]),
            left: sessions.with_label_values(&["left"]),
            arrived: sessions.with_label_values(&["arrived"]),
            asked: sessions.with_label_values(&["asked"]),
            late: sessions.with_label_values(&["late"]),
            returned: Arc::default(),
        })
    }

    /// Notes that a session whose connection was lost has another one after this long, or has ended.
    pub(crate) fn returned(&self, after: Duration) {
        self.returned.fetch_add(1, Ordering::Relaxed);
        if after > RETURN_LIMIT {
            self.late.inc();
        }
    }

    pub(crate) fn returns(&self) -> ReturnTotals {
        ReturnTotals {
            all: self.returned.load(Ordering::Relaxed),
            late: self.late.get(),
        }
    }
}

/// Sessions since the hub began that had lost their connection and have another one or have ended.
#[derive(Clone, Copy, Debug)]
pub struct ReturnTotals {
    /// How many there were.
    pub all: u64,
    /// Those of them whose peer was not back within 5 s.
    pub late: u64,
}

/// Handles to the metrics of how connections are spread over the hubs.
#[derive(Debug)]
pub(crate) struct BalanceMetrics {
    pub(crate) members: IntGauge,
    pub(crate) goal: IntGauge,
    pub(crate) refused: IntCounter,
    for_balance: IntCounter,
    for_drain: IntCounter,
}

// === impl BalanceMetrics ===

impl BalanceMetrics {
    /// Creates the metrics and registers them.
    ///
    /// # Errors
    /// The registry has one of the names already.
    pub(crate) fn new(registry: &Registry) -> Result<Self, prometheus::Error> {
        let moves = IntCounterVec::new(Opts::new(MOVES, MOVES_HELP), &["reason"])?;
        let metrics = Self {
            members: IntGauge::new(MEMBERS, MEMBERS_HELP)?,
            goal: IntGauge::new(GOAL, GOAL_HELP)?,
            refused: IntCounter::new(REFUSED, REFUSED_HELP)?,
            for_balance: moves.with_label_values(&["balance"]),
            for_drain: moves.with_label_values(&["drain"]),
        };
        registry.register(Box::new(moves))?;
        registry.register(Box::new(metrics.members.clone()))?;
        registry.register(Box::new(metrics.goal.clone()))?;
        registry.register(Box::new(metrics.refused.clone()))?;
        Ok(metrics)
    }

    /// Counts moves.
    pub(crate) fn moves(&self, drain: bool) -> &IntCounter {
        if drain { &self.for_drain } else { &self.for_balance }
    }
}
