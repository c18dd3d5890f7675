//! Proves that messages come through: a hub publishes to itself, and hears itself.
//!
//! A link can look healthy while nothing arrives. So a link without messages is probed, and two misses in a row end
//! the session.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use prometheus::Histogram;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};

use crate::error::Error;
use crate::session::Session;

/// Probes in a row without an answer that end a session.
const MISSES: u32 = 2;

/// Shared by the keeper of the link, which asks, and the reader, which hears.
#[derive(Clone, Debug)]
pub(crate) struct Probe {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    interval: Duration,
    seconds: Histogram,
    /// Batches of messages that came.
    heard: AtomicU64,
    sent: AtomicU64,
    /// Number of the last probe that came back.
    returned: watch::Sender<u64>,
}

// === impl Probe ===

impl Probe {
    pub(crate) fn new(interval: Duration, seconds: Histogram) -> Self {
        let (returned, _) = watch::channel(0);
        let shared = Shared {
            interval,
            seconds,
            heard: AtomicU64::new(0),
            sent: AtomicU64::new(0),
            returned,
        };
        Self {
            shared: Arc::new(shared),
        }
    }

    /// Messages came, of whatever kind.
    pub(crate) fn heard(&self) {
        self.shared.heard.fetch_add(1, Ordering::Relaxed);
    }

    /// A probe came back.
    pub(crate) fn returned(&self, message: &[u8]) {
        if let Some(number) = std::str::from_utf8(message).ok().and_then(|text| text.parse().ok()) {
            self.shared.returned.send_replace(number);
        }
    }

    /// Probes the link while it is idle; returns when it is dead.
    pub(crate) async fn watch(&self, session: &Session, channel: &str) {
        let mut misses = 0;
        while misses < MISSES {
            let before = self.shared.heard.load(Ordering::Relaxed);
            sleep(self.shared.interval).await;
            if self.shared.heard.load(Ordering::Relaxed) != before {
                misses = 0;
                continue;
            }
            match timeout(self.shared.interval, self.once(session, channel)).await {
                Ok(Ok(())) => misses = 0,
                Ok(Err(_)) | Err(_) => misses += 1,
            }
        }
    }

    /// Sends one probe and waits for it.
    pub(crate) async fn once(&self, session: &Session, channel: &str) -> Result<(), Error> {
        let number = self.shared.sent.fetch_add(1, Ordering::Relaxed) + 1;
        let start = Instant::now();
        let mut returned = self.shared.returned.subscribe();
        session
            .query::<i64>(redis::cmd("PUBLISH").arg(channel).arg(number))
            .await?;
        let came = returned.wait_for(|&last| last >= number).await.is_ok();
        if came {
            self.shared.seconds.observe(start.elapsed().as_secs_f64());
        }
        Ok(())
    }
}
