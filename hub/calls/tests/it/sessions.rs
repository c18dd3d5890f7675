//! A session outlives the connection that serves it, and a call its caller where that was asked for.

use std::time::Duration;

use alkhub_calls::{CallAnswer, OutgoingItem, Reply};
use alkhub_protocol::{CallRequest, Frame, OnDisconnect};
use futures::StreamExt as _;
use serde_json::json;

use crate::fixture::{Hub, Spoke, admin, decode, peer, query, request, subscription};
use crate::pair::{Pair, in_flight};

#[tokio::test(start_paused = true)]
async fn another_connection_goes_on_with_a_spokes_session_where_the_first_one_stopped() {
    let hub = Hub::local().await;
    let mut spoke = Spoke::connect(&hub, "text", &[query("text.upper")]).await;
    let (arrived, mut first_answer) = hub.dispatch(request("text.upper", json!(1)));
    arrived.expect("routed");
    let answered = spoke.next_call().await;
    spoke.outgoing.written();
    let (taken, mut second_answer) = hub.dispatch(request("text.upper", json!(2)));
    taken.expect("routed");
    let lost_with_the_socket = spoke.next_call().await;
    let (waiting, mut third_answer) = hub.dispatch(request("text.upper", json!(3)));
    waiting.expect("routed");

    spoke.outgoing.attach();

    let again = spoke.next_call().await;
    assert_eq!(again.request_id, lost_with_the_socket.request_id);
    let third = spoke.next_call().await;
    for id in [answered.request_id, again.request_id, third.request_id] {
        spoke.respond(&id, json!("done"));
    }
    for answers in [&mut first_answer, &mut second_answer, &mut third_answer] {
        assert!(matches!(answers.recv().await, Some(CallAnswer::Item(_))));
    }
    assert_eq!(hub.calls.instances().len(), 1, "it never left");
}

#[tokio::test(start_paused = true)]
async fn another_connection_goes_on_with_a_callers_session_where_the_first_one_stopped() {
    let hub = Hub::local().await;
    let mut spoke = Spoke::connect(&hub, "clock", &[subscription("clock.ticks")]).await;
    let (outbox, mut outgoing) = peer();
    let reply = Reply::Outbox(outbox);
    hub.calls
        .dispatch(&admin(), request("clock.ticks", json!(null)), reply)
        .expect("routed");
    let ticks = spoke.next_call().await.request_id;
    for n in 0..2 {
        spoke.respond(&ticks, json!(n));
    }
    outgoing.try_next().expect("an item");
    outgoing.written();
    outgoing.try_next().expect("an item that its socket is lost with");

    outgoing.attach();
    spoke.respond(&ticks, json!(2));

    for n in 1..3 {
        let Some(OutgoingItem::Message(message)) = outgoing.try_next() else {
            panic!("item {n} is missing");
        };
        let Frame::Responded { output, .. } = decode(&message) else {
            panic!("not an item: {message:?}");
        };
        assert_eq!(output.to::<serde_json::Value>().expect("JSON")["data"], json!(n));
    }
}

#[tokio::test(start_paused = true)]
async fn a_peer_is_not_quiet_until_it_has_the_end_of_its_call() {
    let hub = Hub::local().await;
    let mut spoke = Spoke::connect(&hub, "text", &[query("text.upper")]).await;
    let (outbox, mut outgoing) = peer();
    let reply = Reply::Outbox(outbox.clone());
    hub.calls
        .dispatch(&admin(), request("text.upper", json!(1)), reply)
        .expect("routed");
    let call = spoke.next_call().await.request_id;
    assert!(!outbox.is_quiet(), "the call runs");

    spoke.respond(&call, json!("A"));

    assert!(!outbox.is_quiet(), "its end waits");
    outgoing.try_next().expect("the end");
    assert!(outbox.is_quiet());
}

#[tokio::test(start_paused = true)]
async fn a_call_that_ends_while_its_callers_session_closes_is_answered() {
    let hub = Hub::local().await;
    let mut spoke = Spoke::connect(&hub, "text", &[query("text.upper")]).await;
    let (outbox, mut outgoing) = peer();
    let call = |n: u32| {
        let reply = Reply::Outbox(outbox.clone());
        hub.calls
            .dispatch(&admin(), request("text.upper", json!(n)), reply)
            .expect("routed");
    };
    call(1);
    call(2);
    let (first, second) = (spoke.next_call().await.request_id, spoke.next_call().await.request_id);

    outbox.close(1001, "the hub is going away");
    spoke.respond(&first, json!("A"));

    assert!(
        matches!(outgoing.try_next(), Some(OutgoingItem::Message(_))),
        "the answer"
    );
    assert!(
        matches!(outgoing.try_next(), Some(OutgoingItem::Close { .. })),
        "the close"
    );
    spoke.respond(&second, json!("B"));
    assert_eq!(outgoing.try_next(), None, "nothing follows a close");
}

#[tokio::test(start_paused = true)]
async fn a_detachable_stream_whose_reader_is_gone_goes_on() {
    let hub = Hub::local().await;
    let mut spoke = Spoke::connect(&hub, "text", &[subscription("text.lines")]).await;
    let (outbox, outgoing) = peer();
    hub.calls
        .dispatch(&admin(), detachable("text.lines"), Reply::Outbox(outbox))
        .expect("routed");
    let stream = spoke.next_call().await.request_id;
    drop(outgoing);

    spoke.respond(&stream, json!("an item that nobody reads"));

    assert!(spoke.has_nothing(), "no abort");
    assert_eq!(hub.calls.in_flight(), 1);
}

/// A call that goes on when its caller is lost.
fn detachable(operation: &str) -> CallRequest {
    CallRequest {
        on_disconnect: OnDisconnect::Detach,
        ..request(operation, json!(1))
    }
}

#[tokio::test(start_paused = true)]
async fn a_detachable_call_goes_on_when_its_caller_is_lost() {
    let hub = Hub::local().await;
    let mut spoke = Spoke::connect(&hub, "text", &[query("text.upper"), subscription("text.lines")]).await;
    let caller = admin();
    let gives_up = hub.calls.call(&caller, detachable("text.upper"));
    assert!(tokio::time::timeout(Duration::ZERO, gives_up).await.is_err());
    let call = spoke.next_call().await.request_id;
    let mut lines = hub
        .calls
        .subscribe(&caller, detachable("text.lines"))
        .await
        .expect("routed");
    let stream = spoke.next_call().await.request_id;
    spoke.respond(&stream, json!("first"));
    assert!(lines.next().await.expect("an item").is_ok());

    drop(lines);

    assert!(spoke.has_nothing(), "no abort");
    assert_eq!(hub.calls.in_flight(), 2);
    spoke.respond(&stream, json!("second"));
    spoke.respond(&call, json!("A"));
    assert_eq!(hub.calls.in_flight(), 1, "the call has its end, the stream not yet");
    spoke.complete(&stream);
    assert_eq!(hub.calls.in_flight(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_detached_call_still_has_its_deadline() {
    let hub = Hub::local().await;
    let mut spoke = Spoke::connect(&hub, "text", &[query("text.upper")]).await;
    let request = CallRequest {
        timeout: Some(Duration::from_secs(5)),
        ..detachable("text.upper")
    };
    let (ticket, _answers) = hub.dispatch(request);
    let call = spoke.next_call().await.request_id;

    ticket.expect("routed").caller_lost("it has left");

    assert!(spoke.has_nothing(), "no abort yet");
    assert_eq!(spoke.next_abort().await, call);
    assert_eq!(hub.calls.in_flight(), 0);
}

#[tokio::test]
async fn a_detachable_call_goes_on_when_its_callers_hub_is_gone() {
    let pair = Pair::start().await;
    let mut spoke = pair.spoke_on_b(&[query("text.upper")]).await;
    let (detached, _answers) = pair.a.dispatch(detachable("text.upper"));
    detached.expect("routed");
    let call = spoke.next_call().await.request_id;
    let (aborted, _answers) = pair.a.dispatch(request("text.upper", json!(2)));
    aborted.expect("routed");
    let other = spoke.next_call().await.request_id;

    pair.a.stop().await;

    assert_eq!(spoke.next_abort().await, other);
    assert!(spoke.has_nothing(), "the detached one is not aborted");
    in_flight(&pair.b, 1).await;
    spoke.respond(&call, json!("A"));
    in_flight(&pair.b, 0).await;
    drop(spoke);
    pair.b.stop().await;
    pair.postgres.stop().await.expect("stops");
}
