//! Calls of a client: answers, aborts, deadlines, and links that break under them.

use std::time::Duration;

use alkhub_sdk::{CallOptions, Code, Delivered, Error, Outcome, RawJson};
use anyhow::{Result, bail};
use serde_json::{Value, json};

use crate::stage::{Stage, answer, asked, noticed, soon, within};

#[tokio::test(flavor = "multi_thread")]
async fn a_call_is_answered_and_takes_its_deadline_along() -> Result<()> {
    let stage = Stage::start().await?;
    let mut peer = stage.peer().await?;
    let client = stage.client();
    let played = async {
        let call = asked(&mut peer).await?;
        answer(&mut peer, &call, "HELLO").await?;
        anyhow::Ok(call)
    };

    let (answered, call) = tokio::join!(client.call::<_, String>("text.upper", "hello"), played);

    let call = call?;
    assert_eq!(answered?, "HELLO");
    assert_eq!(
        (&call["operationId"], &call["input"]),
        (&json!("text.upper"), &json!("hello"))
    );
    assert!(call["timeoutMs"].as_u64().is_some_and(|left| left > 0), "{call}");
    Ok(())
}

/// A spoke of the origin distinguishes the two.
#[tokio::test(flavor = "multi_thread")]
async fn over_http_an_input_is_null_or_is_not_sent() -> Result<()> {
    let stage = Stage::start().await?;
    let mut peer = stage.peer().await?;
    let (client, upper, null) = (stage.client(), "text.upper".parse()?, RawJson::null());
    for target in [None, Some("text".parse()?)] {
        for (without_input, sent) in [(false, Some(&Value::Null)), (true, None)] {
            let options = CallOptions {
                target: target.clone(),
                without_input,
                ..CallOptions::default()
            };
            let played = async {
                let call = asked(&mut peer).await?;
                answer(&mut peer, &call, "").await?;
                anyhow::Ok(call)
            };

            let (answered, call) = tokio::join!(client.outcome(&upper, &null, &options), played);

            assert_eq!(call?.get("input"), sent, "{options:?}");
            assert!(matches!(answered?, Outcome::Value(_)));
        }
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dropped_call_is_aborted_at_the_spoke() -> Result<()> {
    let stage = Stage::start().await?;
    let mut peer = stage.peer().await?;
    let client = stage.client();
    let mut call = Box::pin(client.call::<_, String>("text.upper", "hello"));
    let asked = tokio::select! {
        asked = asked(&mut peer) => asked?,
        answered = &mut call => bail!("answered by nobody: {answered:?}"),
    };

    drop(call);

    let aborted = peer.next_of("call.aborted").await?;
    assert_eq!(aborted["payload"]["requestId"], asked["requestId"]);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deadline_ends_the_call_at_the_spoke_and_the_hub_says_what_became_of_it() -> Result<()> {
    let stage = Stage::start().await?;
    let mut peer = stage.peer().await?;
    let client = stage.client();
    // The call must reach the spoke first, after connection, upgrade and frames.
    let call = client.call_with::<_, String>("text.upper", "hello", within(Duration::from_secs(3)));

    let (answered, aborted) = tokio::join!(call, async { peer.next_of("call.aborted").await });

    let error = answered.expect_err("nobody answered");
    assert_eq!(
        (error.code(), error.delivered()),
        (Some(&Code::Timeout), Delivered::Maybe)
    );
    aborted?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn where_the_link_stalls_a_deadline_ends_the_call_on_both_sides() -> Result<()> {
    let stage = Stage::start().await?;
    let mut peer = stage.peer().await?;
    let client = stage.client();
    let call = client.call_with::<_, String>("text.upper", "hello", within(Duration::from_secs(3)));
    let played = async {
        asked(&mut peer).await?;
        stage.link.hold();
        peer.next_of("call.aborted").await
    };

    let (answered, aborted) = tokio::join!(call, played);

    let error = answered.expect_err("nobody answered");
    assert!(matches!(error, Error::Timeout(_)), "{error}");
    assert_eq!(error.delivered(), Delivered::Maybe);
    aborted?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_whose_session_is_lost_are_lost_and_not_sent_again() -> Result<()> {
    let stage = Stage::forgetful().await?;
    let mut peer = stage.peer().await?;
    let client = stage.client();
    let calls = async {
        tokio::join!(
            client.call::<_, String>("text.upper", "1"),
            client.call::<_, String>("text.wait", "2")
        )
    };
    let played = async {
        asked(&mut peer).await?;
        asked(&mut peer).await?;
        stage.break_link();
        anyhow::Ok(())
    };

    let (lost, played) = tokio::join!(calls, played);
    played?;
    let next = async {
        let call = asked(&mut peer).await?;
        answer(&mut peer, &call, "3").await?;
        anyhow::Ok(call)
    };
    let (answered, call) = tokio::join!(client.call::<_, String>("text.upper", "3"), next);

    for error in [lost.0.expect_err("cut"), lost.1.expect_err("cut")] {
        assert!(matches!(error, Error::Lost), "{error}");
        assert_eq!(error.delivered(), Delivered::Maybe);
    }
    assert_eq!((answered?, &call?["input"]), ("3".to_owned(), &json!("3")));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_comes_while_the_link_is_cut_is_sent_when_it_is_back() -> Result<()> {
    let stage = Stage::start().await?;
    let mut peer = stage.peer().await?;
    let client = stage.client();
    drop(client.events("warm:1").await?);
    stage.link.cut();
    noticed(&client).await;
    let mut call = Box::pin(client.call::<_, String>("text.upper", "hello"));
    // Once it is polled it waits for a connection.
    assert!(futures::poll!(&mut call).is_pending());

    stage.link.heal();

    let played = async {
        loop {
            let call = asked(&mut peer).await?;
            // What was asked before the cut was noticed has waited in the session, and comes first.
            if call["input"] == "hello" {
                return answer(&mut peer, &call, "HELLO").await;
            }
        }
    };
    let (answered, played) = soon("the link is back", async { tokio::join!(call, played) }).await;
    played?;
    assert_eq!(answered?, "HELLO");
    Ok(())
}
