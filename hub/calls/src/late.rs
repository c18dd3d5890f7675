//! Ends of relayed calls that could not leave for the caller's hub: they are sent again until they do.
//!
//! A hub that could not be reached is tried with one of its ends, less and less often. When that one does not come back,
//! or the hub itself is heard, the rest follows at once.
//!
//! Invariants
//! - What waits is bounded in number, bytes and time. What is dropped is told to the caller by a comparison
//!   ([`crate::compare`]), or by the end of its hub.
//! - While a hub cannot be reached, what its ends cost does not grow with their number.
//! - An end may arrive twice: the caller's hub knows its call no more by then, and passes it over.

use std::collections::{HashMap, VecDeque};

use alkhub_protocol::HubId;
use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::{Duration, Instant};

/// How long an end is kept; a hub without a link for as long is gone.
const KEPT: Duration = Duration::from_secs(30);

/// Before the first attempt; doubled before each further one …
const PAUSE: Duration = Duration::from_millis(100);

/// … up to this.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

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
    hubs: HashMap<HubId, Held>,
    ends: usize,
    bytes: usize,
    /// What is known of each since its first failure: an end that was sent again may come back again.
    known: HashMap<(HubId, u64), Fate>,
}

/// The ends for one hub.
#[derive(Debug)]
struct Held {
    ends: VecDeque<LateEnd>,
    /// The next attempt.
    at: Instant,
    /// Between it and the one after it.
    pause: Duration,
    /// Whether one came back since the last attempt: the hub cannot be reached.
    came_back: bool,
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
        let kept = self.waiting.lock().keep(end, Instant::now());
        if kept {
            self.more.notify_one();
        }
        kept
    }

    /// Whether the end of this call waits, or was sent again so lately that it may come back.
    pub(crate) fn has(&self, hub: &HubId, key: u64) -> bool {
        let fate = self.waiting.lock().known.get(&(hub.clone(), key)).copied();
        fate.is_some_and(|fate| fate.until > Instant::now() && fate.sent.is_none_or(|sent| sent.elapsed() < ON_ITS_WAY))
    }

    /// A hub can be reached: what waits for it is handed out now.
    pub(crate) fn heard(&self, hub: &HubId) {
        if let Some(held) = self.waiting.lock().hubs.get_mut(hub) {
            held.came_back = false;
            held.pause = PAUSE;
            held.at = Instant::now();
            self.more.notify_one();
        }
    }

    /// Forgets what was for a hub that is gone.
    pub(crate) fn forget(&self, hub: &HubId) {
        let mut waiting = self.waiting.lock();
        waiting.known.retain(|(to, _), _| to != hub);
        for end in waiting.hubs.remove(hub).into_iter().flat_map(|held| held.ends) {
            waiting.ends -= 1;
            waiting.bytes -= end.message.len();
        }
    }

    /// Hands out what waits, again and again, until the future is dropped.
    pub(crate) async fn run(&self, send: impl Fn(LateEnd)) {
        loop {
            let next = self.waiting.lock().next();
            tokio::select! {
                () = self.more.notified() => {}
                () = until(next) => {}
            }
            let ends = self.waiting.lock().due(Instant::now());
            ends.into_iter().for_each(&send);
        }
    }
}

// === impl Waiting ===

impl Waiting {
    fn keep(&mut self, end: LateEnd, now: Instant) -> bool {
        if self.known.len() >= ENDS {
            self.known.retain(|_, fate| fate.until > now);
        }
        let full = self.ends >= ENDS || self.bytes + end.message.len() > BYTES;
        let name = (end.hub.clone(), end.key);
        let until = self.known.get(&name).map_or(now + KEPT, |fate| fate.until);
        if full || until <= now {
            self.known.remove(&name);
            return false;
        }
        self.known.insert(name, Fate { until, sent: None });
        self.ends += 1;
        self.bytes += end.message.len();
        let held = self.hubs.entry(end.hub.clone()).or_insert_with(|| Held {
            ends: VecDeque::new(),
            at: now + PAUSE,
            pause: PAUSE,
            came_back: true,
        });
        held.came_back = true;
        held.ends.push_back(end);
        true
    }

    /// When something is to be done.
    fn next(&self) -> Option<Instant> {
        self.hubs.values().map(|held| held.at).min()
    }

    /// Takes out what is to be sent now: of a hub that cannot be reached one end, and those that are given up, a last time.
    fn due(&mut self, now: Instant) -> Vec<LateEnd> {
        // Nothing has come back of what was sent last.
        self.hubs
            .retain(|_, held| held.at > now || held.came_back || !held.ends.is_empty());
        let mut due = Vec::new();
        for held in self.hubs.values_mut().filter(|held| held.at <= now) {
            let is_late = |end: &LateEnd| {
                let fate = self.known.get(&(end.hub.clone(), end.key));
                fate.is_none_or(|fate| fate.until <= now)
            };
            let late = held.ends.iter().take_while(|end| is_late(end)).count();
            let count = if held.came_back { late.max(1) } else { held.ends.len() };
            due.extend(held.ends.drain(..count.min(held.ends.len())));
            if held.came_back {
                held.pause = (held.pause * 2).min(LONGEST_PAUSE);
            }
            held.came_back = false;
            held.at = now + held.pause;
        }
        for end in &due {
            self.ends -= 1;
            self.bytes -= end.message.len();
            if let Some(fate) = self.known.get_mut(&(end.hub.clone(), end.key)) {
                fate.sent = Some(now);
            }
        }
        due
    }
}

async fn until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
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

    /// Runs for a while; the keys of what was handed out, each with the time. `comes_back` tells what does.
    async fn run(late: &Late, time: Duration, comes_back: impl Fn(&LateEnd) -> bool) -> Vec<(u64, Duration)> {
        let (start, sent) = (Instant::now(), Mutex::new(Vec::new()));
        let running = late.run(|end| {
            sent.lock().push((end.key, start.elapsed()));
            if comes_back(&end) {
                late.keep(end);
            }
        });
        let ended = tokio::time::timeout(time, running).await;
        assert!(ended.is_err(), "it runs for ever");
        sent.into_inner()
    }

    #[tokio::test(start_paused = true)]
    async fn while_a_hub_cannot_be_reached_its_ends_cost_an_attempt_now_and_then_and_all_leave_when_it_is_heard() {
        let late = Late::default();
        for key in 0..1_000 {
            assert!(late.keep(end(key)));
        }

        let away = run(&late, Duration::from_secs(20), |_| true).await;
        late.heard(&end(0).hub);
        let back = run(&late, PAUSE, |_| false).await;

        assert!((5..=12).contains(&away.len()), "{away:?}");
        assert_eq!(back.len(), 1_000);
        assert!(back.iter().all(|(_, at)| at.is_zero()), "at once");
        assert!(late.waiting.lock().ends == 0 && late.waiting.lock().bytes == 0);
    }

    #[tokio::test(start_paused = true)]
    async fn an_end_for_one_hub_does_not_wait_for_another_hub() {
        let (late, other) = (Late::default(), "hub-2".parse::<HubId>().expect("valid"));
        assert!(late.keep(end(1)));
        let away = run(&late, Duration::from_secs(15), |_| true).await;
        assert!(late.keep(LateEnd {
            hub: other.clone(),
            ..end(2)
        }));

        let sent = run(&late, PAUSE * 2, |end| end.hub != other).await;

        assert!(!away.is_empty());
        assert!(sent.iter().any(|(key, at)| *key == 2 && *at <= PAUSE), "{sent:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn what_waits_is_handed_out_in_order() {
        let late = Late::default();
        for key in 0..3 {
            assert!(late.keep(end(key)));
        }

        let sent = run(&late, PAUSE * 4, |_| false).await;

        let sent: Vec<u64> = sent.into_iter().map(|(key, _)| key).collect();
        assert_eq!(sent, [0, 1, 2]);
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
