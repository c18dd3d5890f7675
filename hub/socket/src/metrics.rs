//! Every metric of this crate.

use prometheus::{IntCounter, IntCounterVec, Opts, Registry};

const MESSAGES: &str = "alkhub_websocket_messages_total";
const MESSAGES_HELP: &str = "WebSocket messages received (`in`) and queued to be written (`out`).";

/// Handles to the metrics of one hub.
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
