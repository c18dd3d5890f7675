//! Calls of queries and mutations on one hub.

use std::time::Duration;

use alkhub_calls::{CallAnswer, Limits, ListQuery, OutgoingItem, Reply};
use alkhub_config::{BudgetConfig, CallsConfig};
use alkhub_protocol::{CallError, CallRequest, Code, Delivered, Dialect, Frame, RawJson};
use alkhub_test_support::within;
use serde_json::{Value, json};

use crate::fixture::{
    Hub, HubOptions, Spoke, admin, client, decode, mutation, operation, peer_of, query, registration, request,
};

#[tokio::test(start_paused = true)]
async fn a_call_reaches_its_spoke_and_the_answer_its_caller() {
    let hub = Hub::local().await;
    let mut spoke = Spoke::connect(&hub, "text", &[query("text.upper")]).await;
    let (ticket, mut answers) = hub.dispatch(request("text.upper", json!({"s": "hello"})));
    let ticket = ticket.expect("routed");

    let call = spoke.next_call().await;
    assert_eq!(call.operation.as_str(), "text.upper");
    let input = call.input.as_ref().expect("given");
    assert_eq!(input.as_str(), r#"{"s":"hello"}"#);
    assert_eq!(call.timeout_ms, Some(30_000));
    assert!(call.deadline_ms.is_some() && !ticket.is_done() && hub.calls.in_flight() == 1);
    spoke.respond(&call.request_id, json!({"data": "HELLO", "meta": {"source": "local"}}));

    let answer = within("the answer", answers.recv()).await;
    let output = RawJson::from(json!({"data": "HELLO", "meta": {"source": "local"}}));
    assert_eq!(answer, Some(CallAnswer::Item(output)));
    assert!(answers.recv().await.is_none(), "nothing follows");
    assert!(ticket.is_done() && hub.calls.in_flight() == 0);
}

#[tokio::test(start_paused = true)]
async fn calls_in_flight_of_a_key_end_at_its_budget_by_name() {
    let budget = BudgetConfig {
        key_bytes: 1_000_000,
        ..BudgetConfig::default()
    };
    let hub = Hub::start(HubOptions {
        budget,
        ..HubOptions::default()
    })
    .await;
    let mut spoke = Spoke::connect(&hub, "text", &[query("text.upper")]).await;
    let large = || request("text.upper", json!("x".repeat(300_000)));
    let running: Vec<_> = (0..3).map(|_| hub.dispatch(large())).collect();
    assert!(running.iter().all(|(ticket, _)| ticket.is_ok()));

    let (refused, _) = hub.dispatch(large());

    let error = refused.expect_err("over the budget");
    assert_eq!((&error.code, error.retryable), (&Code::Overloaded, true));
    assert!(error.message.contains("budget.key-bytes"), "{}", error.message);
    spoke.next_call().await;
    let (taken, _answers) = hub.dispatch(large());
    taken.expect("the spoke has the input of the first: it is kept no more");
}

#[tokio::test(start_paused = true)]
async fn a_caller_on_a_connection_is_answered_in_its_dialect_with_its_own_id() {
    let hub = Hub::local().await;
    let mut spoke = Spoke::connect(&hub, "text", &[query("text.upper")]).await;
    let (outbox, mut outgoing) = peer_of(Limits {
        items: 10,
        bytes: 10_000,
    });
    outbox.speaks(Dialect::Id);
    let reply = Reply::Outbox(outbox);
    let request = request("text.upper", json!(1));
    let id = request.request_id.clone();
    hub.calls.dispatch(&admin(), request, reply).expect("routed");

    let call = spoke.next_call().await;
    assert_ne!(call.request_id, id, "the spoke sees the hub's id");
    spoke.respond(&call.request_id, json!(2));

    let Some(OutgoingItem::Message(message)) = outgoing.try_next() else {
        panic!("no answer");
    };
    assert!(
        message.starts_with(format!(r#"{{"type":"call.responded","id":"{id}""#).as_bytes()),
        "{message:?}"
    );
    let Frame::Responded { request_id, output } = decode(&message) else {
        panic!("{message:?}");
    };
    let output: Value = output.to().expect("JSON");
    assert_eq!((request_id, &output["data"]), (id, &json!(2)));
    assert_eq!(output["meta"]["operationId"], "text.upper");
}

#[tokio::test(start_paused = true)]
async fn input_against_its_schema_never_reaches_the_spoke() {
    let hub = Hub::local().await;
    let schema = json!({"inputSchema": {"type": "object", "properties": {"n": {"type": "integer"}}}});
    let mut spoke = Spoke::connect(&hub, "text", &[operation("text.repeat", "query", &schema)]).await;

    let error = hub
        .call("text.repeat", json!({"n": "three"}))
        .await
        .expect_err("a string");

    assert_eq!((error.code, error.delivered), (Code::ValidationError, Delivered::No));
    let details: Value = error.details.expect("details").to().expect("JSON");
    assert_eq!(details, json!({"path": "/n", "rule": "/properties/n/type"}));
    assert!(spoke.has_nothing());
}

#[tokio::test(start_paused = true)]
async fn output_against_its_schema_is_output_invalid_and_delivered() {
    let hub = Hub::local().await;
    let schema = json!({"outputSchema": {"type": "string"}});
    let mut spoke = Spoke::connect(&hub, "text", &[operation("text.upper", "mutation", &schema)]).await;
    for output in [json!(1), json!({"data": 1, "meta": {"source": "local"}})] {
        let (ticket, mut answers) = hub.dispatch(request("text.upper", json!("a")));
        ticket.expect("routed");

        let call = spoke.next_call().await;
        spoke.respond(&call.request_id, output);

        let Some(CallAnswer::Failed(error)) = answers.recv().await else {
            panic!("it must fail");
        };
        assert_eq!((error.code, error.delivered), (Code::OutputInvalid, Delivered::Yes));
        let details: Value = error.details.expect("details").to().expect("JSON");
        assert_eq!(details, json!({"path": "", "rule": "/type"}));
    }
}

#[tokio::test(start_paused = true)]
async fn a_declared_error_has_its_status_and_others_have_none() {
    let hub = Hub::local().await;
    let errors = json!({"errorSchemas": [{"code": "QUOTA", "httpStatus": 402}, {"code": "ODD", "httpStatus": 7}]});
    let mut spoke = Spoke::connect(&hub, "shop", &[operation("shop.buy", "mutation", &errors)]).await;
    for (code, status) in [("QUOTA", Some(402)), ("ODD", None), ("OTHER", None)] {
        let (ticket, mut answers) = hub.dispatch(request("shop.buy", json!({})));
        ticket.expect("routed");

        let call = spoke.next_call().await;
        let failed = CallError::new(Code::Domain(code.to_owned()), "no").delivered(Delivered::Yes);
        spoke.fail(&call.request_id, failed.clone());

        let wanted = CallError {
            declared_status: status,
            ..failed
        };
        assert_eq!(answers.recv().await, Some(CallAnswer::Failed(wanted)));
    }
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_routed_says_why() {
    let hub = Hub::local().await;
    let spoke = Spoke::connect(&hub, "text", &[query("text.upper")]).await;
    let code = async |operation: &str| hub.call(operation, json!(null)).await.expect_err("refused").code;

    assert_eq!(code("text.lower").await, Code::OperationNotFound);
    assert_eq!(code("hub.nothing").await, Code::OperationNotFound);
    spoke.registration.close("for the test").await;
    assert_eq!(code("text.upper").await, Code::NoProvider);

    let refused = hub
        .calls
        .call(&client(&["call:other.*"]), request("text.upper", json!(null)))
        .await;
    let error = refused.expect_err("no scope");
    assert_eq!(error.code, Code::AccessDenied);
    assert!(error.message.contains("call:text.upper"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn an_instance_gets_no_more_calls_at_once_than_it_takes() {
    let hub = Hub::local().await;
    let mut input = registration("text", &[query("text.upper")]);
    input["concurrency"] = json!(2);
    let mut spoke = Spoke::register(&hub, &admin(), input, crate::fixture::peer())
        .await
        .expect("registers");
    let running: Vec<_> = (0..2).map(|_| hub.dispatch(request("text.upper", json!(1)))).collect();
    assert!(running.iter().all(|(ticket, _)| ticket.is_ok()));

    let error = hub
        .call("text.upper", json!(1))
        .await
        .expect_err("both slots are taken");
    assert_eq!(
        (error.code, error.retryable, error.delivered),
        (Code::Overloaded, true, Delivered::No)
    );

    let call = spoke.next_call().await;
    spoke.respond(&call.request_id, json!(1));
    assert!(
        hub.dispatch(request("text.upper", json!(1))).0.is_ok(),
        "the slot is free again"
    );
}

#[tokio::test(start_paused = true)]
async fn calls_of_a_key_and_of_the_hub_are_bounded() {
    let hub = Hub::with(CallsConfig {
        max_in_flight: 3,
        max_in_flight_per_key: 2,
        ..CallsConfig::default()
    })
    .await;
    let _spoke = Spoke::connect(&hub, "text", &[query("text.upper")]).await;
    let (one, other) = (client(&["call:*"]), client(&["call:*", "x"]));
    let dispatch = |caller| {
        let (sender, answers) = tokio::sync::mpsc::channel(2);
        let ticket = hub
            .calls
            .dispatch(caller, request("text.upper", json!(1)), Reply::Channel(sender));
        ticket.map(|ticket| (ticket, answers))
    };
    let refused = |caller, setting: &str| {
        let error = dispatch(caller).expect_err(setting);
        assert_eq!((&error.code, error.retryable), (&Code::Overloaded, true));
        assert!(error.message.contains(&format!("(`{setting}`)")), "{error}");
    };

    let first = dispatch(&one).expect("room");
    let _second = dispatch(&one).expect("room");
    refused(&one, "calls.max-in-flight-per-key");
    let _third = dispatch(&other).expect("room");
    refused(&other, "calls.max-in-flight");

    first.0.caller_lost("for the test");
    assert!(dispatch(&one).is_ok());
}

/// The deadline counts from when the call is prepared.
#[tokio::test(start_paused = true)]
async fn a_call_that_is_late_when_it_is_made_takes_no_place_of_its_key() {
    let hub = Hub::with(CallsConfig {
        max_in_flight_per_key: 2,
        ..CallsConfig::default()
    })
    .await;
    let mut spoke = Spoke::connect(&hub, "text", &[query("text.upper")]).await;
    for _ in 0..3 {
        let short = CallRequest {
            timeout: Some(Duration::from_millis(50)),
            ..request("text.upper", json!(1))
        };
        let prepared = hub.calls.prepare(&admin(), short).await.expect("it may be called");
        tokio::time::advance(Duration::from_millis(60)).await;

        let error = hub.calls.call_prepared(prepared).await.expect_err("it is late");

        assert_eq!(
            (error.code, error.delivered),
            (Code::Timeout, Delivered::No),
            "{}",
            error.message
        );
    }
    assert!(spoke.has_nothing() && hub.calls.in_flight() == 0);
    let (ticket, mut answers) = hub.dispatch(request("text.upper", json!(2)));
    ticket.expect("the key runs no call");
    let call = spoke.next_call().await;
    spoke.respond(&call.request_id, json!(2));
    assert!(matches!(answers.recv().await, Some(CallAnswer::Item(_))));
}

#[tokio::test(start_paused = true)]
async fn only_the_spoke_that_got_the_call_can_answer_it() {
    let hub = Hub::local().await;
    let mut spoke = Spoke::connect(&hub, "text", &[query("text.upper")]).await;
    let forger = Spoke::connect(&hub, "other", &[]).await;
    let (ticket, mut answers) = hub.dispatch(request("text.upper", json!(1)));
    ticket.expect("routed");
    let call = spoke.next_call().await;

    forger.respond(&call.request_id, json!("forged"));
    assert!(answers.try_recv().is_err());
    spoke.respond(&call.request_id, json!("true"));
    spoke.respond(&call.request_id, json!("late"));

    let Some(CallAnswer::Item(output)) = answers.recv().await else {
        panic!("no answer");
    };
    assert_eq!(output.to::<Value>().expect("JSON")["data"], "true");
    assert!(answers.recv().await.is_none());
}

#[tokio::test(start_paused = true)]
async fn a_lost_spoke_fails_its_calls_at_once() {
    let hub = Hub::local().await;
    for (kind, retryable) in [("query", true), ("mutation", false)] {
        let mut spoke = Spoke::connect(&hub, "text", &[operation("text.upper", kind, &json!({}))]).await;
        let (ticket, mut answers) = hub.dispatch(request("text.upper", json!(1)));
        ticket.expect("routed");
        spoke.next_call().await;

        drop(spoke.registration);

        let Ok(CallAnswer::Failed(error)) = answers.try_recv() else {
            panic!("not failed at once");
        };
        assert_eq!((error.code, error.delivered), (Code::SpokeLost, Delivered::Maybe));
        assert_eq!(error.retryable, retryable, "{kind}");
    }
    assert_eq!(hub.calls.in_flight(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_call_that_never_left_the_queue_goes_to_another_instance() {
    let hub = Hub::local().await;
    let first = Spoke::connect(&hub, "text", &[mutation("text.upper")]).await;
    let (ticket, mut answers) = hub.dispatch(request("text.upper", json!(1)));
    ticket.expect("routed");
    let mut second = Spoke::connect(&hub, "text", &[mutation("text.upper")]).await;

    drop(first); // Its writer has taken nothing.

    let call = second.next_call().await;
    second.respond(&call.request_id, json!(2));
    assert!(matches!(answers.recv().await, Some(CallAnswer::Item(_))));
    assert!((hub.metric("alkhub_calls_resent_total") - 1.0).abs() < f64::EPSILON);
}

#[tokio::test(start_paused = true)]
async fn a_call_that_never_left_and_has_nowhere_to_go_was_not_delivered() {
    let hub = Hub::local().await;
    let spoke = Spoke::connect(&hub, "text", &[mutation("text.upper")]).await;
    let (ticket, mut answers) = hub.dispatch(request("text.upper", json!(1)));
    ticket.expect("routed");

    drop(spoke);

    let Ok(CallAnswer::Failed(error)) = answers.try_recv() else {
        panic!("not failed at once");
    };
    assert_eq!(
        (error.code, error.delivered, error.retryable),
        (Code::SpokeLost, Delivered::No, true)
    );
}

#[tokio::test(start_paused = true)]
async fn a_spoke_that_does_not_read_is_overloaded() {
    let hub = Hub::local().await;
    let limits = Limits {
        items: 2,
        bytes: 10_000,
    };
    let input = registration("text", &[query("text.upper")]);
    let _spoke = Spoke::register(&hub, &admin(), input, peer_of(limits))
        .await
        .expect("registers");
    let _running: Vec<_> = (0..2).map(|_| hub.dispatch(request("text.upper", json!(1)))).collect();

    let error = hub.call("text.upper", json!(1)).await.expect_err("its queue is full");

    assert_eq!((error.code, error.delivered), (Code::Overloaded, Delivered::No));
    assert_eq!(hub.calls.in_flight(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_spoke_that_completes_without_output_has_failed() {
    let hub = Hub::local().await;
    let mut spoke = Spoke::connect(&hub, "text", &[query("text.upper")]).await;
    let (ticket, mut answers) = hub.dispatch(request("text.upper", json!(1)));
    ticket.expect("routed");

    let call = spoke.next_call().await;
    spoke.complete(&call.request_id);

    let Some(CallAnswer::Failed(error)) = answers.recv().await else {
        panic!("it must fail");
    };
    assert_eq!((error.code, error.delivered), (Code::UnknownError, Delivered::Yes));
}

#[tokio::test(start_paused = true)]
async fn the_hubs_own_operations_list_search_describe_and_call() {
    let hub = Hub::local().await;
    let described = json!({"description": "Makes letters large", "tags": ["case"]});
    let mut spoke = Spoke::connect(
        &hub,
        "text",
        &[operation("text.upper", "query", &described), query("text.trim")],
    )
    .await;
    let names = |answer: &Value| {
        let operations = answer["data"]["operations"].as_array().expect("a list");
        operations
            .iter()
            .map(|o| o["operation"].as_str().expect("a name").to_owned())
            .collect::<Vec<_>>()
    };

    let list = hub.call("hub.list", json!(null)).await.expect("listed");
    assert_eq!(names(&list), ["text.trim", "text.upper"]);
    assert_eq!(list["meta"]["operationId"], "hub.list");
    let none = hub
        .call("hub.list", json!({"namespace": "other"}))
        .await
        .expect("listed");
    assert!(names(&none).is_empty());
    let found = hub
        .call("hub.search", json!({"query": "LARGE case"}))
        .await
        .expect("found");
    assert_eq!(names(&found), ["text.upper"]);
    let schema = hub
        .call("hub.schema", json!({"operation": "text.upper"}))
        .await
        .expect("described");
    assert_eq!(
        (&schema["data"]["inputSchema"], &schema["data"]["spokes"]),
        (&json!({}), &json!(["text"]))
    );

    let caller = client(&["call:text.upper"]);
    let calling = hub.calls.call(
        &caller,
        request("hub.call", json!({"operation": "text.upper", "input": "a"})),
    );
    let answering = async {
        let call = spoke.next_call().await;
        let input = call.input.as_ref().expect("given");
        assert_eq!((call.operation.as_str(), input.as_str()), ("text.upper", "\"a\""));
        spoke.respond(&call.request_id, json!("A"));
    };
    let (answer, ()) = tokio::join!(calling, answering);
    let answer: Value = answer.expect("called").to().expect("JSON");
    assert_eq!(answer["data"], "A");
}

#[tokio::test(start_paused = true)]
async fn the_hubs_own_operations_check_scopes_and_input() {
    let hub = Hub::local().await;
    let _spoke = Spoke::connect(&hub, "text", &[query("text.upper")]).await;
    let call = async |scopes: &[&str], operation: &str, input: Value| {
        hub.calls
            .call(&client(scopes), request(operation, input))
            .await
            .expect_err("refused")
    };

    for (operation, input) in [
        ("hub.list", json!({})),
        ("hub.search", json!({"query": "a"})),
        ("hub.schema", json!({"operation": "text.upper"})),
    ] {
        let error = call(&["call:*", "call:hub.*"], operation, input).await;
        assert!(
            error.code == Code::AccessDenied && error.message.contains("operations:read"),
            "{operation}: {error}"
        );
    }
    let error = call(&["operations:read"], "hub.call", json!({"operation": "text.upper"})).await;
    assert!(
        error.code == Code::AccessDenied && error.message.contains("call:text.upper"),
        "{error}"
    );
    let error = call(&["admin"], "hub.search", json!({})).await;
    assert_eq!(error.code, Code::ValidationError);
    let error = call(&["admin"], "hub.call", json!({"operation": "hub.list"})).await;
    assert_eq!(error.code, Code::BadRequest);
}

#[tokio::test(start_paused = true)]
async fn operations_and_instances_are_shown() {
    let hub = Hub::local().await;
    let spoke = Spoke::connect(&hub, "text", &[query("text.upper")]).await;

    let search = ListQuery {
        search: "upper".to_owned(),
        ..ListQuery::default()
    };
    let page = hub.calls.operation_page(&admin(), &search).expect("allowed");
    assert_eq!((page.operations.len(), page.total, page.next), (1, 1, None));
    assert_eq!(page.operations[0].spokes, ["text"]);
    let refused = hub.calls.operation_page(&client(&[]), &search).expect_err("no scope");
    assert_eq!(refused.code, Code::AccessDenied);
    assert!(
        hub.calls
            .operation(&admin(), &"text.upper".parse().expect("valid"))
            .is_some()
    );
    let instances = hub.calls.instances();
    assert_eq!(instances[0].0.as_str(), "text");
    assert_eq!(instances[0].1.generation, spoke.output.generation);
    assert_eq!(instances[0].2[0].as_str(), "text.upper");
}

#[tokio::test(start_paused = true)]
async fn what_would_not_fit_into_a_frame_is_refused_on_both_ways() {
    let hub = Hub::local().await;
    let mut spoke = Spoke::connect(&hub, "text", &[query("text.upper")]).await;
    let large = json!("x".repeat(1024 * 1024 - 1));
    let fits = json!("x".repeat(1024 * 1024 - 2));

    let error = hub.call("text.upper", large.clone()).await.expect_err("too large");
    assert_eq!((error.code, error.delivered), (Code::PayloadTooLarge, Delivered::No));
    for (output, answered) in [(large, false), (fits.clone(), true)] {
        let (outbox, mut outgoing) = peer_of(Limits {
            items: 10,
            bytes: 10 << 20,
        });
        let reply = Reply::Outbox(outbox);
        hub.calls
            .dispatch(&admin(), request("text.upper", fits.clone()), reply)
            .expect("fits");
        let call = spoke.next_call().await;
        spoke.respond(&call.request_id, output);

        let Some(OutgoingItem::Message(message)) = outgoing.try_next() else {
            panic!("no answer");
        };
        match decode(&message) {
            Frame::Responded { .. } => assert!(answered),
            Frame::Failed { error, .. } => assert!(!answered && error.code == Code::OutputInvalid, "{error}"),
            other => panic!("{other:?}"),
        }
    }
}
