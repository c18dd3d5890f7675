//! A draining hub asks the peers that can continue elsewhere to move, and lets the others go.

use alkhub_test_support::within;
use anyhow::{Result, ensure};

use super::counting::{Carrier, Counting, hubs, is_known_at};

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_that_knows_how_is_asked_to_move_and_its_old_connection_closes_when_it_has() -> Result<()> {
    let cluster = hubs(2, Carrier::Link).await?;
    let spoke = Counting::spoke_with(&cluster, 0, &["resume", "migrate"]).await?;
    let mut plain = Counting::begin(&cluster, 0, cluster.admin()).await?;
    let Counting { peer: mut old, seen } = spoke;

    let moving = async {
        let asked = old.next().await?;
        ensure!(asked["type"] == "hub.migrate", "{asked}");
        ensure!(
            asked["payload"]["resume"] == true && asked["payload"]["deadlineMs"].is_u64(),
            "{asked}"
        );
        ensure!(plain.peer.closed().await?.0 == 1001, "the other one cannot move");
        let (spoke, received) = seen.resume(&cluster, 1).await?;
        ensure!(received == 1, "{received}");
        ensure!(old.closed().await?.0 == 4001, "the session is elsewhere");
        anyhow::Ok(spoke)
    };
    let (spoke, ()) = within(
        "it moves, and the hub ends",
        Box::pin(async { tokio::join!(moving, cluster.hubs[0].shutdown()) }),
    )
    .await;

    let mut spoke = spoke?;
    is_known_at(&cluster, 1, "text", 1).await;
    spoke.answers_at(&cluster, 1, "A").await?;
    cluster.shutdown().await;
    Ok(())
}
