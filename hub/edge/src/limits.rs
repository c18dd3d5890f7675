//! Limits that one key or one address cannot pass: requests, connections, bad keys.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

/// Addresses remembered at once for their bad keys.
const ADDRESSES: usize = 65_536;

/// The period over which bad keys are counted.
const WINDOW: Duration = Duration::from_secs(60);

/// The longest time for which a bucket may be on credit.
const CREDIT: Duration = Duration::from_secs(5);

/// A rate with a burst, shared by many [`Bucket`]s (the generic cell rate algorithm: one number for each bucket).
#[derive(Debug)]
pub(crate) struct Rate {
    start: Instant,
    interval_ns: u64,
    burst_ns: u64,
}

/// What one key has used of a rate: the time at which everything will be paid off.
#[derive(Debug, Default)]
pub(crate) struct Bucket(AtomicU64);

/// Counts up to a bound.
#[derive(Clone, Debug, Default)]
pub(crate) struct Slots(Arc<AtomicUsize>);

/// One place in [`Slots`], free again when dropped.
#[derive(Debug)]
pub struct Slot(Arc<AtomicUsize>);

/// Bad keys by the address that they came from.
#[derive(Debug)]
pub(crate) struct BadKeys {
    per_window: u32,
    seen: Mutex<HashMap<IpAddr, (Instant, u32)>>,
}

// === impl Rate ===

impl Rate {
    /// A rate that allows bursts of twice as many.
    pub(crate) fn per_second(requests: u32) -> Self {
        let interval_ns = 1_000_000_000 / u64::from(requests.max(1));
        Self {
            start: Instant::now(),
            interval_ns,
            burst_ns: interval_ns * 2 * u64::from(requests.max(1)),
        }
    }

    /// Takes one from a bucket.
    ///
    /// # Errors
    /// The bucket is empty; returns the time until it is not.
    pub(crate) fn take(&self, bucket: &Bucket) -> Result<(), Duration> {
        let now = u64::try_from(self.start.elapsed().as_nanos()).unwrap_or(u64::MAX);
        let next = |paid_until: u64| {
            let paid_until = paid_until.max(now) + self.interval_ns;
            (paid_until - now <= self.burst_ns).then_some(paid_until)
        };
        bucket
            .0
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, next)
            .map(|_| ())
            .map_err(|paid_until| Duration::from_nanos(paid_until + self.interval_ns - now - self.burst_ns))
    }
}

// === impl Rate, on credit ===

impl Rate {
    /// Takes `count` from a bucket, on credit if it has less; returns the time until the credit is paid back,
    /// [`CREDIT`] at most.
    pub(crate) fn charge(&self, bucket: &Bucket, count: u32) -> Duration {
        let now = u64::try_from(self.start.elapsed().as_nanos()).unwrap_or(u64::MAX);
        let most = u64::try_from(CREDIT.as_nanos()).unwrap_or(u64::MAX);
        let paid = |paid_until: u64| {
            let paid_until = paid_until.max(now) + self.interval_ns * u64::from(count);
            paid_until.min(now + self.burst_ns + most)
        };
        let before = bucket
            .0
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |paid_until| {
                Some(paid(paid_until))
            });
        let paid_until = paid(before.unwrap_or_else(|unchanged| unchanged));
        Duration::from_nanos(paid_until.saturating_sub(now + self.burst_ns))
    }
}

// === impl Slots ===

impl Slots {
    /// Takes a place, unless `most` are taken.
    pub(crate) fn take(&self, most: usize) -> Option<Slot> {
        self.0
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |taken| {
                (taken < most).then_some(taken + 1)
            })
            .is_ok()
            .then(|| Slot(self.0.clone()))
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

// === impl BadKeys ===

impl BadKeys {
    /// A counter that lets this many bad keys per address pass in a minute.
    pub(crate) fn new(per_minute: u32) -> Self {
        Self {
            per_window: per_minute,
            seen: Mutex::new(HashMap::new()),
        }
    }

    /// Counts a bad key.
    pub(crate) fn count(&self, address: IpAddr) {
        let now = Instant::now();
        let mut seen = self.seen.lock();
        if seen.len() >= ADDRESSES {
            seen.retain(|_, (since, _)| now - *since < WINDOW);
            if seen.len() >= ADDRESSES {
                // When there are too many addresses at once, counting starts over; memory stays bounded.
                seen.clear();
            }
        }
        let (since, count) = seen.entry(network(address)).or_insert((now, 0));
        if now - *since >= WINDOW {
            (*since, *count) = (now, 0);
        }
        *count = count.saturating_add(1);
    }

    /// Checks whether keys from the address are still looked at.
    ///
    /// # Errors
    /// They are not; returns the time until they are again.
    pub(crate) fn check(&self, address: IpAddr) -> Result<(), Duration> {
        match self.seen.lock().get(&network(address)) {
            Some((since, count)) if *count >= self.per_window && since.elapsed() < WINDOW => {
                Err(WINDOW.saturating_sub(since.elapsed()))
            }
            _ => Ok(()),
        }
    }
}

/// An IPv6 address stands for its /64, all of which one host usually has.
pub(crate) fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => {
            let [a, b, c, d, ..] = v6.segments();
            IpAddr::from([a, b, c, d, 0, 0, 0, 0])
        }
        v4 => v4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_bucket_holds_two_seconds_and_refills() {
        let (rate, bucket) = (Rate::per_second(10), Bucket::default());

        let taken = (0..100).filter(|_| rate.take(&bucket).is_ok()).count();
        assert_eq!(taken, 20);
        let wait = rate.take(&bucket).expect_err("empty");
        assert!(wait <= Duration::from_millis(100), "{wait:?}");

        tokio::time::advance(wait).await;
        assert!(rate.take(&bucket).is_ok());
        assert!(rate.take(&bucket).is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_taken_on_credit_is_waited_for() {
        let (rate, bucket) = (Rate::per_second(10), Bucket::default());

        assert_eq!(rate.charge(&bucket, 20), Duration::ZERO, "the burst");
        let wait = rate.charge(&bucket, 5);
        assert_eq!(wait, Duration::from_millis(500));
        tokio::time::advance(wait).await;
        assert_eq!(rate.charge(&bucket, 1), Duration::from_millis(100));

        assert_eq!(rate.charge(&bucket, 1_000_000), CREDIT);
        tokio::time::advance(CREDIT).await;
        assert_eq!(rate.charge(&bucket, 1), Duration::from_millis(100), "more is not owed");
    }

    #[test]
    fn a_slot_is_free_again_when_dropped() {
        let slots = Slots::default();
        let first = slots.take(1).expect("free");

        assert!(slots.take(1).is_none());
        drop(first);
        assert!(slots.take(1).is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn an_address_with_too_many_bad_keys_waits_out_the_minute() {
        let bad = BadKeys::new(2);
        let address: IpAddr = "2001:db8::1".parse().expect("valid");
        let neighbour: IpAddr = "2001:db8::2".parse().expect("valid");
        let other: IpAddr = "192.0.2.1".parse().expect("valid");
        bad.count(address);
        assert!(bad.check(address).is_ok());

        bad.count(neighbour);

        assert!(bad.check(address).is_err());
        assert!(bad.check(other).is_ok());
        tokio::time::advance(WINDOW).await;
        assert!(bad.check(address).is_ok());
    }
}
