//! Deadlines and aborts.

use std::time::Duration;

use alkhub_calls::{CallAnswer, Limits, OutgoingItem, Reply};
use alkhub_config::CallsConfig;
use alkhub_protocol::{Code, Delivered, Dialect, Frame};
use serde_json::json;
use tokio::time::Instant;

use crate::fixture::{Hub, Spoke, admin, peer, peer_of, query, registration, request, subscription};

const LATE: Duration = Duration::from_millis(100);

#[tokio::test(start_paused = true)]
async fn a_deadline_fails_the_call_and_stops_the_spoke() {
    let hub = Hub::local().await;
    let mut spoke = Spoke::connect(&hub, "text", &[query("text.upper")]).await;
    let (ticket, mut answers) = hub.dispatch(alkhub_protocol::CallRequest {
        timeout: Some(Duration::from_secs(3)),
        ..request("text.upper", json!(1))
    });
    ticket.expect("routed");
    let call = spoke.next_call().await;
    let start = Instant::now();

    let answer = answers.recv().await;

    assert!((Duration::from_secs(3)..Duration::from_secs(3) + LATE).contains(&start.elapsed()));
    let Some(CallAnswer::Failed(error)) = answer else {
        panic!("{answer:?}");
    };
    assert_eq!((error.code, error.delivered), (Code::Timeout, Delivered::Maybe));
    assert_eq!(spoke.next_abort().await, call.request_id);
    spoke.respond(&call.request_id, json!("late"));
    assert_eq!(hub.calls.in_flight(), 0);
}

#[tokio::test(start_paused = true)]
async fn without_a_deadline_the_default_counts_and_none_is_over_the_longest() {
    let hub = Hub::with(CallsConfig {
        default_timeout: Duration::from_secs(5),
        max_timeout: Duration::from_secs(60),
        ..CallsConfig::default()
    })
    .await;
    let mut spoke = Spoke::connect(&hub, "text", &[query("text.upper")]).await;
    for (asked, wanted_ms) in [(None, 5_000), (Some(Duration::from_secs(600)), 60_000)] {
        let (ticket, mut answers) = hub.dispatch(alkhub_protocol::CallRequest {
            timeout: asked,
            ..request("text.upper", json!(1))
        });
        ticket.expect("routed");
        assert_eq!(spoke.next_call().await.timeout_ms, Some(wanted_ms));

        assert!(matches!(answers.recv().await, Some(CallAnswer::Failed(error)) if error.code == Code::Timeout));

        spoke.next_abort().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_deadline_that_has_passed_reaches_no_spoke() {
    let hub = Hub::local().await;
    let mut spoke = Spoke::connect(&hub, "text", &[query("text.upper")]).await;
    let (ticket, _answers) = hub.dispatch(alkhub_protocol::CallRequest {
        timeout: Some(Duration::ZERO),
        ..request("text.upper", json!(1))
    });

    let error = ticket.expect_err("too late");

    assert_eq!((error.code, error.delivered), (Code::Timeout, Delivered::No));
    assert!(spoke.has_nothing());
}

#[tokio::test(start_paused = true)]
async fn an_abort_reaches_the_spoke_and_the_caller_hears_nothing_more() {
    let hub = Hub::local().await;
    let mut spoke = Spoke::connect(&hub, "text", &[query("text.upper")]).await;
    let (ticket, mut answers) = hub.dispatch(request("text.upper", json!(1)));
    let ticket = ticket.expect("routed");
    let call = spoke.next_call().await;

    ticket.caller_lost("the user has left");
    ticket.caller_lost("twice");

    assert_eq!(spoke.next_abort().await, call.request_id);
    assert!(spoke.has_nothing());
    assert!(ticket.is_done() && answers.recv().await.is_none());
}

#[tokio::test(start_paused = true)]
async fn a_caller_that_stops_waiting_aborts_the_call() {
    let hub = Hub::local().await;
    let mut spoke = Spoke::connect(&hub, "text", &[query("text.upper")]).await;
    let call = {
        let mut calling = Box::pin(hub.call("text.upper", json!(1)));
        tokio::select! {
            biased;
            answer = &mut calling => panic!("nobody has answered: {answer:?}"),
            call = spoke.next_call() => call,
        }
    };

    assert_eq!(spoke.next_abort().await, call.request_id);
    assert_eq!(hub.calls.in_flight(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_spoke_that_gives_up_aborts_the_call_for_its_caller() {
    let hub = Hub::local().await;
    let mut spoke = Spoke::connect(&hub, "text", &[query("text.upper")]).await;
    let (caller, mut outgoing) = peer_of(Limits {
        items: 10,
        bytes: 10_000,
    });
    let reply = Reply::Outbox(caller);
    hub.calls
        .dispatch(&admin(), request("text.upper", json!(1)), reply)
        .expect("routed");
    let call = spoke.next_call().await;

    spoke.registration.received(Frame::Aborted {
        request_id: call.request_id,
    });

    let Some(OutgoingItem::Message(message)) = outgoing.try_next() else {
        panic!("no answer");
    };
    assert!(message.starts_with(br#"{"type":"call.aborted""#), "{message:?}");
    assert!(spoke.has_nothing(), "it knows");
}

#[tokio::test(start_paused = true)]
async fn an_abort_is_kept_apart_from_its_call_in_the_origins_dialect_alone() {
    let hub = Hub::local().await;
    for dialect in [Dialect::Payload, Dialect::Id] {
        let (outbox, outgoing) = peer();
        outbox.speaks(dialect);
        let input = registration("text", &[query("text.upper")]);
        let spoke = Spoke::register(&hub, &admin(), input, (outbox, outgoing)).await;
        let mut spoke = spoke.expect("registers");
        let (ticket, _answers) = hub.dispatch(request("text.upper", json!(1)));
        spoke.next_call().await;

        ticket.expect("routed").caller_lost("enough");

        let apart = matches!(spoke.next().await, OutgoingItem::Last(_));
        assert_eq!(apart, dialect == Dialect::Payload);
    }
}

#[tokio::test(start_paused = true)]
async fn a_silent_subscription_ends_after_its_idle_timeout() {
    let hub = Hub::local().await;
    let mut spoke = Spoke::connect(&hub, "clock", &[subscription("clock.ticks")]).await;
    let (ticket, mut answers) = hub.dispatch(alkhub_protocol::CallRequest {
        idle_timeout: Some(Duration::from_secs(10)),
        ..request("clock.ticks", json!(null))
    });
    ticket.expect("routed");
    let call = spoke.next_call().await;
    assert_eq!((call.idle_timeout_ms, call.timeout_ms), (Some(10_000), None));

    for _ in 0..5 {
        tokio::time::advance(Duration::from_secs(8)).await;
        spoke.respond(&call.request_id, json!(1));
        assert!(
            matches!(answers.recv().await, Some(CallAnswer::Item(_))),
            "each item begins the silence anew"
        );
    }
    let silent_since = Instant::now();
    let answer = answers.recv().await;

    assert!((Duration::from_secs(10)..Duration::from_secs(10) + LATE).contains(&silent_since.elapsed()));
    assert!(matches!(answer, Some(CallAnswer::Failed(error)) if error.code == Code::Timeout));
    assert_eq!(spoke.next_abort().await, call.request_id);
}
