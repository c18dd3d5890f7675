//! Calls between two hubs over a real Redis, with a real Postgres for the specifications.

use std::sync::Arc;
use std::time::Duration;

use alkhub_calls::{CallAnswer, CallTotals, Caller, Reply, outbox};
use alkhub_config::{BudgetConfig, CallsConfig};
use alkhub_devdb::Server;
use alkhub_hub_cluster::Lease;
use alkhub_protocol::call::Metadata;
use alkhub_protocol::register::RegisterInput;
use alkhub_protocol::{CallRequest, CloseCode, Code, Delivered, RawJson, RequestId};
use alkhub_test_support::{RedisServer, until, within};
use futures::StreamExt as _;
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::fixture::{
    Hub, HubOptions, LIMITS, Spoke, admin, budget, client, mutation, operation, peer, query, record, registration,
    request, subscription,
};
use crate::pair::{Pair, in_flight, sees};

#[tokio::test]
async fn a_call_reaches_a_spoke_of_another_hub_and_is_checked_by_its_own() {
    let pair = Pair::start().await;
    let schemas = json!({
        "inputSchema": {"type": "string"}, "outputSchema": {"type": "string"},
        "errorSchemas": [{"code": "QUOTA", "httpStatus": 402}],
    });
    let mut spoke = pair.spoke_on_b(&[operation("text.upper", "query", &schemas)]).await;

    let answering = async {
        let call = spoke.next_call().await;
        assert_eq!(call.input, Some(RawJson::from(json!("hello"))));
        assert!(
            call.timeout_ms.is_some_and(|ms| (25_000..=30_000).contains(&ms)),
            "{:?}",
            call.timeout_ms
        );
        spoke.respond(&call.request_id, json!("HELLO"));
    };
    let (answer, ()) = tokio::join!(pair.a.call("text.upper", json!("hello")), answering);
    assert_eq!(answer.expect("answered")["data"], "HELLO");

    let error = pair
        .a
        .call("text.upper", json!(1))
        .await
        .expect_err("the input is checked before it travels");
    assert_eq!(error.code, Code::ValidationError);
    let answering = async {
        let call = spoke.next_call().await;
        spoke.respond(&call.request_id, json!(1));
        let call = spoke.next_call().await;
        let quota = alkhub_protocol::CallError::new(Code::Domain("QUOTA".to_owned()), "none left");
        spoke.fail(&call.request_id, quota.delivered(Delivered::Yes));
    };
    let calling = async {
        let wrong = pair.a.call("text.upper", json!("a")).await.expect_err("a number");
        let declared = pair.a.call("text.upper", json!("a")).await.expect_err("no quota");
        (wrong, declared)
    };
    let ((wrong, declared), ()) = tokio::join!(calling, answering);
    assert_eq!((wrong.code, wrong.delivered), (Code::OutputInvalid, Delivered::Yes));
    assert_eq!(
        (declared.declared_status, declared.delivered),
        (Some(402), Delivered::Yes)
    );
    in_flight(&pair.b, 0).await;
    assert!(
        pair.b.metric("alkhub_calls_total").abs() < f64::EPSILON,
        "only the caller's hub counts the call"
    );
    drop(spoke);
    pair.end().await;
}

#[tokio::test]
async fn who_asks_and_what_came_with_the_call_reach_a_spoke_of_another_hub() {
    let pair = Pair::start().await;
    let access = json!({"accessControl": {"requiredScopes": ["text:read"], "requiredScopesAny": ["a", "b"]}});
    let mut spoke = pair.spoke_on_b(&[operation("text.upper", "query", &access)]).await;
    let caller = client(&["call:*", "text:read", "b", "other"]);
    let metadata = RawJson::from(json!({"project": {"id": 7}}));
    let request = CallRequest {
        parent: Some("parent-1".parse().expect("valid")),
        metadata: Some(Metadata::new(metadata.clone()).expect("an object")),
        ..request("text.upper", json!("a"))
    };

    let answering = async {
        let call = spoke.next_call().await;
        spoke.respond(&call.request_id, json!("A"));
        call
    };
    let (answer, call) = tokio::join!(pair.a.calls.call(&caller, request), answering);

    answer.expect("answered");
    let identity = call.identity.expect("the caller's hub says who asks");
    assert_eq!(
        (identity.id.as_str(), identity.scopes),
        (&*caller.key_id, vec!["b".to_owned(), "text:read".to_owned()])
    );
    assert_eq!(call.metadata.expect("handed on").raw(), &metadata);
    assert_eq!(call.parent.expect("handed on").as_str(), "parent-1");
    pair.end().await;
}

#[tokio::test]
async fn a_subscription_crosses_hubs_and_its_end_both_ways() {
    let pair = Pair::start().await;
    let mut spoke = pair.spoke_on_b(&[subscription("text.upper")]).await;
    let mut items = pair.a.subscribe("text.upper").await;
    let call = spoke.next_call().await;
    for n in 0..100 {
        spoke.respond(&call.request_id, json!(n));
    }
    spoke.complete(&call.request_id);
    for n in 0..100 {
        let item = within("an item", items.next())
            .await
            .expect("an item")
            .expect("no error");
        assert_eq!(item.to::<Value>().expect("JSON")["data"], n);
    }
    assert!(within("the end", items.next()).await.is_none());

    let items = pair.a.subscribe("text.upper").await;
    let call = spoke.next_call().await;
    drop(items);
    assert_eq!(spoke.next_abort().await, call.request_id);
    in_flight(&pair.b, 0).await;
    drop(spoke);
    pair.end().await;
}

#[tokio::test]
async fn a_deadline_and_an_abort_travel_to_the_spoke() {
    let pair = Pair::start().await;
    let mut spoke = pair.spoke_on_b(&[query("text.upper")]).await;

    let (ticket, mut answers) = pair.a.dispatch(alkhub_protocol::CallRequest {
        // Long enough for the call to reach the spoke first, over Redis.
        timeout: Some(Duration::from_secs(3)),
        ..request("text.upper", json!(1))
    });
    ticket.expect("routed");
    let late = spoke.next_call().await;
    let answer = within("the deadline", answers.recv()).await;
    assert!(matches!(answer, Some(CallAnswer::Failed(error)) if error.code == Code::Timeout));
    assert_eq!(spoke.next_abort().await, late.request_id);

    let (ticket, _answers) = pair.a.dispatch(request("text.upper", json!(1)));
    let ticket = ticket.expect("routed");
    let aborted = spoke.next_call().await;
    ticket.caller_lost("for the test");
    assert_eq!(spoke.next_abort().await, aborted.request_id);
    in_flight(&pair.b, 0).await;
    drop(spoke);
    pair.end().await;
}

#[tokio::test]
async fn a_spoke_lost_on_another_hub_fails_its_calls_at_once() {
    let pair = Pair::start().await;
    let mut spoke = pair.spoke_on_b(&[mutation("text.upper")]).await;
    let (ticket, mut answers) = pair.a.dispatch(request("text.upper", json!(1)));
    ticket.expect("routed");
    spoke.next_call().await;

    drop(spoke);

    let Some(CallAnswer::Failed(error)) = within("the failure", answers.recv()).await else {
        panic!("it must fail");
    };
    assert_eq!((error.code, error.delivered), (Code::SpokeLost, Delivered::Maybe));
    pair.end().await;
}

#[tokio::test]
async fn an_instance_that_registers_on_another_hub_is_fenced_on_the_first() {
    let pair = Pair::start().await;
    let mut input = registration("text", &[query("text.upper")]);
    input["instanceId"] = json!("one");
    let mut old = Spoke::register(&pair.b, &admin(), input.clone(), peer())
        .await
        .expect("registers");
    sees(&pair.a, "text.upper", old.output.generation).await;

    let mut new = Spoke::register(&pair.a, &admin(), input, peer())
        .await
        .expect("registers");

    assert!(new.output.generation > old.output.generation);
    assert_eq!(old.next_close().await, CloseCode::Replaced);
    old.registration.close("replaced").await;
    sees(&pair.b, "text.upper", new.output.generation).await;
    let answering = async {
        let call = new.next_call().await;
        new.respond(&call.request_id, json!(1));
    };
    let (answer, ()) = tokio::join!(pair.b.call("text.upper", json!(1)), answering);
    assert!(answer.is_ok(), "{answer:?}");
    drop(new);
    pair.end().await;
}

/// Announces that hub B drains, and waits until hub A knows.
async fn hub_b_drains(pair: &Pair) {
    let lease = Lease {
        draining: true,
        ..Lease::default()
    };
    pair.b.cluster.announce_now(|| lease).await.expect("Redis is up");
    until("hub A hears of it", async || match pair.a.cluster.draining().len() {
        1 => Ok(()),
        n => Err(format!("{n} hubs drain")),
    })
    .await;
}

#[tokio::test]
async fn calls_avoid_a_hub_that_drains_as_long_as_there_is_another() {
    let pair = Pair::start().await;
    let mut leaving = pair.spoke_on_b(&[query("text.upper")]).await;
    let mut staying = Spoke::connect(&pair.a, "text", &[query("text.upper")]).await;
    sees(&pair.b, "text.upper", staying.output.generation).await;
    hub_b_drains(&pair).await;

    // For callers on hub B, the connection there is nearer, and it is idle.
    for _ in 0..10 {
        assert!(pair.a.dispatch(request("text.upper", json!(1))).0.is_ok());
        assert!(pair.b.dispatch(request("text.upper", json!(1))).0.is_ok());
    }

    for _ in 0..20 {
        staying.next_call().await;
    }
    assert!(leaving.has_nothing());
    staying.registration.close("for the test").await;
    until("both hubs know it", async || {
        let known = [&pair.a, &pair.b].map(|hub| hub.calls.instances().len());
        if known == [1, 1] {
            Ok(())
        } else {
            Err(format!("{known:?}"))
        }
    })
    .await;
    assert!(pair.a.dispatch(request("text.upper", json!(1))).0.is_ok(), "to the end");
    leaving.next_call().await;
    pair.end().await;
}

#[tokio::test]
async fn that_a_spoke_is_away_which_another_hub_let_go_is_no_failure_of_the_hubs() {
    let pair = Pair::start().await;
    let own = pair.spoke_on_b(&[query("text.upper")]).await;
    own.registration.close("it leaves by itself").await;
    let known = async |wanted: usize| {
        until("hub A knows", async || match pair.a.calls.instances().len() {
            known if known == wanted => Ok(()),
            known => Err(format!("{known} instances")),
        })
        .await;
    };
    known(0).await;
    pair.a.call("text.upper", json!(1)).await.expect_err("nobody is there");
    assert_eq!(pair.a.calls.totals().failed, 1);
    let let_go = pair.spoke_on_b(&[query("text.upper")]).await;
    hub_b_drains(&pair).await;

    let_go.registration.close("it was let go").await;
    known(0).await;
    let error = pair.a.call("text.upper", json!(1)).await.expect_err("it is away");

    assert_eq!(error.code, Code::NoProvider);
    assert_eq!(pair.a.calls.totals(), CallTotals { ended: 2, failed: 1 });
    pair.end().await;
}

/// This is what the SDK's shutdown does: it registers without operations and closes.
#[tokio::test]
async fn a_connection_that_ends_while_the_directory_waits_for_its_second_registration_leaves_no_record() {
    let pair = Pair::start().await;
    let spoke = pair.spoke_on_b(&[query("text.upper")]).await;
    let caller = admin();
    let input = serde_json::from_value(registration("text", &[])).expect("valid");
    pair.redis.freeze();
    let mut again = Box::pin(pair.b.calls.register(&caller, input, spoke.outbox.clone()));
    assert!(futures::poll!(&mut again).is_pending());
    // Far enough for its task to wait for Redis, which lets it go no further.
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }

    drop(again);
    futures::join!(spoke.registration.close("the socket ended"), async {
        pair.redis.thaw()
    });

    until("the record to go", async || {
        let records: usize = pair.redis.query(&["HLEN", "alk:directory"]).await;
        let known = [&pair.a, &pair.b].map(|hub| hub.calls.instances().len());
        if (records, known) == (0, [0, 0]) {
            Ok(())
        } else {
            Err(format!("{records} in Redis, {known:?} known to the hubs"))
        }
    })
    .await;
    pair.end().await;
}

/// A registration of an instance that names itself.
fn input() -> RegisterInput {
    let mut input = registration("text", &[query("text.upper")]);
    input["instanceId"] = json!("i1");
    serde_json::from_value(input).expect("valid")
}

/// The newer connection for which it gives way also goes, before it has registered.
#[tokio::test]
async fn a_session_whose_second_registration_gives_way_keeps_its_first_and_may_ask_again() {
    let pair = Pair::start().await;
    let caller = admin();
    let mut spoke = Spoke::register_as(&pair.b, &caller, input(), peer())
        .await
        .expect("registers");
    let (ticket, mut answers) = pair.b.dispatch(request("text.upper", json!(1)));
    ticket.expect("routed");
    let call = spoke.next_call().await.request_id;
    pair.redis.freeze();
    let stays = CancellationToken::new();
    let mut busy = Box::pin(
        pair.b
            .cluster
            .register_unless(&stays, record("pod-b-b1", "other", Vec::new())),
    );
    let mut again = Box::pin(pair.b.calls.register(&caller, input(), spoke.outbox.clone()));
    let mut newer = Box::pin(pair.b.calls.register(&caller, input(), peer().0));
    assert!(futures::poll!(&mut busy).is_pending());
    for registering in [&mut again, &mut newer] {
        assert!(futures::poll!(registering).is_pending());
        // Far enough for it to wait for the directory, which Redis lets go no further.
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
    }

    drop(newer);
    pair.redis.thaw();

    let given_up = within("the registration that gives way", again).await;
    let (code, retryable) = given_up.map_or_else(|error| (error.code, error.retryable), |_| panic!("it gave way"));
    assert_eq!((code, retryable), (Code::Aborted, true));
    spoke.respond(&call, json!("A"));
    let answer = within("the answer", answers.recv()).await;
    assert!(matches!(answer, Some(CallAnswer::Item(_))), "{answer:?}");
    let (_, registration) = pair
        .b
        .calls
        .register(&caller, input(), spoke.outbox.clone())
        .await
        .expect("registers again on the same connection");
    spoke.registration = registration;
    let (ticket, _answers) = pair.b.dispatch(request("text.upper", json!(2)));
    ticket.expect("routed");
    spoke.next_call().await;
    within("the other one registers", busy).await.expect("registered");
    drop(spoke);
    pair.end().await;
}

/// The record is on its way to Redis when its peer leaves.
#[tokio::test]
async fn a_registration_whose_peer_leaves_while_the_directory_is_asked_takes_nobodys_place() {
    let pair = Pair::start().await;
    let caller = admin();
    let mut standing = Spoke::register_as(&pair.b, &caller, input(), peer())
        .await
        .expect("registers");
    sees(&pair.a, "text.upper", standing.output.generation).await;
    pair.redis.freeze();
    let (outbox, _outgoing) = peer();
    let mut leaving = Box::pin(pair.b.calls.register(&caller, input(), outbox));
    assert!(futures::poll!(&mut leaving).is_pending());
    // Far enough for its task to wait for Redis, which lets it go no further.
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }

    drop(leaving);
    pair.redis.thaw();

    // Its turn among the changes of the directory comes after that of the registration that was given up.
    let later = Spoke::connect(&pair.b, "later", &[query("later.op")]).await;
    sees(&pair.a, "later.op", later.output.generation).await;
    assert!(standing.has_nothing(), "it must not be closed");
    for hub in [&pair.a, &pair.b] {
        sees(hub, "text.upper", standing.output.generation).await;
        let answering = async {
            let call = standing.next_call().await;
            standing.respond(&call.request_id, json!("A"));
        };
        let (answer, ()) = tokio::join!(hub.call("text.upper", json!(1)), answering);
        assert!(answer.is_ok(), "{answer:?}");
    }
    drop((standing, later));
    pair.end().await;
}

/// More waits for the directory than fits into its queue, for longer than a closed session waits.
#[tokio::test]
async fn a_spoke_that_leaves_while_the_directory_is_busy_leaves_no_record() {
    let redis = RedisServer::start().await;
    let hub = Hub::start(HubOptions {
        redis: Some(redis.url()),
        redis_timeout: Duration::from_secs(60),
        ..HubOptions::default()
    })
    .await;
    let spoke = Spoke::connect(&hub, "text", &[query("text.upper")]).await;
    let field = format!("text/{}", spoke.output.instance_id);
    assert_eq!(redis.query::<usize>(&["HEXISTS", "alk:directory", &field]).await, 1);
    redis.freeze();
    let (cluster, stays) = (&hub.cluster, CancellationToken::new());
    let entries = (0..1_500).map(|n| record("hub-a1", &format!("other-{n}"), Vec::new()));
    let mut waiting: Vec<_> = entries
        .map(|entry| Box::pin(cluster.register_unless(&stays, entry)))
        .collect();
    for registration in &mut waiting {
        assert!(futures::poll!(registration).is_pending());
    }

    spoke.registration.close("the socket ended").await;
    redis.thaw();

    within("the others register", futures::future::join_all(waiting)).await;
    until("the record to go", async || {
        match redis.query::<usize>(&["HEXISTS", "alk:directory", &field]).await {
            0 => Ok(()),
            _ => Err("it is there"),
        }
    })
    .await;
    hub.stop().await;
}

#[tokio::test]
async fn a_call_for_a_connection_that_left_comes_back_and_goes_to_another_instance() {
    let pair = Pair::start().await;
    let leaving = pair.spoke_on_b(&[mutation("text.upper")]).await;
    let (ticket, mut answers) = pair.a.dispatch(request("text.upper", json!(1)));
    ticket.expect("routed");
    in_flight(&pair.b, 1).await;
    let mut staying = pair.spoke_on_b(&[mutation("text.upper")]).await;

    drop(leaving); // It has read nothing: hub B answers `moved`.

    let call = staying.next_call().await;
    staying.respond(&call.request_id, json!(2));
    let answer = within("the answer", answers.recv()).await;
    assert!(matches!(answer, Some(CallAnswer::Item(_))), "{answer:?}");
    assert!((pair.a.metric("alkhub_calls_resent_total") - 1.0).abs() < f64::EPSILON);
    drop(staying);
    pair.end().await;
}

/// A call from hub A that runs on a spoke of hub B, and one from hub B that runs on a spoke of hub A; neither is near
/// its deadline.
struct BothWays {
    at_a: Spoke,
    of_a: mpsc::Receiver<CallAnswer>,
    asked_by_b: RequestId,
    /// Dropping either of these would end a call.
    _held: (Spoke, mpsc::Receiver<CallAnswer>),
}

impl BothWays {
    async fn between(pair: &Pair) -> Self {
        let mut at_b = pair.spoke_on_b(&[mutation("text.upper")]).await;
        let mut at_a = Spoke::connect(&pair.a, "other", &[mutation("other.work")]).await;
        sees(&pair.b, "other.work", at_a.output.generation).await;
        let patient = |operation| CallRequest {
            timeout: Some(Duration::from_secs(600)),
            ..request(operation, json!(1))
        };
        let (ticket, of_a) = pair.a.dispatch(patient("text.upper"));
        ticket.expect("routed");
        at_b.next_call().await;
        let (ticket, of_b) = pair.b.dispatch(patient("other.work"));
        ticket.expect("routed");
        let asked_by_b = at_a.next_call().await.request_id;
        Self {
            at_a,
            of_a,
            asked_by_b,
            _held: (at_b, of_b),
        }
    }

    /// Waits until hub A has ended both because hub B is gone.
    async fn end_with_hub_b(&mut self) {
        let Some(CallAnswer::Failed(error)) = within("the failure", self.of_a.recv()).await else {
            panic!("it must fail");
        };
        assert_eq!((error.code, error.delivered), (Code::SpokeLost, Delivered::Maybe));
        assert_eq!(self.at_a.next_abort().await, self.asked_by_b);
    }
}

#[tokio::test]
async fn a_hub_that_is_gone_fails_its_calls_and_stops_those_it_asked_for() {
    let pair = Pair::start().await;
    let mut calls = BothWays::between(&pair).await;

    let Pair {
        a,
        b,
        postgres,
        redis: _redis,
    } = pair;
    b.stop().await;

    calls.end_with_hub_b().await;
    let error = a.call("text.upper", json!(1)).await.expect_err("nobody is left");
    assert_eq!(error.code, Code::NoProvider);
    drop(calls);
    a.stop().await;
    postgres.stop().await.expect("stops");
}

#[tokio::test]
async fn a_hub_that_does_not_come_back_with_redis_is_gone() {
    let mut pair = Pair::start().await;
    let mut calls = BothWays::between(&pair).await;

    pair.redis.kill().await;
    let Pair {
        a,
        b,
        postgres,
        mut redis,
    } = pair;
    b.stop().await;
    redis.launch().await;

    // Nobody can say that the other hub is gone, because its lease was lost with everything else.
    calls.end_with_hub_b().await;
    drop(calls);
    a.stop().await;
    postgres.stop().await.expect("stops");
}

#[tokio::test]
async fn slots_count_for_callers_of_every_hub() {
    let pair = Pair::start().await;
    let mut input = registration("text", &[query("text.upper")]);
    input["concurrency"] = json!(1);
    let spoke = Spoke::register(&pair.b, &admin(), input, peer())
        .await
        .expect("registers");
    sees(&pair.a, "text.upper", spoke.output.generation).await;
    let _running = pair.b.dispatch(request("text.upper", json!(1)));

    let error = pair
        .a
        .call("text.upper", json!(1))
        .await
        .expect_err("the slot is taken");

    assert_eq!(
        (error.code, error.retryable, error.delivered),
        (Code::Overloaded, true, Delivered::No)
    );
    drop(spoke);
    pair.end().await;
}

#[tokio::test]
async fn a_call_follows_a_spoke_that_registers_again_meanwhile() {
    let pair = Pair::start().await;
    let mut spoke = pair.spoke_on_b(&[query("text.upper")]).await;

    // Each registration has a generation of its own; calls from hub A may still name the previous one.
    for round in 0..20 {
        let input = serde_json::from_value(registration("text", &[query("text.upper")])).expect("valid");
        let caller = admin();
        let registering = pair.b.calls.register(&caller, input, spoke.outbox.clone());
        let calling = pair.a.call("text.upper", json!(round));
        let answering = async {
            let (output, session) = registering.await.expect("registers");
            spoke.registration = session;
            let call = spoke.next_call().await;
            spoke.respond(&call.request_id, json!(round));
            output
        };
        let (answer, _) = tokio::join!(calling, within("the call", answering));
        assert_eq!(answer.expect("answered")["data"], round);
    }
    drop(spoke);
    pair.end().await;
}

#[tokio::test]
async fn a_hub_that_crashed_is_noticed_by_the_next_call() {
    let (redis, postgres) = tokio::join!(RedisServer::start(), Server::temporary());
    let postgres = postgres.expect("Postgres is installed");
    let options = |name| HubOptions {
        name,
        redis: Some(redis.url()),
        postgres: Some(postgres.url()),
        ..HubOptions::default()
    };
    let a = Hub::start(options("pod-a-a1")).await;
    let (ready, is_ready) = tokio::sync::oneshot::channel();
    let b = options("pod-b-b1");
    let other = std::thread::spawn(move || {
        let runtime = tokio::runtime::Runtime::new().expect("a runtime");
        let (_hub, _spoke) = runtime.block_on(async {
            let hub = Hub::start(b).await;
            let mut spoke = Spoke::connect(&hub, "text", &[mutation("text.upper")]).await;
            ready.send(spoke.output.generation).expect("waited for");
            spoke.next_call().await;
            (hub, spoke)
        });
        // From here on nothing of it runs, and nobody was told.
        runtime.shutdown_background();
    });
    sees(&a, "text.upper", is_ready.await.expect("ready")).await;
    let (ticket, mut answers) = a.dispatch(request("text.upper", json!("sent before")));
    ticket.expect("routed");
    tokio::task::spawn_blocking(|| other.join())
        .await
        .expect("joined")
        .expect("crashed as told");
    // Its runtime drops its sockets in the background.
    until("Redis knows that nobody listens", || async {
        let channels: Vec<String> = redis.query(&["PUBSUB", "CHANNELS", "*pod-b-b1*"]).await;
        if channels.is_empty() {
            Ok(())
        } else {
            Err(channels.join(" "))
        }
    })
    .await;

    let error = within("the next call", a.call("text.upper", json!("sent after")))
        .await
        .expect_err("nobody there");
    // Nobody knows whether the spoke is lost before the lease expires.
    assert_eq!(
        (error.code, error.delivered, error.retryable),
        (Code::Unavailable, Delivered::No, true)
    );

    let Some(CallAnswer::Failed(error)) = within("the lease to end", answers.recv()).await else {
        panic!("it must fail");
    };
    assert_eq!((error.code, error.delivered), (Code::SpokeLost, Delivered::Maybe));
    a.stop().await;
    postgres.stop().await.expect("stops");
}

#[tokio::test]
async fn without_postgres_an_operation_of_another_hub_waits_for_its_specification() {
    let pair = Pair::start().await;
    pair.postgres.stop().await.expect("stops");
    let mut spoke = Spoke::connect(&pair.b, "text", &[query("text.upper")]).await;
    let name = "text.upper".parse().expect("valid");
    until("hub A to know the instance", async || {
        match pair.a.calls.instances().len() {
            1 => Ok(()),
            n => Err(format!("{n} instances")),
        }
    })
    .await;

    let error = pair
        .a
        .call("text.upper", json!(1))
        .await
        .expect_err("its schema is not known");
    assert_eq!((error.code, error.retryable), (Code::Unavailable, true));
    let answering = async {
        let call = spoke.next_call().await;
        spoke.respond(&call.request_id, json!(1));
    };
    let (answer, ()) = tokio::join!(pair.b.call("text.upper", json!(1)), answering);
    assert!(answer.is_ok(), "on the spoke's own hub calls go on: {answer:?}");

    pair.postgres.start_again().await.expect("starts");
    until("hub A to load the specification", || async {
        let found = pair.a.calls.operation(&admin(), &name);
        found.map(drop).ok_or_else(|| "not loaded".to_owned())
    })
    .await;
    drop(spoke);
    pair.end().await;
}

#[tokio::test]
async fn connections_of_the_same_id_on_two_hubs_are_two_instances() {
    let pair = Pair::start().await;
    let register = async |hub: &Hub| {
        let (outbox, outgoing) = outbox("same", LIMITS, &budget());
        let input = registration("text", &[query("text.upper")]);
        Spoke::register(hub, &admin(), input, (outbox, outgoing))
            .await
            .expect("registers")
    };

    let spokes = (register(&pair.a).await, register(&pair.b).await);

    for hub in [&pair.a, &pair.b] {
        until("both instances", async || match hub.calls.instances().len() {
            2 => Ok(()),
            n => Err(format!("{n} instances")),
        })
        .await;
    }
    drop(spokes);
    pair.end().await;
}

#[tokio::test]
async fn a_key_takes_no_more_of_what_another_hub_runs_than_it_leaves_free() {
    let pair = Pair::with(CallsConfig {
        relay_queue: 3,
        ..CallsConfig::default()
    })
    .await;
    let mut spoke = pair.spoke_on_b(&[query("text.upper")]).await;
    let dispatch = || pair.a.dispatch(request("text.upper", json!(1)));
    let running = [dispatch(), dispatch()];
    let (first, _) = (spoke.next_call().await, spoke.next_call().await);
    let refused = async |caller: &Arc<Caller>| {
        let called = pair.a.calls.call(caller, request("text.upper", json!(1))).await;
        let error = called.expect_err("one too many");
        assert_eq!(
            (&error.code, error.retryable, error.delivered),
            (&Code::Overloaded, true, Delivered::No)
        );
        assert!(error.message.contains("(`calls.relay-queue`)"), "{error}");
        error.message
    };

    let of_key = refused(&admin()).await;
    let (sender, _answers) = mpsc::channel(8);
    let other = client(&["call:*"]);
    let of_other = pair
        .a
        .calls
        .dispatch(&other, request("text.upper", json!(1)), Reply::Channel(sender));
    spoke.next_call().await;
    let of_all = refused(&client(&["call:text.*"])).await;

    assert!(of_key.contains("the key has its share"), "{of_key}");
    assert!(of_other.is_ok(), "what one key leaves free is for the others");
    assert!(of_all.contains("as many calls of other hubs as it may"), "{of_all}");
    drop((running, first, spoke));
    pair.end().await;
}

#[tokio::test]
async fn a_place_among_the_calls_of_other_hubs_is_free_once_its_call_has_ended() {
    let pair = Pair::with(CallsConfig {
        relay_queue: 3,
        ..CallsConfig::default()
    })
    .await;
    let mut spoke = pair.spoke_on_b(&[query("text.upper")]).await;
    let running: Vec<_> = (0..2)
        .map(|_| pair.a.dispatch(request("text.upper", json!(1))))
        .collect();
    let (first, _) = (spoke.next_call().await, spoke.next_call().await);

    spoke.respond(&first.request_id, json!(1));
    in_flight(&pair.a, 1).await;
    assert!(pair.a.dispatch(request("text.upper", json!(1))).0.is_ok());
    spoke.next_call().await;
    drop((running, spoke));
    pair.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_that_takes_long_to_check_holds_up_no_other() {
    let pair = Pair::start().await;
    let items = json!({"anyOf": [{"const": -1}, {"const": -2}, {"const": -3}, {"type": "integer"}]});
    let schema = json!({"outputSchema": {"type": "array", "items": items}});
    let offered = [query("text.upper"), operation("text.large", "query", &schema)];
    let mut spoke = pair.spoke_on_b(&offered).await;
    sees(&pair.a, "text.large", spoke.output.generation).await;
    let (large, mut large_answer) = pair.a.dispatch(request("text.large", json!(1)));
    let (small, mut small_answer) = pair.a.dispatch(request("text.upper", json!(1)));
    assert!(large.is_ok() && small.is_ok());
    let calls = [spoke.next_call().await, spoke.next_call().await];
    assert_eq!(calls[0].operation.as_str(), "text.large");

    spoke.respond(&calls[0].request_id, json!(vec![1_000; 150_000]));
    spoke.respond(&calls[1].request_id, json!("small"));

    let small = within("the small answer", small_answer.recv()).await;
    assert!(matches!(small, Some(CallAnswer::Item(_))), "{small:?}");
    assert!(large_answer.try_recv().is_err(), "the large one is still checked");
    let large = within("the large answer", large_answer.recv()).await;
    assert!(matches!(large, Some(CallAnswer::Item(_))), "{large:?}");
    pair.end().await;
}

#[tokio::test]
async fn answers_of_another_hub_are_charged_until_they_are_checked() {
    let budget = BudgetConfig {
        key_bytes: 200_000,
        ..BudgetConfig::default()
    };
    let pair = Pair::with_budget_on_b(budget).await;
    let mut spoke = Spoke::connect(&pair.a, "text", &[query("text.upper")]).await;
    sees(&pair.b, "text.upper", spoke.output.generation).await;
    let mut answered = async |bytes: usize| {
        let answering = async {
            let call = spoke.next_call().await;
            spoke.respond(&call.request_id, json!("x".repeat(bytes)));
        };
        let (answer, ()) = tokio::join!(pair.b.call("text.upper", json!(1)), answering);
        answer
    };

    let error = answered(300_000)
        .await
        .expect_err("the key may not have so much waiting");
    let answers = [answered(100_000).await, answered(150_000).await];

    assert_eq!((&error.code, error.delivered), (&Code::Overloaded, Delivered::Yes));
    assert!(error.message.contains("`budget.key-bytes`"), "{error}");
    assert!(answers.iter().all(Result::is_ok), "the first was given back");
    until("all is given back", async || {
        match pair.b.metric("alkhub_budget_bytes") {
            kept if kept.abs() < f64::EPSILON => Ok(()),
            kept => Err(format!("{kept} bytes")),
        }
    })
    .await;
    drop(spoke);
    pair.end().await;
}

#[tokio::test]
async fn what_one_key_makes_another_hub_keep_is_charged_to_that_key_and_to_no_other() {
    let budget = BudgetConfig {
        key_bytes: 1_000_000,
        ..BudgetConfig::default()
    };
    let pair = Pair::with_budget_on_b(budget).await;
    // The spoke reads nothing, so the inputs wait at hub B.
    let _spoke = pair.spoke_on_b(&[query("text.upper")]).await;
    let call = |caller: &Arc<Caller>| {
        let (sender, answers) = tokio::sync::mpsc::channel(8);
        let large = request("text.upper", json!("x".repeat(300_000)));
        let ticket = pair.a.calls.dispatch(caller, large, Reply::Channel(sender));
        ticket.expect("hub A may keep more");
        answers
    };
    let (greedy, modest) = (client(&["call:*"]), client(&["call:text.*"]));
    let _running: Vec<_> = (0..3).map(|_| call(&greedy)).collect();
    in_flight(&pair.b, 3).await;

    let mut refused = call(&greedy);
    let _taken = call(&modest);

    let answer = within("the answer", refused.recv()).await.expect("an answer");
    let CallAnswer::Failed(error) = answer else {
        panic!("{answer:?}")
    };
    assert_eq!(error.code, Code::Overloaded);
    assert!(error.message.contains("budget.key-bytes"), "{}", error.message);
    in_flight(&pair.b, 4).await;
    pair.end().await;
}
