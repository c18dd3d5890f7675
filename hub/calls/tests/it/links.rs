//! The links of two hubs to Redis break: no call hangs, nothing is lost, and nothing comes twice.

use alkhub_calls::{CallAnswer, Items, OutgoingItem, SessionEvent, SessionMessage};
use alkhub_config::BudgetConfig;
use alkhub_hub_cluster::{Class, LinkState, NotSent};
use alkhub_protocol::{CallError, Code, Delivered, Frame, HubId, RequestId};
use alkhub_test_support::{Proxy, comes_to, until, until_full, within};
use futures::StreamExt as _;
use serde_json::{Value, json};
use tokio::sync::mpsc;

use crate::fixture::{Hub, Spoke, admin, decode, mutation, query, registration, request, subscription};
use crate::pair::{Pair, in_flight, sees};

impl Pair {
    /// Starts Redis again, empty, and waits until both hubs have their link.
    async fn find_redis(&mut self) {
        self.redis.launch().await;
        for hub in [&self.a, &self.b] {
            hub.is_up().await;
        }
    }

    /// Cuts hub B's link to Redis, and waits until Redis knows that nobody listens for it.
    async fn cut_off_b(&self, proxy: &Proxy) {
        proxy.cut();
        until("Redis knows that nobody listens", || async {
            let channels: Vec<String> = self.redis.query(&["PUBSUB", "CHANNELS", "*pod-b-b1*"]).await;
            if channels.is_empty() {
                Ok(())
            } else {
                Err(channels.join(" "))
            }
        })
        .await;
    }

    /// Asks hub B for a session, as hub A does for its peers. Returns whether the claim comes back because nobody
    /// listens.
    async fn claim_comes_back(&self) -> bool {
        let (moves, hub_b) = (self.a.calls.moves(), hub_b());
        until("the claim is on its way", async || moves.say(&hub_b, claim())).await;
        loop {
            match within("the claim comes back", moves.next()).await {
                SessionEvent::Returned {
                    hub,
                    claim: 7,
                    nobody_listens,
                } if hub == hub_b => return nobody_listens,
                SessionEvent::Lost { .. } => {}
                other => panic!("{other:?}"),
            }
        }
    }

    /// Cuts every connection of one kind, in Redis' terms, and waits until both hubs have their link again.
    async fn cut(&self, kind: &str) {
        let links = [&self.a, &self.b].map(|hub| {
            let mut link = hub.link();
            link.mark_unchanged();
            link
        });
        self.redis
            .query::<i64>(&["CLIENT", "KILL", "TYPE", kind, "SKIPME", "yes"])
            .await;
        for mut link in links {
            within("the link breaks", link.changed()).await.expect("the hub lives");
            comes_to("the link is back", &link, LinkState::is_up).await;
        }
    }
}

fn hub_b() -> HubId {
    "pod-b-b1".parse().expect("a hub's id")
}

/// What hub A says when a peer asks it for a session.
fn claim() -> SessionMessage {
    SessionMessage::Claim {
        claim: 7,
        digest: "5f".to_owned(),
        received: 0,
        key: "k".to_owned(),
    }
}

/// A spoke on hub B that has got a call from hub A; where the answer comes; and the call's id at the spoke.
async fn asked(pair: &Pair) -> (Spoke, mpsc::Receiver<CallAnswer>, RequestId) {
    let mut spoke = pair.spoke_on_b(&[mutation("text.upper")]).await;
    let (ticket, answers) = pair.a.dispatch(request("text.upper", json!(1)));
    ticket.expect("routed");
    let call = spoke.next_call().await.request_id;
    (spoke, answers, call)
}

/// A spoke on hub B; a subscription that entered at hub A and has got its first item; and its id at the spoke.
async fn streaming(pair: &Pair) -> (Spoke, Items, RequestId) {
    let mut spoke = pair.spoke_on_b(&[subscription("text.upper")]).await;
    let mut items = pair.a.subscribe("text.upper").await;
    let call = spoke.next_call().await.request_id;
    spoke.respond(&call, json!(1));
    assert_eq!(next(&mut items).await, Some(Ok(json!(1))));
    (spoke, items, call)
}

/// Waits until a hub keeps nothing any more, including what other hubs have not acknowledged.
async fn keeps_nothing(hub: &Hub) {
    until("nothing is kept", || async {
        match hub.metric("alkhub_budget_bytes") {
            0.0 => Ok(()),
            bytes => Err(bytes),
        }
    })
    .await;
}

async fn next(items: &mut Items) -> Option<Result<Value, CallError>> {
    let item = within("an item, or the end", items.next()).await?;
    Some(item.map(|item| item.to::<Value>().expect("JSON")["data"].clone()))
}

#[tokio::test]
async fn a_call_outlives_a_restart_of_redis() {
    let mut pair = Pair::with_long_leases().await;
    let (spoke, mut answers, call) = asked(&pair).await;

    pair.lose_redis().await;
    pair.find_redis().await;
    spoke.respond(&call, json!("A"));

    let answer = within("the answer", answers.recv()).await;
    assert!(matches!(answer, Some(CallAnswer::Item(_))), "{answer:?}");
    drop(spoke);
    pair.end().await;
}

#[tokio::test]
async fn while_redis_is_away_a_spoke_of_another_hub_is_unavailable_and_one_here_answers() {
    let mut pair = Pair::with_long_leases().await;
    let there = pair.spoke_on_b(&[query("text.upper")]).await;
    pair.lose_redis().await;

    let error = pair.a.call("text.upper", json!(1)).await.expect_err("no way to it");
    assert_eq!(
        (error.code.clone(), error.delivered, error.retryable),
        (Code::Unavailable, Delivered::No, true),
        "{error}"
    );

    // It takes the calls although the spoke on the other hub has none.
    let mut here = Spoke::connect(&pair.a, "text", &[query("text.upper")]).await;
    let mut waiting = Vec::new();
    for _ in 0..4 {
        let (ticket, answers) = pair.a.dispatch(request("text.upper", json!(1)));
        ticket.expect("routed to the one that can be reached");
        here.next_call().await;
        waiting.push(answers);
    }
    drop((here, there));
    pair.end().await;
}

/// Hub B has lost its link and hub A has not: nobody receives the call, though the spoke is there all the time.
#[tokio::test]
async fn a_call_that_the_hub_of_its_spoke_does_not_receive_is_unavailable_and_its_spoke_is_not_lost() {
    let (pair, proxy) = Pair::with_b_behind_a_proxy().await;
    let mut spoke = pair.spoke_on_b(&[mutation("text.upper")]).await;
    pair.cut_off_b(&proxy).await;

    let error = within("the refusal", pair.a.call("text.upper", json!(1)))
        .await
        .expect_err("nobody receives it");

    assert_eq!(
        (&error.code, error.delivered, error.retryable),
        (&Code::Unavailable, Delivered::No, true),
        "{error}"
    );
    proxy.heal();
    pair.b.is_up().await;
    sees(&pair.a, "text.upper", spoke.output.generation).await;
    let answering = async {
        let call = spoke.next_call().await;
        spoke.respond(&call.request_id, json!("A"));
    };
    let (answer, ()) = tokio::join!(pair.a.call("text.upper", json!(1)), answering);
    assert!(answer.is_ok(), "{answer:?}");
    drop(spoke);
    pair.end().await;
}

/// A hub for which nobody listens may be dead. But where the link of the hub that asks was away too, it is Redis that
/// was, and the other hub may be on its way back.
#[tokio::test]
async fn a_claim_that_nobody_receives_comes_back_and_says_nothing_just_after_a_loss_of_the_link() {
    let (pair, proxy) = Pair::with_b_behind_a_proxy().await;
    pair.cut_off_b(&proxy).await;
    assert!(pair.claim_comes_back().await);
    proxy.heal();
    pair.b.is_up().await;

    pair.cut("normal").await;
    pair.cut_off_b(&proxy).await;

    assert!(!pair.claim_comes_back().await);
    proxy.heal();
    pair.end().await;
}

#[tokio::test]
async fn a_claim_while_redis_is_away_is_refused() {
    let mut pair = Pair::with_long_leases().await;
    pair.lose_redis().await;

    let sent = pair.a.calls.moves().say(&hub_b(), claim());

    assert!(sent.is_err());
    pair.end().await;
}

#[tokio::test]
async fn an_answer_given_while_the_link_is_down_arrives_when_it_is_back() {
    let mut pair = Pair::with_long_leases().await;
    let (spoke, mut answers, call) = asked(&pair).await;

    pair.lose_redis().await;
    spoke.respond(&call, json!("A"));
    pair.find_redis().await;

    let answer = within("the answer", answers.recv()).await;
    assert!(matches!(answer, Some(CallAnswer::Item(_))), "{answer:?}");
    in_flight(&pair.b, 0).await;
    drop(spoke);
    pair.end().await;
}

#[tokio::test]
async fn items_given_while_the_link_is_down_arrive_when_it_is_back() {
    let mut pair = Pair::with_long_leases().await;
    let (spoke, mut items, call) = streaming(&pair).await;

    pair.lose_redis().await;
    spoke.respond(&call, json!(2));
    spoke.respond(&call, json!(3));
    spoke.complete(&call);
    pair.find_redis().await;

    for item in [2, 3] {
        assert_eq!(next(&mut items).await, Some(Ok(json!(item))));
    }
    assert_eq!(next(&mut items).await, None);
    in_flight(&pair.a, 0).await;
    in_flight(&pair.b, 0).await;
    drop(spoke);
    pair.end().await;
}

#[tokio::test]
async fn a_subscription_that_was_silent_while_the_link_was_down_goes_on() {
    let mut pair = Pair::with_long_leases().await;
    let (spoke, mut items, call) = streaming(&pair).await;

    pair.lose_redis().await;
    pair.find_redis().await;
    spoke.respond(&call, json!(2));
    spoke.complete(&call);

    assert_eq!(next(&mut items).await, Some(Ok(json!(2))));
    assert_eq!(next(&mut items).await, None);
    drop(spoke);
    pair.end().await;
}

#[tokio::test]
async fn an_abort_while_the_link_is_down_reaches_the_spoke_when_it_is_back() {
    let mut pair = Pair::with_long_leases().await;
    let mut spoke = pair.spoke_on_b(&[subscription("text.upper")]).await;
    let items = pair.a.subscribe("text.upper").await;
    let call = spoke.next_call().await;

    pair.lose_redis().await;
    drop(items);
    in_flight(&pair.a, 0).await;
    pair.find_redis().await;

    assert_eq!(spoke.next_abort().await, call.request_id);
    in_flight(&pair.b, 0).await;
    pair.end().await;
}

/// Fills the queue for Redis, which is frozen, with calls for hubs that do not exist.
async fn fill_the_queue(hub: &Hub) {
    let conduits = hub.cluster.conduits();
    let hubs: Vec<HubId> = (0..32).map(|n| format!("none-{n}").parse().expect("valid")).collect();
    until_full(NotSent::Full, |sent| {
        conduits.send(&hubs[sent % hubs.len()], Class::Call, &[])
    })
    .await;
}

/// Too much waits for Redis, but the link stays up.
#[tokio::test]
async fn an_abort_that_found_the_queue_full_reaches_the_spoke_when_there_is_room() {
    let pair = Pair::with_long_leases().await;
    let (mut spoke, items, call) = streaming(&pair).await;
    pair.redis.freeze();
    fill_the_queue(&pair.a).await;

    drop(items);
    in_flight(&pair.a, 0).await;
    pair.redis.thaw();

    assert_eq!(spoke.next_abort().await, call);
    in_flight(&pair.b, 0).await;
    let reconnects = pair.a.metric("alkhub_redis_reconnects_total") + pair.b.metric("alkhub_redis_reconnects_total");
    assert!(reconnects.abs() < f64::EPSILON, "no link broke: {reconnects}");
    pair.end().await;
}

/// What waits for a hub is bounded, and Redis may be away until the bound is reached: then what was under way is lost.
#[tokio::test]
async fn a_call_fails_by_name_once_too_much_waits_for_its_hub_and_its_spoke_is_told_when_the_link_is_back() {
    let mut pair = Pair::with_long_leases().await;
    let (mut spoke, mut answers, call) = asked(&pair).await;
    pair.lose_redis().await;

    let hub_b = hub_b();
    let send = |_: &u32| pair.a.cluster.conduits().send(&hub_b, Class::Control, &[b"abort 0\n"]);
    let refused = (0..1_000_000).find(|number| send(number).is_err());

    assert!(refused.is_some(), "what waits for a hub has no bound");
    let Some(CallAnswer::Failed(error)) = within("the failure, with Redis away", answers.recv()).await else {
        panic!("it must fail");
    };
    assert_eq!((&error.code, error.delivered), (&Code::Unavailable, Delivered::Maybe));
    assert!(error.message.contains("the conduit between the hubs broke"), "{error}");
    in_flight(&pair.a, 0).await;

    pair.find_redis().await;
    assert_eq!(spoke.next_abort().await, call);
    in_flight(&pair.b, 0).await;
    // What comes later belongs to a fresh start. Redis came back empty, so hub A routes again once hub B has said what
    // it holds.
    let mut answers = until("hub A to route to the spoke", async || {
        let (ticket, answers) = pair.a.dispatch(request("text.upper", json!(1)));
        ticket.map(|_| answers).map_err(|error| error.to_string())
    })
    .await;
    let call = spoke.next_call().await.request_id;
    spoke.respond(&call, json!("A"));
    let answer = within("the answer", answers.recv()).await;
    assert!(matches!(answer, Some(CallAnswer::Item(_))), "{answer:?}");
    drop(spoke);
    for hub in [&pair.a, &pair.b] {
        keeps_nothing(hub).await;
    }
    pair.end().await;
}

/// What another hub has not acknowledged counts like anything else that is kept; if the hub is at its limit, each link
/// still has its reserve.
#[tokio::test]
async fn an_answer_that_the_hub_may_not_keep_for_another_one_is_an_error_by_name_and_all_is_given_back() {
    let budget = BudgetConfig {
        hub_bytes: 64 * 1024,
        ..BudgetConfig::default()
    };
    let mut pair = Pair::with_budget_on_b(budget).await;
    let mut spoke = pair.spoke_on_b(&[query("text.upper")]).await;
    let mut asked = Vec::new();
    for _ in 0..6 {
        let (ticket, answers) = pair.a.dispatch(request("text.upper", json!(1)));
        ticket.expect("routed");
        asked.push((spoke.next_call().await.request_id, answers));
    }

    pair.lose_redis().await;
    for (call, _) in &asked {
        spoke.respond(call, json!("a".repeat(500_000)));
    }
    pair.find_redis().await;

    let mut errors = Vec::new();
    for (_, answers) in &mut asked {
        match within("the answer", answers.recv()).await {
            Some(CallAnswer::Item(_)) => {}
            Some(CallAnswer::Failed(error)) => errors.push(error),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(errors.len(), 2, "four have room: {errors:?}");
    for error in errors {
        assert_eq!((&error.code, error.delivered), (&Code::Overloaded, Delivered::Yes));
        assert!(
            error
                .message
                .contains("keeps as many bytes as it may (`budget.hub-bytes`)"),
            "{error}"
        );
    }
    drop(spoke);
    for hub in [&pair.a, &pair.b] {
        keeps_nothing(hub).await;
    }
    pair.end().await;
}

#[tokio::test]
async fn a_spoke_that_registers_again_while_redis_is_away_keeps_its_calls() {
    let mut pair = Pair::with_long_leases().await;
    let (spoke, mut far, of_far) = asked(&pair).await;
    let (ticket, mut near) = pair.b.dispatch(request("text.upper", json!(1)));
    ticket.expect("routed");
    let Spoke {
        outbox,
        mut outgoing,
        registration: first,
        ..
    } = spoke;
    let OutgoingItem::Message(message) = within("the call", outgoing.next()).await.expect("open") else {
        panic!("not a call");
    };
    let Frame::Requested(of_near) = decode(&message) else {
        panic!("not a call: {message:?}");
    };

    pair.lose_redis().await;
    let again = registration("text", &[mutation("text.upper"), query("text.lower")]);
    let again = Spoke::register(&pair.b, &admin(), again, (outbox, outgoing)).await;
    let again = again.expect("Redis is not needed for it");
    drop(first);
    again.respond(&of_near.request_id, json!("A"));
    let near = within("the answer on the same hub", near.recv()).await;
    assert!(matches!(near, Some(CallAnswer::Item(_))), "{near:?}");
    pair.find_redis().await;
    again.respond(&of_far, json!("A"));

    let far = within("the answer on the other hub", far.recv()).await;
    assert!(matches!(far, Some(CallAnswer::Item(_))), "{far:?}");
    sees(&pair.a, "text.lower", again.output.generation).await;
    drop(again);
    pair.end().await;
}

/// The connections break while items and answers are on their way.
#[tokio::test]
async fn items_under_a_breaking_link_come_whole_and_in_order() {
    let pair = Pair::with_long_leases().await;
    let mut spoke = pair.spoke_on_b(&[subscription("text.upper")]).await;
    for kind in ["pubsub", "normal", "pubsub", "normal", "pubsub", "normal"] {
        let mut items = pair.a.subscribe("text.upper").await;
        let call = spoke.next_call().await;
        let producing = async {
            for n in 0..400 {
                spoke.respond(&call.request_id, json!(n));
                tokio::task::yield_now().await;
            }
        };
        tokio::join!(producing, pair.cut(kind));
        spoke.complete(&call.request_id);

        for n in 0..400 {
            assert_eq!(next(&mut items).await, Some(Ok(json!(n))));
        }
        assert_eq!(next(&mut items).await, None);
        in_flight(&pair.a, 0).await;
        in_flight(&pair.b, 0).await;
    }
    drop(spoke);
    pair.end().await;
}

#[tokio::test]
async fn answers_given_while_the_link_breaks_arrive() {
    let pair = Pair::with_long_leases().await;
    let mut spoke = pair.spoke_on_b(&[mutation("text.upper")]).await;
    for kind in ["pubsub", "normal", "pubsub", "normal"] {
        let mut waiting = Vec::new();
        for n in 0..20 {
            let (ticket, answers) = pair.a.dispatch(request("text.upper", json!(n)));
            ticket.expect("routed");
            waiting.push((spoke.next_call().await.request_id, answers));
        }
        let answering = async {
            for (id, _) in &waiting {
                spoke.respond(id, json!("A"));
                tokio::task::yield_now().await;
            }
        };
        tokio::join!(pair.cut(kind), answering);

        for (_, answers) in &mut waiting {
            let answer = within("the answer", answers.recv()).await;
            assert!(matches!(answer, Some(CallAnswer::Item(_))), "{answer:?}");
        }
        in_flight(&pair.a, 0).await;
        in_flight(&pair.b, 0).await;
    }
    drop(spoke);
    pair.end().await;
}
