//! Proves that messages get through: a hub publishes to itself, and waits for the message.
//!
//! A link can look healthy while nothing arrives. So a link without messages is probed, and two missed probes in a row
//! end the incarnation.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use prometheus::Histogram;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};

use crate::error::Error;
use crate::incarnation::Incarnation;

/// An incarnation ends after this many unanswered probes in a row.
const MISSES: u32 = 2;

/// Shared by the keeper of the link, which asks, and the reader, which receives.
#[derive(Clone, Debug)]
pub(crate) struct Probe {
    inner: Arc<ProbeInner>,
}

#[derive(Debug)]
struct ProbeInner {
    interval: Duration,
    seconds: Histogram,
    /// How many batches of messages have arrived.
    received: AtomicU64,
    sent: AtomicU64,
    /// The number of the last probe that came back.
    returned: watch::Sender<u64>,
}

// === impl Probe ===

impl Probe {
    pub(crate) fn new(interval: Duration, seconds: Histogram) -> Self {
        let (returned, _) = watch::channel(0);
        let inner = ProbeInner {
            interval,
            seconds,
            received: AtomicU64::new(0),
            sent: AtomicU64::new(0),
            returned,
        };
        Self { inner: Arc::new(inner) }
    }

    /// Notes that messages of any kind have arrived.
    pub(crate) fn received(&self) {
        self.inner.received.fetch_add(1, Ordering::Relaxed);
    }

    /// Notes that a probe came back.
    pub(crate) fn returned(&self, message: &[u8]) {
        if let Some(number) = std::str::from_utf8(message).ok().and_then(|text| text.parse().ok()) {
            self.inner.returned.send_replace(number);
        }
    }

    /// Probes the link while it is idle; returns when the link is dead.
    pub(crate) async fn watch(&self, incarnation: &Incarnation, channel: &str) {
        let mut misses = 0;
        while misses < MISSES {
            let before = self.inner.received.load(Ordering::Relaxed);
            sleep(self.inner.interval).await;
            if self.inner.received.load(Ordering::Relaxed) != before {
                misses = 0;
                continue;
            }
            match timeout(self.inner.interval, self.once(incarnation, channel)).await {
                Ok(Ok(())) => misses = 0,
                Ok(Err(_)) | Err(_) => misses += 1,
            }
        }
    }

    /// Sends one probe and waits for it.
    pub(crate) async fn once(&self, incarnation: &Incarnation, channel: &str) -> Result<(), Error> {
        let number = self.inner.sent.fetch_add(1, Ordering::Relaxed) + 1;
        let start = Instant::now();
        let mut returned = self.inner.returned.subscribe();
        incarnation
            .query::<i64>(redis::cmd("PUBLISH").arg(channel).arg(number))
            .await?;
        let came = returned.wait_for(|&last| last >= number).await.is_ok();
        if came {
            self.inner.seconds.observe(start.elapsed().as_secs_f64());
        }
        Ok(())
    }
}
