//! Two hubs with a link from pod to pod and one to Redis each: calls continue when either of the two is away.

use alkhub_calls::CallAnswer;
use alkhub_hub_cluster::LinkState;
use alkhub_protocol::{Code, Delivered};
use alkhub_test_support::{Direction, comes_to, until, within};
use serde_json::{Value, json};

use crate::fixture::{Hub, Spoke, admin, mutation, peer, query, registration, request};
use crate::pair::{Pair, in_flight};

/// Calls a spoke of the other hub, which answers.
async fn is_answered(hub: &Hub, spoke: &mut Spoke) {
    let (ticket, mut answers) = hub.dispatch(request("text.upper", json!(1)));
    ticket.expect("routed");
    let call = spoke.next_call().await.request_id;
    spoke.respond(&call, json!("A"));
    let answer = within("the answer", answers.recv()).await;
    assert!(matches!(answer, Some(CallAnswer::Item(_))), "{answer:?}");
}

#[tokio::test]
async fn while_redis_is_stopped_calls_between_hubs_go_on() {
    let (mut pair, _link) = Pair::linked().await;
    let mut spoke = pair.spoke_on_b(&[mutation("text.upper")]).await;

    pair.lose_redis().await;

    for _ in 0..100 {
        is_answered(&pair.a, &mut spoke).await;
    }
    in_flight(&pair.a, 0).await;
    in_flight(&pair.b, 0).await;
    pair.end().await;
}

#[tokio::test]
async fn while_redis_stands_still_and_when_it_goes_on_calls_between_hubs_are_answered() {
    let (pair, _link) = Pair::linked().await;
    let mut spoke = pair.spoke_on_b(&[mutation("text.upper")]).await;
    let (ticket, mut answers) = pair.a.dispatch(request("text.upper", json!(1)));
    ticket.expect("routed");
    let call = spoke.next_call().await.request_id;

    pair.redis.freeze();
    for hub in [&pair.a, &pair.b] {
        is_answered(&pair.a, &mut spoke).await;
        let is_down = |state: &LinkState| matches!(state, LinkState::Down(_));
        comes_to("the link is down", &hub.link(), is_down).await;
        is_answered(&pair.a, &mut spoke).await;
    }
    pair.redis.thaw();
    for hub in [&pair.a, &pair.b] {
        is_answered(&pair.a, &mut spoke).await;
        hub.is_up().await;
        is_answered(&pair.a, &mut spoke).await;
    }
    spoke.respond(&call, json!("A"));

    let answer = within("the answer", answers.recv()).await;
    assert!(matches!(answer, Some(CallAnswer::Item(_))), "{answer:?}");
    pair.end().await;
}

#[tokio::test]
async fn a_call_outlives_the_link_that_it_went_over() {
    let (pair, link) = Pair::linked().await;
    let mut spoke = pair.spoke_on_b(&[mutation("text.upper")]).await;
    let (ticket, mut answers) = pair.a.dispatch(request("text.upper", json!(1)));
    ticket.expect("routed");
    let call = spoke.next_call().await.request_id;

    link.cut();
    spoke.respond(&call, json!("A"));

    let answer = within("the answer", answers.recv()).await;
    assert!(matches!(answer, Some(CallAnswer::Item(_))), "{answer:?}");
    is_answered(&pair.a, &mut spoke).await;
    pair.end().await;
}

#[tokio::test]
async fn without_redis_and_without_the_link_a_spoke_of_another_hub_is_unavailable() {
    let (mut pair, link) = Pair::linked().await;
    let spoke = pair.spoke_on_b(&[query("text.upper")]).await;
    pair.lose_redis().await;
    link.cut();
    until("the link is gone", || async {
        match pair.a.metric("alkhub_peer_links") {
            0.0 => Ok(()),
            links => Err(links),
        }
    })
    .await;

    let error = pair.a.call("text.upper", json!(1)).await.expect_err("no way to it");

    assert_eq!(error.code, Code::Unavailable, "{error}");
    drop(spoke);
    pair.end().await;
}

/// The other hubs learn of a registration before its own hub is told that it is entered.
#[tokio::test]
async fn a_call_that_comes_before_its_spoke_is_entered_reaches_it() {
    let (pair, [_link, redis_of_b]) = Pair::linked_with_b_behind_a_proxy().await;
    let operations = [mutation("text.upper")];
    redis_of_b.hold_one(Direction::ToClient);
    let calling = pair.call_early(&redis_of_b, "text.upper", "text.upper");

    let (mut spoke, (ticket, mut answers)) = tokio::join!(Spoke::connect(&pair.b, "text", &operations), calling);

    ticket.expect("routed");
    let call = spoke.next_call().await.request_id;
    spoke.respond(&call, json!("A"));
    let answer = within("the answer", answers.recv()).await;
    assert!(matches!(answer, Some(CallAnswer::Item(_))), "{answer:?}");
    pair.end().await;
}

/// Registers `text.upper` on a hub without waiting until the others can call it.
async fn comes(hub: &Hub) -> Spoke {
    let input = serde_json::from_value(registration("other", &[mutation("text.upper")])).expect("valid");
    let registered = Spoke::register_unseen(hub, &admin(), input, peer()).await;
    registered.expect("registers")
}

/// The link of a hub that stands still is full at some time, and further calls wait for it.
#[tokio::test]
async fn calls_that_no_link_has_taken_when_their_hub_is_gone_go_to_another_instance() {
    let (pair, [link, redis_of_b]) = Pair::linked_with_b_behind_a_proxy().await;
    let spoke = pair.spoke_on_b(&[mutation("text.upper")]).await;
    link.hold();
    let mut calls = Vec::new();
    let refused = loop {
        let input = json!([calls.len(), "x".repeat(900_000)]);
        let (ticket, answers) = pair.a.dispatch(request("text.upper", input));
        match ticket {
            Ok(ticket) => calls.push((ticket, answers)),
            Err(error) => break error,
        }
    };
    assert_eq!(refused.code, Code::Overloaded);
    let mut other = comes(&pair.a).await;

    redis_of_b.cut();

    let mut next = None;
    while next.is_none_or(|next| next < calls.len()) {
        let call = other.next_call().await;
        let input: Value = call.input.expect("an input").to().expect("JSON");
        let number = usize::try_from(input[0].as_u64().expect("a number")).expect("small");
        assert!(next.is_none_or(|next| next == number), "{number} after {next:?}");
        if next.is_none() {
            for (_, answers) in &mut calls[..number] {
                let answer = within("the end", answers.recv()).await;
                let Some(CallAnswer::Failed(error)) = answer else {
                    panic!("{answer:?}");
                };
                assert_eq!((error.code, error.delivered), (Code::SpokeLost, Delivered::Maybe));
            }
            assert!(number > 0, "the link has taken the first one");
        }
        other.respond(&call.request_id, json!("out"));
        let answer = within("the answer", calls[number].1.recv()).await;
        assert!(matches!(answer, Some(CallAnswer::Item(_))), "{answer:?}");
        next = Some(number + 1);
    }
    assert_eq!(pair.a.calls.in_flight(), 0);
    drop((spoke, other));
    pair.end().await;
}
