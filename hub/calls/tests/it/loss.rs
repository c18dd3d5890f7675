//! Queries whose spoke is lost after it has got them are sent once more, and nothing else is.

use std::time::Duration;

use alkhub_calls::{CallAnswer, Ticket};
use alkhub_config::BudgetConfig;
use alkhub_protocol::frame::Requested;
use alkhub_protocol::{CallError, CallRequest, CloseCode, Code, Delivered};
use alkhub_test_support::{until, within};
use serde_json::{Value, json};
use tokio::sync::mpsc::Receiver;

use crate::fixture::{
    ChecksHeld, Hub, HubOptions, Spoke, admin, large_output, mutation, operation, peer, query, registration, request,
    subscription, with_one_thread_for_checks,
};
use crate::pair::{Pair, sees};
use crate::sessions::cut;

/// A call that a spoke has got, and the call's answers.
struct Had {
    ticket: Ticket,
    answers: Receiver<CallAnswer>,
}

fn offered() -> [Value; 3] {
    [query("text.get"), mutation("text.set"), subscription("text.lines")]
}

async fn connect(hub: &Hub) -> Spoke {
    Spoke::connect(hub, "text", &offered()).await
}

/// The same of the instance `one`, which replaces its registration of before.
async fn connect_as_one(hub: &Hub) -> Spoke {
    let mut input = registration("text", &offered());
    input["instanceId"] = json!("one");
    Spoke::register(hub, &admin(), input, peer()).await.expect("registers")
}

/// Makes a call at a hub, and waits until the only spoke that offers its operation has got it.
async fn sent(hub: &Hub, spoke: &mut Spoke, request: CallRequest) -> (Had, Requested) {
    let (ticket, answers) = hub.dispatch(request);
    let ticket = ticket.expect("routed");
    let call = spoke.next_call().await;
    (Had { ticket, answers }, call)
}

/// The same for an operation with the usual input.
async fn had(hub: &Hub, spoke: &mut Spoke, operation: &str) -> Had {
    let (had, call) = sent(hub, spoke, request(operation, json!("in"))).await;
    assert_eq!(call.operation.as_str(), operation);
    had
}

/// A hub, its only spoke, and a query that the spoke has got.
async fn query_at_spoke() -> (Hub, Spoke, Had) {
    let hub = Hub::local().await;
    let mut spoke = connect(&hub).await;
    let get = had(&hub, &mut spoke, "text.get").await;
    (hub, spoke, get)
}

impl Had {
    async fn answer(&mut self) -> CallAnswer {
        within("an answer", self.answers.recv()).await.expect("an end")
    }

    async fn answered(mut self, output: &str) {
        let CallAnswer::Item(item) = self.answer().await else {
            panic!("not the output");
        };
        assert_eq!(item.to::<Value>().expect("JSON")["data"], output);
    }

    async fn failed(mut self) -> CallError {
        match self.answer().await {
            CallAnswer::Failed(error) => error,
            other => panic!("it must fail: {other:?}"),
        }
    }

    async fn lost(self) -> CallError {
        let error = self.failed().await;
        assert_eq!((&error.code, error.delivered), (&Code::SpokeLost, Delivered::Maybe));
        error
    }
}

/// Expects the spoke's next call to be the query with its input, and answers it.
async fn answers_the_query(spoke: &mut Spoke, output: &str) {
    let call = spoke.next_call().await;
    let input = call.input.expect("an input").to::<Value>().expect("JSON");
    assert_eq!((call.operation.as_str(), input), ("text.get", json!("in")));
    spoke.respond(&call.request_id, json!(output));
}

#[track_caller]
fn resent(hub: &Hub, wanted: u32) {
    let resent = hub.metric("alkhub_calls_resent_total");
    assert!((resent - f64::from(wanted)).abs() < f64::EPSILON, "{resent}");
}

#[tokio::test(start_paused = true)]
async fn a_query_goes_to_another_instance_and_nothing_else_does() {
    let (hub, mut lost, get) = query_at_spoke().await;
    let set = had(&hub, &mut lost, "text.set").await;
    let lines = had(&hub, &mut lost, "text.lines").await;
    let mut other = connect(&hub).await;

    drop(lost);

    answers_the_query(&mut other, "out").await;
    get.answered("out").await;
    set.lost().await;
    lines.lost().await;
    assert!(other.has_nothing());
    resent(&hub, 1);
    assert_eq!(hub.calls.in_flight(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_query_is_not_sent_a_third_time() {
    let (hub, lost, get) = query_at_spoke().await;
    let mut second = connect(&hub).await;
    drop(lost);
    second.next_call().await;
    let mut third = connect(&hub).await;

    drop(second);

    get.lost().await;
    assert!(third.has_nothing());
    resent(&hub, 1);
}

/// A loss does not count among the times that nobody got it.
#[tokio::test(start_paused = true)]
async fn a_query_that_waits_for_a_second_spoke_whose_connection_is_lost_goes_to_a_third() {
    let (hub, lost, get) = query_at_spoke().await;
    let mut second = connect(&hub).await;
    drop(lost);
    resent(&hub, 1);
    let mut third = connect(&hub).await;

    cut(&mut second);

    answers_the_query(&mut third, "out").await;
    get.answered("out").await;
    assert_eq!(second.outbox.queued(), 0);
    resent(&hub, 2);
}

/// Nobody got it the second time, but the first spoke may have.
#[tokio::test(start_paused = true)]
async fn a_query_that_its_second_spoke_never_got_may_have_been_delivered() {
    let (hub, lost, get) = query_at_spoke().await;
    let second = connect(&hub).await;
    drop(lost);
    resent(&hub, 1);

    drop(second); // Its writer has taken nothing.

    get.lost().await;
}

#[tokio::test(start_paused = true)]
async fn a_query_that_its_caller_has_given_up_is_not_sent_again() {
    let (hub, mut lost, aborted) = query_at_spoke().await;
    let left = had(&hub, &mut lost, "text.get").await;
    let mut other = connect(&hub).await;
    assert!(aborted.ticket.cancel("for the test") && left.ticket.caller_lost("for the test"));

    drop(lost);

    assert!(other.has_nothing());
    resent(&hub, 0);
}

#[tokio::test(start_paused = true)]
async fn a_query_goes_to_the_spoke_that_its_caller_named_or_to_nobody() {
    let hub = Hub::local().await;
    let mut lost = connect(&hub).await;
    let mut request = request("text.get", json!("in"));
    request.target = Some("text".parse().expect("valid"));
    let (get, _) = sent(&hub, &mut lost, request).await;
    let mut other = Spoke::connect(&hub, "other", &[query("text.get")]).await;

    drop(lost);

    get.lost().await;
    assert!(other.has_nothing());
}

#[tokio::test(start_paused = true)]
async fn a_query_goes_to_the_registration_that_replaces_the_one_that_had_it() {
    let hub = Hub::local().await;
    let mut old = connect_as_one(&hub).await;
    let get = had(&hub, &mut old, "text.get").await;

    let mut new = connect_as_one(&hub).await;

    assert_eq!(old.next_close().await, CloseCode::Replaced);
    answers_the_query(&mut new, "out").await;
    get.answered("out").await;
}

/// The program brings it over its new session, where the query runs once more.
#[tokio::test(start_paused = true)]
async fn the_answer_of_the_first_run_ends_a_query_and_the_second_one_is_stopped() {
    let hub = Hub::local().await;
    let mut old = connect_as_one(&hub).await;
    let (get, call) = sent(&hub, &mut old, request("text.get", json!("in"))).await;
    let first = call.request_id;
    let mut new = connect_as_one(&hub).await;
    let second = new.next_call().await.request_id;
    assert_ne!(first, second);

    // Without an answer the first run says nothing of the second one.
    new.complete(&first);
    new.respond(&first, json!("first"));

    get.answered("first").await;
    let stopped = new.next_abort_for("an earlier attempt has answered").await;
    assert_eq!(stopped, second);
}

#[tokio::test(start_paused = true)]
async fn who_else_has_no_room_for_a_query_is_told() {
    let (hub, lost, get) = query_at_spoke().await;
    let mut input = registration("text", &offered());
    input["concurrency"] = json!(1);
    let mut other = Spoke::register(&hub, &admin(), input, peer()).await.expect("registers");
    // Of two free spokes the less busy one is chosen.
    let _running = had(&hub, &mut other, "text.set").await;

    drop(lost);

    let error = get.lost().await;
    assert!(
        error.message.contains("it was not sent again: every instance"),
        "{error}"
    );
}

async fn with_budget(key_bytes: usize) -> Hub {
    let budget = BudgetConfig {
        key_bytes,
        ..BudgetConfig::default()
    };
    let options = HubOptions::default();
    Hub::start(HubOptions { budget, ..options }).await
}

#[tokio::test(start_paused = true)]
async fn inputs_that_stay_take_an_eighth_of_a_budget_and_what_does_not_fit_is_not_sent_again() {
    let hub = with_budget(100_000).await;
    let mut lost = connect(&hub).await;
    let mut gets = Vec::new();
    for bytes in [45_000, 10_000, 10_000, 60_000] {
        // There is room for each: of the inputs before it, at most a small one is still kept.
        let (get, _) = sent(&hub, &mut lost, request("text.get", json!("x".repeat(bytes)))).await;
        gets.push(get);
    }
    let mut other = connect(&hub).await;

    drop(lost);

    let again = other.next_call().await;
    assert_eq!(again.input.expect("an input").len(), 10_002);
    other.respond(&again.request_id, json!("out"));
    for (number, get) in gets.into_iter().enumerate() {
        if number == 1 {
            get.answered("out").await;
            continue;
        }
        let error = get.lost().await;
        assert!(error.message.contains("an eighth of `budget.key-bytes`"), "{error}");
    }
    assert!(other.has_nothing());
    resent(&hub, 1);
}

#[tokio::test(start_paused = true)]
async fn the_input_of_a_query_is_charged_until_it_ends_and_that_of_a_mutation_until_it_is_delivered() {
    let hub = Hub::local().await;
    let mut spoke = connect(&hub).await;
    let before = hub.metric("alkhub_budget_bytes");
    let mut charged = Vec::new();
    for operation in ["text.get", "text.set"] {
        let (ticket, mut answers) = hub.dispatch(request(operation, json!("x".repeat(100_000))));
        ticket.expect("routed");
        let call = spoke.next_call().await;
        charged.push(hub.metric("alkhub_budget_bytes") - before);
        spoke.respond(&call.request_id, json!("out"));
        answers.recv().await.expect("an end");
        charged.push(hub.metric("alkhub_budget_bytes") - before);
    }

    let is_kept: Vec<bool> = charged.iter().map(|bytes| *bytes > 100_000.0).collect();
    assert_eq!(is_kept, [true, false, false, false], "{charged:?}");
}

#[tokio::test]
async fn a_query_goes_to_another_instance_when_its_spoke_is_lost_on_another_hub() {
    let pair = Pair::start().await;
    let mut lost = Spoke::connect(&pair.b, "text", &offered()).await;
    sees(&pair.a, "text.get", lost.output.generation).await;
    let get = had(&pair.a, &mut lost, "text.get").await;
    let set = had(&pair.a, &mut lost, "text.set").await;
    let mut other = Spoke::connect(&pair.b, "text", &offered()).await;
    sees(&pair.a, "text.get", other.output.generation).await;

    drop(lost);

    answers_the_query(&mut other, "out").await;
    get.answered("out").await;
    set.lost().await;
    assert!(other.has_nothing());
    resent(&pair.a, 1);
    resent(&pair.b, 0);
    drop(other);
    pair.end().await;
}

#[tokio::test]
async fn a_query_goes_to_another_instance_when_the_hub_of_its_spoke_is_gone() {
    let pair = Pair::start().await;
    let mut lost = Spoke::connect(&pair.b, "text", &offered()).await;
    sees(&pair.a, "text.get", lost.output.generation).await;
    let get = had(&pair.a, &mut lost, "text.get").await;
    let set = had(&pair.a, &mut lost, "text.set").await;
    let mut other = connect(&pair.a).await;

    let Pair { a, b, postgres, redis } = pair;
    b.stop().await;

    answers_the_query(&mut other, "out").await;
    get.answered("out").await;
    set.lost().await;
    assert!(other.has_nothing());
    resent(&a, 1);
    drop((lost, other));
    a.stop().await;
    drop(redis);
    postgres.stop().await.expect("stops");
}

#[test]
fn an_answer_that_waits_for_its_check_ends_its_call_although_its_hub_is_gone_by_then() {
    with_one_thread_for_checks(async {
        let pair = Pair::start().await;
        let mut spoke = Spoke::connect(&pair.b, "text", &offered()).await;
        sees(&pair.a, "text.get", spoke.output.generation).await;
        let mut calls = Vec::new();
        for operation in ["text.get", "text.set"] {
            let (ticket, answers) = pair.a.dispatch(request(operation, json!("in")));
            let ticket = ticket.expect("routed");
            calls.push((spoke.next_call().await.request_id, Had { ticket, answers }));
        }
        let unanswered = had(&pair.a, &mut spoke, "text.set").await;
        let mut other = connect(&pair.a).await;
        let before = pair.a.metric("alkhub_budget_bytes");
        let held = ChecksHeld::now();
        for (id, _) in &calls {
            spoke.respond(id, large_output());
        }
        pair.a.has_unchecked(2, before).await;

        let Pair { a, b, postgres, redis } = pair;
        b.stop().await;
        // Nothing of it waits, so this one ends at once.
        unanswered.lost().await;
        drop(held);

        for (_, had) in calls {
            had.answered(large_output().as_str().expect("a text")).await;
        }
        assert!(other.has_nothing());
        resent(&a, 0);
        until("nothing is kept", || async {
            match (a.calls.in_flight(), a.metric("alkhub_budget_bytes")) {
                (0, kept) if kept <= before => Ok(()),
                (calls, kept) => Err(format!("{calls} calls, {kept} bytes, {before} before")),
            }
        })
        .await;
        drop((spoke, other));
        a.stop().await;
        drop(redis);
        postgres.stop().await.expect("stops");
    });
}

#[tokio::test]
async fn an_error_of_a_spoke_that_is_called_like_a_loss_ends_its_query() {
    let pair = Pair::start().await;
    let errors = json!({ "errorSchemas": [{ "code": "SPOKE_LOST" }] });
    let offered = [operation("text.get", "query", &errors)];
    let mut spoke = Spoke::connect(&pair.b, "text", &offered).await;
    sees(&pair.a, "text.get", spoke.output.generation).await;
    for hub in [&pair.a, &pair.b] {
        let (get, call) = sent(hub, &mut spoke, request("text.get", json!("in"))).await;
        let mut other = Spoke::connect(hub, "text", &offered).await;

        // What the spoke says about the delivery does not count.
        let error = CallError::new(Code::SpokeLost, "its own").delivered(Delivered::Maybe);
        spoke.fail(&call.request_id, error);

        let error = get.failed().await;
        let told = (&error.code, &*error.message, error.delivered);
        assert_eq!(told, (&Code::SpokeLost, "its own", Delivered::Yes));
        assert!(other.has_nothing());
        resent(hub, 0);
        other.registration.close("for the test").await;
    }
    drop(spoke);
    pair.end().await;
}

/// Its deadline still counts from when it was made.
#[tokio::test(start_paused = true)]
async fn a_query_that_is_sent_again_keeps_its_deadline() {
    let hub = Hub::local().await;
    let mut lost = connect(&hub).await;
    let mut request = request("text.get", json!("in"));
    request.timeout = Some(Duration::from_secs(10));
    let (get, _) = sent(&hub, &mut lost, request).await;
    let mut other = connect(&hub).await;
    tokio::time::advance(Duration::from_secs(6)).await;

    drop(lost);

    let again = other.next_call().await;
    assert!(
        again.timeout_ms.is_some_and(|left| left <= 4_000),
        "{:?}",
        again.timeout_ms
    );
    let error = get.failed().await;
    assert_eq!((error.code, error.delivered), (Code::Timeout, Delivered::Maybe));
    assert_eq!(other.next_abort().await, again.request_id);
}
