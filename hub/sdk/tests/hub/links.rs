//! Links to a hub that refuses, is away, falls silent or goes away.

use std::time::Duration;

use alkhub_sdk::{Client, Code, Delivered, Delivery, Error, Operation, Status};
use alkhub_test_support::{Port, until};
use anyhow::Result;
use futures::StreamExt as _;
use serde_json::json;

use crate::stage::{SOON, Stage, answer, asked, noticed, soon, upper, within};

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_is_refused_is_told_with_its_status() -> Result<()> {
    let stage = Stage::start().await?;
    let (id, key) = stage.key(json!({ "name": "k", "scopes": ["call:*"] })).await?;
    stage
        .http()
        .send("DELETE", &format!("/v1/admin/keys/{id}"), None)
        .await?;

    let called = stage.client_with(&key).call::<_, String>("text.upper", "hello").await;
    let started = stage.spoke().token(&key).start().await;

    assert!(matches!(called, Err(Error::Refused { status: 401, .. })), "{called:?}");
    assert!(
        matches!(started, Err(Error::Refused { status: 401, .. })),
        "{started:?}"
    );
    Ok(())
}

#[tokio::test]
async fn a_hub_that_is_away_at_first_is_an_error_at_once() {
    let nobody = Port::free();
    let client = Client::builder(format!("http://127.0.0.1:{nobody}"));
    let client = client.token("alk_test").timeout(SOON).build().expect("valid settings");

    let error = client.call::<_, String>("text.upper", "hello").await;

    let error = error.expect_err("nobody listens");
    assert!(matches!(error, Error::Unreachable { .. }), "{error}");
    assert_eq!((error.delivered(), error.retryable()), (Delivered::No, true));
}

#[tokio::test(flavor = "multi_thread")]
async fn who_waited_in_vain_for_a_hub_that_left_is_told_that_it_cannot_be_reached() -> Result<()> {
    let stage = Stage::start().await?;
    let client = stage.client();
    drop(client.events("job:1").await?);

    stage.link.cut();
    noticed(&client).await;
    let call = client.call_with::<_, String>("text.upper", "hello", within(Duration::from_secs(1)));
    let error = soon("the deadline", call).await.expect_err("nobody is there");

    assert!(matches!(error, Error::Unreachable { .. }), "{error}");
    assert_eq!(error.delivered(), Delivered::No);
    Ok(())
}

/// It takes the 25 s after which a silent peer is dead.
#[tokio::test(flavor = "multi_thread")]
async fn a_link_on_which_nothing_passes_is_given_up_by_client_and_spoke() -> Result<()> {
    let stage = Stage::forgetful().await?;
    let spoke = stage.spoke().operation(Operation::query("text.upper", upper));
    let spoke = spoke.start().await?;
    let client = stage.client();
    let mut events = client.events("job:1").await?;
    let mut status = spoke.status();

    stage.link.hold();
    let silent = soon(
        "the spoke gives the link up",
        status.wait_for(|status| matches!(status, Status::Connecting(_))),
    );
    let silent = silent.await?.clone();
    // Present attempts hang as well.
    stage.break_link();

    let Status::Connecting(Some(Error::Unreachable { source, .. })) = silent else {
        panic!("{silent:?}")
    };
    assert_eq!(source.to_string(), "the hub fell silent");
    soon(
        "the spoke is back",
        status.wait_for(|status| matches!(status, Status::Registered(_))),
    )
    .await?;
    let gap = soon("the client is back", events.next()).await;
    assert!(matches!(gap, Some(Ok(Delivery::Gap(_)))), "{gap:?}");
    assert_eq!(client.call::<_, String>("text.upper", "a").await?, "A");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hub_that_drains_lets_calls_finish_and_its_successor_is_found() -> Result<()> {
    let port = Port::free();
    let listen = ([127, 0, 0, 1], port.number()).into();
    let mut stage = Stage::with(|config| config.server.listen = listen).await?;
    let mut peer = stage.peer().await?;
    let spoke = stage
        .spoke()
        .name("math")
        .operation(Operation::query("math.upper", upper));
    let spoke = spoke.start().await?;
    let mut status = spoke.status();
    let client = stage.client();

    let hub = &stage.cluster.hubs[0];
    let played = async {
        let call = asked(&mut peer).await?;
        let finish = async {
            until("the hub drains", || async {
                let ready = reqwest::get(format!("{}/readyz", hub.management_url())).await;
                match ready.map(|ready| ready.status().as_u16()) {
                    Ok(503) => Ok(()),
                    other => Err(format!("{other:?}")),
                }
            })
            .await;
            answer(&mut peer, &call, "HELLO").await
        };
        tokio::join!(hub.shutdown(), finish).1
    };
    let (answered, played) = tokio::join!(client.call::<_, String>("text.upper", "hello"), played);
    played?;
    let left = soon(
        "the spoke is let go",
        status.wait_for(|status| matches!(status, Status::Connecting(Some(_)))),
    );
    let left = left.await?.clone();
    stage.cluster.replace(0, |config| config.server.listen = listen).await?;

    assert_eq!(answered?, "HELLO");
    let Status::Connecting(Some(error)) = left else {
        unreachable!("waited for")
    };
    assert!(error.retryable(), "{error}");
    soon(
        "the spoke is back",
        status.wait_for(|status| matches!(status, Status::Registered(_))),
    )
    .await?;
    let back = client.call::<_, String>("math.upper", "a").await;
    assert!(
        matches!(&back, Ok(answer) if answer == "A")
            || back.as_ref().err().and_then(Error::code) == Some(&Code::NoProvider),
        "{back:?}"
    );
    Ok(())
}
