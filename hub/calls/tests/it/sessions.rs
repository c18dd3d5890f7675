//! A session outlives the connection that serves it, and a call outlives its caller if that was asked for.

use std::time::Duration;

use alkhub_calls::{CallAnswer, Limits, Outbox, Outgoing, OutgoingItem, Reply};
use alkhub_protocol::admin::InstanceState;
use alkhub_protocol::{CallRequest, CloseCode, Code, Frame, OnDisconnect, RequestId};
use alkhub_test_support::until;
use futures::StreamExt as _;
use serde_json::json;

use crate::fixture::{
    Hub, LIMITS, Spoke, admin, decode, peer, peer_of, query, registration, request, spoke_key, subscription,
};
use crate::pair::{Pair, in_flight};

/// A peer whose call runs on a spoke: the hub, the spoke, both ends of the peer's outbox, and the call's id at the
/// spoke.
async fn calling() -> (Hub, Spoke, (Outbox, Outgoing), RequestId) {
    let hub = Hub::local().await;
    let mut spoke = Spoke::connect(&hub, "text", &[query("text.upper")]).await;
    let (outbox, outgoing) = peer();
    let reply = Reply::Outbox(outbox.clone());
    hub.calls
        .dispatch(&admin(), request("text.upper", json!(1)), reply)
        .expect("routed");
    let call = spoke.next_call().await.request_id;
    (hub, spoke, (outbox, outgoing), call)
}

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
    let (_hub, spoke, (outbox, mut outgoing), call) = calling().await;
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

    outbox.close(CloseCode::GoingAway, "the hub is going away");
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

/// A call that continues when its caller is lost.
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

/// Such a failure would pause a roll-out: each departing pod lets its spokes go, and one without a session is away for
/// a moment.
#[tokio::test(start_paused = true)]
async fn that_a_spoke_is_away_which_was_let_go_is_for_a_while_no_failure_of_the_hubs() {
    let hub = Hub::local().await;
    let away = async |times: u64| {
        for _ in 0..times {
            let error = hub.call("text.upper", json!(1)).await.expect_err("nobody is there");
            assert_eq!(error.code, Code::NoProvider);
            let one = CallRequest {
                target: Some("text".parse().expect("valid")),
                ..request("text.upper", json!(1))
            };
            let error = hub.calls.call(&admin(), one).await.expect_err("it is not there");
            assert_eq!(error.code, Code::NoProvider);
        }
        let totals = hub.calls.totals();
        (totals.ended, totals.failed)
    };
    let spoke = Spoke::connect(&hub, "text", &[query("text.upper")]).await;
    spoke.outbox.set_leaving(true);
    spoke.registration.close("it was let go").await;

    assert_eq!(away(2).await, (4, 0));

    tokio::time::advance(Duration::from_secs(30)).await;
    assert_eq!(away(1).await, (6, 2), "it should be back by now");
    let spoke = Spoke::connect(&hub, "text", &[query("text.upper")]).await;
    spoke.registration.close("it left by itself").await;
    assert_eq!(away(1).await, (8, 4));
}

#[tokio::test(start_paused = true)]
async fn a_spoke_counts_as_connected_or_as_reconnecting_and_never_as_both() {
    let hub = Hub::local().await;
    let spoke = Spoke::connect(&hub, "text", &[query("text.upper")]).await;
    let counts = || ["alkhub_spokes_connected", "alkhub_spokes_reconnecting"].map(|name| hub.metric(name) as u64);

    assert_eq!(counts(), [1, 0]);
    spoke.registration.set_reconnecting(true);
    assert_eq!(counts(), [0, 1]);
    spoke.registration.set_reconnecting(false);
    assert_eq!(counts(), [1, 0]);
    spoke.registration.set_reconnecting(true);
    spoke.registration.close("it does not come back").await;
    assert_eq!(counts(), [0, 0]);
}

#[tokio::test(start_paused = true)]
async fn a_spoke_whose_session_goes_on_on_another_hub_does_not_count_as_connected() {
    let hub = Hub::local().await;
    let gone = Spoke::connect(&hub, "text", &[query("text.upper")]).await;
    let _stays = Spoke::connect(&hub, "other", &[query("text.upper")]).await;
    let connected = || hub.metric("alkhub_spokes_connected") as u64;
    assert_eq!(connected(), 2);

    gone.registration.moved();

    assert_eq!(connected(), 1);
    gone.registration.close("nothing of it runs here any more").await;
    assert_eq!(connected(), 1, "the other one");
}

#[tokio::test(start_paused = true)]
async fn a_spoke_that_is_to_go_gets_what_nobody_else_can_take_and_ends_when_it_runs_nothing() {
    let hub = Hub::local().await;
    let mut leaving = Spoke::connect(&hub, "text", &[query("text.upper")]).await;
    leaving.outbox.set_leaving(true);
    let (alone, _answer) = hub.dispatch(request("text.upper", json!(0)));
    alone.expect("routed");
    let call = leaving.next_call().await.request_id;
    let mut other = Spoke::connect(&hub, "other", &[query("text.upper")]).await;

    for n in 1..9 {
        let (routed, _answer) = hub.dispatch(request("text.upper", json!(n)));
        routed.expect("routed");
        other.next_call().await;
    }

    assert_eq!((leaving.outbox.in_flight(), other.outbox.in_flight()), (1, 8));
    let let_go = || leaving.outbox.close_if_idle(CloseCode::GoingAway, "others have fewer");
    assert!(!let_go(), "it runs a call");
    leaving.respond(&call, json!("A"));
    assert_eq!(leaving.outbox.in_flight(), 0);
    assert!(let_go());
    assert!(matches!(
        leaving.outgoing.next().await,
        Some(OutgoingItem::Close { .. })
    ));
    let_go();
    assert_eq!(leaving.outgoing.next().await, None, "once");
}

#[tokio::test(start_paused = true)]
async fn a_peer_is_not_let_go_before_it_has_the_end_of_its_call() {
    let (_hub, spoke, (outbox, mut outgoing), call) = calling().await;
    let let_go = || outbox.close_if_idle(CloseCode::GoingAway, "others have fewer");

    assert!(!let_go(), "the call runs");
    spoke.respond(&call, json!("A"));
    assert!(!let_go(), "its end waits");
    outgoing.try_next().expect("the end");

    assert!(let_go());
}

#[tokio::test(start_paused = true)]
async fn a_session_that_has_ended_counts_no_calls() {
    let hub = Hub::local().await;
    let mut spoke = Spoke::connect(&hub, "text", &[query("text.upper")]).await;
    let (routed, _answer) = hub.dispatch(request("text.upper", json!(0)));
    routed.expect("routed");
    spoke.next_call().await;
    let outbox = spoke.outbox.clone();
    assert_eq!(outbox.in_flight(), 1);

    spoke.registration.close("the connection is closed").await;

    assert_eq!(outbox.in_flight(), 0);
}

/// Cuts a spoke's connection; its session remains and waits.
pub(crate) fn cut(spoke: &mut Spoke) {
    spoke.outgoing.detach();
    spoke.registration.set_reconnecting(true);
}

#[tokio::test(start_paused = true)]
async fn calls_that_wait_for_a_spoke_that_is_away_go_to_who_comes_and_what_has_left_stays() {
    let hub = Hub::local().await;
    let mut away = Spoke::connect(&hub, "text", &[query("text.upper"), query("text.lower")]).await;
    let dispatch = |operation: &str, n: u32| {
        let (routed, answer) = hub.dispatch(request(operation, json!(n)));
        routed.expect("routed");
        answer
    };
    let _left = dispatch("text.upper", 0);
    away.next_call().await;
    cut(&mut away);
    let mut waits = dispatch("text.upper", 1);
    let _waits_on = dispatch("text.lower", 2);

    let mut comes = Spoke::connect(&hub, "other", &[query("text.upper")]).await;

    let call = comes.next_call().await;
    assert_eq!(call.input, Some(alkhub_protocol::RawJson::from(json!(1))));
    comes.respond(&call.request_id, json!("B"));
    assert!(matches!(waits.recv().await, Some(CallAnswer::Item(_))));
    away.outgoing.attach();
    away.registration.set_reconnecting(false);
    for n in [0, 2] {
        let again = away.next_call().await;
        assert_eq!(again.input, Some(alkhub_protocol::RawJson::from(json!(n))));
    }
    assert_eq!((away.outbox.in_flight(), comes.outbox.in_flight()), (2, 0));
}

/// Lets the spoke's next connection serve the session.
fn comes_back(spoke: &mut Spoke) {
    spoke.outgoing.attach();
    spoke.registration.set_reconnecting(false);
}

#[tokio::test(start_paused = true)]
async fn calls_that_wait_for_a_spoke_that_is_away_go_to_one_that_comes_back() {
    let hub = Hub::local().await;
    let mut one = Spoke::connect(&hub, "text", &[query("text.upper")]).await;
    let mut other = Spoke::connect(&hub, "other", &[query("text.upper")]).await;
    cut(&mut one);
    cut(&mut other);
    let (routed, mut answer) = hub.dispatch(request("text.upper", json!(1)));
    routed.expect("routed");
    let (waited_for, mut first) = if one.outbox.queued() == 1 {
        (one, other)
    } else {
        (other, one)
    };

    comes_back(&mut first);

    let call = first.next_call().await;
    first.respond(&call.request_id, json!("A"));
    assert!(matches!(answer.recv().await, Some(CallAnswer::Item(_))));
    assert_eq!((waited_for.outbox.in_flight(), waited_for.outbox.queued()), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn a_call_whose_spoke_is_lost_stays_where_it_waits_when_the_other_one_does_not_take_it() {
    let hub = Hub::local().await;
    let one_message = Limits { items: 1, ..LIMITS };
    let offered = |name| registration(name, &[query("text.upper")]);
    let reads_nothing = Spoke::register(&hub, &admin(), offered("busy"), peer_of(one_message)).await;
    let mut reads_nothing = reads_nothing.expect("registers");
    let (routed, _fills_its_queue) = hub.dispatch(request("text.upper", json!(0)));
    routed.expect("routed");
    let mut lost = Spoke::connect(&hub, "text", &[query("text.upper")]).await;
    let (routed, mut answer) = hub.dispatch(request("text.upper", json!(1)));
    routed.expect("routed");
    assert_eq!(lost.outbox.queued(), 1, "it is the less busy one");

    cut(&mut lost);

    assert_eq!((lost.outbox.in_flight(), lost.outbox.queued()), (1, 1));
    reads_nothing.next_call().await;
    assert!(reads_nothing.has_nothing());
    comes_back(&mut lost);
    let call = lost.next_call().await;
    lost.respond(&call.request_id, json!("A"));
    assert!(matches!(answer.recv().await, Some(CallAnswer::Item(_))));
    assert_eq!((reads_nothing.outbox.in_flight(), lost.outbox.in_flight()), (1, 0));
}

#[tokio::test(start_paused = true)]
async fn a_call_that_has_not_left_when_its_spoke_is_lost_goes_elsewhere_at_once() {
    let hub = Hub::local().await;
    let mut lost = Spoke::connect(&hub, "text", &[query("text.upper")]).await;
    let (routed, _answer) = hub.dispatch(request("text.upper", json!(1)));
    routed.expect("routed");
    let mut other = Spoke::connect(&hub, "other", &[query("text.upper")]).await;

    cut(&mut lost);

    other.next_call().await;
    assert_eq!((lost.outbox.in_flight(), lost.outbox.queued()), (0, 0));
}

#[tokio::test]
async fn a_call_from_another_hub_that_waits_for_a_spoke_that_is_away_goes_to_who_comes_there() {
    let pair = Pair::start().await;
    let mut away = pair.spoke_on_b(&[query("text.upper")]).await;
    cut(&mut away);
    let (routed, mut answer) = pair.a.dispatch(request("text.upper", json!(1)));
    routed.expect("routed");
    in_flight(&pair.b, 1).await;

    let mut comes = Spoke::connect(&pair.a, "other", &[query("text.upper")]).await;

    let call = comes.next_call().await;
    comes.respond(&call.request_id, json!("A"));
    assert!(matches!(answer.recv().await, Some(CallAnswer::Item(_))));
    in_flight(&pair.b, 0).await;
}

/// Each registration has a record of its own, which does not say whether the connection is there.
#[tokio::test]
async fn a_registration_that_is_narrowed_while_its_spoke_is_away_is_reconnecting_to_all_hubs() {
    let pair = Pair::start().await;
    let key = |operations: &[&str]| spoke_key("text", operations, None, false);
    let offered = registration("text", &[query("text.upper"), query("text.lower")]);
    let all = key(&["text.upper", "text.lower"]);
    let mut spoke = Spoke::register(&pair.b, &all, offered, peer())
        .await
        .expect("registers");
    cut(&mut spoke);
    is_reconnecting(&pair).await;

    let narrowed = pair.b.calls.narrow(&spoke.registration, &key(&["text.upper"])).await;
    let narrowed = narrowed.expect("the directory takes it").expect("it allows less");
    narrowed.set_reconnecting(true);

    is_reconnecting(&pair).await;
    drop((spoke, narrowed));
    pair.end().await;
}

/// Its hub has not heard yet that the instance has registered elsewhere.
#[tokio::test]
async fn a_registration_that_is_narrowed_takes_no_place_of_a_newer_one() {
    let pair = Pair::start().await;
    let key = |operations: &[&str]| spoke_key("text", operations, None, false);
    let offered = registration("text", &[query("text.upper"), query("text.lower")]);
    let all = key(&["text.upper", "text.lower"]);
    let spoke = Spoke::register(&pair.b, &all, offered, peer()).await;
    let spoke = spoke.expect("registers");
    let (_, known, _) = pair.b.calls.instances().into_iter().next().expect("registered");
    let field = format!("text/{}", known.instance_id);
    let stored: String = pair.redis.query(&["HGET", "alk:directory", &field]).await;
    let rest = stored.splitn(3, ' ').nth(2).expect("generation, hub, entry");
    let newer = format!("{} elsewhere {rest}", known.generation + 1_000_000);
    pair.redis
        .query::<i64>(&["HSET", "alk:directory", &field, &newer])
        .await;

    let narrowed = pair.b.calls.narrow(&spoke.registration, &key(&["text.upper"])).await;

    assert!(
        narrowed.expect("nothing failed").is_none(),
        "it is not this hub's any more"
    );
    let standing: String = pair.redis.query(&["HGET", "alk:directory", &field]).await;
    assert_eq!(standing, newer);
    drop(spoke);
    pair.end().await;
}

/// Waits until hub A knows the same about the one instance of hub B as hub B does: its current record, and that it is
/// away.
async fn is_reconnecting(pair: &Pair) {
    until("hub A knows", async || {
        let states = [&pair.a, &pair.b].map(|hub| {
            let known = hub.calls.instances();
            let shown = known.iter().map(|(_, known, _)| (known.generation, known.state));
            shown.collect::<Vec<_>>()
        });
        let [at_a, at_b] = &states;
        let is_away = matches!(at_b[..], [(_, InstanceState::Reconnecting)]);
        if is_away && at_a == at_b {
            Ok(())
        } else {
            Err(format!("{states:?}"))
        }
    })
    .await;
}
