//! Load that waits for no answer, and the latencies that it sees.
//!
//! A message that is late because the servers were slow is sent as soon as possible, and its latency counts from when
//! it was due: a server that stops for a moment is charged for everything that should have come in that time (no
//! "coordinated omission").

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use tokio::runtime::Handle;
use tokio::time::Instant;

use crate::ws::Writer;

/// Determines the arrivals: the same in each run.
const SEED: u64 = 1;

/// When each message is due: independent arrivals (a Poisson process).
#[derive(Clone, Debug)]
pub(crate) struct Schedule {
    start: Instant,
    due: Arc<[Duration]>,
}

/// What was seen at a load that the servers can carry.
#[derive(Clone, Debug)]
pub(crate) struct Latency {
    /// How many messages were sent per second.
    pub(crate) per_second: f64,
    /// How many large outputs came beside them per second.
    pub(crate) beside: f64,
    /// Half of them were at least this fast.
    pub(crate) p50: Duration,
    /// 99 % of them were.
    pub(crate) p99: Duration,
}

// === impl Schedule ===

impl Schedule {
    /// A schedule that begins now.
    pub(crate) fn new(per_second: f64, length: Duration) -> Self {
        let mut random = fastrand::Rng::with_seed(SEED);
        let (mut at, mut due) = (0.0, Vec::new());
        loop {
            at -= (1.0 - random.f64()).ln() / per_second;
            if at >= length.as_secs_f64() {
                break;
            }
            due.push(Duration::from_secs_f64(at));
        }
        Self {
            start: Instant::now(),
            due: due.into(),
        }
    }

    /// How many messages there are.
    pub(crate) fn len(&self) -> usize {
        self.due.len()
    }

    /// How long after it was due a message arrived; `None` if it is not one of these.
    pub(crate) fn latency(&self, n: usize, arrived: Instant) -> Option<Duration> {
        let due = self.start + *self.due.get(n)?;
        Some(arrived.saturating_duration_since(due))
    }

    /// Sends each message when it is due; `push` appends the frame of one.
    ///
    /// Uses a thread of its own, because tokio's timers are only precise to a millisecond.
    pub(crate) async fn send(
        &self,
        mut writer: Writer,
        push: impl Fn(&mut Vec<u8>, usize) + Send + 'static,
    ) -> Result<Writer> {
        let (schedule, runtime) = (self.clone(), Handle::current());
        let sending = tokio::task::spawn_blocking(move || {
            let mut sent = 0;
            while let Some(next) = schedule.due.get(sent) {
                let elapsed = schedule.start.elapsed();
                if *next > elapsed {
                    std::thread::sleep(*next - elapsed);
                    continue;
                }
                let due = schedule.due[sent..].iter().take_while(|due| **due <= elapsed).count();
                let mut frames = Vec::new();
                (sent..sent + due).for_each(|n| push(&mut frames, n));
                runtime.block_on(writer.send_raw(&frames))?;
                sent += due;
            }
            Ok(writer)
        });
        sending.await?
    }
}

// === impl Latency ===

impl Latency {
    pub(crate) fn of(mut latencies: Vec<Duration>, length: Duration, messages: usize) -> Result<Self> {
        latencies.sort_unstable();
        let at = |share: f64| latencies.get((latencies.len() as f64 * share) as usize).copied();
        Ok(Self {
            per_second: messages as f64 / length.as_secs_f64(),
            beside: 0.0,
            p50: at(0.5).context("a latency")?,
            p99: at(0.99).context("a latency")?,
        })
    }
}
