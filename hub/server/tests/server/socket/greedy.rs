//! Peers that make the hub keep a lot, or that ask for a lot.

use alkhub_test_support::{RedisServer, until};
use futures::SinkExt as _;
use reqwest::Method;
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt as _;
use tokio::time::Instant;
use tokio_tungstenite::tungstenite::Message;

use super::slow::{left, narrow_spoke};
use super::with_spoke;
use crate::bare::{Bare, text};
use crate::cluster::pair;
use crate::harness::{Answer, hub, hub_with, in_flight, nothing_is_kept};
use crate::wire::{Dialect, Wire, operation};

const MIB: usize = 1024 * 1024;

fn subscribe(topic: &str) -> Value {
    json!({ "type": "__subscribe", "id": "", "payload": topic })
}

#[tokio::test]
async fn a_burst_of_small_items_reaches_a_fast_reader_whole() {
    let hub = hub().await;
    let spoke = with_spoke(&hub, Dialect::Origin).await;
    let client = Wire::connect(&hub, &hub.admin).await;

    burst(spoke, client).await;
}

#[tokio::test]
async fn a_burst_of_small_items_crosses_from_hub_to_hub_whole() {
    let redis = RedisServer::start().await;
    let (one, two) = pair(&redis).await;
    let spoke = with_spoke(&two, Dialect::Origin).await;
    until("the operation is known to both", || async {
        let operation = one.get("/v1/operations/text.watch").await;
        (operation.status == 200).then_some(()).ok_or(operation.text)
    })
    .await;
    let client = Wire::connect(&one, &one.admin).await;

    burst(spoke, client).await;
}

/// Sends 20,000 items as fast as a spoke can, to a client that reads them as fast.
async fn burst(mut spoke: Wire, mut client: Wire) {
    const ITEMS: usize = 20_000;
    client.call(Dialect::Origin, "s-1", "text.watch", json!("a")).await;
    let call = spoke.expect("call.requested").await;

    let burst = async {
        for number in 0..ITEMS {
            let payload = json!({ "requestId": call["payload"]["requestId"], "output": number.to_string() });
            let item = json!({ "type": "call.responded", "id": "", "payload": payload });
            spoke.0.feed(Message::text(item.to_string())).await.expect("sent");
        }
        spoke.say("call.completed", &call, json!({})).await;
    };
    let read = async {
        for number in 0..ITEMS {
            let item = client.expect("call.responded").await;
            assert_eq!(item["payload"]["output"]["data"], number.to_string());
        }
        client.expect("call.completed").await;
    };

    tokio::join!(burst, read);
}

#[tokio::test]
async fn a_registration_of_half_a_million_entries_is_refused_whole_and_shortly() {
    let hub = hub().await;
    let (key, _) = hub.spoke_key("text").await;
    let mut spoke = Wire::connect(&hub, &key).await;
    let entries = "1,".repeat(500_000);

    spoke
        .text(&format!(
            r#"{{"type":"hub.register","id":"r","payload":{{"operations":[{entries}1]}}}}"#
        ))
        .await;

    let refused = spoke.expect("call.error").await;
    assert_eq!(refused["payload"]["code"], "BAD_REQUEST");
    assert!(refused.to_string().contains("more than 10000 entries"), "{refused}");
    assert!(refused.to_string().len() < 1_000, "{refused}");
}

#[tokio::test]
async fn an_answer_to_many_wrong_entries_fits_a_message() {
    let hub = hub().await;
    let (key, _) = hub.spoke_key("text").await;
    let mut spoke = Wire::connect(&hub, &key).await;
    let wrong = json!({ "namespace": "n".repeat(60), "name": "x".repeat(20), "type": "n".repeat(20) });
    let operations = vec![wrong; 7_000];

    spoke
        .call(
            Dialect::Successor,
            "r",
            "hub.register",
            json!({ "operations": operations }),
        )
        .await;

    let answer = spoke.expect("call.responded").await;
    let results = answer["payload"]["output"]["data"]["operations"]
        .as_array()
        .expect("results");
    assert_eq!(results.len(), 7_000);
    assert!(results.iter().all(|result| result["result"] == "rejected"));
    assert!(answer.to_string().len() < MIB, "{}", answer.to_string().len());
}

#[tokio::test]
async fn what_a_spoke_says_of_itself_is_bounded_by_name() {
    let hub = hub().await;
    let (key, _) = hub.spoke_key("text").await;
    let mut spoke = Wire::connect(&hub, &key).await;
    for (field, input) in [
        ("hostInfo", json!({ "hostInfo": "x".repeat(100_000) })),
        ("labels", json!({ "labels": { "a": "x".repeat(100_000) } })),
    ] {
        spoke.call(Dialect::Successor, "r", "hub.register", input).await;

        let refused = spoke.expect("call.error").await;
        assert_eq!(refused["payload"]["code"], "BAD_REQUEST", "{refused}");
        assert!(refused.to_string().contains(field), "{refused}");
    }
}

#[tokio::test]
async fn what_registrations_make_the_hub_keep_is_given_back() {
    let hub = hub().await;
    let (key, _) = hub.spoke_key("text").await;
    let mut spoke = Wire::connect(&hub, &key).await;
    for number in 0..5 {
        let mut described = operation("text", "upper", "query");
        described["description"] = json!(format!("{number}{}", "x".repeat(100_000)));
        spoke.register(Dialect::Origin, &[described]).await;
    }
    let kept = hub
        .metric(r#"alkhub_budget_bytes{kept="registrations"}"#)
        .await
        .expect("a gauge");
    assert!((100_000.0..200_000.0).contains(&kept), "the last one alone: {kept}");

    drop(spoke);

    nothing_is_kept(&hub, "registrations").await;
}

#[tokio::test]
async fn subscriptions_of_a_key_end_at_its_budget_by_name_and_are_given_back() {
    let hub = hub_with(|config| config.budget.key_bytes = 100 * 1024).await;
    let (key, _) = hub.key(&["events:subscribe:a"]).await;
    let mut first = Wire::connect(&hub, &key).await;
    let mut second = Wire::connect(&hub, &key).await;
    for number in 0..60 {
        first.send(&subscribe(&format!("a:{number}"))).await;
        first.expect("__subscribed").await;
    }

    let mut refused = None;
    for number in 0..60 {
        second.send(&subscribe(&format!("a:{number}"))).await;
        let answer = second.recv().await;
        if answer["type"] == "__error" {
            refused = Some(answer);
            break;
        }
    }

    let refused = refused.expect("two connections share the key's budget");
    assert_eq!(refused["payload"]["code"], "OVERLOADED", "{refused}");
    assert!(refused.to_string().contains("budget.key-bytes"), "{refused}");
    let stream = hub.as_key(
        &key,
        Method::GET,
        "/v1/events?topic=a:1&topic=a:2&topic=a:3&topic=a:4&topic=a:5",
    );
    let answer = Answer::of(stream.send().await.expect("answered")).await;
    answer.is_problem(503, "OVERLOADED").names("budget.key-bytes");
    assert_eq!(answer.header("retry-after"), "1");
    drop((first, second));
    nothing_is_kept(&hub, "subscriptions").await;
}

#[tokio::test]
async fn messages_that_have_not_ended_are_charged_and_end_by_name() {
    let hub = hub_with(|config| config.budget.key_bytes = 2 * MIB).await;
    let (key, _) = hub.key(&[]).await;
    let mut begun = text(&" ".repeat(1_000_001));
    begun.pop();
    let mut sockets = Vec::new();
    for _ in 0..4 {
        let mut peer = Bare::narrow(&hub, &key).await;
        // A refused peer may be closed before it has sent everything.
        peer.socket.write_all(&begun).await.ok();
        sockets.push(peer);
    }

    until("those over the budget are let go", || async {
        match hub
            .metric(r#"alkhub_budget_refused_total{budget="key",kept="messages"}"#)
            .await
        {
            Some(refused) if refused >= 2.0 => Ok(()),
            refused => Err(format!("{refused:?}")),
        }
    })
    .await;
    drop(sockets);
    left(&hub, 0).await;
    nothing_is_kept(&hub, "messages").await;
}

#[tokio::test]
async fn a_key_over_its_rate_of_messages_is_read_slower_and_loses_none() {
    const MESSAGES: usize = 100;
    let hub = hub_with(|config| config.server.messages_per_second_per_key = 20).await;
    let (key, _) = hub.key(&[]).await;
    let mut client = Wire::connect(&hub, &key).await;
    let begin = Instant::now();

    for number in 0..MESSAGES {
        let message = json!({ "type": "__unsubscribe", "id": "", "payload": format!("a:{number}") });
        client.send(&message).await;
    }
    for number in 0..MESSAGES {
        let answer = client.expect("__unsubscribed").await;
        assert_eq!(answer["payload"]["topic"], format!("a:{number}"));
    }
    client
        .send(&json!({ "type": "__unsubscribe", "id": "", "payload": "a:last" }))
        .await;
    client.expect("__unsubscribed").await;

    // 40 at once, then 20 per second.
    assert!(begin.elapsed().as_secs_f64() > 2.9, "{:?}", begin.elapsed());
    let limited = hub
        .metric(r#"alkhub_rate_limited_total{limit="messages_per_key"}"#)
        .await;
    assert!(limited > Some(0.0), "{limited:?}");
}

#[tokio::test]
async fn calls_refused_for_rights_are_counted_and_not_recorded() {
    let hub = hub().await;
    let _spoke = with_spoke(&hub, Dialect::Origin).await;
    let (key, id) = hub.key(&["call:text.watch"]).await;
    let mut client = Wire::connect(&hub, &key).await;
    for number in 0..50 {
        client
            .call(Dialect::Origin, &format!("c-{number}"), "text.upper", json!("x"))
            .await;
        assert_eq!(client.expect("call.error").await["payload"]["code"], "ACCESS_DENIED");
    }
    // The last call is recorded, and the earlier ones would be recorded by then.
    client.call(Dialect::Origin, "wrong", "text.watch", json!(5)).await;
    assert_eq!(client.expect("call.error").await["payload"]["code"], "VALIDATION_ERROR");

    let records = until("the last call is recorded", || async {
        let records = hub.get(&format!("/v1/calls?caller={id}")).await.body["data"].clone();
        match records.as_array().map(Vec::len) {
            Some(0) | None => Err(records.to_string()),
            Some(_) => Ok(records),
        }
    })
    .await;

    assert_eq!(records.as_array().map(Vec::len), Some(1), "{records}");
    let denied = hub
        .metric(r#"alkhub_calls_total{code="ACCESS_DENIED",operation="text.upper"}"#)
        .await;
    assert_eq!(denied, Some(50.0));
}

#[tokio::test]
async fn a_small_part_of_a_large_message_does_not_keep_the_whole() {
    let hub = hub().await;
    let (key, _) = hub.spoke_key("text").await;
    let _spoke = narrow_spoke(&hub, &key).await;
    let mut client = Wire::connect(&hub, &hub.admin).await;

    let junk = "x".repeat(900_000);
    for number in 0..10 {
        let call = json!({
            "type": "call.requested", "id": format!("c-{number}"),
            "payload": { "operationId": "text.upper", "input": "small", "junk": junk },
        });
        client.send(&call).await;
    }
    in_flight(&hub, 10).await;

    let kept = hub
        .metric(r#"alkhub_budget_bytes{kept="calls"}"#)
        .await
        .expect("a gauge");
    assert!(kept < 20_000.0, "{kept}");
}
