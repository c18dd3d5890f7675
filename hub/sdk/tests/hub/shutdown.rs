//! The graceful end of a spoke.

use std::sync::Arc;
use std::time::Duration;

use alkhub_sdk::{Failure, Operation};
use alkhub_test_support::until;
use anyhow::Result;
use serde_json::{Value, json};
use tokio::sync::Notify;
use tokio::time::timeout;
use tokio_util::task::TaskTracker;

use crate::stage::{Stage, soon};

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
