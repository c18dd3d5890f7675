//! Answers that a spoke brings to another hub when the hub that sent it the call is dead.

use alkhub_calls::CallAnswer;
use alkhub_devdb::Server;
use alkhub_protocol::{Code, Delivered, RequestId};
use alkhub_test_support::{RedisServer, until, within};
use serde_json::{Value, json};
use tokio::sync::mpsc::Receiver;

use crate::fixture::{Hub, HubOptions, Spoke, admin, peer, query, registration, request, subscription};
use crate::pair::{Pair, sees};

/// Calls from hub A that run on an instance of hub B, from which nothing comes any more: the answers of each, and its
/// id at the spoke.
struct Orphans {
    a: Hub,
    b: Hub,
    /// Where the spoke may come instead of hub A.
    c: Hub,
    upper: (Receiver<CallAnswer>, RequestId),
    lines: (Receiver<CallAnswer>, RequestId),
    redis: RedisServer,
    postgres: Server,
    /// The instance on hub B.
    dead: Spoke,
}

// === impl Orphans ===

impl Orphans {
    async fn end(self) {
        for hub in [self.c, self.a, self.b] {
            hub.stop().await;
        }
        drop((self.dead, self.redis));
        self.postgres.stop().await.expect("stops");
    }
}

/// Registers an instance, without waiting for the dead hub to be named.
async fn comes(hub: &Hub, instance: &str) -> Spoke {
    let mut input = registration("text", &[query("text.upper"), subscription("text.lines")]);
    input["instanceId"] = json!(instance);
    let input = serde_json::from_value(input).expect("valid");
    let registered = Spoke::register_unseen(hub, &admin(), input, peer()).await;
    registered.expect("registers")
}

async fn orphans() -> Orphans {
    let (pair, proxy) = Pair::with_b_behind_a_proxy().await;
    let c = Hub::start(HubOptions {
        name: "pod-c-c1",
        redis: Some(pair.redis.url()),
        postgres: Some(pair.postgres.url()),
        ..HubOptions::default()
    })
    .await;
    let mut spoke = comes(&pair.b, "one").await;
    sees(&pair.a, "text.lines", spoke.output.generation).await;
    let mut calls = Vec::new();
    for operation in ["text.upper", "text.lines"] {
        let (routed, answers) = pair.a.dispatch(request(operation, json!(1)));
        routed.expect("routed");
        calls.push((answers, spoke.next_call().await.request_id));
    }
    let (lines, upper) = (calls.pop().expect("two"), calls.pop().expect("two"));
    // Its lease remains for a while.
    proxy.cut();
    Orphans {
        a: pair.a,
        b: pair.b,
        c,
        redis: pair.redis,
        postgres: pair.postgres,
        upper,
        lines,
        dead: spoke,
    }
}

async fn next(answers: &mut Receiver<CallAnswer>) -> CallAnswer {
    within("an answer", answers.recv()).await.expect("the call has an end")
}

fn assert_output(answer: CallAnswer, output: &str) {
    let CallAnswer::Item(item) = answer else {
        panic!("not the output: {answer:?}");
    };
    assert_eq!(item.to::<Value>().expect("JSON")["data"], output);
}

fn assert_lost(answer: CallAnswer) {
    let CallAnswer::Failed(error) = answer else {
        panic!("it must fail: {answer:?}");
    };
    assert_eq!((error.code, error.delivered), (Code::SpokeLost, Delivered::Maybe));
}

#[tokio::test]
async fn an_answer_comes_by_the_hub_to_which_its_spoke_has_come() {
    let mut orphans = orphans().await;
    let spoke = comes(&orphans.c, "one").await;

    spoke.respond(&orphans.upper.1, json!("A"));

    assert_output(next(&mut orphans.upper.0).await, "A");
    // Items of a stream may be missing, so a stream is lost.
    spoke.respond(&orphans.lines.1, json!("A"));
    spoke.complete(&orphans.lines.1);
    assert_lost(next(&mut orphans.lines.0).await);
    drop(spoke);
    orphans.end().await;
}

#[tokio::test]
async fn an_answer_comes_by_the_hub_of_the_caller_itself() {
    let mut orphans = orphans().await;
    let spoke = comes(&orphans.a, "one").await;

    spoke.respond(&orphans.upper.1, json!("A"));

    assert_output(next(&mut orphans.upper.0).await, "A");
    drop(spoke);
    orphans.end().await;
}

#[tokio::test]
async fn no_other_instance_answers_in_the_place_of_one_whose_hub_is_dead() {
    let mut orphans = orphans().await;
    let (here, there) = (comes(&orphans.a, "two").await, comes(&orphans.c, "three").await);

    for other in [&here, &there] {
        other.respond(&orphans.lines.1, json!("A"));
    }

    assert_lost(next(&mut orphans.lines.0).await);
    drop((here, there));
    orphans.end().await;
}

/// The caller's hub sent the query to another instance when it knew that hub B was gone.
#[tokio::test]
async fn the_instance_that_lost_a_query_does_not_answer_it_any_more() {
    let mut orphans = orphans().await;
    let mut other = comes(&orphans.c, "three").await;
    let call = other.next_call().await;
    let late = comes(&orphans.c, "one").await;
    let before = orphans.a.metric("alkhub_relay_messages_total");

    late.respond(&orphans.upper.1, json!("late"));

    until("hub A has what came late", || async {
        let passed = orphans.a.metric("alkhub_relay_messages_total");
        if passed > before { Ok(()) } else { Err(passed) }
    })
    .await;
    other.respond(&call.request_id, json!("A"));
    assert_output(next(&mut orphans.upper.0).await, "A");
    drop((late, other));
    orphans.end().await;
}

#[tokio::test]
async fn an_answer_that_its_spoke_brings_ends_the_query_which_the_same_spoke_runs_once_more() {
    let mut orphans = orphans().await;
    let mut spoke = comes(&orphans.c, "one").await;
    // Once hub B is known to be gone.
    let again = spoke.next_call().await;

    spoke.respond(&orphans.upper.1, json!("A"));

    assert_output(next(&mut orphans.upper.0).await, "A");
    // Not at its deadline.
    let stopped = spoke.next_abort_for("the caller ended the call").await;
    assert_eq!(stopped, again.request_id);
    drop(spoke);
    orphans.end().await;
}
