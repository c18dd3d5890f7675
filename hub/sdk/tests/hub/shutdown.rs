//! The graceful end of a spoke.

use std::sync::Arc;
use std::time::Duration;

use alkhub_sdk::{Failure, Operation, Spoke, spoke};
use alkhub_test_support::{Proxy, until};
use alkhub_tests::cluster::Cluster;
use alkhub_tests::http::Http;
use anyhow::{Result, ensure};
use serde_json::{Value, json};
use tokio::sync::{Notify, Semaphore};
use tokio::time::timeout;
use tokio_util::task::TaskTracker;

use crate::load::address;
use crate::pair::hubs;
use crate::stage::{Stage, soon, upper};
use crate::two::{is_on, waits};

/// `text.wait`, which tells when it has begun, and ends when told to.
fn held(began: &Arc<Notify>, release: &Arc<Notify>) -> Operation {
    let (began, release) = (Arc::clone(began), Arc::clone(release));
    Operation::mutation("text.wait", move |(): ()| {
        let (began, release) = (Arc::clone(&began), Arc::clone(&release));
        async move {
            began.notify_one();
            release.notified().await;
            Ok::<_, Failure>("done")
        }
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shutdown_waits_for_the_withdrawal_and_finishes_every_call_that_comes_before_it() -> Result<()> {
    let stage = Stage::start().await?;
    let (began, release) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let spoke = stage.spoke().operation(held(&began, &release)).start().await?;
    let calls = TaskTracker::new();
    let call = || {
        let http = stage.http();
        calls.spawn(async move { http.call("text.wait", &Value::Null).await })
    };
    let first = call();
    soon("the first call", began.notified()).await;

    // The withdrawal gets stuck in the link, and so does the call that the hub sends before it hears of the withdrawal.
    stage.link.hold();
    let mut shutdown = Box::pin(spoke.shutdown());
    assert!(futures::poll!(&mut shutdown).is_pending());
    let second = call();
    let hub = &stage.cluster.hubs[0];
    until("the second call is on its way", || async {
        match hub.calls().in_flight() {
            2 => Ok(()),
            calls => Err(calls),
        }
    })
    .await;
    release.notify_one();
    // Nothing runs any more, and the withdrawal is not confirmed.
    let quiet = async {
        until("the first handler has ended", || async {
            match spoke.running() {
                0 => Ok(()),
                running => Err(running),
            }
        })
        .await;
        stage.link.heal();
        soon("the second call", began.notified()).await;
        release.notify_one();
    };
    let ((), ()) = soon("the end", async { tokio::join!(shutdown, quiet) }).await;

    for call in [first, second] {
        let answered = call.await??;
        assert_eq!(
            (answered.status, &answered.body["data"]),
            (200, &json!("done")),
            "{answered:?}"
        );
    }
    let late = stage.http().call("text.wait", &Value::Null).await?;
    assert_eq!(
        (late.status, &late.body["code"]),
        (503, &json!("NO_PROVIDER")),
        "{late:?}"
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shutdown_ends_though_the_link_is_cut_before_the_withdrawal_is_confirmed() -> Result<()> {
    let stage = Stage::start().await?;
    let spoke = stage.spoke().start().await?;
    stage.link.hold();
    let mut shutdown = Box::pin(spoke.shutdown());
    assert!(futures::poll!(&mut shutdown).is_pending());

    stage.link.cut();

    soon("nobody waits for an answer that cannot come", shutdown).await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shutdown_does_not_wait_for_a_call_whose_hub_does_not_come_back() -> Result<()> {
    let stage = Stage::start().await?;
    let (began, release) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let spoke = stage.spoke().operation(held(&began, &release)).start().await?;
    let calls = TaskTracker::new();
    let http = stage.http();
    calls.spawn(async move { http.call("text.wait", &Value::Null).await });
    soon("the call", began.notified()).await;

    stage.link.cut();

    // Half of the time that the session, and a shutdown with a hub, would wait.
    let ended = timeout(Duration::from_secs(15), spoke.shutdown()).await;
    assert!(ended.is_ok(), "nobody can be answered");
    Ok(())
}

/// A link to each of two hubs, what spreads connections over them, and a spoke that goes there.
async fn linked(cluster: &Cluster) -> Result<(Proxy, [Proxy; 2], spoke::Builder)> {
    let links = [
        Proxy::start(address(cluster, 0)).await?,
        Proxy::start(address(cluster, 1)).await?,
    ];
    let front = Proxy::start(links[0].address().to_string()).await?;
    front.spread_over(links.iter().map(|link| link.address().to_string()));
    let spoke = Spoke::builder(format!("http://{}", front.address())).token(cluster.admin());
    Ok((front, links, spoke.name("text")))
}

/// Its link stays open, and nothing passes.
#[tokio::test(flavor = "multi_thread")]
async fn a_shutdown_waits_only_briefly_for_a_hub_whose_death_was_not_noticed_if_the_other_one_lives() -> Result<()> {
    let cluster = Cluster::joined(2, true).await?;
    let (_front, links, spoke) = linked(&cluster).await?;
    let spoke = spoke.operation(Operation::query("text.upper", upper)).start().await?;
    is_on(&spoke, 2).await;
    let [first, _] = hubs(&cluster, &spoke)?;

    links[first].hold();
    let ended = timeout(Duration::from_secs(6), spoke.shutdown()).await;

    // Two seconds until the silence counts, and two for the close.
    assert!(ended.is_ok(), "the silence of a socket is noticed after eight seconds");
    Ok(())
}

/// Each session takes one of two calls, whose caller is on the hub that lives.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_hub_whose_death_was_not_noticed_has_not_taken_is_answered_over_the_other_one_at_the_end() -> Result<()>
{
    let cluster = Cluster::joined(2, true).await?;
    let (front, links, spoke) = linked(&cluster).await?;
    let (began, go_on) = (Arc::new(Semaphore::new(0)), Arc::new(Semaphore::new(0)));
    let spoke = spoke.concurrency(2).operation(waits(&began, &go_on)).start().await?;
    is_on(&spoke, 2).await;
    let [first, second] = hubs(&cluster, &spoke)?;
    cluster.shows(second, "\nalkhub_spoke_instances_known 2\n").await;
    let (http, input) = (Http::new(cluster.url(second), cluster.admin()), json!(7));

    let ends = async {
        soon("both run", began.acquire_many(2)).await.expect("open").forget();
        links[first].hold();
        // Nor does it come back to its session.
        front.lead_to(links[first].address().to_string());
        go_on.add_permits(2);
        until("both have ended", || async {
            match spoke.running() {
                0 => Ok(()),
                calls => Err(format!("{calls} run")),
            }
        })
        .await;
        spoke.shutdown().await;
    };
    let calls = async { tokio::join!(http.call("text.wait", &input), http.call("text.wait", &input)) };
    let ((one, two), ()) = soon("both are answered", async { tokio::join!(calls, ends) }).await;

    for answer in [one?, two?] {
        ensure!(answer.status == 200 && answer.body["data"] == 7, "{answer:?}");
    }
    Ok(())
}
