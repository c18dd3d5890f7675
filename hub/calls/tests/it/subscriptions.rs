//! Subscriptions on one hub.

use alkhub_calls::{CallAnswer, Limits, OutgoingItem, Reply};
use alkhub_config::CallsConfig;
use alkhub_protocol::{CallError, Code, Delivered, Frame, RawJson};
use alkhub_test_support::within;
use futures::StreamExt as _;
use serde_json::{Value, json};

use crate::fixture::{Hub, Spoke, admin, decode, operation, peer_of, query, request, subscription};

fn data(item: Option<Result<RawJson, CallError>>) -> Value {
    let item = item.expect("an item").expect("no error");
    item.to::<Value>().expect("JSON")["data"].clone()
}

fn small() -> CallsConfig {
    CallsConfig {
        subscription_items: 3,
        subscription_bytes: 10_000,
        ..CallsConfig::default()
    }
}

#[tokio::test(start_paused = true)]
async fn items_come_in_order_until_the_spoke_completes() {
    let hub = Hub::local().await;
    let mut spoke = Spoke::connect(&hub, "clock", &[subscription("clock.ticks")]).await;
    let mut items = hub.subscribe("clock.ticks").await;
    let call = spoke.next_call().await;

    for n in 0..3 {
        spoke.respond(&call.request_id, json!(n));
    }
    spoke.complete(&call.request_id);

    for n in 0..3 {
        assert_eq!(data(items.next().await), json!(n));
    }
    assert!(items.next().await.is_none());
    assert!(items.next().await.is_none());
    drop(items);
    assert!(spoke.has_nothing(), "an ended subscription is not aborted");
}

#[tokio::test(start_paused = true)]
async fn a_reader_that_leaves_stops_the_spoke() {
    let hub = Hub::local().await;
    let mut spoke = Spoke::connect(&hub, "clock", &[subscription("clock.ticks")]).await;
    let items = hub.subscribe("clock.ticks").await;
    let call = spoke.next_call().await;

    drop(items);

    assert_eq!(spoke.next_abort().await, call.request_id);
    assert_eq!(hub.calls.in_flight(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_slow_reader_ends_its_own_subscription_only() {
    let hub = Hub::with(small()).await;
    let mut spoke = Spoke::connect(&hub, "clock", &[subscription("clock.ticks")]).await;
    let mut slow = hub.subscribe("clock.ticks").await;
    let slow_call = spoke.next_call().await;
    let mut other = hub.subscribe("clock.ticks").await;
    let other_call = spoke.next_call().await;

    for n in 0..4 {
        spoke.respond(&slow_call.request_id, json!(n));
    }

    assert_eq!(spoke.next_abort().await, slow_call.request_id);
    for n in 0..3 {
        assert_eq!(data(slow.next().await), json!(n), "what was queued is read");
    }
    let error = slow.next().await.expect("the end").expect_err("overflow");
    assert_eq!((&error.code, error.delivered), (&Code::Overloaded, Delivered::Yes));
    assert!(error.message.contains("`calls.subscription-items`"), "{error}");
    assert!(slow.next().await.is_none());
    spoke.respond(&other_call.request_id, json!("still here"));
    assert_eq!(data(other.next().await), json!("still here"));
}

#[tokio::test(start_paused = true)]
async fn bytes_of_a_subscription_are_bounded_too() {
    let hub = Hub::with(small()).await;
    let mut spoke = Spoke::connect(&hub, "clock", &[subscription("clock.ticks")]).await;
    let mut items = hub.subscribe("clock.ticks").await;
    let call = spoke.next_call().await;

    spoke.respond(&call.request_id, json!("x".repeat(9_000)));
    spoke.respond(&call.request_id, json!("y".repeat(2_000)));

    assert_eq!(spoke.next_abort().await, call.request_id);
    assert!(items.next().await.expect("the first").is_ok());
    let error = items.next().await.expect("the end").expect_err("overflow");
    assert!(error.message.contains("`calls.subscription-bytes`"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn a_slow_connection_loses_the_subscription_and_keeps_its_calls() {
    let hub = Hub::with(small()).await;
    let mut spoke = Spoke::connect(&hub, "clock", &[subscription("clock.ticks"), query("clock.now")]).await;
    let (caller, mut outgoing) = peer_of(Limits {
        items: 100,
        bytes: 100_000,
    });
    let dispatch = |operation: &str| {
        let reply = Reply::Outbox(caller.clone());
        hub.calls
            .dispatch(&admin(), request(operation, json!({})), reply)
            .expect("routed");
    };
    dispatch("clock.ticks");
    let ticks = spoke.next_call().await;
    dispatch("clock.now");
    let now = spoke.next_call().await;

    for n in 0..5 {
        spoke.respond(&ticks.request_id, json!(n));
    }
    spoke.respond(&now.request_id, json!("now"));

    assert_eq!(spoke.next_abort().await, ticks.request_id);
    let mut said = Vec::new();
    while let Some(OutgoingItem::Message(message) | OutgoingItem::Last(message)) = outgoing.try_next() {
        said.push(match decode(&message) {
            Frame::Responded { output, .. } => output.to::<Value>().expect("JSON")["data"].to_string(),
            Frame::Failed { error, .. } => error.code.to_string(),
            other => format!("{other:?}"),
        });
    }
    assert_eq!(said, ["0", "1", "2", "OVERLOADED", "\"now\""]);
}

#[tokio::test(start_paused = true)]
async fn a_full_channel_still_gets_the_end() {
    let hub = Hub::local().await;
    let mut spoke = Spoke::connect(&hub, "clock", &[subscription("clock.ticks")]).await;
    let (sender, mut answers) = tokio::sync::mpsc::channel(3);
    hub.calls
        .dispatch(&admin(), request("clock.ticks", json!({})), Reply::Channel(sender))
        .expect("routed");
    let call = spoke.next_call().await;

    for n in 0..5 {
        spoke.respond(&call.request_id, json!(n));
    }

    assert!(matches!(answers.recv().await, Some(CallAnswer::Item(_))));
    assert!(matches!(answers.recv().await, Some(CallAnswer::Item(_))));
    assert!(matches!(answers.recv().await, Some(CallAnswer::Failed(error)) if error.code == Code::Overloaded));
    assert!(answers.recv().await.is_none());
}

#[tokio::test(start_paused = true)]
async fn a_bad_item_ends_the_subscription_and_stops_the_spoke() {
    let hub = Hub::local().await;
    let schema = json!({"outputSchema": {"type": "integer"}});
    let mut spoke = Spoke::connect(&hub, "clock", &[operation("clock.ticks", "subscription", &schema)]).await;
    let mut items = hub.subscribe("clock.ticks").await;
    let call = spoke.next_call().await;

    spoke.respond(&call.request_id, json!(1));
    spoke.respond(&call.request_id, json!("two"));

    assert_eq!(data(items.next().await), json!(1));
    let error = items.next().await.expect("the end").expect_err("a string");
    assert_eq!(error.code, Code::OutputInvalid);
    assert_eq!(spoke.next_abort().await, call.request_id);
}

#[tokio::test(start_paused = true)]
async fn a_lost_spoke_ends_a_subscription_that_had_items() {
    let hub = Hub::local().await;
    let mut spoke = Spoke::connect(&hub, "clock", &[subscription("clock.ticks")]).await;
    let mut items = hub.subscribe("clock.ticks").await;
    let call = spoke.next_call().await;
    spoke.respond(&call.request_id, json!(1));

    drop(spoke);

    assert_eq!(data(items.next().await), json!(1));
    let error = items.next().await.expect("the end").expect_err("lost");
    assert_eq!((error.code, error.delivered), (Code::SpokeLost, Delivered::Yes));
}

#[tokio::test(start_paused = true)]
async fn a_call_of_a_subscription_takes_its_first_item() {
    let hub = Hub::local().await;
    let mut spoke = Spoke::connect(&hub, "clock", &[subscription("clock.ticks")]).await;
    let answering = async {
        let call = spoke.next_call().await;
        assert_eq!(call.timeout_ms, Some(30_000), "it has a deadline, as a call has");
        spoke.respond(&call.request_id, json!(1));
        (spoke.next_abort().await, call.request_id)
    };

    let (answer, (aborted, called)) = tokio::join!(hub.call("clock.ticks", json!({})), within("the abort", answering));

    assert_eq!(answer.expect("an item")["data"], 1);
    assert_eq!(aborted, called);
}

#[tokio::test(start_paused = true)]
async fn a_subscription_to_a_query_has_one_item() {
    let hub = Hub::local().await;
    let mut spoke = Spoke::connect(&hub, "clock", &[query("clock.now")]).await;
    let mut items = hub.subscribe("clock.now").await;
    let call = spoke.next_call().await;

    spoke.respond(&call.request_id, json!("now"));

    assert_eq!(data(items.next().await), json!("now"));
    assert!(items.next().await.is_none());
}
