//! The load of `make bench-rebalance` and of the end-to-end run sees what happens, and nothing else.

use std::time::Duration;

use alkhub_test_support::until;
use alkhub_tests::cluster::Cluster;
use alkhub_tests::load::{Aim, Ended, Kind, Load, Scale, Window};
use anyhow::Result;

const SCALE: Scale = Scale {
    spokes: 8,
    sessions: 2,
    rate: 100.0,
    callers: 2,
};

/// Waits until this many calls have ended, and returns all that was seen.
async fn seen(load: &Load, calls: usize) -> Window {
    until("so many calls have ended", || async {
        match load.tally.calls() {
            ended if ended >= calls => Ok(()),
            ended => Err(format!("{ended} have ended")),
        }
    })
    .await;
    load.tally.take()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_load_sees_every_call_answered_once_and_then_who_lost_the_hub() -> Result<()> {
    let mut cluster = Cluster::joined(2, true).await?;
    let (url, admin) = (cluster.url(0), cluster.admin().to_owned());
    let load = Load::connect(&url, &admin, &SCALE).await?;
    load.call(&cluster.url(1), &admin, &SCALE)?;

    let calm = seen(&load, 100).await;
    cluster.hubs.remove(0).shutdown().await;
    until("all have lost the hub", || async {
        match load.tally.connected() {
            0 => Ok(()),
            left => Err(format!("{left} have not")),
        }
    })
    .await;
    let lost = seen(&load, 50).await;

    for aim in [Aim::Sdk, Aim::AnyPlain, Aim::OnePlain] {
        let failed: Vec<_> = calm.failed(aim).collect();
        assert!(failed.is_empty(), "{failed:?}");
        assert!(calm.ended.iter().any(|ended| ended.aim == aim), "{aim:?}");
        assert!(lost.failed(aim).count() > 0, "{aim:?}: {:?}", lost.ended);
    }
    assert!(
        calm.ended
            .iter()
            .all(|ended| ended.ran == 1 && ended.late < Duration::from_secs(5))
    );
    let broken: Vec<&Ended> = lost.ended.iter().filter(|ended| ended.breaks_a_promise()).collect();
    assert!(broken.is_empty(), "{broken:?}");
    let plain = calm.arrivals.iter().filter(|arrival| arrival.kind == Kind::Plain);
    assert_eq!(plain.count(), SCALE.spokes / 2);
    load.end().await;
    cluster.shutdown().await;
    Ok(())
}
