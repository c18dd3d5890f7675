//! Subscriptions of a client: items, ends, readers that do not read, and links that break under them.

use alkhub_sdk::{Client, Error, Items};
use alkhub_tests::wire::Peer;
use anyhow::{Context as _, Result};
use futures::StreamExt as _;
use serde_json::{Value, json};

use crate::stage::{Stage, answer, asked, soon};

/// Items that a stream keeps for its reader (docs/SDK.md).
const KEPT: usize = 1_024;

/// A subscription, and its call as the spoke sees it.
async fn begun(client: &Client, peer: &mut Peer) -> Result<(Items<u32>, Value)> {
    let (items, call) = tokio::join!(client.subscribe::<_, u32>("text.ticks", &()), asked(peer));
    Ok((items?, call?))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_subscription_yields_its_items_and_dropping_it_aborts() -> Result<()> {
    let stage = Stage::start().await?;
    let mut peer = stage.peer().await?;
    // It keeps the connection open: what is to be seen must not be caused by its end.
    let client = stage.client();
    let (mut items, call) = begun(&client, &mut peer).await?;
    answer(&mut peer, &call, 1).await?;
    answer(&mut peer, &call, 2).await?;

    let two = [items.next().await, items.next().await].map(|item| item.expect("open").expect("a number"));
    drop(items);

    assert_eq!(two, [1, 2]);
    let aborted = peer.next_of("call.aborted").await?;
    assert_eq!(aborted["payload"]["requestId"], call["requestId"]);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_end_of_a_subscription_and_its_error_come_after_its_items() -> Result<()> {
    let stage = Stage::start().await?;
    let mut peer = stage.peer().await?;
    let client = stage.client();
    let ends = [("call.completed", None), ("call.error", Some("BROKEN".parse()?))];

    for (end, code) in ends {
        let (items, call) = begun(&client, &mut peer).await?;
        answer(&mut peer, &call, 1).await?;
        let payload = json!({ "requestId": call["requestId"], "code": "BROKEN", "message": "it broke" });
        peer.send(end, "", payload).await?;
        let rest: Vec<_> = soon("the end", items.collect()).await;

        assert_eq!(*rest[0].as_ref().expect("an item"), 1);
        assert_eq!(rest.len(), 1 + usize::from(code.is_some()));
        let last = rest.last().and_then(|last| last.as_ref().err());
        assert_eq!(last.and_then(Error::code), code.as_ref());
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_subscription_whose_session_is_lost_ends_as_lost_after_its_items() -> Result<()> {
    let stage = Stage::forgetful().await?;
    let mut peer = stage.peer().await?;
    let client = stage.client();
    let (mut items, call) = begun(&client, &mut peer).await?;
    answer(&mut peer, &call, 1).await?;
    let first = items.next().await.context("open")??;

    stage.break_link();
    let rest: Vec<_> = soon("the end", items.collect()).await;

    assert_eq!(first, 1);
    assert!(matches!(rest[..], [Err(Error::Lost)]), "{rest:?}");
    let aborted = peer.next_of("call.aborted").await?;
    assert_eq!(aborted["payload"]["requestId"], call["requestId"]);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_subscription_that_nobody_reads_is_given_up_and_its_reader_told() -> Result<()> {
    let stage = Stage::start().await?;
    let mut peer = stage.peer().await?;
    let client = stage.client();
    let (items, call) = begun(&client, &mut peer).await?;

    for number in 0..=KEPT {
        answer(&mut peer, &call, number).await?;
    }

    let aborted = peer.next_of("call.aborted").await?;
    assert_eq!(aborted["payload"]["requestId"], call["requestId"]);
    let rest: Vec<_> = soon("the end", items.collect()).await;
    let (last, read) = rest.split_last().context("an end")?;
    let read: Vec<u32> = read.iter().map(|item| *item.as_ref().expect("an item")).collect();
    assert!(read.iter().copied().eq(0..1_024), "{read:?}");
    assert!(matches!(last, Err(Error::Lagged(KEPT))), "{last:?}");
    Ok(())
}
