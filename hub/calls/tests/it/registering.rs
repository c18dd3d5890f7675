//! What a registration may say, and what becomes of the previous one.

use std::sync::Arc;
use std::task::Poll;

use alkhub_calls::{CallAnswer, Caller};
use alkhub_config::{BudgetConfig, CallsConfig, HubConfig};
use alkhub_protocol::register::{OPERATIONS_LIMIT, RegisterInput, Registered};
use alkhub_protocol::{CallError, CloseCode, Code, Delivered, OperationKind, RawJson};
use alkhub_test_support::until;
use futures::{StreamExt as _, poll};
use serde_json::{Value, json};

use crate::fixture::{
    Hub, HubOptions, Spoke, admin, client, mutation, operation, peer, query, registration, request, spoke_key,
    subscription,
};

async fn register(hub: &Hub, caller: &Arc<Caller>, input: Value) -> Result<Spoke, alkhub_protocol::CallError> {
    Spoke::register(hub, caller, input, peer()).await
}

/// `name: result reason` of each operation.
fn results(spoke: &Spoke) -> Vec<String> {
    let show = |o: &alkhub_protocol::register::OperationResult| match (&o.result, &o.reason) {
        (Registered::Registered, None) => format!("{}: registered", o.name),
        (Registered::Pooled, None) => format!("{}: pooled", o.name),
        (Registered::Rejected, Some(reason)) => format!("{}: rejected, {reason}", o.name),
        other => format!("{}: {other:?}", o.name),
    };
    spoke.output.operations.iter().map(show).collect()
}

#[tokio::test(start_paused = true)]
async fn what_of_a_specification_is_not_checked_is_told() {
    let hub = Hub::local().await;
    let schema = json!({"properties": {"at": {"type": "Date"}}});
    let operations = [
        query("text.plain"),
        operation("text.at", "query", &json!({ "inputSchema": schema })),
    ];

    let spoke = register(&hub, &admin(), registration("text", &operations))
        .await
        .expect("an answer");

    let warnings = spoke
        .output
        .operations
        .iter()
        .map(|operation| operation.warnings.as_slice());
    let told = "`inputSchema`: `Date` is no type of JSON: what is at `/properties/at` is not checked".to_owned();
    assert_eq!(warnings.collect::<Vec<_>>(), [&[][..], &[told]]);
}

/// However many registrations wait for their turn or for the directory, the memory that they take is bounded.
#[tokio::test(start_paused = true)]
async fn registrations_that_wait_are_charged_to_their_key_whether_or_not_their_peers_wait() {
    let hub = Hub::start(HubOptions {
        budget: BudgetConfig {
            key_bytes: 64 * 1024,
            ..BudgetConfig::default()
        },
        ..HubOptions::default()
    })
    .await;
    let caller = admin();
    let large = |name: &str| json!({ "name": name, "operations": [], "hostInfo": "x".repeat(15 * 1024) });
    let ask = |name| Box::pin(register(&hub, &caller, large(name)));
    let is_overloaded = |polled| {
        matches!(
            polled,
            Poll::Ready(Err(CallError {
                code: Code::Overloaded,
                ..
            }))
        )
    };

    // None of them makes progress between these lines.
    let mut waiting = ["a", "b", "c"].map(ask);
    for registration in &mut waiting {
        assert!(poll!(registration).is_pending());
    }
    assert!(is_overloaded(poll!(ask("d"))));
    drop(waiting);
    assert!(is_overloaded(poll!(ask("d"))));

    until("they are given up", async || match hub.metric("alkhub_budget_bytes") {
        0.0 => Ok(()),
        bytes => Err(bytes),
    })
    .await;
    ask("d").await.expect("registers");
}

/// A spoke whose registration broke the hub's task used to be told to try again, for ever.
#[tokio::test(start_paused = true)]
async fn what_no_type_of_ours_can_hold_is_kept_or_refused_by_name() {
    let hub = Hub::local().await;
    let mut input = RegisterInput {
        name: Some("text".parse().expect("valid")),
        ..RegisterInput::default()
    };
    for (name, schema, meta) in [
        ("large", "true", "1e400"),
        ("half", "true", r#""cut \ud83d""#),
        ("twice", "true", r#"{"a":1,"a":2}"#),
        ("limit", r#"{"maximum":1e400}"#, "null"),
        ("cut", r#"{"title":"cut \ud83d"}"#, "null"),
    ] {
        let text = format!(
            r#"{{"namespace":"text","name":"{name}","type":"query","inputSchema":{schema},"outputSchema":true,"_meta":{meta}}}"#
        );
        input.operations.push(RawJson::parse(text).expect("JSON"));
    }

    let spoke = Spoke::register_as(&hub, &admin(), input, peer())
        .await
        .expect("an answer");

    let results = results(&spoke);
    for (result, wanted) in results
        .iter()
        .zip(["registered", "registered", "registered", "1e400", "surrogate"])
    {
        assert!(result.contains(wanted), "{result} for {wanted}");
        assert!(result.starts_with("text."), "{result}");
    }
    assert_eq!(results.len(), 5);
}

#[tokio::test(start_paused = true)]
async fn each_operation_is_accepted_or_refused_on_its_own() {
    let hub = Hub::local().await;
    let operations = [
        query("text.upper"),
        query("hub.evil"),
        query("text.upper"),
        json!({"namespace": "text", "name": "half"}),
        json!({"namespace": "1text", "name": "odd", "type": "query", "inputSchema": {}, "outputSchema": {}}),
        operation("text.bad", "query", &json!({"inputSchema": {"type": 3}})),
        operation(
            "text.far",
            "query",
            &json!({"outputSchema": {"$ref": "http://127.0.0.1:1/x"}}),
        ),
        json!(7),
        query("text.lower"),
    ];

    let spoke = register(&hub, &admin(), registration("text", &operations))
        .await
        .expect("an answer");

    let results = results(&spoke);
    let wanted = [
        ("text.upper: registered", ""),
        ("hub.evil: rejected", "hub's own"),
        ("text.upper: rejected", "twice"),
        ("text.half: rejected", "`type`"),
        ("1text.odd: rejected", "namespace.operation"),
        (
            "text.bad: rejected",
            "the input schema is not a JSON Schema: at `/type`",
        ),
        ("text.far: rejected", "the output schema is not a JSON Schema"),
        ("?.?: rejected", "OperationSpec"),
        ("text.lower: registered", ""),
    ];
    assert_eq!(results.len(), wanted.len());
    for (result, (start, part)) in results.iter().zip(wanted) {
        assert!(
            result.starts_with(start) && result.contains(part),
            "{result} for {start} {part}"
        );
    }
    assert_eq!(hub.calls.operations(&admin(), None).len(), 2);
    assert_eq!(spoke.output.heartbeat_ms, 10_000);
}

#[tokio::test(start_paused = true)]
async fn an_array_is_no_specification_and_no_part_of_one() {
    let hub = Hub::local().await;
    let operations = [
        json!(["array", "text", "1.0.0", "query", null, "", [], true, true]),
        operation("text.access", "query", &json!({"accessControl": [["admin"]]})),
        operation("text.errors", "query", &json!({"errorSchemas": [["CODE"]]})),
    ];

    let spoke = register(&hub, &admin(), registration("text", &operations))
        .await
        .expect("an answer");

    for result in results(&spoke) {
        assert!(
            result.contains("rejected") && result.contains("an object with named fields"),
            "{result}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_declared_error_that_can_never_come_about_is_told() {
    let hub = Hub::local().await;
    let errors = json!([{"code": "A", "httpStatus": 200}, {"code": "not a code!"}]);
    let operations = [operation("text.upper", "query", &json!({ "errorSchemas": errors }))];

    let spoke = register(&hub, &admin(), registration("text", &operations))
        .await
        .expect("an answer");

    assert_eq!(results(&spoke), ["text.upper: registered"]);
    let warnings = &spoke.output.operations[0].warnings;
    assert!(
        warnings[0].starts_with("`errorSchemas.httpStatus`: 200"),
        "{warnings:?}"
    );
    assert!(
        warnings[1].starts_with("`errorSchemas.code`: `not a code!`"),
        "{warnings:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_spoke_offers_only_what_its_policy_names() {
    let hub = Hub::local().await;
    let operations = [query("builder.build"), query("git.log"), query("other.thing")];

    let default = spoke_key("builder", &[], None, false);
    let spoke = register(&hub, &default, registration("builder", &operations))
        .await
        .expect("an answer");
    assert_eq!(results(&spoke)[0], "builder.build: registered");
    assert!(
        results(&spoke)[1].contains("may offer `builder.*` only"),
        "{:?}",
        results(&spoke)
    );

    let named = spoke_key("tools", &["git.*"], None, false);
    let spoke = register(&hub, &named, json!({ "operations": operations }))
        .await
        .expect("an answer");
    assert_eq!(spoke.output.spoke_id.as_str(), "tools", "the name is the key's");
    assert_eq!(results(&spoke)[1], "git.log: registered");
    assert!(
        results(&spoke)[2].contains("may offer `git.*` only"),
        "{:?}",
        results(&spoke)
    );
}

#[tokio::test(start_paused = true)]
async fn the_key_says_which_spoke() {
    let hub = Hub::local().await;
    let refused = async |caller: Arc<Caller>, input: Value| register(&hub, &caller, input).await.expect_err("refused");

    let error = refused(spoke_key("builder", &[], None, false), registration("other", &[])).await;
    assert!(
        error.code == Code::AccessDenied && error.message.contains("`builder`"),
        "{error}"
    );
    let error = refused(spoke_key("builder", &[], None, true), registration("builder", &[])).await;
    assert!(
        error.code == Code::AccessDenied && error.message.contains("suspended"),
        "{error}"
    );
    let error = refused(client(&["spoke", "call:*"]), registration("builder", &[])).await;
    assert!(
        error.code == Code::AccessDenied && error.message.contains("`admin`"),
        "{error}"
    );
    let error = refused(admin(), json!({ "identity": {"id": "me"}, "operations": [] })).await;
    assert!(
        error.code == Code::BadRequest && error.message.contains("`name`"),
        "{error}"
    );
}

#[tokio::test(start_paused = true)]
async fn the_smaller_concurrency_counts() {
    let hub = Hub::local().await;
    let mut input = registration("builder", &[query("builder.build")]);
    input["concurrency"] = json!(100);
    let _spoke = register(&hub, &spoke_key("builder", &[], Some(1), false), input)
        .await
        .expect("registers");
    let _running = hub.dispatch(request("builder.build", json!(1)));

    let error = hub.call("builder.build", json!(1)).await.expect_err("one at once");

    assert_eq!(error.code, Code::Overloaded);
}

#[tokio::test(start_paused = true)]
async fn an_instance_that_would_take_no_call_is_refused() {
    let hub = Hub::local().await;
    let mut input = registration("builder", &[query("builder.build")]);
    input["concurrency"] = json!(0);

    let error = register(&hub, &admin(), input).await.expect_err("no call at all");

    assert_eq!(error.code, Code::BadRequest);
    assert!(error.message.contains("`concurrency`"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn an_instance_offers_a_bounded_number_of_operations() {
    let hub = Hub::with(CallsConfig {
        max_operations: 2,
        ..CallsConfig::default()
    })
    .await;
    let operations: Vec<Value> = (0..3).map(|i| query(&format!("text.op{i}"))).collect();

    let spoke = register(&hub, &admin(), registration("text", &operations))
        .await
        .expect("an answer");

    assert!(
        results(&spoke)[2].contains("one instance may offer 2 operations (`calls.max-operations`)"),
        "{:?}",
        results(&spoke)
    );
    assert_eq!(hub.calls.operations(&admin(), None).len(), 2);
}

#[test]
fn a_hub_may_be_set_to_as_many_operations_as_a_registration_can_have() {
    let set = |most: usize| HubConfig::from_toml(&format!("[calls]\nmax-operations = {most}"));

    let most = set(OPERATIONS_LIMIT).expect("as many as an instance can name");
    let over = set(OPERATIONS_LIMIT + 1).expect_err("no registration has more");

    assert_eq!(most.calls.max_operations, OPERATIONS_LIMIT);
    assert!(over.to_string().contains("calls.max-operations"), "{over}");
}

#[tokio::test(start_paused = true)]
async fn instances_join_as_a_pool_and_share_the_calls() {
    let hub = Hub::local().await;
    let mut one = Spoke::connect(&hub, "text", &[query("text.upper")]).await;
    let mut other = Spoke::connect(&hub, "text", &[query("text.upper")]).await;
    assert_eq!(results(&one), ["text.upper: registered"]);
    assert_eq!(results(&other), ["text.upper: pooled"]);
    assert_ne!(
        one.output.instance_id, other.output.instance_id,
        "without an id each connection is an instance"
    );

    for _ in 0..10 {
        assert!(hub.dispatch(request("text.upper", json!(1))).0.is_ok());
    }

    for _ in 0..5 {
        one.next_call().await;
        other.next_call().await;
    }
}

#[tokio::test(start_paused = true)]
async fn another_specification_than_the_pools_is_rejected_with_what_differs() {
    let hub = Hub::local().await;
    let old = Spoke::connect(&hub, "text", &[query("text.upper")]).await;
    let changed = operation(
        "text.upper",
        "query",
        &json!({"version": "2.0.0", "inputSchema": {"type": "string"}}),
    );

    let new = Spoke::connect(&hub, "text", &[changed.clone(), query("text.lower")]).await;

    assert_eq!(
        results(&new)[0],
        "text.upper: rejected, spoke `text` offers it with another specification (different in `inputSchema`, `version`)"
    );
    assert_eq!(results(&new)[1], "text.lower: registered");
    drop(old);
    let later = Spoke::connect(&hub, "text", &[changed]).await;
    assert_eq!(results(&later), ["text.upper: registered"]);
}

#[tokio::test(start_paused = true)]
async fn a_newer_peer_of_the_instance_replaces_the_older_one() {
    let hub = Hub::local().await;
    let mut input = registration("text", &[mutation("text.upper")]);
    input["instanceId"] = json!("one");
    let mut old = register(&hub, &admin(), input.clone()).await.expect("registers");
    let (ticket, mut answers) = hub.dispatch(request("text.upper", json!(1)));
    ticket.expect("routed");
    let call = old.next_call().await;

    let mut new = register(&hub, &admin(), input).await.expect("registers");

    assert!(new.output.generation > old.output.generation);
    assert_eq!(old.next_close().await, CloseCode::Replaced);
    let Some(CallAnswer::Failed(error)) = answers.recv().await else {
        panic!("the call must fail");
    };
    assert_eq!((error.code, error.delivered), (Code::SpokeLost, Delivered::Maybe));
    old.respond(&call.request_id, json!("too late"));
    old.registration.close("replaced").await;
    assert!(
        hub.dispatch(request("text.upper", json!(1))).0.is_ok(),
        "the newer one stays"
    );
    new.next_call().await;
}

#[tokio::test(start_paused = true)]
async fn registering_again_on_a_connection_replaces_its_set() {
    let hub = Hub::local().await;
    let mut first = Spoke::connect(&hub, "text", &[query("text.upper"), query("text.lower")]).await;
    let (ticket, mut answers) = hub.dispatch(request("text.upper", json!(1)));
    ticket.expect("routed");
    let call = first.next_call().await;
    let changed = operation("text.lower", "query", &json!({"version": "2.0.0"}));
    let input = serde_json::from_value(registration("text", &[changed, query("text.trim")])).expect("valid");

    let (output, session) = hub
        .calls
        .register(&admin(), input, first.outbox.clone())
        .await
        .expect("registers");
    drop(first.registration);

    assert!(
        output.operations.iter().all(|o| o.result == Registered::Registered),
        "{output:?}"
    );
    let offered: Vec<String> = hub
        .calls
        .operations(&admin(), None)
        .iter()
        .map(|o| o.operation.to_string())
        .collect();
    assert_eq!(offered, ["text.lower", "text.trim"]);
    assert!(answers.try_recv().is_err(), "a running call runs on");
    session.received(alkhub_protocol::Frame::Responded {
        request_id: call.request_id,
        output: json!(1).into(),
    });
    assert!(matches!(answers.recv().await, Some(CallAnswer::Item(_))));
    let error = hub
        .call("text.upper", json!(1))
        .await
        .expect_err("not offered any more");
    assert_eq!(error.code, Code::NoProvider);
}

#[tokio::test(start_paused = true)]
async fn a_connection_is_one_instance() {
    let hub = Hub::local().await;
    let first = Spoke::connect(&hub, "text", &[]).await;
    let input = serde_json::from_value(registration("other", &[])).expect("valid");

    let error = hub
        .calls
        .register(&admin(), input, first.outbox.clone())
        .await
        .expect_err("another spoke");

    assert_eq!(error.code, Code::Conflict);
}

#[tokio::test(start_paused = true)]
async fn a_registration_that_nobody_waits_for_takes_no_effect() {
    let hub = Hub::local().await;
    let input = serde_json::from_value(registration("text", &[query("text.upper")])).expect("valid");
    let caller = admin();
    let (outbox, _outgoing) = peer();
    let mut registering = Box::pin(hub.calls.register(&caller, input, outbox));
    assert!(futures::poll!(&mut registering).is_pending());

    drop(registering);
    let _later = Spoke::connect(&hub, "later", &[query("later.op")]).await;

    let known = hub.calls.operation(&admin(), &"text.upper".parse().expect("valid"));
    assert!(known.is_none(), "{known:?}");
    assert_eq!(hub.calls.instances().len(), 1);
}

/// A specification that takes long to compile: 150 patterns, more than counts as light.
fn heavy(name: &str) -> Value {
    let properties: serde_json::Map<_, _> = (0..150)
        .map(|i| (format!("p{i}"), json!({"pattern": format!("^[a-z]{{1,63}}{i}{name}$")})))
        .collect();
    operation(name, "query", &json!({"inputSchema": {"properties": properties}}))
}

fn of_instance(operations: &[Value]) -> RegisterInput {
    let mut input = registration("text", operations);
    input["instanceId"] = json!("one");
    serde_json::from_value(input).expect("valid")
}

/// The program gave up waiting and has come back in the meantime.
#[tokio::test]
async fn a_registration_whose_connection_has_ended_replaces_no_newer_one() {
    let hub = Hub::local().await;
    let (caller, other) = (admin(), client(&["admin", "spokes:read"]));
    let mut given_up = Box::pin(
        hub.calls
            .register(&caller, of_instance(&[heavy("text.slow")]), peer().0),
    );
    assert!(futures::poll!(&mut given_up).is_pending());

    drop(given_up);
    let mut back = Spoke::register_as(&hub, &caller, of_instance(&[query("text.upper")]), peer())
        .await
        .expect("registers");

    // Its turn comes after that of the registration that was given up.
    let _later = Spoke::register(&hub, &other, registration("later", &[heavy("text.later")]), peer())
        .await
        .expect("registers");
    assert!(back.has_nothing(), "it must not be closed");
    let instances = hub.calls.instances();
    let generations: Vec<u64> = instances.iter().map(|i| i.1.generation).collect();
    assert!(generations.contains(&back.output.generation), "{instances:?}");
    assert!(hub.dispatch(request("text.upper", json!(1))).0.is_ok());
    back.next_call().await;
}

/// The older connection ended without a word, and its hub does not know yet.
#[tokio::test]
async fn of_two_connections_of_an_instance_the_one_that_asked_later_stays() {
    let hub = Hub::local().await;
    let caller = admin();
    let mut older = Box::pin(
        hub.calls
            .register(&caller, of_instance(&[heavy("text.slow")]), peer().0),
    );
    assert!(futures::poll!(&mut older).is_pending());

    let mut newer = Spoke::register_as(&hub, &caller, of_instance(&[query("text.upper")]), peer())
        .await
        .expect("registers");

    let Err(refused) = older.await else {
        panic!("a newer one has come");
    };
    assert_eq!((refused.code, refused.retryable), (Code::Aborted, true));
    assert!(newer.has_nothing(), "it must not be closed");
    assert!(hub.dispatch(request("text.upper", json!(1))).0.is_ok());
    newer.next_call().await;
}

#[tokio::test]
async fn a_key_with_many_heavy_specifications_delays_no_other_key_for_long() {
    let hub = Hub::local().await;
    let (greedy, modest) = (client(&["admin", "greedy"]), client(&["admin", "modest"]));
    let many = (0..20).map(|i| {
        let input = serde_json::from_value(registration("greedy", &[heavy(&format!("greedy.op{i}"))])).expect("valid");
        hub.calls.register(&greedy, input, peer().0)
    });
    let mut many: futures::stream::FuturesUnordered<_> = many.collect();
    assert!(futures::poll!(many.next()).is_pending());
    let modest = async {
        let light: Vec<Value> = (0..20).map(|i| query(&format!("light.op{i}"))).collect();
        let first = register(&hub, &modest, registration("light", &light))
            .await
            .expect("registers");
        (
            first,
            register(&hub, &modest, registration("rare", &[heavy("rare.op")]))
                .await
                .expect("registers"),
        )
    };

    let mut sessions = Vec::new();
    tokio::pin!(modest);
    let served = loop {
        tokio::select! {
            biased;
            served = &mut modest => break served,
            Some(one) = many.next() => sessions.push(one.expect("registers")),
        }
    };

    assert!(sessions.len() <= 4, "{} were served before", sessions.len());
    assert!(results(&served.1)[0].contains("registered"));
}

#[tokio::test(start_paused = true)]
async fn a_session_that_ends_takes_its_instance_with_it() {
    let hub = Hub::local().await;
    let spoke = Spoke::connect(&hub, "text", &[query("text.upper")]).await;
    assert_eq!(hub.calls.instances().len(), 1);
    assert!((hub.metric("alkhub_spokes_connected") - 1.0).abs() < f64::EPSILON);

    spoke.registration.close("for the test").await;

    assert!(hub.calls.instances().is_empty() && hub.calls.operations(&admin(), None).is_empty());
    assert!(hub.metric("alkhub_spokes_connected").abs() < f64::EPSILON);
}

#[tokio::test]
async fn the_kind_of_an_operation_is_known_as_long_as_its_name() {
    let hub = Hub::local().await;
    let offered = [subscription("text.watch"), query("text.upper")];
    let spoke = Spoke::connect(&hub, "text", &offered).await;
    let kind = |name: &str| hub.calls.kind(&name.parse().expect("valid"));

    let while_offered = (kind("text.watch"), kind("text.upper"), kind("text.lower"));
    drop(spoke);

    let (subscription, query) = (Some(OperationKind::Subscription), Some(OperationKind::Query));
    assert_eq!(while_offered, (subscription, query, None));
    assert_eq!(kind("text.watch"), subscription, "the spoke left");
    hub.stop().await;
}
