//! Ends of relayed calls that could not leave for the caller's hub: they are sent again until they do.
//!
//! Invariants
//! - What waits is bounded in number, bytes and time. What is dropped is told to the caller by the comparison that
//!   follows a broken link ([`crate::compare`]), or by the end of its hub.
//! - An end may arrive twice: the caller's hub knows its call no more by then, and passes it over.

use std::collections::{HashMap, VecDeque};

use alkhub_protocol::HubId;
use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::{Duration, Instant};

/// How long an end is kept; a hub without a link for as long is gone.
const KEPT: Duration = Duration::from_secs(30);

/// Between two attempts.
const PAUSE: Duration = Duration::from_millis(100);

/// What was sent again and has not come back by then has arrived, or was lost.
const ON_ITS_WAY: Duration = Duration::from_secs(1);

/// Ends that wait at most.
const ENDS: usize = 16_384;

/// Their bytes at most.
const BYTES: usize = 64 * 1024 * 1024;

/// An end, with the name of its call at the caller's hub.
#[derive(Clone, Debug)]
pub(crate) struct LateEnd {
    pub(crate) hub: HubId,
    pub(crate) key: u64,
    pub(crate) message: Bytes,
}

/// What waits.
#[derive(Debug, Default)]
pub(crate) struct Late {
    waiting: Mutex<Waiting>,
    more: Notify,
}

#[derive(Debug, Default)]
struct Waiting {
    ends: VecDeque<LateEnd>,
    bytes: usize,
    /// What is known of each since its first failure: an end that was sent again may come back again.
    known: HashMap<(HubId, u64), Fate>,
}

#[derive(Clone, Copy, Debug)]
struct Fate {
    /// When it is given up.
    until: Instant,
    /// When it was sent again; `None` while it waits.
    sent: Option<Instant>,
}

// === impl Late ===

impl Late {
    /// Keeps an end. False when it is too late for it, or too much waits.
    pub(crate) fn keep(&self, end: LateEnd) -> bool {
        let now = Instant::now();
        let mut waiting = self.waiting.lock();
        if waiting.known.len() >= ENDS {
            waiting.known.retain(|_, fate| fate.until > now);
        }
        let full = waiting.ends.len() >= ENDS || waiting.bytes + end.message.len() > BYTES;
        let name = (end.hub.clone(), end.key);
        let until = waiting.known.get(&name).map_or(now + KEPT, |fate| fate.until);
        if full || until <= now {
            waiting.known.remove(&name);
            return false;
        }
        waiting.known.insert(name, Fate { until, sent: None });
        waiting.bytes += end.message.len();
        waiting.ends.push_back(end);
        self.more.notify_one();
        true
    }

    /// Whether the end of this call waits, or was sent again so lately that it may come back.
    pub(crate) fn has(&self, hub: &HubId, key: u64) -> bool {
        let fate = self.waiting.lock().known.get(&(hub.clone(), key)).copied();
        fate.is_some_and(|fate| fate.until > Instant::now() && fate.sent.is_none_or(|sent| sent.elapsed() < ON_ITS_WAY))
    }

    /// Forgets what was for a hub that is gone.
    pub(crate) fn forget(&self, hub: &HubId) {
        let mut waiting = self.waiting.lock();
        waiting.ends.retain(|end| end.hub != *hub);
        waiting.known.retain(|(to, _), _| to != hub);
        waiting.bytes = waiting.ends.iter().map(|end| end.message.len()).sum();
    }

    /// Hands out what waits, again and again, until the future is dropped.
    pub(crate) async fn run(&self, send: impl Fn(LateEnd)) {
        loop {
            self.more.notified().await;
            tokio::time::sleep(PAUSE).await;
            let ends = {
                let mut waiting = self.waiting.lock();
                waiting.bytes = 0;
                let ends = std::mem::take(&mut waiting.ends);
                for end in &ends {
                    if let Some(fate) = waiting.known.get_mut(&(end.hub.clone(), end.key)) {
                        fate.sent = Some(Instant::now());
                    }
                }
                ends
            };
            ends.into_iter().for_each(&send);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn end(key: u64) -> LateEnd {
        LateEnd {
            hub: "hub-1".parse().expect("valid"),
            key,
            message: Bytes::from_static(b"end"),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_waits_is_handed_out_in_order() {
        let late = Late::default();
        for key in 0..3 {
            assert!(late.keep(end(key)));
        }
        let sent = Mutex::new(Vec::new());

        let run = late.run(|end| sent.lock().push(end.key));
        let ended = tokio::time::timeout(PAUSE * 3, run).await;

        assert!(ended.is_err(), "it runs for ever");
        assert_eq!(*sent.lock(), [0, 1, 2]);
        assert!(late.has(&end(1).hub, 1), "it may come back");
        tokio::time::advance(ON_ITS_WAY).await;
        assert!(!late.has(&end(1).hub, 1), "it has arrived, or was lost");
    }

    #[tokio::test(start_paused = true)]
    async fn an_end_that_comes_back_again_and_again_is_given_up_in_time() {
        let late = Late::default();
        assert!(late.keep(end(1)));
        tokio::time::advance(KEPT - Duration::from_millis(1)).await;
        assert!(late.keep(end(1)));
        assert!(late.has(&end(1).hub, 1));
        tokio::time::advance(Duration::from_millis(1)).await;

        assert!(!late.keep(end(1)));
        assert!(!late.has(&end(1).hub, 1));
    }

    #[tokio::test(start_paused = true)]
    async fn what_waits_is_bounded_and_ends_with_its_hub() {
        let late = Late::default();
        for key in 0..ENDS as u64 {
            assert!(late.keep(end(key)));
        }
        assert!(!late.keep(end(u64::MAX)), "too many");

        late.forget(&end(0).hub);

        assert!(!late.has(&end(0).hub, 0));
        assert!(late.keep(end(u64::MAX)));
    }
}
