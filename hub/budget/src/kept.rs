//! What is charged, and whose budget can be full.

use alkhub_protocol::{CallError, Code};

/// How soon a refused peer may try again.
const RETRY_MS: u64 = 1_000;

/// What is kept for a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kept {
    /// Messages that have begun and not ended, and those that wait for a registration.
    Messages,
    /// Running calls with their inputs, until a spoke has them; those of queries until they end, where there is room.
    Calls,
    /// What waits to be written to WebSockets.
    Queues,
    /// Items that wait for readers of server-sent events.
    Items,
    /// Registrations of spokes.
    Registrations,
    /// Subscriptions to topics.
    Subscriptions,
    /// Events on their way out.
    Publications,
    /// Bodies of HTTP requests that have not arrived whole.
    Bodies,
    /// Answers over HTTP, until they are written.
    Answers,
    /// What was sent to other hubs and is not acknowledged.
    Links,
    /// What waits for a task while sessions move from hub to hub.
    Moves,
    /// Answers from other hubs, until they are checked.
    Arrivals,
}

/// Whose budget is full.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Exhausted {
    /// That of the peer's key.
    #[error("the key makes this hub keep as many bytes as it may (`budget.key-bytes`)")]
    Key,
    /// That of all keys.
    #[error("this hub keeps as many bytes for its peers as it may (`budget.hub-bytes`)")]
    Hub,
}

// === impl Kept ===

impl Kept {
    pub(crate) const ALL: [Self; 12] = [
        Self::Messages,
        Self::Calls,
        Self::Queues,
        Self::Items,
        Self::Registrations,
        Self::Subscriptions,
        Self::Publications,
        Self::Bodies,
        Self::Answers,
        Self::Links,
        Self::Moves,
        Self::Arrivals,
    ];

    pub(crate) fn label(self) -> &'static str {
        match self {
            Self::Messages => "messages",
            Self::Calls => "calls",
            Self::Queues => "queues",
            Self::Items => "items",
            Self::Registrations => "registrations",
            Self::Subscriptions => "subscriptions",
            Self::Publications => "publications",
            Self::Bodies => "bodies",
            Self::Answers => "answers",
            Self::Links => "links",
            Self::Moves => "moves",
            Self::Arrivals => "arrivals",
        }
    }
}

// === impl Exhausted ===

impl Exhausted {
    /// The setting of the budget.
    pub fn setting(self) -> &'static str {
        match self {
            Self::Key => "budget.key-bytes",
            Self::Hub => "budget.hub-bytes",
        }
    }
}

impl From<Exhausted> for CallError {
    fn from(exhausted: Exhausted) -> Self {
        Self::new(Code::Overloaded, exhausted.to_string())
            .retryable()
            .retry_after_ms(RETRY_MS)
    }
}
