//! An answer above the size limit of a message ends its call with a named error on the hub that the session has left,
//! as on any other.

use alkhub_test_support::within;
use alkhub_tests::http::Http;
use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};

use super::counting::{Carrier, Counting, hubs};

/// Answers a call with more than a message may have, with the fields in the usual order: the request id comes first.
async fn respond_with_too_much(spoke: &mut Counting, call: &Value) -> Result<()> {
    let id = call["id"].as_str().context("an id")?;
    let output = "x".repeat(1_300_000);
    let payload = format!(r#"{{"requestId":"{id}","output":"{output}"}}"#);
    let text = format!(r#"{{"type":"call.responded","id":"{id}","payload":{payload}}}"#);
    spoke.seen.sent += 1;
    spoke.peer.send_text(text).await
}

/// Receives the refusal of such an answer.
async fn is_refused(spoke: &mut Counting, call: &Value) -> Result<()> {
    let refused = spoke.expect("__error").await?;
    let (code, id) = (&refused["payload"]["code"], &refused["payload"]["requestId"]);
    ensure!(code == "PAYLOAD_TOO_LARGE" && *id == call["id"], "{refused}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_is_too_large_fails_its_call_at_once_though_the_session_has_moved() -> Result<()> {
    let cluster = hubs(2, Carrier::Redis).await?;
    let mut spoke = Counting::spoke(&cluster, 0).await?;
    let (http, input) = (Http::new(cluster.url(0), cluster.admin()), json!("a"));

    let moving = async {
        let call = spoke.expect("call.requested").await?;
        let (mut spoke, _) = Box::pin(spoke.cut().resume(&cluster, 1)).await?;
        respond_with_too_much(&mut spoke, &call).await?;
        is_refused(&mut spoke, &call).await?;
        anyhow::Ok(spoke)
    };
    let both = Box::pin(async { tokio::join!(http.call("text.upper", &input), moving) });
    let (answer, spoke) = within("the call ends", both).await;

    let (answer, mut spoke) = (answer?, spoke?);
    let (code, delivered) = (&answer.body["code"], &answer.body["delivered"]);
    ensure!(code == "PAYLOAD_TOO_LARGE" && delivered == "yes", "{answer:?}");
    ensure!(answer.status == 502, "the caller's own input was taken: {answer:?}");
    spoke.answers_at(&cluster, 1, "B").await?;
    cluster.shutdown().await;
    Ok(())
}

/// The hub between the two passes the item on.
#[tokio::test(flavor = "multi_thread")]
async fn an_item_that_is_too_large_ends_its_stream_on_both_sides_two_hubs_away() -> Result<()> {
    let cluster = hubs(3, Carrier::Link).await?;
    let mut spoke = Counting::spoke(&cluster, 0).await?;
    let (mut reader, watch) = spoke.followed_at(&cluster, 0).await?;
    for hub in [1, 2] {
        (spoke, _) = Box::pin(spoke.cut().resume(&cluster, hub)).await?;
    }

    spoke.respond(&watch, json!("item 1")).await?;
    respond_with_too_much(&mut spoke, &watch).await?;

    let item = reader.next_of("call.responded").await?;
    ensure!(item["payload"]["output"]["data"] == "item 1", "{item}");
    let failed = reader.next().await?;
    let (code, delivered) = (&failed["payload"]["code"], &failed["payload"]["delivered"]);
    ensure!(failed["type"] == "call.error" && failed["id"] == "w", "{failed}");
    ensure!(code == "PAYLOAD_TOO_LARGE" && delivered == "yes", "{failed}");
    let aborted = spoke.expect("call.aborted").await?;
    ensure!(aborted["id"] == watch["id"], "{aborted}");
    is_refused(&mut spoke, &watch).await?;
    cluster.shutdown().await;
    Ok(())
}
