//! `hub.register.update`: an instance changes what it offers while it is registered.

use std::sync::Arc;

use alkhub_calls::{CallAnswer, Caller};
use alkhub_config::CallsConfig;
use alkhub_protocol::register::{RefusedDetails, RegisterOutput, Registered};
use alkhub_protocol::{CallError, CloseCode, Code, Delivered};
use alkhub_test_support::{Direction, until, within};
use serde_json::{Value, json};

use crate::fixture::{Hub, Spoke, admin, operation, peer, query, registration, request, spoke_key, subscription};
use crate::hashes::{hash_of, hashes, peer_by_hash};
use crate::pair::{Pair, sees};

/// Changes what a spoke offers; returns the hub's answer, once other hubs can call the spoke accordingly.
async fn update(hub: &Hub, caller: &Arc<Caller>, spoke: &mut Spoke, input: Value) -> Result<RegisterOutput, CallError> {
    let input = serde_json::from_value(input).expect("an update");
    let (mut output, registration) = hub.calls.update(caller, input, spoke.outbox.clone()).await?;
    output.lagging_hubs = hub.calls.visible(&registration).await;
    spoke.registration = registration;
    Ok(output)
}

/// How a call ends that nobody answers.
async fn refused(hub: &Hub, name: &str) -> (Code, Delivered) {
    let error = within("an end", hub.call(name, json!(1)))
        .await
        .expect_err("nobody offers it");
    (error.code, error.delivered)
}

async fn answers(hub: &Hub, spoke: &mut Spoke, name: &str) {
    let answering = async {
        let call = spoke.next_call().await;
        assert_eq!(call.operation.as_str(), name);
        spoke.respond(&call.request_id, json!("done"));
    };
    let (output, ()) = tokio::join!(hub.call(name, json!(1)), answering);
    assert_eq!(output.expect("answered")["data"], "done");
}

#[tokio::test]
async fn what_is_added_can_be_called_and_what_is_removed_has_no_provider() {
    let hub = Hub::local().await;
    let input = registration("text", &[query("text.upper"), query("text.lower")]);
    let mut spoke = Spoke::register(&hub, &admin(), input, peer_by_hash())
        .await
        .expect("registers");
    let before = spoke.output.clone();

    let change = json!({ "add": [query("text.new")], "remove": ["text.lower", "text.never"] });
    let output = update(&hub, &admin(), &mut spoke, change).await.expect("changed");

    assert!(output.generation > before.generation);
    assert_eq!(
        (&output.spoke_id, &output.instance_id),
        (&before.spoke_id, &before.instance_id)
    );
    let [new] = &output.operations[..] else {
        panic!("{output:?}")
    };
    assert_eq!((new.name.as_str(), new.result), ("text.new", Registered::Registered));
    assert_eq!(new.hash, Some(hash_of(&query("text.new"))));
    answers(&hub, &mut spoke, "text.new").await;
    answers(&hub, &mut spoke, "text.upper").await;
    assert_eq!(refused(&hub, "text.lower").await, (Code::NoProvider, Delivered::No));
    // One by its hash, and one that the spoke offers already.
    let change = json!({ "add": [hash_of(&query("text.lower")), query("text.new")] });
    let output = update(&hub, &admin(), &mut spoke, change).await.expect("changed");
    assert_eq!(output.operations[0].name, "text.lower");
    assert!(output.operations.iter().all(|o| o.result == Registered::Registered));
    answers(&hub, &mut spoke, "text.lower").await;
}

/// The other hubs learn of an update before its own hub is told that it is entered.
#[tokio::test]
async fn a_call_that_comes_before_its_spokes_update_is_entered_reaches_it() {
    let (pair, [_link, redis_of_b]) = Pair::linked_with_b_behind_a_proxy().await;
    let caller = admin();
    let mut spoke = pair.spoke_on_b(&[query("text.upper")]).await;
    redis_of_b.hold_one(Direction::ToClient);
    let calling = pair.call_early(&redis_of_b, "text.new", "text.upper");
    let change = json!({ "add": [query("text.new")] });

    let (updated, (ticket, mut answers)) = tokio::join!(update(&pair.b, &caller, &mut spoke, change), calling);

    updated.expect("changed");
    ticket.expect("routed");
    let call = spoke.next_call().await;
    spoke.respond(&call.request_id, json!("A"));
    let answer = within("the answer", answers.recv()).await;
    assert!(matches!(answer, Some(CallAnswer::Item(_))), "{answer:?}");
    pair.end().await;
}

#[tokio::test]
async fn calls_that_run_on_what_is_removed_are_answered() {
    let hub = Hub::local().await;
    let operations = [query("text.upper"), subscription("text.watch")];
    let mut spoke = Spoke::connect(&hub, "text", &operations).await;
    let (_ticket, mut answer) = hub.dispatch(request("text.upper", json!(1)));
    let (_watching, mut items) = hub.dispatch(request("text.watch", json!(1)));
    let (call, watch) = (spoke.next_call().await, spoke.next_call().await);

    let change = json!({ "remove": ["text.upper", "text.watch"] });
    let output = update(&hub, &admin(), &mut spoke, change).await.expect("changed");

    assert!(output.operations.is_empty(), "{output:?}");
    assert_eq!(refused(&hub, "text.upper").await, (Code::NoProvider, Delivered::No));
    assert!(spoke.has_nothing(), "nobody is told to stop");
    spoke.respond(&call.request_id, json!("late"));
    spoke.respond(&watch.request_id, json!("item"));
    spoke.complete(&watch.request_id);
    assert!(matches!(answer.recv().await, Some(CallAnswer::Item(_))));
    assert!(matches!(items.recv().await, Some(CallAnswer::Item(_))));
    assert!(matches!(items.recv().await, Some(CallAnswer::Completed)));
}

#[tokio::test]
async fn an_update_of_which_something_is_rejected_changes_nothing_and_says_what() {
    let hub = Hub::with(CallsConfig {
        max_operations: 2,
        ..CallsConfig::default()
    })
    .await;
    let key = spoke_key("text", &[], None, false);
    let input = registration("text", &[query("text.upper"), query("text.lower")]);
    let mut spoke = Spoke::register(&hub, &key, input, peer_by_hash())
        .await
        .expect("registers");
    let standing = spoke.output.generation;

    for (change, code, told) in [
        (
            json!({ "add": [query("other.new")], "remove": ["text.lower"] }),
            Code::BadRequest,
            "`text.*`",
        ),
        (
            json!({ "add": [query("text.new"), json!({ "name": "x" })], "remove": ["text.lower"] }),
            Code::BadRequest,
            "OperationSpec",
        ),
        (
            json!({ "add": [query("text.new"), query("text.new")], "remove": ["text.lower"] }),
            Code::BadRequest,
            "twice",
        ),
        (
            json!({ "add": [query("text.new")] }),
            Code::BadRequest,
            "2 operations, and would offer 3",
        ),
        (
            json!({ "add": [hash_of(&query("text.never"))], "remove": ["text.lower"] }),
            Code::NotFound,
            "details.unknown",
        ),
    ] {
        let refused = update(&hub, &key, &mut spoke, change.clone())
            .await
            .expect_err("refused");

        assert_eq!(refused.code, code, "{change}");
        assert!(refused.message.contains(told), "{refused:?}");
    }
    let change = json!({ "add": [query("other.new"), query("text.new")], "remove": ["text.lower"] });
    let error = update(&hub, &key, &mut spoke, change).await.expect_err("refused");
    let details: RefusedDetails = error.details.expect("it says what").to().expect("its details");
    let names: Vec<&str> = details.rejected.iter().map(|rejected| rejected.name.as_str()).collect();
    assert_eq!(names, ["other.new"]);
    let instances = hub.calls.instances();
    assert_eq!(instances[0].1.generation, standing);
    assert!(spoke.registration.is_current());
    answers(&hub, &mut spoke, "text.lower").await;
    assert_eq!(refused(&hub, "text.new").await.0, Code::OperationNotFound);
}

#[tokio::test]
async fn who_has_not_registered_has_nothing_to_change() {
    let hub = Hub::local().await;
    let (outbox, _outgoing) = peer();
    let input = serde_json::from_value(json!({ "add": [query("text.new")] })).expect("an update");

    let refused = hub.calls.update(&admin(), input, outbox).await.expect_err("refused");

    assert_eq!(refused.code, Code::Conflict);
    assert!(refused.message.contains("hub.register"), "{refused:?}");
}

#[tokio::test]
async fn changes_of_one_connection_take_effect_in_their_order() {
    let (hub, admin) = (Hub::local().await, admin());
    let (outbox, _outgoing) = peer();
    let input =
        |operations: &[Value]| serde_json::from_value(registration("text", operations)).expect("a registration");
    let change = |change: Value| serde_json::from_value(change).expect("an update");

    let (registered, added, removed) = tokio::join!(
        hub.calls.register(&admin, input(&[query("text.one")]), outbox.clone()),
        hub.calls
            .update(&admin, change(json!({ "add": [query("text.two")] })), outbox.clone()),
        hub.calls
            .update(&admin, change(json!({ "remove": ["text.one"] })), outbox.clone()),
    );

    let generations = [registered, added, removed].map(|done| {
        let (output, registration) = done.expect("done");
        // Only the last registration holds the session.
        (output.generation, registration)
    });
    assert!(generations[0].0 < generations[1].0 && generations[1].0 < generations[2].0);
    let offered = hub.calls.operations(&admin, None);
    let offered: Vec<&str> = offered.iter().map(|info| info.operation.as_str()).collect();
    assert_eq!(offered, ["text.two"]);
}

#[tokio::test]
async fn an_update_that_is_given_up_takes_no_effect() {
    let (hub, admin) = (Hub::local().await, admin());
    let mut spoke = Spoke::connect(&hub, "text", &[query("text.upper")]).await;
    let input = serde_json::from_value(json!({ "remove": ["text.upper"] })).expect("an update");

    let mut updating = Box::pin(hub.calls.update(&admin, input, spoke.outbox.clone()));
    assert!(futures::poll!(updating.as_mut()).is_pending());
    drop(updating);

    // It comes after the abandoned update, in its turn.
    let output = update(&hub, &admin, &mut spoke, json!({ "add": [query("text.new")] })).await;
    output.expect("changed");
    answers(&hub, &mut spoke, "text.upper").await;
}

#[tokio::test]
async fn a_program_changes_its_two_sessions_one_after_the_other() {
    let hub = Hub::local().await;
    let (old, new) = (
        query("text.upper"),
        operation("text.upper", "query", &json!({ "version": "2.0.0" })),
    );
    let instance = |id: &str| json!({ "name": "text", "instanceId": id, "operations": [old] });
    let mut first = Spoke::register(&hub, &admin(), instance("i"), peer())
        .await
        .expect("registers");
    let mut second = Spoke::register(&hub, &admin(), instance("i#2"), peer())
        .await
        .expect("registers");
    let change = json!({ "add": [new] });

    update(&hub, &admin(), &mut first, change.clone())
        .await
        .expect("changed");
    answers(&hub, &mut second, "text.upper").await;
    update(&hub, &admin(), &mut second, change.clone())
        .await
        .expect("changed");

    let info = hub.calls.operation(&admin(), &"text.upper".parse().expect("valid"));
    assert_eq!(info.expect("offered").spec.version, "2.0.0");
    // Another program is not expected to follow.
    let input = registration(
        "text",
        &[operation("text.upper", "query", &json!({ "version": "2.0.0" }))],
    );
    let mut other = Spoke::register(&hub, &admin(), input, peer()).await.expect("registers");
    let refused = update(&hub, &admin(), &mut other, json!({ "add": [query("text.upper")] })).await;
    let refused = refused.expect_err("others offer it");
    assert!(refused.message.contains("another specification"), "{refused:?}");
}

#[tokio::test]
async fn the_answer_to_an_update_says_that_other_hubs_can_call_it() {
    let pair = Pair::start().await;
    let mut spoke = pair.spoke_on_b(&[query("text.upper"), query("text.lower")]).await;

    for round in 0..20 {
        let (new, old) = (format!("text.new{round}"), format!("text.new{}", round - 1));
        let change = json!({ "add": [query(&new)], "remove": [old] });
        let output = update(&pair.b, &admin(), &mut spoke, change).await.expect("changed");

        assert_eq!(output.lagging_hubs, [] as [alkhub_protocol::HubId; 0]);
        answers(&pair.a, &mut spoke, &new).await;
        if round > 0 {
            assert_eq!(refused(&pair.a, &old).await, (Code::NoProvider, Delivered::No), "{old}");
        }
    }
    drop(spoke);
    pair.end().await;
}

/// The record is replaced by compare-and-set: what the instance has meanwhile registered elsewhere stands.
#[tokio::test]
async fn an_update_gives_way_to_a_registration_on_another_hub() {
    let (pair, redis_of_b) = Pair::with_b_behind_a_proxy().await;
    let admin = admin();
    let instance = |operations: &[Value]| json!({ "name": "text", "instanceId": "i", "operations": operations });
    let registering = Spoke::register(&pair.b, &admin, instance(&[query("text.upper")]), peer());
    let mut old = registering.await.expect("registers");
    sees(&pair.a, "text.upper", old.output.generation).await;

    redis_of_b.hold();
    let input = serde_json::from_value(json!({ "add": [query("text.new")] })).expect("an update");
    let mut updating = Box::pin(pair.b.calls.update(&admin, input, old.outbox.clone()));
    assert!(futures::poll!(updating.as_mut()).is_pending());
    let mut new = {
        let input = serde_json::from_value(instance(&[query("text.lower")])).expect("a registration");
        let registered = Spoke::register_unseen(&pair.a, &admin, input, peer()).await;
        registered.expect("registers")
    };
    redis_of_b.heal();

    let refused = within("the update ends", updating)
        .await
        .expect_err("another connection has it");
    assert_eq!(refused.code, Code::Conflict, "{refused:?}");
    assert_eq!(old.next_close().await, CloseCode::Replaced);
    sees(&pair.b, "text.lower", new.output.generation).await;
    answers(&pair.b, &mut new, "text.lower").await;
    until("nobody offers what the old one did", async || {
        match pair.b.call("text.upper", json!(1)).await {
            Err(error) if error.code == Code::NoProvider => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
    drop((old, new));
    pair.end().await;
}

/// The second hub has already compiled what the first one's spokes offer, so that a registration after that hub was
/// killed finds it there.
#[tokio::test]
async fn a_spoke_whose_hub_is_gone_registers_by_hash_at_another_one() {
    let pair = Pair::start().await;
    let input = registration("text", &[query("text.upper")]);
    let spoke = Spoke::register(&pair.b, &admin(), input, peer_by_hash())
        .await
        .expect("registers");
    let told = hashes(&spoke)[0].clone().expect("told");
    pair.postgres.stop().await.expect("stops");

    let input = registration("text", &[json!(told)]);
    let again = Spoke::register(&pair.a, &admin(), input, peer_by_hash()).await;

    let mut again = again.expect("it is in memory there");
    drop(spoke);
    answers(&pair.a, &mut again, "text.upper").await;
    drop(again);
    pair.a.stop().await;
    pair.b.stop().await;
}
