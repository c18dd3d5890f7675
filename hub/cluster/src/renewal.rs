//! Keeps this hub's lease in Redis: renews it in time, and whenever it changes.

use std::sync::Arc;
use std::time::Duration;

use alkhub_redis::{Error, LinkHold, Redis};
use tokio::time::{MissedTickBehavior, sleep};
use tokio_util::sync::CancellationToken;

use crate::leases::Leases;

/// Announcements that are closer together than this make one renewal.
const SETTLE: Duration = Duration::from_millis(100);

/// Renews the lease as long as the hub runs, then gives it back. `hold` keeps the link to Redis until then.
pub(crate) async fn keep(leases: Arc<Leases>, redis: Redis, stop: CancellationToken, hold: LinkHold) {
    let mut state = redis.state();
    let mut lease = leases.changes();
    let mut ticks = tokio::time::interval(leases.interval());
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            biased;
            () = stop.cancelled() => break,
            // The directory renews before it asserts its entries (see `directory::actor`); here only the next tick is
            // put off.
            Ok(()) = state.changed() => ticks.reset(),
            Ok(()) = lease.changed() => {
                sleep(SETTLE).await;
                lease.borrow_and_update();
                renew(&leases, &redis, false).await;
            }
            _ = ticks.tick() => renew(&leases, &redis, true).await,
        }
    }
    if let Ok(incarnation) = redis.incarnation()
        && let Err(error) = leases.leave(&incarnation).await
    {
        tracing::warn!(%error, "lease was not given back; it ends by itself");
    }
    drop(hold);
}

/// Renews the lease, and returns when Redis has its current content.
pub(crate) async fn renew_now(leases: &Leases, redis: Option<&Redis>) -> Result<(), Error> {
    let Some(redis) = redis else { return Ok(()) };
    let incarnation = redis.incarnation()?;
    if !leases.renew(&incarnation, false).await? {
        leases.expired.notify_one();
    }
    Ok(())
}

async fn renew(leases: &Leases, redis: &Redis, expire_others: bool) {
    if !redis.state().borrow().is_up() {
        return;
    }
    let Ok(incarnation) = redis.incarnation() else { return };
    match leases.renew(&incarnation, expire_others).await {
        Ok(true) => {}
        Ok(false) => leases.expired.notify_one(),
        Err(error) => tracing::warn!(%error, "lease was not renewed"),
    }
}
