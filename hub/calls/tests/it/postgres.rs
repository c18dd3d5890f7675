//! What is written to Postgres.

use std::process::Stdio;
use std::time::Duration;

use alkhub_calls::CallAnswer;
use alkhub_devdb::Server;
use alkhub_protocol::call::CallRecord;
use alkhub_protocol::{CallError, CallStatus, Code, SpecHash};
use alkhub_store::{CallFilter, Store};
use alkhub_test_support::{until, within};
use futures::StreamExt as _;
use futures::stream::FuturesUnordered;
use serde_json::json;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};

use crate::fixture::{Hub, HubOptions, Spoke, admin, operation, query, registration, request, spoke_key};

async fn records(store: &Store, wanted: usize) -> Vec<CallRecord> {
    until("records", || async {
        let records = store.calls().list(&CallFilter::default()).await.expect("listed");
        let seen = format!("{} of {wanted}", records.len());
        (records.len() >= wanted).then_some(records).ok_or(seen)
    })
    .await
}

async fn store(url: String) -> Store {
    let config = alkhub_config::StoreConfig {
        database_url: Some(url.into()),
        ..alkhub_config::StoreConfig::default()
    };
    let store = Store::open(&config, &prometheus::Registry::new()).expect("a store");
    store
        .prepare(&tokio_util::sync::CancellationToken::new())
        .await
        .expect("a schema");
    store
}

#[tokio::test]
async fn every_call_leaves_one_record_and_no_payload() {
    let postgres = Server::temporary().await.expect("Postgres is installed");
    let hub = Hub::on(&postgres, "hub-a1").await;
    let schema = json!({"inputSchema": {"type": "string"}});
    let mut spoke = Spoke::connect(&hub, "text", &[operation("text.upper", "query", &schema)]).await;
    let trace = "0af7651916cd43dd8448eb211c80319c";

    let (ticket, mut answers) = hub.dispatch(alkhub_protocol::CallRequest {
        traceparent: Some(format!("00-{trace}-b7ad6b7169203331-01")),
        parent: Some("p1".parse().expect("valid")),
        ..request("text.upper", json!("secret"))
    });
    ticket.expect("routed");
    let call = spoke.next_call().await;
    assert!(call.traceparent.expect("handed on").contains(trace));
    spoke.respond(&call.request_id, json!("SECRET"));
    assert!(matches!(answers.recv().await, Some(CallAnswer::Item(_))));
    let (ticket, _answers) = hub.dispatch(request("text.upper", json!("a")));
    ticket.expect("routed").caller_lost("for the test");
    hub.call("text.upper", json!(1)).await.expect_err("refused");

    let store = store(postgres.url()).await;
    let mut records = records(&store, 3).await;
    records.sort_by_key(|record| record.started_at);
    let [completed, aborted, refused] = &records[..] else {
        panic!("{records:?}");
    };
    assert_eq!(
        (completed.status, completed.code.as_deref()),
        (CallStatus::Completed, None)
    );
    assert_eq!(
        (completed.spoke.as_deref(), completed.caller.as_str()),
        (Some("text"), "admin")
    );
    assert_eq!((completed.input_bytes, completed.output_bytes), (8, 8));
    assert_eq!(
        (completed.trace_id.as_deref(), completed.parent_request_id.as_deref()),
        (Some(trace), Some("p1"))
    );
    assert_eq!(
        (aborted.status, aborted.code.as_deref()),
        (CallStatus::Aborted, Some("ABORTED"))
    );
    assert_eq!(
        (refused.status, refused.code.as_deref()),
        (CallStatus::Failed, Some("VALIDATION_ERROR"))
    );
    until("the counter", || async {
        let written = hub.metric("alkhub_call_records_written_total");
        if (written - 3.0).abs() < f64::EPSILON {
            Ok(())
        } else {
            Err(written.to_string())
        }
    })
    .await;
    drop(spoke);
    hub.stop().await;
    store.close().await;
    postgres.stop().await.expect("stops");
}

#[tokio::test]
async fn records_wait_while_postgres_is_away_and_are_dropped_over_the_bound() {
    let postgres = Server::temporary().await.expect("Postgres is installed");
    let options = HubOptions {
        postgres: Some(postgres.url()),
        calls: alkhub_config::CallsConfig {
            record_queue: 5,
            ..alkhub_config::CallsConfig::default()
        },
        ..HubOptions::default()
    };
    let hub = Hub::start(options).await;
    let schema = json!({"inputSchema": {"type": "string"}});
    let spoke = Spoke::connect(&hub, "text", &[operation("text.upper", "query", &schema)]).await;
    postgres.stop().await.expect("stops");

    for _ in 0..8 {
        hub.call("text.upper", json!(1)).await.expect_err("no string");
    }
    assert!((hub.metric("alkhub_call_records_dropped_total") - 3.0).abs() < f64::EPSILON);
    postgres.start_again().await.expect("starts");

    let store = store(postgres.url()).await;
    assert_eq!(records(&store, 5).await.len(), 5);
    drop(spoke);
    hub.stop().await;
    store.close().await;
    postgres.stop().await.expect("stops");
}

/// It takes more than one statement to write them.
#[tokio::test]
async fn records_that_are_queued_when_a_hub_ends_are_all_written() {
    const CALLS: usize = 1_500;
    let postgres = Server::temporary().await.expect("Postgres is installed");
    let hub = Hub::on(&postgres, "hub-a1").await;
    let schema = json!({"inputSchema": {"type": "string"}});
    let spoke = Spoke::connect(&hub, "text", &[operation("text.upper", "query", &schema)]).await;
    let host = hub.host.clone();
    // A refusal waits for nothing, so the writer, a task on this same thread, does not run before the end.
    for _ in 0..CALLS {
        hub.call("text.upper", json!(1)).await.expect_err("no string");
    }
    let waiting = host.metric("alkhub_call_records_waiting");
    assert!((waiting - 1_500.0).abs() < f64::EPSILON, "{waiting}");

    drop(spoke);
    hub.stop().await;

    let counted = [
        "alkhub_call_records_written_total",
        "alkhub_call_records_dropped_total",
        "alkhub_call_records_waiting",
    ]
    .map(|name| host.metric(name).to_string());
    assert_eq!(counted, ["1500", "0", "0"]);
    let written = alkhub_devdb::testing::number(&postgres.url(), "SELECT count(*) FROM alkhub.calls").await;
    assert_eq!(usize::try_from(written), Ok(CALLS));
    postgres.stop().await.expect("stops");
}

#[tokio::test]
async fn a_spokes_coming_and_going_is_written() {
    let postgres = Server::temporary().await.expect("Postgres is installed");
    let hub = Hub::on(&postgres, "hub-a1").await;
    let store = store(postgres.url()).await;
    let adhoc = Spoke::connect(&hub, "adhoc", &[query("adhoc.work")]).await;
    let declared = registration("declared", &[]);
    let key = spoke_key("declared", &[], None, false);
    let _declared = Spoke::register(&hub, &key, declared, crate::fixture::peer())
        .await
        .expect("registers");

    let name = "adhoc".parse().expect("valid");
    let seen = async |left: bool| {
        until("the spoke's row", || async {
            let record = store.spokes().get(&name).await.expect("read");
            let shown = format!("{record:?}");
            let is_written = record.is_some_and(|r| r.connected_at.is_some() && r.disconnected_at.is_some() == left);
            is_written.then_some(()).ok_or(shown)
        })
        .await;
    };
    seen(false).await;
    adhoc.registration.close("for the test").await;
    seen(true).await;

    let declared = "declared".parse().expect("valid");
    assert!(
        store.spokes().get(&declared).await.expect("read").is_none(),
        "only a resource declares it"
    );
    hub.stop().await;
    store.close().await;
    postgres.stop().await.expect("stops");
}

#[tokio::test]
async fn registrations_of_a_connection_take_effect_in_the_order_sent() {
    let postgres = Server::temporary().await.expect("Postgres is installed");
    let hub = Hub::start(HubOptions {
        postgres: Some(postgres.url()),
        ..HubOptions::default()
    })
    .await;
    let offered: Vec<_> = (0..20).map(|i| query(&format!("text.op{i}"))).collect();
    let (outbox, _outgoing) = crate::fixture::peer();
    let caller = admin();
    let register = async |operations: Vec<serde_json::Value>| {
        let input = serde_json::from_value(registration("text", &operations)).expect("a registration");
        let registered = hub.calls.register(&caller, input, outbox.clone()).await;
        registered.expect("registers")
    };

    // The specifications of the first registration are new, so it waits until they are saved. Both are awaited as a
    // connection does.
    let mut both = FuturesUnordered::new();
    both.push(register(offered));
    both.push(register(Vec::new()));
    let (first, _old) = both.next().await.expect("the first is answered");
    let (second, _session) = both.next().await.expect("the second is answered");

    assert_eq!(
        (first.operations.len(), second.operations.len()),
        (20, 0),
        "the order of the answers"
    );
    assert!(first.generation < second.generation, "{first:?} {second:?}");
    assert_eq!(hub.calls.operations(&caller, None).len(), 0, "they were withdrawn");
    drop(both);
    hub.stop().await;
    postgres.stop().await.expect("stops");
}

/// One of two hubs creates the schema again; the other finds that it exists.
#[tokio::test]
async fn what_is_offered_and_by_whom_is_written_again_when_the_schema_has_lost_it() {
    let postgres = Server::temporary().await.expect("Postgres is installed");
    let (one, two) = (Hub::on(&postgres, "pod-a1").await, Hub::on(&postgres, "pod-b1").await);
    let offered = [query("text.upper"), query("other.work")];
    let spokes = (
        Spoke::connect(&one, "text", &offered[..1]).await,
        Spoke::connect(&two, "other", &offered[1..]).await,
    );
    let hashes = offered.map(|spec| SpecHash::of(&serde_json::from_value(spec).expect("a specification")));
    let store = store(postgres.url()).await;
    let are_saved = async || {
        until("the specifications are saved", async || {
            match store.operations().lacks(&hashes).await {
                Ok(lacking) if lacking.is_empty() => Ok(()),
                other => Err(format!("{other:?}")),
            }
        })
        .await;
    };
    let have_rows = async || {
        for name in ["text", "other"] {
            let name = name.parse().expect("valid");
            until("the spoke has its row", async || {
                match store.spokes().get(&name).await {
                    Ok(Some(record)) if record.connected_at.is_some() => Ok(()),
                    other => Err(format!("{other:?}")),
                }
            })
            .await;
        }
    };
    are_saved().await;
    have_rows().await;

    let mut psql = tokio::process::Command::new("psql");
    let drop_all = psql
        .arg(postgres.url())
        .args(["-q", "-c", "DROP SCHEMA alkhub CASCADE"]);
    assert!(drop_all.status().await.expect("psql is installed").success());

    are_saved().await;
    have_rows().await;
    drop(spokes);
    one.stop().await;
    two.stop().await;
    store.close().await;
    postgres.stop().await.expect("stops");
}

#[tokio::test]
async fn an_operation_that_was_offered_before_the_hub_began_has_no_provider_and_is_not_unknown() {
    let postgres = Server::temporary().await.expect("Postgres is installed");
    let before = Hub::on(&postgres, "pod-a1").await;
    let spoke = Spoke::connect(&before, "text", &[query("text.upper")]).await;
    spoke.registration.close("for the test").await;
    before.stop().await;
    let hub = Hub::on(&postgres, "pod-a2").await;

    // The second time is the same, because the first look is remembered.
    for _ in 0..2 {
        let known = hub.call("text.upper", json!(1)).await.expect_err("nobody is there");
        let unknown = hub.call("text.lower", json!(1)).await.expect_err("nobody ever was");
        assert_eq!((known.code, unknown.code), (Code::NoProvider, Code::OperationNotFound));
    }
    hub.stop().await;
    postgres.stop().await.expect("stops");
}

/// A transaction during which nobody can read or write specifications.
pub(crate) struct LockedOperations(tokio::process::Child);

impl LockedOperations {
    pub(crate) async fn lock(postgres: &Server) -> Self {
        let mut psql = tokio::process::Command::new("psql");
        psql.arg(postgres.url()).args(["-q", "-A", "-t"]).kill_on_drop(true);
        let psql = psql.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut psql = psql.spawn().expect("psql is installed");
        let sql = b"BEGIN; LOCK TABLE alkhub.operations IN ACCESS EXCLUSIVE MODE; SELECT 'locked';\n";
        let stdin = psql.stdin.as_mut().expect("piped");
        stdin.write_all(sql).await.expect("psql reads");
        let mut lines = BufReader::new(psql.stdout.as_mut().expect("piped")).lines();
        let line = within("the lock", lines.next_line()).await.expect("psql writes");
        assert_eq!(line.as_deref(), Some("locked"));
        Self(psql)
    }

    pub(crate) async fn unlock(mut self) {
        self.0.kill().await.expect("psql runs");
    }
}

/// The look gets its answer, or gives up, after a spoke has come.
#[tokio::test]
async fn a_call_of_an_unknown_name_goes_to_a_spoke_that_comes_while_the_hub_looks() {
    let postgres = Server::temporary().await.expect("Postgres is installed");
    let hub = Hub::on(&postgres, "pod-a1").await;
    let locked = LockedOperations::lock(&postgres).await;
    // The registration waits up to a second to be saved, and is then entered.
    let offered = [query("text.upper")];
    let registering = Spoke::connect(&hub, "text", &offered);
    let calling = async {
        // The call begins when most of that second has passed, so that it still waits when the registration no longer
        // does.
        until("the registration waits", async || {
            let waiting = "SELECT count(*) FROM pg_stat_activity WHERE query LIKE 'INSERT INTO operations%' \
                           AND now() - query_start > interval '0.7 s'";
            match alkhub_devdb::testing::number(&postgres.url(), waiting).await {
                1 => Ok(()),
                n => Err(format!("{n} statements")),
            }
        })
        .await;
        hub.dispatch(request("text.upper", json!(1)))
    };

    let (mut spoke, (ticket, mut answers)) = tokio::join!(registering, calling);

    let ticket = ticket.expect("it is looked for");
    locked.unlock().await;
    let call = spoke.next_call().await;
    assert!(!ticket.is_done());
    spoke.respond(&call.request_id, json!("A"));
    let answer = within("the answer", answers.recv()).await;
    assert!(matches!(answer, Some(CallAnswer::Item(_))), "{answer:?}");
    assert!(ticket.is_done());
    hub.stop().await;
    postgres.stop().await.expect("stops");
}

#[tokio::test]
async fn a_call_that_waits_for_a_look_is_ended_like_one_that_runs() {
    let postgres = Server::temporary().await.expect("Postgres is installed");
    let hub = Hub::on(&postgres, "pod-a1").await;
    let locked = LockedOperations::lock(&postgres).await;
    let wait = |name: &str, timeout: Option<Duration>| {
        let (ticket, answers) = hub.dispatch(alkhub_protocol::CallRequest {
            timeout,
            ..request(name, json!(1))
        });
        let ticket = ticket.expect("it is looked for");
        assert!(!ticket.is_done());
        (ticket, answers)
    };

    let (cancelled, mut nothing) = wait("text.a", None);
    assert!(cancelled.cancel("for the test") && cancelled.is_done() && !cancelled.cancel("again"));
    assert!(within("no answer", nothing.recv()).await.is_none());
    let (lost, mut nothing) = wait("text.b", None);
    assert!(lost.caller_lost("for the test") && lost.is_done());
    assert!(within("no answer", nothing.recv()).await.is_none());
    let (_late, mut late) = wait("text.c", Some(Duration::from_millis(50)));
    let late = within("the deadline", late.recv()).await;
    let (_ended, mut ended) = wait("text.d", None);
    let away = CallError::new(Code::Unavailable, "the hub goes away");
    hub.calls.end_all(&away, "for the test");
    let ended = within("the end", ended.recv()).await;

    assert!(matches!(late, Some(CallAnswer::Failed(error)) if error.code == Code::Timeout));
    assert!(matches!(ended, Some(CallAnswer::Failed(error)) if error == away));
    locked.unlock().await;
    hub.stop().await;
    postgres.stop().await.expect("stops");
}
